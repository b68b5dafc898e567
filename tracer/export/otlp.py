"""Runs as OTLP: every span under the GenAI names and ours, complete enough to be the same run again after import.

| here | in OTLP |
|---|---|
| kind, step key | attributes `redecode.kind`, `redecode.step_key` |
| edges | attribute `redecode.edges` of the span that waited: JSON, `[[src, kind, provenance], …]` |
| token arrays | base64 text of their packed bytes (`conventions.ARRAYS`) |
| open span | ends when it starts, with `redecode.open`: OTLP has no open spans |
| engines, events lost | attributes `redecode.engines` (JSON by id) and `redecode.lost` of the resource |
| agent | resource attribute `service.name` |
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

import orjson

from redecode.tracer import conventions as c
from redecode.tracer.events import SpanEvent
from redecode.tracer.export.spans import span_events
from redecode.tracer.foreign.otlp import OtlpSpan
from redecode.tracer.records import JsonObject, SpanKind

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from redecode.tracer.store import RecordedRun

SCOPE = "redecode"
MAX_REQUEST_BYTES = 3 << 20  # receivers commonly take 4 MiB (gRPC's default)
_INTERNAL, _CLIENT = 1, 3
_STATUS = {"ok": 1, "error": 2}
_INT64 = range(-(1 << 63), 1 << 63)


def otlp_spans(recorded: RecordedRun, engines: Mapping[str, JsonObject] | None = None) -> list[OtlpSpan]:
    """The spans of a run.

    Args:
        engines: what the run's engines said of themselves, by id; travels with the resource.
    """
    resource: JsonObject = {"service.name": recorded.run.agent or SCOPE}
    if engines:
        resource[c.ENGINES] = c.to_json(engines)
    if recorded.run.lost:
        resource[c.LOST] = recorded.run.lost
    return [otlp_span(event, resource) for event in span_events(recorded)]


def otlp_span(event: SpanEvent, resource: JsonObject) -> OtlpSpan:
    """One span of ours in OTLP's terms."""
    attributes: JsonObject = {c.KIND: event.kind, c.STEP_KEY: event.step_key}
    if event.edges:
        attributes[c.EDGES] = orjson.dumps(event.edges).decode()
    if event.end_ns is None:
        attributes[c.OPEN] = True
    for name, value in event.attributes.items():
        attributes[name] = base64.b64encode(value).decode() if isinstance(value, bytes) else value
    return OtlpSpan(
        run=event.run,
        span=event.span,
        parent=event.parent,
        name=event.name,
        kind=_CLIENT if event.kind == SpanKind.DECODE else _INTERNAL,
        start_ns=event.start_ns,
        end_ns=event.start_ns if event.end_ns is None else event.end_ns,
        status=event.status if event.status in _STATUS else "unset",
        error=event.error,
        scope=SCOPE,
        scope_version=metadata.version("redecode"),
        resource=resource,
        attributes=attributes,
    )


def requests(spans: Iterable[OtlpSpan], max_bytes: int = MAX_REQUEST_BYTES) -> Iterator[ExportTraceServiceRequest]:
    """Spans as export requests of about `max_bytes` at most; a span larger than that travels alone."""
    build = _Builder()
    for span in spans:
        written = write_span(span)
        if build.bytes and build.bytes + written.ByteSize() > max_bytes:
            yield build.request
            build = _Builder()
        build.add(span, written)
    if build.bytes:
        yield build.request


def request(spans: Iterable[OtlpSpan]) -> ExportTraceServiceRequest:
    """Spans as one export request."""
    build = _Builder()
    for span in spans:
        build.add(span, write_span(span))
    return build.request


