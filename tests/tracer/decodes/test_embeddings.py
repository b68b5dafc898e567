"""Calls for embeddings: a retrieval with its cost and its time, untouched on the way, and no decode."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from redecode.tracer import RecordedRun, SpanKind, Store, instrument, run, uninstrument
from tests.tracer.decodes import vllm_like
from tests.tracer.decodes.calls import facts
from tests.tracer.decodes.conftest import Serving
from tests.tracer.decodes.server import Reply, Server

TEXTS = ["a first text", "another one"]
WAYS: list[dict[str, Any]] = [{"input": TEXTS}, {"input": TEXTS[0], "encoding_format": "float", "dimensions": 3}]


def both(server: Server) -> list[Any]:
    async def awaited() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
            return [facts(await client.embeddings.create(model="m", **given)) for given in WAYS]

    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        found = [facts(client.embeddings.create(model="m", **given)) for given in WAYS]
        raw = client.embeddings.with_raw_response.create(model="m", **WAYS[1])
        found += [raw.text, facts(raw.parse())]
        with client.embeddings.with_streaming_response.create(model="m", **WAYS[1]) as response:
            found.append(b"".join(response.iter_bytes()))
    return found + asyncio.run(awaited())


def only_run(store: Path) -> RecordedRun:
    (summary,) = Store(store).runs()
    return Store(store).load(summary.run_id)


@pytest.mark.parametrize("owner", ["vllm", "someone"])
def test_the_caller_gets_the_same_and_what_it_cost_is_recorded(store: Path, server: Serving, owner: str) -> None:
    told = server(vllm_like.answer, owner=owner)
    plain = both(told)
    instrument(store)
    with run("embeds"):
        seen = both(told)
    uninstrument()
    assert seen == plain
    half = len(told.requests) // 2
    assert [r.body for r in told.requests[half:]] == [r.body for r in told.requests[:half]]
    recorded = only_run(store)
    assert recorded.decodes == []
    found = [s for s in recorded.spans if s.kind is SpanKind.RETRIEVAL]
    assert [s.attributes["redecode.embedded"] for s in found] == [2, 1, 1, 1, 2, 1]
    assert [s.attributes["gen_ai.usage.input_tokens"] for s in found] == [8, 4, 4, 4, 8, 4]
    assert [s.attributes.get("gen_ai.embeddings.dimension.count") for s in found] == [None, 3, 3, 3, None, 3]
    assert {(s.name, s.status) for s in found} == {("embeddings m", "ok")}
    assert all(s.end_ns is not None and s.end_ns > s.start_ns for s in found)
    written = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    assert TEXTS[0].encode() not in written  # they are content, and nothing needs them


def test_embeddings_that_fail(store: Path, server: Serving) -> None:
    full = server(lambda _: Reply.of({"error": {"message": "full"}}, 503, **{"retry-after-ms": "1"}))
    instrument(store)
    client = openai.OpenAI(base_url=full.url, api_key="none", max_retries=1)
    with run("embeds"), client, pytest.raises(openai.InternalServerError):
        client.embeddings.create(model="m", input="?")
    uninstrument()
    (span,) = [s for s in only_run(store).spans if s.kind is SpanKind.RETRIEVAL]
    assert (span.status, span.attributes["error.type"]) == ("error", "InternalServerError")
    assert span.attributes["redecode.retries"] == 1
    assert span.attributes["http.response.status_code"] == 503
