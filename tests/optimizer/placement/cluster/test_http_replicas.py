"""Replicas that come, go, die, are slow, and callers that leave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from redecode.optimizer.placement.cluster.errors import BadReplica
from redecode.optimizer.placement.cluster.http_front import listen
from redecode.optimizer.placement.cluster.paced_answers import paced_server
from redecode.replay.simulator.costs import to_ps
from redecode.replay.simulator.views import State
from tests.optimizer.placement.cluster.conftest import Live, an_engine, port_of
from tests.optimizer.placement.cluster.policies import First, InTurns
from tests.optimizer.placement.cluster.test_http_calls import ASK, a_server

Make = Callable[..., Awaitable[Live]]
ServeApp = Callable[[web.Application], Awaitable[str]]


async def test_a_call_goes_elsewhere_when_its_replica_cannot_be_reached_and_comes_back_with_it(
    live: Make, serve_app: ServeApp
) -> None:
    runner = await listen(paced_server(an_engine()), "127.0.0.1", 0)
    port = port_of(runner)
    at = await live(First(), f"http://127.0.0.1:{port}", await serve_app(paced_server(an_engine())))
    first, second = at.cluster.placing.replicas
    await at.post({**ASK, "max_tokens": 1})
    assert at.cluster.placing.choices[-1].replica == first.number
    await runner.cleanup()

    status, _ = await at.post({**ASK, "max_tokens": 1})
    assert status == 200
    assert at.cluster.placing.choices[-1].replica == second.number
    assert first.state is State.STOPPED
    assert (await at.get("/health"))[0] == 200

    again = await listen(paced_server(an_engine()), "127.0.0.1", port)
    await until(lambda: first.state is State.READY)
    await at.post({**ASK, "max_tokens": 1})
    assert at.cluster.placing.choices[-1].replica == first.number
    await again.cleanup()


async def test_with_no_replica_up_the_answer_is_503_with_a_time_to_come_back(live: Make) -> None:
    runner = await listen(paced_server(an_engine()), "127.0.0.1", 0)
    at = await live(First(), f"http://127.0.0.1:{port_of(runner)}")
    await runner.cleanup()
    for _ in range(2):  # found out by the call; known before it
        async with at.client.post(f"{at.url}/v1/chat/completions", json=ASK) as response:
            assert response.status == 503
            assert int(response.headers["retry-after"]) >= 1
            assert "can be reached" in (await response.json())["error"]["message"]
    assert (await at.get("/health"))[0] == 503


async def test_a_replica_that_dies_of_a_call_is_not_sent_it_again_nor_is_another(
    live: Make, serve_app: ServeApp
) -> None:
    got: list[str] = []

    def dying(name: str) -> web.Application:
        async def answer(request: web.Request) -> web.StreamResponse:
            got.append(name)
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        return a_server(answer)

    at = await live(InTurns(), await serve_app(dying("one")), await serve_app(dying("two")))
    status, answer = await at.post(ASK)
    assert status == 502
    assert "went away in the middle of the call" in answer["error"]["message"]
    assert got == ["one"]
    assert [r.outstanding for r in at.cluster.placing.replicas] == [0, 0]


@pytest.mark.parametrize(("parts", "told"), [((b'data: {"a": 1}\n\n',), True), ((b'data: {"a"',), False)])
async def test_a_stream_that_breaks_never_looks_whole(
    live: Make, serve_app: ServeApp, parts: tuple[bytes, ...], told: bool
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        assert request.transport is not None
        request.transport.close()
        return response

    at = await live(InTurns(), await serve_app(a_server(answer)))
    async with at.client.post(f"{at.url}/v1/chat/completions", json={**ASK, "stream": True}) as response:
        assert response.status == 200
        if told:
            got = await response.read()
            assert got.startswith(b"".join(parts) + b'data: {"error":')
            assert b"[DONE]" not in got
        else:
            with pytest.raises(aiohttp.ClientError):
                await response.read()


@pytest.mark.parametrize("stream", [False, True])
async def test_when_a_caller_leaves_the_engine_is_told(live: Make, serve_app: ServeApp, stream: bool) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        try:
            if stream:
                await response.prepare(request)
                await response.write(b"data: {}\n\n")
            begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            left.set()
            raise
        return response

    at = await live(InTurns(), await serve_app(a_server(answer)))
    call = asyncio.ensure_future(at.post({**ASK, "stream": stream}))
    await begun.wait()
    assert at.cluster.placing.replicas[0].outstanding == 1
    call.cancel()
    await asyncio.wait_for(left.wait(), 5)
    await until(lambda: at.cluster.placing.replicas[0].outstanding == 0)


async def test_replicas_come_and_go_while_calls_run(live: Make, serve_app: ServeApp) -> None:
    may_end = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        await may_end.wait()
        return web.json_response({"by": "first"})

    at = await live(First(), await serve_app(a_server(answer)))
    running = asyncio.ensure_future(at.post(ASK))
    await until(lambda: at.cluster.placing.replicas[0].outstanding == 1)
    await at.cluster.remove(0)
    second = await serve_app(paced_server(an_engine()))
    added = await at.cluster.add(second)
    assert added.number == 1
    assert (await at.post({**ASK, "max_tokens": 1}))[0] == 200
    may_end.set()
    assert (await running) == (200, {"by": "first"})
    assert [r.number for r in at.cluster.placing.replicas] == [1]
    with pytest.raises(BadReplica, match=r"there is no replica 0; there are \[1\]"):
        await at.cluster.remove(0)
    with pytest.raises(BadReplica, match="is a replica already"):
        await at.cluster.add(second)


async def test_a_call_waits_for_a_replica_that_is_being_started(live: Make, unused_port: int) -> None:
    at = await live(First())
    expected = at.cluster.expect(f"http://127.0.0.1:{unused_port}", an_engine(cold_start_ps=to_ps(30.0)))
    assert 29.0 < expected.ready_s - at.cluster.time.now_s() <= 30.0
    call = asyncio.ensure_future(at.post({**ASK, "max_tokens": 1}))
    await until(lambda: expected.outstanding == 1)
    assert at.cluster.placing.replicas[0].state is State.STARTING
    runner = await listen(paced_server(an_engine()), "127.0.0.1", unused_port)
    assert (await call)[0] == 200
    assert expected.state is State.READY
    assert expected.ready_s <= at.cluster.time.now_s()
    await runner.cleanup()


async def test_the_front_shows_what_its_policy_sees(live: Make, serve_app: ServeApp) -> None:
    at = await live(First(), await serve_app(paced_server(an_engine(0.02, seqs=1))))
    calls = [asyncio.ensure_future(at.post({**ASK, "max_tokens": 20}, traceparent=PARENT)) for _ in range(3)]

    async def told() -> Any:
        return (await at.get("/redecode/replicas"))[1]["replicas"][0]

    shown = await told()
    while (shown["running"], shown["waiting"]) != (1, 2):
        shown = await told()
    assert shown["outstanding"] == 3
    assert shown["free_kv_blocks"] < 256  # of the engine's own metrics
    for call in calls:
        await call
    _, decisions = await at.get("/redecode/decisions?last=2")
    assert [d["call"]["run"] for d in decisions["decisions"]] == [0, 0]
    assert len(decisions["decisions"]) == 2
    for words in ("abc", "-1", "²", "9" * 5000):
        status, said = await at.get(f"/redecode/decisions?last={words}")
        assert status == 400
        assert "is no number of decisions: want ?last=100" in said["error"]["message"]


async def test_replicas_are_changed_over_http_with_the_key_only(live: Make, serve_app: ServeApp) -> None:
    url = await serve_app(paced_server(an_engine()))
    at = await live(First(), admin_key="secret")
    ask: dict[str, Any] = {"url": f"{at.url}/redecode/replicas", "json": {"url": url}}
    for headers, status in (({}, 403), ({"authorization": "Bearer wrong"}, 403)):
        async with at.client.post(**ask, headers=headers) as response:
            assert response.status == status
    key = {"authorization": "Bearer secret"}
    async with at.client.post(**ask, headers=key) as response:
        assert await response.json() == {"number": 0, "url": url, "model": "m"}
    async with at.client.post(**{**ask, "json": {"url": "http://127.0.0.1:1"}}, headers=key) as response:
        assert response.status == 400
        assert "is the engine up?" in (await response.json())["error"]["message"]
    for words in ("abc", "²", "9" * 5000):
        async with at.client.delete(f"{at.url}/redecode/replicas/{words}", headers=key) as response:
            assert response.status == 400
            assert "is no number of a replica" in (await response.json())["error"]["message"]
    async with at.client.delete(f"{at.url}/redecode/replicas/0", headers=key) as response:
        assert response.status == 200
    assert not at.cluster.placing.replicas


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.002)