class _Builder:
    """A request in the making, its spans grouped by resource and scope."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        self.request = ExportTraceServiceRequest()
        self.bytes = 0
        self._groups: dict[bytes, Any] = {}
        self._scopes: dict[tuple[bytes, str, str], Any] = {}
        self._last: tuple[JsonObject | None, bytes] = None, b""  # most spans share their neighbour's resource

    def add(self, span: OtlpSpan, written: Span) -> None:
        """Add a span."""
        if self._last[0] is not span.resource:
            self._last = span.resource, orjson.dumps(span.resource, default=str)
        resource = self._last[1]
        group = self._groups.get(resource)
        if group is None:
            group = self._groups[resource] = self.request.resource_spans.add()
            group.resource.attributes.extend(_pairs(span.resource))
            self.bytes += group.ByteSize()
        key = (resource, span.scope, span.scope_version)
        scoped = self._scopes.get(key)
        if scoped is None:
            scoped = self._scopes[key] = group.scope_spans.add()
            scoped.scope.name, scoped.scope.version = span.scope, span.scope_version
        scoped.spans.append(written)
        self.bytes += written.ByteSize()


def write_span(span: OtlpSpan) -> Span:
    """One span as protobuf; the inverse of `foreign.otlp.read_request`."""
    from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

    return Span(
        trace_id=bytes.fromhex(span.run),
        span_id=bytes.fromhex(span.span),
        parent_span_id=bytes.fromhex(span.parent or ""),
        trace_state=span.trace_state,
        flags=span.flags,
        name=_text(span.name),
        kind=span.kind,  # type: ignore[arg-type]  # open enum: what came is given back
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=span.end_ns or 0,
        attributes=_pairs(span.attributes),
        events=[
            Span.Event(name=_text(name), time_unix_nano=at, attributes=_pairs(attributes))
            for name, at, attributes in span.events
        ],
        links=[
            Span.Link(trace_id=bytes.fromhex(run), span_id=bytes.fromhex(other), attributes=_pairs(attributes))
            for run, other, attributes in span.links
        ],
        dropped_attributes_count=span.dropped,
        status=Status(code=_STATUS.get(span.status, 0), message=_text(span.error or "")),  # type: ignore[arg-type]
    )


def _pairs(attributes: JsonObject) -> list[KeyValue]:
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue

    return [KeyValue(key=_text(str(name)), value=_value(value)) for name, value in attributes.items()]


def _value(value: Any) -> AnyValue:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValueList

    match value:
        case None:
            return AnyValue()
        case bool():
            return AnyValue(bool_value=value)
        case int() if value in _INT64:
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case dict():
            data = _bytes(value)
            if data is not None:
                return AnyValue(bytes_value=data)
            return AnyValue(kvlist_value=KeyValueList(values=_pairs(value)))
        case list() | tuple():
            return AnyValue(array_value=ArrayValue(values=[_value(item) for item in value]))
        case bytes():
            return AnyValue(bytes_value=value)
        case _:
            return AnyValue(string_value=_text(str(value)))


def _bytes(value: JsonObject) -> bytes | None:
    """What `foreign.otlp` reads as `{"base64": text}`; `None` if it is something else."""
    text = value.get("base64") if len(value) == 1 else None
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except ValueError:
        return None
    return data if data is not None and base64.b64encode(data).decode() == text else None


def _text(text: str) -> str:
    """Protobuf takes no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


# -- JSON: protobuf's own, but ids in hex and enums as numbers (the OTLP specification, "JSON Protobuf Encoding") --


def to_json(message: ExportTraceServiceRequest) -> JsonObject:
    """A request as OTLP JSON."""
    from google.protobuf import json_format

    document: JsonObject = json_format.MessageToDict(message, use_integers_for_enums=True)
    _each_id(document, lambda text: base64.b64decode(text).hex())
    return document


def from_json(document: JsonObject) -> ExportTraceServiceRequest:
    """OTLP JSON as a request; unknown fields are left out, and the document is used up.

    Raises:
        ValueError: it is none (`google.protobuf.json_format.ParseError` is one).
    """
    from google.protobuf import json_format
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    _each_id(document, lambda text: base64.b64encode(bytes.fromhex(text)).decode())
    try:
        request = ExportTraceServiceRequest()
        json_format.ParseDict(document, request, ignore_unknown_fields=True)
        return request
    except json_format.ParseError as error:
        raise ValueError(str(error)) from error


def _each_id(document: JsonObject, change: Any) -> None:
    try:
        spans = [s for r in document["resourceSpans"] for g in r.get("scopeSpans", ()) for s in g.get("spans", ())]
        for item in [*spans, *(link for span in spans for link in span.get("links", ()))]:
            for name in ("traceId", "spanId", "parentSpanId"):
                if item.get(name):
                    item[name] = change(item[name])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no OTLP trace document: {error!r}") from error
