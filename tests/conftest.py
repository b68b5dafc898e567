"""Fixtures shared by all rooms: a store, an OpenAI-compatible server in this process, a real vLLM engine."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from redecode import tracer


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # several programs with many branches each connect in one moment; five is the usual


class OpenAIServer:
    """A small real OpenAI-compatible HTTP server.

    `answer` maps a request body to the text of the reply, or to a whole message (one that calls tools); every request
    body is kept in `requests`.
    With `vllm=True` it also speaks the fields vLLM adds, as vLLM does: null where nobody asked.
    """

    def __init__(
        self, answer: Callable[[dict[str, Any]], Any], *, vllm: bool = False, delay_s: float = 0.0, chunk_s: float = 0.0
    ) -> None:
        self.answer, self.vllm, self.delay_s, self.chunk_s = answer, vllm, delay_s, chunk_s
        self.requests: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # it waits 40 ms between a head and its body

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                owner = "vllm" if outer.vllm else "someone"
                if self.path.partition("?")[0] == "/v1/models":
                    outer._json(self, 200, {"data": [{"id": "m", "owned_by": owner}]})
                else:
                    outer._json(self, 404, {"error": {"message": "not found"}})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.requests.append(body)
                time.sleep(outer.delay_s)
                if body["model"] == "missing":
                    outer._json(self, 404, {"error": {"message": "no such model"}})
                elif body.get("stream"):
                    outer._stream(self, body)
                else:
                    outer._json(self, 200, outer.response(body))

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def response(self, body: dict[str, Any]) -> dict[str, Any]:
        text = self.answer(body)
        message = text if isinstance(text, dict) else {"content": text}
        text = message["content"] or ""
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", **message},
            "finish_reason": "tool_calls" if "tool_calls" in message else "stop",
        }
        out: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": 3, "completion_tokens": len(text), "total_tokens": 3 + len(text)},
        }
        if self.vllm:
            ids = [ord(ch) for ch in text]
            asked = body.get("return_token_ids")
            choice["logprobs"] = {"content": [_logprob(ch) for ch in text]} if body.get("logprobs") else None
            choice["token_ids"] = ids if asked else None
            out["prompt_token_ids"] = [1, 2, 3] if asked else None
            out["system_fingerprint"] = "vllm-test"
        return out

    def chunks(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        text = self.answer(body)
        asked, usage = body.get("return_token_ids"), (body.get("stream_options") or {}).get("include_usage")
        common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        out: list[dict[str, Any]] = []
        for place, ch in enumerate(text):
            last = place == len(text) - 1
            choice: dict[str, Any] = {"index": 0, "delta": {"content": ch}, "finish_reason": "stop" if last else None}
            chunk: dict[str, Any] = {**common, "choices": [choice]}
            if self.vllm:
                choice["token_ids"] = [ord(ch)] if asked else None
                choice["logprobs"] = {"content": [_logprob(ch)]} if body.get("logprobs") else None
                if place == 0:
                    chunk["prompt_token_ids"] = [1, 2, 3] if asked else None
                if last and not usage:
                    chunk["system_fingerprint"] = "vllm-test"
            out.append(chunk)
        if usage:
            tail = {"prompt_tokens": 3, "completion_tokens": len(text), "total_tokens": 3 + len(text)}
            out.append({**common, "choices": [], "usage": tail, "system_fingerprint": "vllm-test"})
        return out

    def _stream(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.close_connection = True
        try:
            for chunk in self.chunks(body):
                handler.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
                handler.wfile.flush()
                time.sleep(self.chunk_s)
            handler.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the caller gave the stream up

    @staticmethod
    def _json(handler: BaseHTTPRequestHandler, status: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)


def _logprob(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": -ord(token) / 100, "bytes": list(token.encode()), "top_logprobs": []}


def pytest_configure() -> None:
    """The same wherever the suite is started.

    Programs under test are interrupted: a shell that starts the suite in the background makes them deaf to that. They
    are read while they run: what they do not flush would come unasked where Python's output is unbuffered.
    """
    os.environ.pop("PYTHONUNBUFFERED", None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection() -> None:
    """What five thousand tests import stays: to look again and again whether it does took a third of that time."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that no process is left with it alone at the end."""
    items.sort(key=lambda item: _shared(item.path) != "vllm" and item.get_closest_marker("long") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share tests among processes by file, so that no fixture is made twice; those on vLLM share one engine.

    xdist's own groups (`--dist loadgroup`) do nothing under pytest 9.2: xdist 3.8 writes them to a field that is gone.
    """
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _shared(config.rootpath / nodeid.partition("::")[0])

    config.option.loadscopereorder = False
    return ByFile(config, log)


@cache
def _shared(file: Path) -> str:
    return "vllm" if "mark.vllm" in file.read_text() else str(file)


@pytest.fixture
def serve() -> Iterator[Callable[..., OpenAIServer]]:
    """Make OpenAI-compatible servers that end with the test."""
    servers: list[OpenAIServer] = []

    def make(answer: Callable[[dict[str, Any]], Any] = lambda _: "hello", **options: Any) -> OpenAIServer:
        servers.append(OpenAIServer(answer, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store directory of this test."""
    return tmp_path / "store"


@pytest.fixture
def recording(store: Path) -> Iterator[Path]:
    """Record this process into the test's store; yields its path."""
    tracer.instrument(store)
    yield store
    tracer.uninstrument()


@pytest.fixture(scope="session")
def engine_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store whose engine `engine_url` starts."""
    return tmp_path_factory.mktemp("engine") / "store"


@pytest.fixture(scope="session")
def vllm_installed() -> None:
    """Where vLLM cannot be installed its tests are left out; never in CI."""
    if importlib.util.find_spec("vllm") is None:
        if os.environ.get("CI"):
            pytest.fail("CI must test against a real vLLM, and none is installed")
        pytest.skip("vLLM is not installed here; `make setup` installs it where it can be")


@pytest.fixture(scope="session")
def engine_url(vllm_installed: None, engine_home: Path) -> Iterator[str]:
    """A real vLLM with our plug-in and the small bundled FM, one for the whole session."""
    from redecode.agents import model_dir
    from redecode.replay.engine import start, stop

    state = start(model_dir("redecode-fm-xs"), home=engine_home / "engine")
    yield state.base_url
    stop(engine_home / "engine")
