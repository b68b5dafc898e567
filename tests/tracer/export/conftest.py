"""A real OTLP/HTTP backend for the tests that send."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from redecode.tracer.foreign.otlp import OtlpSpan, read_request


@dataclass
class Answer:
    """What the backend says to one request."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = ExportTraceServiceResponse().SerializeToString()


class Backend:
    """Keeps what it took; `answers` are given to the next requests, then 200."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.spans: list[OtlpSpan] = []
        self.open = threading.Event()
        self.open.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = gzip.decompress(self.rfile.read(int(self.headers["content-length"])))
                outer.open.wait(10)
                outer.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                answer = outer.answers.pop(0) if outer.answers else Answer()
                if answer.status == 200:
                    spans, rejected = read_request(ExportTraceServiceRequest.FromString(body))
                    assert not rejected
                    outer.spans += spans
                self.send_response(answer.status)
                headers = {"content-type": "application/x-protobuf", **answer.headers}
                for name, value in {**headers, "content-length": str(len(answer.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def backend() -> Iterator[Backend]:
    """An OTLP/HTTP backend."""
    backend = Backend()
    yield backend
    backend.close()


@pytest.fixture
def answer() -> Callable[..., Answer]:
    """Make answers for the backend."""
    return Answer
