"""A small HTTP server that answers as a function says: whole, in pieces, slowly, wrongly, or not at all."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Cut(Exception):
    """Raised while a body is made: the connection is reset there."""


@dataclass
class Reply:
    """An answer. A body in pieces is sent chunked, each piece at once; a piece may be a time to sleep, in seconds."""

    body: bytes | Iterable[bytes | float] = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Any, status: int = 200, **headers: str) -> Reply:
        """A JSON body."""
        return cls(json.dumps(document).encode(), status, {"content-type": "application/json", **headers})

    @classmethod
    def events(cls, payloads: Iterable[Any], *, named: bool = False, done: bool = True) -> Reply:
        """A stream of events; a payload may be raw bytes, or a time to sleep."""

        def pieces() -> Iterable[bytes | float]:
            for payload in payloads:
                if isinstance(payload, bytes | float):
                    yield payload
                    continue
                name = f"event: {payload['type']}\n" if named else ""
                yield f"{name}data: {json.dumps(payload, separators=(',', ':'))}\n\n".encode()
            if done:
                yield b"data: [DONE]\n\n"

        return cls(pieces(), headers={"content-type": "text/event-stream; charset=utf-8"})


@dataclass
class Request:
    """What the server was asked."""

    path: str
    headers: dict[str, str]
    body: Any


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # a client may hang up whenever it likes


class Server:
    """Serves `answer(request)` until closed; keeps every call in `requests` and every other question in `asked`.

    What it is may change while it serves: `owner` of its model, and what it answers itself before all (`plugin`).
    """

    def __init__(self, answer: Callable[[Request], Reply], *, owner: str = "someone", compress: bool = False) -> None:
        self.requests: list[Request] = []
        self.asked: list[Request] = []
        self.answer, self.owner = answer, owner
        self.plugin: Callable[[Request], Reply | None] = lambda _: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # it waits 40 ms between a head and its body

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                outer.asked.append(request := self._request(None))
                found = self.path.partition("?")[0].endswith("/models")
                models = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": outer.owner}]}
                plain = Reply.of(models) if found else Reply.of({"error": {"message": "not found"}}, 404)
                self._send(outer.plugin(request) or plain)

            def _request(self, body: Any) -> Request:
                return Request(self.path, {name.lower(): value for name, value in self.headers.items()}, body)

            def do_POST(self) -> None:
                request = self._request(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                if (reply := outer.plugin(request)) is not None:
                    outer.asked.append(request)
                    self._send(reply)
                    return
                outer.requests.append(request)
                try:
                    self._send(outer.answer(request))
                except Cut:
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.close_connection = True
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the caller gave it up

            def _send(self, reply: Reply) -> None:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                packed = compress and "gzip" in self.headers.get("accept-encoding", "")
                if packed:
                    self.send_header("content-encoding", "gzip")
                if isinstance(reply.body, bytes):
                    body = gzip.compress(reply.body) if packed else reply.body
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    return
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                whole = b"".join(p for p in reply.body if isinstance(p, bytes)) if packed else b""
                for piece in [gzip.compress(whole)] if packed else reply.body:
                    if isinstance(piece, float):
                        time.sleep(piece)
                        continue
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")

        self._server = _Listener(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.root}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
