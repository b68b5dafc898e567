"""A real collector in a process of its own, and what to send it."""

from __future__ import annotations

import http.client
import json
import os
import random
import select
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from redecode.tracer.spool import read_journal

PROTOBUF, JSON = "application/x-protobuf", "application/json"
START_NS = 1_790_000_000_000_000_000
Reply = tuple[int, dict[str, str], bytes]


class CollectorProcess:
    """`redecode collect`, started on free ports."""

    def __init__(self, store: Path, *arguments: str, environ: dict[str, str] | None = None) -> None:
        self.store = store
        command = [sys.executable, "-m", "redecode.cli", "collect", "--store", str(store), "--json"]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--grpc-port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environ or {})},
            text=True,
        )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], 60)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            self.process.kill()
            raise AssertionError(f"the collector did not start: {self.process.communicate()[1]}")
        self.where: dict[str, Any] = json.loads(line)
        self.address = urllib.parse.urlsplit(self.where["http"]).netloc
        self.grpc: str = urllib.parse.urlsplit(self.where["grpc"]).netloc
        self.traces: str = self.where["traces"]

    def connect(self, timeout: float = 30) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.address, timeout=timeout)

    def post(self, body: bytes, content_type: str = PROTOBUF, path: str = "/v1/traces", **headers: str) -> Reply:
        sent = {"content-type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return ask(self.connect(), "POST", path, body, sent)

    def health(self) -> dict[str, Any]:
        return dict(json.loads(ask(self.connect(), "GET", "/healthz")[2]))

    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Ask it to stop; returns its exit code and what it said."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Reply:
    """One request on a connection that is closed after it."""
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


def trace_request(spans: int, rng: random.Random, *, text: str = "") -> ExportTraceServiceRequest:
    """A valid request: one trace, a root and its children, with attributes of every kind."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "test"
    scope = group.scope_spans.add()
    scope.scope.name, scope.scope.version = "tests", "1"
    trace_id, root = rng.randbytes(16), rng.randbytes(8)
    for n in range(spans):
        span = scope.spans.add(trace_id=trace_id, span_id=root if n == 0 else rng.randbytes(8), name=f"span {n}")
        if n:
            span.parent_span_id = root
        span.start_time_unix_nano, span.end_time_unix_nano = START_NS + n, START_NS + n + 1000
        span.status.code = 1
        span.attributes.add(key="n").value.int_value = n
        span.attributes.add(key="text").value.string_value = text or f"größe {n}"
        span.attributes.add(key="ratio").value.double_value = n / 7
        span.attributes.add(key="odd").value.bool_value = bool(n % 2)
        span.attributes.add(key="raw").value.bytes_value = b"\x00\xff"
        span.attributes.add(key="list").value.array_value.values.add().string_value = "a"
        span.attributes.add(key="map").value.kvlist_value.values.add(key="k").value.int_value = -1
        span.events.add(name="event", time_unix_nano=START_NS + n)
        span.links.add(trace_id=trace_id, span_id=root)
    return request


def span_ids(request: ExportTraceServiceRequest) -> list[str]:
    return [span.span_id.hex() for g in request.resource_spans for s in g.scope_spans for span in s.spans]


def as_json(request: ExportTraceServiceRequest) -> dict[str, Any]:
    """The request as OTLP's JSON has it, made by hand: what the collector's own reading is held against."""

    def value(v: Any) -> dict[str, Any]:
        match v.WhichOneof("value"):
            case "string_value":
                return {"stringValue": v.string_value}
            case "int_value":
                return {"intValue": str(v.int_value)}
            case "double_value":
                return {"doubleValue": v.double_value}
            case "bool_value":
                return {"boolValue": v.bool_value}
            case "bytes_value":
                import base64

                return {"bytesValue": base64.b64encode(v.bytes_value).decode()}
            case "array_value":
                return {"arrayValue": {"values": [value(x) for x in v.array_value.values]}}
            case _:
                return {"kvlistValue": {"values": pairs(v.kvlist_value.values)}}

    def pairs(attributes: Any) -> list[dict[str, Any]]:
        return [{"key": a.key, "value": value(a.value)} for a in attributes]

    def span(s: Any) -> dict[str, Any]:
        return {
            "traceId": s.trace_id.hex(),
            "spanId": s.span_id.hex().upper(),  # hex of either case
            "parentSpanId": s.parent_span_id.hex(),
            "name": s.name,
            "kind": int(s.kind),
            "startTimeUnixNano": str(s.start_time_unix_nano),
            "endTimeUnixNano": str(s.end_time_unix_nano),
            "attributes": pairs(s.attributes),
            "events": [{"name": e.name, "timeUnixNano": str(e.time_unix_nano)} for e in s.events],
            "links": [{"traceId": x.trace_id.hex(), "spanId": x.span_id.hex()} for x in s.links],
            "status": {"code": int(s.status.code), "message": s.status.message},
            "fieldOfANewerProtocol": {"x": 1},
        }

    return {
        "resourceSpans": [
            {
                "resource": {"attributes": pairs(g.resource.attributes)},
                "scopeSpans": [
                    {
                        "scope": {"name": s.scope.name, "version": s.scope.version},
                        "spans": [span(x) for x in s.spans],
                    }
                    for s in g.scope_spans
                ],
            }
            for g in request.resource_spans
        ]
    }


def written(store: Path) -> Iterator[dict[str, Any]]:
    """The `otlp` events in the journals of a store that nobody has drained."""
    for path in sorted((store / "spool").glob("*.journal")):
        for batch in read_journal(path):
            for payload in batch.payloads:
                event = json.loads(payload)
                if event["t"] == "otlp":
                    yield event
