"""The caller gets the object it would have got without the tracer, field by field, however it calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest

from redecode.tracer import Fidelity, Store, instrument, uninstrument
from tests.tracer.decodes import vllm_like
from tests.tracer.decodes.calls import CHAT, RESPONSES, TEXT, Way, acall, call
from tests.tracer.decodes.conftest import Serving
from tests.tracer.decodes.server import Reply, Request, Server

WAYS = [*CHAT, *TEXT, *RESPONSES]
# Where asking for more would change the answer, nothing is asked.
LIMITED = {"text, echoed": "echo", "text, echoed and streamed": "echo", "two texts": "several prompts"}


def sync(server: Server, way: Way) -> Any:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        return call(client, way)


def asynchronous(server: Server, way: Way) -> Any:
    async def go() -> Any:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
            return await acall(client, way)

    return asyncio.run(go())


def recorded_beside(store: Path, server: Server, way: Way, make: Callable[[Server, Way], Any]) -> tuple[Any, Any]:
    plain = make(server, way)
    instrument(store)
    try:
        return plain, make(server, way)
    finally:
        uninstrument()


@pytest.mark.parametrize("make", [sync, asynchronous])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_against_vllm(store: Path, server: Serving, way: Way, make: Callable[[Server, Way], Any]) -> None:
    vllm = server(vllm_like.answer, owner="vllm")
    plain, recorded = recorded_beside(store, vllm, way, make)
    assert recorded == plain
    asked = vllm.requests[1].body
    (summary,) = Store(store).runs()
    run = Store(store).load(summary.run_id)
    (decode,) = run.decodes
    assert decode.error is None
    if way.name in LIMITED:
        assert decode.fidelity is Fidelity.SEEDED  # temperature 0
        (span,) = [s for s in run.spans if s.span_id == decode.span_id]
        assert LIMITED[way.name] in span.attributes["redecode.fidelity_limit"]
        return
    assert asked.get("return_token_ids") or asked.get("enable_response_messages")
    assert decode.fidelity is (Fidelity.TOKENS if decode.more_choices or way in RESPONSES else Fidelity.ENGINE)
    assert decode.prompt_ids == tuple(vllm_like.PROMPT)
    assert decode.sampled_ids
    if way not in RESPONSES:
        expected = tuple(vllm_like.logprob(chr(token)) for token in decode.sampled_ids)
        assert decode.logprobs == pytest.approx(expected, rel=1e-6)
    assert (decode.chunk_times_ns is not None) == way.stream


@pytest.mark.parametrize("make", [sync, asynchronous])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_against_a_server_that_is_not_vllm(
    store: Path, server: Serving, way: Way, make: Callable[[Server, Way], Any]
) -> None:
    other = server(vllm_like.answer)
    plain, recorded = recorded_beside(store, other, way, make)
    assert recorded == plain
    assert other.requests[1].body == other.requests[0].body  # nothing was added
    (decode,) = Store(store).load(Store(store).runs()[0].run_id).decodes
    assert decode.error is None
    assert decode.output[0]["content"] or decode.output[0]["tool_calls"]


@pytest.mark.parametrize("way", [WAYS[0], WAYS[1], *(w for w in CHAT if w.taken != "object")], ids=lambda way: way.name)
def test_a_compressed_answer(store: Path, server: Serving, way: Way) -> None:
    vllm = server(vllm_like.answer, owner="vllm", compress=True)
    if way.taken == "raw" and not way.stream:
        pytest.skip("the body is longer than its compressed length")
    plain, recorded = recorded_beside(store, vllm, way, sync)
    assert recorded == plain
    assert Store(store).load(Store(store).runs()[0].run_id).decodes[0].sampled_ids


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
@pytest.mark.parametrize("way", CHAT[:2], ids=lambda way: way.name)
def test_a_client_of_the_callers_own_library(store: Path, server: Serving, way: Way, library: Any) -> None:
    vllm = server(vllm_like.answer, owner="vllm")

    def own(server: Server, way: Way) -> Any:
        with library.Client() as http, openai.OpenAI(base_url=server.url, api_key="none", http_client=http) as client:
            return call(client, way)

    def own_async(server: Server, way: Way) -> Any:
        async def go() -> Any:
            async with library.AsyncClient() as http:
                return await acall(openai.AsyncOpenAI(base_url=server.url, api_key="none", http_client=http), way)

        return asyncio.run(go())

    for make in (own, own_async):
        plain, recorded = recorded_beside(store, vllm, way, make)
        assert recorded == plain
    runs = [Store(store).load(r.run_id) for r in Store(store).runs()]
    assert [len(r.decodes[0].sampled_ids or ()) for r in runs] == [len(vllm_like.TEXT)] * 2
    sent = {r.run.run_id: r.decodes[0].span_id for r in runs}
    for request in (vllm.requests[1], vllm.requests[3]):
        version, run_id, span_id, flags = request.headers["traceparent"].split("-")
        assert (version, sent[run_id], flags) == ("00", span_id, "01")


@pytest.mark.parametrize("way", [w for w in CHAT if w.stream], ids=lambda way: way.name)
def test_however_the_bytes_of_a_stream_are_cut(store: Path, server: Serving, way: Way) -> None:
    def cut(request: Request) -> Reply:
        whole = b"".join(p for p in vllm_like.answer(request).body if isinstance(p, bytes))
        pieces = [whole[at : at + 97] for at in range(0, len(whole), 97)]
        return Reply(pieces, headers={"content-type": "text/event-stream"})

    plain, recorded = recorded_beside(store, server(cut, owner="vllm"), way, sync)
    assert recorded == plain
    (decode,) = Store(store).load(Store(store).runs()[0].run_id).decodes
    ids = [decode.sampled_ids, *(choice.sampled_ids for choice in decode.more_choices)]
    assert sum(decode.chunk_tokens or ()) == sum(len(of_one or ()) for of_one in ids)


def test_what_only_pythons_own_parser_takes_reaches_the_caller(store: Path, server: Serving) -> None:
    def odd(request: Request) -> Reply:
        reply = vllm_like.answer(request)
        assert isinstance(reply.body, bytes)
        half = reply.body.replace(json.dumps(vllm_like.TEXT).encode(), rb'"half \ud83d a pair"')
        return Reply(half, headers=reply.headers)

    plain, recorded = recorded_beside(store, server(odd, owner="vllm"), CHAT[0], sync)
    assert plain["choices"][0]["message"]["content"] == "half \ud83d a pair"
    assert recorded == plain
    assert Store(store).load(Store(store).runs()[0].run_id).decodes[0].sampled_ids
