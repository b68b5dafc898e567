"""A plain OTLP/HTTP sink: decodes what it is sent and counts spans: usage `otlp_sink.py`.

Prints its URL and serves until its standard input ends. Spans go to `/NAME/v1/traces`; `GET /NAME` says what came
under that name: `spans`, `bytes`, and whether any span `has` what a replay needs.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

# What is looked for, as it would stand in a span's text form, whatever the attribute is called.
_TELLS = {
    "nodes": re.compile(rb'name: "(?:ask|execute_task ask|invoke_agent ask|ask\.task)"'),
    "prompts": re.compile(rb"question number"),
    "answers": re.compile(rb" step of, run"),
    "seed": re.compile(rb'(?:seed"\s*value \{\s*(?:int_value: 7|string_value: "7")|\\"seed\\": ?7)'),
    "usage": re.compile(rb"(?:input_tokens|prompt_tokens|token_count\.prompt)"),
    "token ids": re.compile(rb"70001\D{1,80}70002"),
    "logprobs": re.compile(rb"logprob\\?\""),
}


class Received:
    """What came under one name."""

    def __init__(self) -> None:
        self.spans, self.bytes = 0, 0
        self.has: dict[str, bool] = dict.fromkeys(_TELLS, False)
        self.names: dict[str, int] = {}
        self.lock = threading.Lock()

    def take(self, data: bytes, *, look: bool) -> None:
        """Decode and count one export."""
        request = ExportTraceServiceRequest.FromString(data)
        spans = [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]
        with self.lock:
            self.spans += len(spans)
            self.bytes += len(data)
            if not look:
                return
            for span in spans:
                self.names[span.name] = self.names.get(span.name, 0) + 1
                text = str(span).encode()
                self.has.update({k: True for k, tell in _TELLS.items() if not self.has[k] and tell.search(text)})


def main() -> None:
    """Serve until standard input ends."""
    received: dict[str, Received] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                data = gzip.decompress(data)
            name = self.path.split("/")[1]
            known = received.setdefault(name, Received())
            # What is in the spans is looked up in the first few, so that the burst meets a sink that only decodes.
            known.take(data, look=known.spans < 300)
            self._answer(b"", "application/x-protobuf")

        def do_GET(self) -> None:
            known = received.get(self.path.strip("/"), Received())
            shown = {"spans": known.spans, "bytes": known.bytes, "has": known.has, "names": known.names}
            self._answer(json.dumps(shown).encode(), "application/json")

        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
