"""Inference requests that go around the OpenAI client and LangChain: a playback lets none of them out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redecode.replay import ReplayDivergence, playback
from redecode.tracer import RecordedRun, Store, instrument, run, uninstrument
from redecode.tracer.fm.other_clients import is_inference

Serve = Callable[..., Any]


def a_run(path: Path) -> RecordedRun:
    """A recorded run that calls nothing."""
    instrument(path / "store")
    with run("program"):
        pass
    uninstrument()
    opened = Store(path / "store")
    return opened.load(opened.runs()[0].run_id)


CLIENTS: dict[str, Callable[[str], Any]] = {
    "httpx": lambda url: pytest.importorskip("httpx").post(f"{url}/chat/completions", json={}),
    "httpx, awaited": lambda url: asyncio.run(post(url)),
    "requests": lambda url: pytest.importorskip("requests").post(f"{url}/completions?x=1", json={}, timeout=5),
    "aiohttp": lambda url: asyncio.run(post_with_aiohttp(url)),
    "anthropic": lambda url: ask_anthropic(url),
}


async def post(url: str) -> Any:
    async with pytest.importorskip("httpx").AsyncClient() as client:
        return await client.post(f"{url}/models/gemini:generateContent", json={})


async def post_with_aiohttp(url: str) -> Any:
    library = pytest.importorskip("aiohttp")
    async with library.ClientSession() as session, session.post(f"{url}/api/chat", json={}) as answer:
        return await answer.text()


def ask_anthropic(url: str) -> Any:
    library = pytest.importorskip("anthropic")
    with library.Anthropic(base_url=url.removesuffix("/v1"), api_key="x", max_retries=0) as client:
        return client.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "?"}])


@pytest.mark.parametrize("client", CLIENTS)
def test_other_clients_of_inference_apis_do_not_go_live(tmp_path: Path, serve: Serve, client: str) -> None:
    server = serve()
    recorded = a_run(tmp_path)
    with pytest.raises(Exception) as caught, playback(recorded, into=tmp_path / "played", pace=0.0), run("program"):
        CLIENTS[client](server.base_url)
    chain, found = caught.value, []
    while chain is not None:
        found.append(type(chain))
        chain = chain.__cause__  # type: ignore[assignment]
    assert ReplayDivergence in found
    assert server.requests == []


def test_other_requests_go_out(tmp_path: Path, serve: Serve) -> None:
    server = serve()
    with playback(a_run(tmp_path), into=tmp_path / "played"), run("program"):
        assert pytest.importorskip("httpx").get(f"{server.base_url}/models").status_code == 200


@pytest.mark.parametrize(
    ("method", "url", "asks"),
    [
        ("POST", "https://api.anthropic.com/v1/messages?beta=true", True),
        ("post", "http://localhost:8000/v1/chat/completions", True),
        ("POST", "https://g.example/v1beta/models/gemini-2:streamGenerateContent?alt=sse", True),
        ("POST", "https://b.example/model/some.model/invoke-with-response-stream", True),
        ("POST", "https://a.example/v1/projects/p/models/x:rawPredict", True),
        ("POST", "http://localhost:11434/api/chat", True),
        ("POST", "https://c.example/v2/rerank", True),
        ("POST", "https://elsewhere.example/threads/1/runs/stream", True),
        ("GET", "http://localhost:8000/v1/chat/completions", False),
        ("POST", "https://chat.example/api/messages", False),
        ("POST", "https://form.example/responses", False),
        ("POST", "https://mine.example/completions/7", False),
    ],
)
def test_which_requests_ask_a_model(method: str, url: str, *, asks: bool) -> None:
    assert is_inference(method, url) is asks
