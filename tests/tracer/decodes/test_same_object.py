"""The caller gets the object it would have got without the tracer, field by field, however it calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest

from redecode.tracer import Fidelity
from tests.tracer.decodes import vllm_like
from tests.tracer.decodes.calls import (
    CHAT,
    MAKERS,
    RESPONSES,
    TEXT,
    TOOLS,
    Maker,
    Seen,
    Way,
    acall,
    call,
    seen,
    sync,
)
from tests.tracer.decodes.conftest import Serving
from tests.tracer.decodes.server import Reply, Request, Server

WAYS = [*CHAT, *TEXT, *RESPONSES]
# Where asking for more would change the answer, nothing is asked.
LIMITED = {"text, echoed": "echo", "text, echoed and streamed": "echo", "two texts": "several prompts"}
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)


@pytest.fixture(scope="module", params=MAKERS, ids=lambda make: make.__name__)
def at_vllm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Seen]]:
    """Every way to call, at a server that is vLLM."""
    server = Server(vllm_like.answer, owner="vllm")
    yield seen(tmp_path_factory.mktemp("vllm") / "store", server.url, request.param, WAYS)
    assert not [r for r in server.requests[: len(WAYS)] if "traceparent" in r.headers]
    server.close()


@pytest.fixture(scope="module", params=MAKERS, ids=lambda make: make.__name__)
def elsewhere(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, Seen], list[Request]]]:
    """Every way to call, at a server that is not vLLM."""
    server = Server(vllm_like.answer)
    yield seen(tmp_path_factory.mktemp("other") / "store", server.url, request.param, WAYS), server.requests
    server.close()


@every_way
def test_against_vllm(at_vllm: dict[str, Seen], way: Way) -> None:
    it = at_vllm[way.name]
    assert it.recorded == it.plain
    decode = it.decode
    assert decode.error is None
    if way.name in LIMITED:
        assert decode.fidelity is Fidelity.SEEDED  # temperature 0
        assert LIMITED[way.name] in it.span.attributes["redecode.fidelity_limit"]
        return
    assert decode.fidelity is (Fidelity.TOKENS if decode.more_choices or way in RESPONSES else Fidelity.ENGINE)
    assert decode.prompt_ids == tuple(vllm_like.PROMPT)
    assert decode.sampled_ids
    if way not in RESPONSES:
        expected = tuple(vllm_like.logprob(chr(token)) for token in decode.sampled_ids)
        assert decode.logprobs == pytest.approx(expected, rel=1e-6)
    assert (decode.chunk_times_ns is not None) == way.stream


@every_way
def test_against_a_server_that_is_not_vllm(elsewhere: tuple[dict[str, Seen], list[Request]], way: Way) -> None:
    by_way, requests = elsewhere
    it = by_way[way.name]
    assert it.recorded == it.plain
    place = list(by_way).index(way.name)
    assert requests[len(WAYS) + place].body == requests[place].body  # nothing was added
    decode = it.decode
    assert decode.error is None
    assert decode.output[0]["content"] or decode.output[0]["tool_calls"]
    if decode.sampled_ids is not None:
        assert "return_token_ids" in str(way.given) or "its tokens" in way.name  # its caller asked for them
        return
    assert decode.fidelity is Fidelity.SEEDED
    assert "is not vLLM" in it.span.attributes["redecode.fidelity_limit"]


def test_what_a_call_says_is_kept_whole(at_vllm: dict[str, Seen], elsewhere: tuple[dict[str, Seen], Any]) -> None:
    for by_way in (at_vllm, elsewhere[0]):
        for name in ("reasoning", "reasoning, streamed"):
            message = by_way[name].decode.output[0]
            assert (message["reasoning"], message["content"]) == ("thinking", vllm_like.TEXT)
        for name in ("a tool", "a tool, streamed"):
            calls = by_way[name].decode.output[0]["tool_calls"]
            assert [(c["id"], c["type"]) for c in calls] == [("call-0", "function"), ("call-1", "function")]
            assert {c["function"]["arguments"] for c in calls} == {'{"name": "Ann"}'}
            assert by_way[name].decode.finish_reason == "stop" if name == "a tool" else "tool_calls"
            assert by_way[name].decode.tool_definitions == TOOLS
        for name in ("three choices", "three choices, streamed"):
            assert [m["content"] for m in by_way[name].decode.output] == [
                vllm_like.TEXT[: len(vllm_like.TEXT) - (n if "streamed" in name else 0)] for n in range(3)
            ]


# The length of a raw body is that of its compressed form, which is not looked at here.
PACKED = [way for way in CHAT if way.taken != "raw" or way.stream]


@pytest.mark.parametrize("make", MAKERS)
def test_a_compressed_answer(store: Path, server: Serving, make: Maker) -> None:
    vllm = server(vllm_like.answer, owner="vllm", compress=True)
    for it in seen(store, vllm.url, make, PACKED).values():
        assert it.recorded == it.plain
        assert it.decode.sampled_ids


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_a_client_of_the_callers_own_library(store: Path, server: Serving, library: Any) -> None:
    vllm = server(vllm_like.answer, owner="vllm")

    def own(url: str, ways: Sequence[Way], model: str) -> list[Any]:
        with library.Client() as http, openai.OpenAI(base_url=url, api_key="none", http_client=http) as client:
            return [call(client, way, model) for way in ways]

    def own_async(url: str, ways: Sequence[Way], model: str) -> list[Any]:
        async def go() -> list[Any]:
            async with library.AsyncClient() as http:
                client = openai.AsyncOpenAI(base_url=url, api_key="none", http_client=http)
                return [await acall(client, way, model) for way in ways]

        return asyncio.run(go())

    def both(url: str, ways: Sequence[Way], model: str) -> list[Any]:
        return own(url, ways[:2], model) + own_async(url, ways[2:], model)

    # Names are keys: the same two ways again, awaited.
    ways = [*CHAT[:2], *(replace(way, name=f"{way.name}, awaited") for way in CHAT[:2])]
    found = seen(store, vllm.url, both, ways)
    for it, request in zip(found.values(), vllm.requests[4:], strict=True):
        assert it.recorded == it.plain
        assert len(it.decode.sampled_ids or ()) == len(vllm_like.TEXT)
        assert request.headers["traceparent"] == f"00-{it.decode.run_id}-{it.decode.span_id}-01"
    assert not any("traceparent" in request.headers for request in vllm.requests[:4])


@pytest.mark.parametrize("make", MAKERS)
def test_however_the_bytes_of_a_stream_are_cut(store: Path, server: Serving, make: Maker) -> None:
    def cut(request: Request) -> Reply:
        whole = b"".join(p for p in vllm_like.answer(request).body if isinstance(p, bytes))
        pieces = [whole[at : at + 97] for at in range(0, len(whole), 97)]
        return Reply(pieces, headers={"content-type": "text/event-stream"})

    for it in seen(store, server(cut, owner="vllm").url, make, [way for way in CHAT if way.stream]).values():
        assert it.recorded == it.plain
        decode = it.decode
        ids = [decode.sampled_ids, *(choice.sampled_ids for choice in decode.more_choices)]
        assert sum(decode.chunk_tokens or ()) == sum(len(of_one or ()) for of_one in ids)


def test_what_only_pythons_own_parser_takes_reaches_the_caller(store: Path, server: Serving) -> None:
    def odd(request: Request) -> Reply:
        reply = vllm_like.answer(request)
        assert isinstance(reply.body, bytes)
        half = reply.body.replace(json.dumps(vllm_like.TEXT).encode(), rb'"half \ud83d a pair"')
        return Reply(half, headers=reply.headers)

    it = seen(store, server(odd, owner="vllm").url, sync, CHAT[:1])["plain"]
    assert it.plain["choices"][0]["message"]["content"] == "half \ud83d a pair"
    assert it.recorded == it.plain
    assert it.decode.sampled_ids
