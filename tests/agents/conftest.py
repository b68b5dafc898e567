"""An engine that speaks OpenAI's chat protocol over real HTTP, with a Python function for a model."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from redecode.agents.context import close_clients


@dataclass(frozen=True)
class Reply:
    """What the model says: words, or calls as (tool, arguments)."""

    text: str | None = None
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()


Model = Callable[[dict[str, Any]], Reply]


@dataclass
class ChatEngine:
    """The engine: its URL, its model, and the requests it has seen."""

    url: str = ""
    model: Model = lambda request: Reply("hello")
    requests: list[dict[str, Any]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: ChatEngine

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.engine.requests.append(request)
        try:
            reply = self.engine.model(request)
        except LookupError as err:
            self._send(404, {"error": {"message": str(err), "type": "NotFoundError", "code": 404}})
            return
        message = _message(reply)
        finish = "tool_calls" if reply.calls else "stop"
        if request.get("stream"):
            self._stream(request["model"], message, finish)
        else:
            self._send(200, _body(request["model"], "chat.completion", message=message, finish_reason=finish))

    def _stream(self, model: str, message: dict[str, Any], finish: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        deltas: list[dict[str, Any]] = [{"role": "assistant"}]
        deltas += [{"content": ch} for ch in message["content"] or ""]
        deltas += [{"tool_calls": [{"index": i, **call}]} for i, call in enumerate(message.get("tool_calls", ()))]
        for delta in deltas:
            self._event(_body(model, "chat.completion.chunk", delta=delta, finish_reason=None))
        self._event(_body(model, "chat.completion.chunk", delta={}, finish_reason=finish))
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, data: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())

    def _send(self, status: int, data: dict[str, Any]) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay quiet about a client that hung up, as cancelled runs do."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _message(reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.calls:
        message["tool_calls"] = [
            {
                "id": f"call_{name}_{i}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for i, (name, arguments) in enumerate(reply.calls)
        ]
    return message


def _body(model: str, kind: str, **choice: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": kind,
        "created": 0,
        "model": model,
        "choices": [{"index": 0, **choice}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def run_graph(graph: Any, state: Any, context: Any, *, awaited: bool) -> dict[str, Any]:
    """Run a graph the blocking or the awaited way."""

    async def awaits() -> Any:
        try:
            return await graph.ainvoke(state, context=context)
        finally:
            await close_clients()

    return dict(asyncio.run(awaits()) if awaited else graph.invoke(state, context=context))


@pytest.fixture
def chat_engine() -> Iterator[ChatEngine]:
    """A running engine; set its `model`."""
    engine = ChatEngine()
    handler = type("Handler", (_Handler,), {"engine": engine})
    server = _Server(("127.0.0.1", 0), handler)
    engine.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield engine
    server.shutdown()
    thread.join()
    server.server_close()
