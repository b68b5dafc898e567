"""Calls through the HTTP front: where they go, and that they come back as they were."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from redecode.optimizer.placement.cluster.paced_answers import paced_server
from redecode.replay.simulator.views import CallView, ReplicaView, Route, Split
from tests.optimizer.placement.cluster.conftest import Live, an_engine
from tests.optimizer.placement.cluster.policies import AfterItsTime, First, InTurns, OneAtATime

Make = Callable[..., Awaitable[Live]]
ServeApp = Callable[[web.Application], Awaitable[str]]
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def test_calls_go_where_the_policy_says_and_the_answer_names_the_replica(live: Make, serve: Any) -> None:
    one, two = serve(lambda _: "one"), serve(lambda _: "two")
    at = await live(InTurns(), one.base_url, two.base_url)
    answers = [await at.post(ASK) for _ in range(4)]
    assert [body["choices"][0]["message"]["content"] for _, body in answers] == ["one", "two", "one", "two"]
    assert len(one.requests) == len(two.requests) == 2
    assert one.requests[0] == ASK
    assert [(r.outstanding, r.outstanding_prompt_tokens) for r in at.cluster.placing.replicas] == [(0, 0), (0, 0)]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_handed_on_byte_for_byte(live: Make, serve: Any, stream: bool) -> None:
    server = serve(lambda _: "every byte, äöü", vllm=True)
    at = await live(InTurns(), server.base_url)
    body = {**ASK, "stream": stream, "return_token_ids": True}
    direct = aiohttp.ClientSession()
    async with (
        direct.post(f"{server.base_url}/chat/completions", json=body) as wanted,
        at.client.post(f"{at.url}/v1/chat/completions", json=body) as got,
    ):
        assert await got.read() == await wanted.read()
        assert got.status == wanted.status
        assert got.headers["content-type"] == wanted.headers["content-type"]
        assert got.headers["x-redecode-replica"] == "0"
    await direct.close()


async def test_a_stream_is_handed_on_as_it_comes(live: Make, serve_app: ServeApp) -> None:
    go_on = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: {}\n\n")
        await go_on.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    at = await live(InTurns(), await serve_app(a_server(answer)))
    async with at.client.post(f"{at.url}/v1/chat/completions", json={**ASK, "stream": True}) as response:
        assert await response.content.readany() == b"data: {}\n\n"  # while the rest is still to come
        go_on.set()
        assert await response.content.read() == b"data: [DONE]\n\n"


async def test_models_of_all_replicas_are_listed_and_each_call_goes_to_its_own(live: Make, serve_app: ServeApp) -> None:
    urls = [await serve_app(paced_server(an_engine(model=name))) for name in ("small", "large", "large")]
    at = await live(InTurns(), *urls)
    _, models = await at.get("/v1/models")
    assert sorted(m["id"] for m in models["data"]) == ["large", "small"]
    for model, replicas in (("small", {0}), ("large", {1, 2})):
        for _ in range(2):
            status, _ = await at.post({**ASK, "model": model, "max_tokens": 1})
            assert status == 200
        assert {c.replica for c in at.cluster.placing.choices if c.call.model == model} == replicas
    status, answer = await at.post({**ASK, "model": "huge"})
    assert status == 404
    assert answer["error"]["message"] == "the model 'huge' is not served here; there is large, small"


async def test_a_call_that_is_refused_says_why_and_when_to_try_again(live: Make, serve: Any) -> None:
    at = await live(AfterItsTime(), serve().base_url)
    assert (await at.post(ASK, x_redecode_slo="60"))[0] == 200
    async with at.client.post(
        f"{at.url}/v1/chat/completions", json=ASK, headers={"x-redecode-deadline": "1000000000"}
    ) as refused:
        assert refused.status == 429
        assert refused.headers["retry-after"] == "1"
        error = (await refused.json())["error"]
    assert error["type"] == "rate_limit_exceeded"
    assert error["code"] == 429
    assert [c.replica for c in at.cluster.placing.choices] == [0, None]


@pytest.mark.parametrize(
    ("body", "headers", "says"),
    [
        (b"{", {}, "no JSON"),
        (b"[]", {}, "must be a JSON object"),
        (b'{"messages": []}', {}, 'must name its "model"'),
        (b'{"model": "m"}', {"x-redecode-slo": "soon"}, "x-redecode-slo must be seconds above 0"),
        (b'{"model": "m"}', {"x-redecode-deadline": "-1"}, "x-redecode-deadline must be seconds above 0"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_what_is_wrong(
    live: Make, serve: Any, body: bytes, headers: dict[str, str], says: str
) -> None:
    server = serve()
    at = await live(InTurns(), server.base_url)
    async with at.client.post(f"{at.url}/v1/chat/completions", data=body, headers=headers) as response:
        assert response.status == 400
        assert says in (await response.json())["error"]["message"]
    assert not server.requests


async def test_a_call_the_router_keeps_waits_until_it_is_let_go(live: Make, serve_app: ServeApp) -> None:
    begun, may_end = [], asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        begun.append(await request.json())
        await may_end.wait()
        return web.json_response({"choices": []})

    at = await live(OneAtATime(), await serve_app(a_server(answer)))
    calls = [asyncio.ensure_future(at.post({**ASK, "n": n})) for n in range(3)]
    while at.cluster.placing.held < 2:
        await asyncio.sleep(0)
    assert len(begun) <= 1
    calls[1].cancel()  # its caller has gone: nobody else waits longer for it
    may_end.set()
    assert [(await calls[n])[0] for n in (0, 2)] == [200, 200]
    assert [body["n"] for body in begun] == [0, 2]


async def test_vllms_priority_is_sent_to_an_engine_that_schedules_by_it(live: Make, serve: Any) -> None:
    plain, ordered = serve(), serve()
    at = await live(First(), plain.base_url)
    await at.post(ASK)
    assert "priority" not in plain.requests[0]

    by_priority = await live(First())
    await by_priority.cluster.add(ordered.base_url, an_engine(by_priority=True))
    await by_priority.post(ASK)
    await by_priority.post({**ASK, "priority": 7})
    first, own = ordered.requests
    assert first == {**ASK, "priority": by_priority.cluster.placing.choices[0].priority}
    assert first["priority"] < 0
    assert own["priority"] == 7


@pytest.mark.parametrize("says", [99, None, "bug"])
async def test_a_router_that_is_wrong_costs_its_call_and_no_other(live: Make, serve: Any, says: Any) -> None:
    class Wrong(First):
        def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
            if call.step != "odd":
                return replicas[0].number
            if says == "bug":
                raise ZeroDivisionError("in the policy")
            return Split(0, 0) if says is None else int(says)

    at = await live(Wrong(), serve().base_url)
    status, answer = await at.post(ASK, x_redecode_step="odd")
    assert status == 500
    assert "router" in answer["error"]["message"]
    assert (await at.post(ASK))[0] == 200
    assert [r.outstanding for r in at.cluster.placing.replicas] == [0]


def a_server(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.Application:
    """One model `m` that answers so."""

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_get("/v1/models", models)
    return app
