"""What lets a caller in is never written: not from URLs, headers, keys or the errors that repeat them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from redecode.tracer import Store, run, uninstrument
from tests.tracer.decodes import vllm_like
from tests.tracer.decodes.conftest import Serving
from tests.tracer.decodes.plugin import Plugin
from tests.tracer.decodes.server import Reply

KEY, PASSWORD, HEADER, QUERY, BODY, TOOL = (f"{word}-0f1e2d3c4b5a6978" for word in (
    "opaque", "pa55", "hdr", "qry", "bdy", "tol"))  # fmt: skip
SECRETS = (KEY, PASSWORD, HEADER, QUERY, BODY, TOOL)
GIVEN: Any = {
    "model": "m",
    "messages": [{"role": "user", "content": "?"}],
    "extra_headers": {"X-Session": HEADER, "Authorization-Extra": HEADER},
    "extra_query": {"api_key": QUERY, "token": QUERY},
    "extra_body": {"api_key": BODY, "session": {"access_token": BODY}},
}
SEARCH: Any = {"type": "mcp", "server_label": "s", "server_url": "http://s", "authorization": TOOL}


def everything_written(store: Path) -> bytes:
    def files() -> bytes:
        return b"".join(path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file())

    uninstrument()
    journals, opened = files(), Store(store)
    for summary in opened.runs():
        opened.load(summary.run_id)
    return journals + files()


@pytest.mark.parametrize("owner", ["vllm", "someone"])
def test_no_secret_is_in_any_file_of_the_store(server: Serving, recording: Path, owner: str) -> None:
    told = server(vllm_like.answer, owner=owner)
    if owner == "vllm":
        Plugin(told, len(vllm_like.TEXT), vllm_like.FINGERPRINT, more={"api_key": KEY, "url": f"http://u:{PASSWORD}@h"})
    refused = server(
        lambda r: Reply.of({"error": {"message": f"Incorrect API key provided: {KEY}."}}, 401), owner=owner
    )
    settings: Any = {"api_key": KEY, "max_retries": 0, "default_headers": {"X-Api-Key": HEADER}}
    settings["default_query"] = {"key": QUERY}

    def with_password(url: str) -> str:
        return url.replace("http://", f"http://ann:{PASSWORD}@")

    async def awaited() -> None:
        async with openai.AsyncOpenAI(base_url=with_password(told.url), **settings) as client:
            async for _ in await client.chat.completions.create(**GIVEN, stream=True):
                pass
            with pytest.raises(openai.APIConnectionError):
                await client.with_options(base_url=with_password("http://127.0.0.1:9/v1")).completions.create(
                    model="m", prompt="?", timeout=1
                )

    with run("secrets"):
        for url in (told.url, with_password(told.url)):
            with openai.OpenAI(base_url=url, **settings) as client:
                client.chat.completions.create(**GIVEN)
                client.responses.create(model="m", input="?", tools=[SEARCH])
                client.embeddings.create(model="m", input="?", extra_headers={"X-Session": HEADER})
        asyncio.run(awaited())
        client = openai.OpenAI(base_url=with_password(refused.url), **settings)
        with client, pytest.raises(openai.AuthenticationError, match=KEY):
            client.chat.completions.create(**GIVEN)
    assert any(KEY in r.headers["authorization"] and HEADER in r.headers["x-session"] for r in told.requests)
    assert any(PASSWORD not in r.path and QUERY in r.path for r in told.requests)
    assert any(r.body.get("api_key") == BODY for r in told.requests)
    written = everything_written(recording)
    assert b"secrets" in written
    assert [secret for secret in SECRETS if secret.encode() in written] == []
    assert told.root.encode() in written  # where it went is written, and no more of it


def test_the_run_of_a_call_is_told_to_the_server(server: Serving, recording: Path) -> None:
    vllm = server(vllm_like.answer, owner="vllm")
    own = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    with openai.OpenAI(base_url=vllm.url, api_key="none") as client:
        client.embeddings.create(model="m", input="?")
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}])
        client.chat.completions.create(**GIVEN | {"extra_headers": {"traceparent": own}})
    uninstrument()
    spans = [s for r in Store(recording).runs() for s in Store(recording).load(r.run_id).spans]
    embeddings, chat, others = (request.headers["traceparent"] for request in vllm.requests)
    assert others == own  # the host's own tracing goes first
    known = {f"00-{s.run_id}-{s.span_id}-01": s.name for s in spans}
    assert (known[embeddings], known[chat]) == ("embeddings m", "chat m")
