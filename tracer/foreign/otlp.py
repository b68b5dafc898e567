"""A span of OpenTelemetry's protocol as it came: read, kept word for word, given back.

OTLP has values JSON lacks: bytes become `{"base64": text}`, NaN and the infinities the words protobuf's own
JSON uses. Everything else is itself.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import orjson

from redecode.tracer.records import JsonObject

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1 import trace_pb2

_STATUS = {0: "unset", 1: "ok", 2: "error"}
_TEXTS = frozenset({"resource", "attributes", "events", "links"})  # JSON in JSON: stored without being parsed
_NOT_JSON = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_FLAG_REMOTE = 0x200  # SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_MAX_NS = (1 << 63) - 1

SpanNote = tuple[str, int, JsonObject]
"""A span event: name, time in ns UTC, attributes."""
SpanLink = tuple[str, str, JsonObject]
"""Another span: trace id, span id (hex), attributes of the link."""


@dataclass(slots=True, kw_only=True)
class OtlpSpan:
    """One span of another tracer.

    Attributes:
        run: trace id, 32 hex digits; `span` and `parent` 16.
        kind: OTLP's (1 internal, 2 server, 3 client, 4 producer, 5 consumer; 0 unsaid).
        start_ns, end_ns: ns UTC on the sender's clock; an end of `None` says the span is still open.
        status: "ok", "error" or "unset"; `error` is the message that came with it.
        scope, scope_version: the instrumentation that made it.
        resource: attributes of the process it ran in.
        flags: W3C trace flags, and whether the parent is known to be in another process.
        dropped: attributes, events and links that the sender says it lost.
    """

    run: str
    span: str
    parent: str | None = None
    name: str = ""
    kind: int = 0
    start_ns: int = 0
    end_ns: int | None = None
    status: str = "unset"
    error: str | None = None
    scope: str = ""
    scope_version: str = ""
    resource: JsonObject = field(default_factory=dict)
    attributes: JsonObject = field(default_factory=dict)
    events: list[SpanNote] = field(default_factory=list)
    links: list[SpanLink] = field(default_factory=list)
    trace_state: str = ""
    flags: int = 0
    dropped: int = 0

    @property
    def remote_parent(self) -> bool:
        """Whether the sender says that its parent is a span of another process."""
        return bool(self.flags & _FLAG_REMOTE)

    def payload(self) -> bytes:
        """The bytes of its journal record."""
        document: JsonObject = {"t": "otlp"}
        for name in _FIELDS:
            value = getattr(self, name)
            document[name] = orjson.dumps(value).decode() if name in _TEXTS else value
        return orjson.dumps(document)

    @classmethod
    def from_event(cls, event: JsonObject) -> OtlpSpan:
        """The span of a parsed journal event (or of a row with the same names); unknown names are left out."""
        given: dict[str, Any] = {name: event[name] for name in _FIELDS if name in event}
        for name in _TEXTS & given.keys():
            given[name] = orjson.loads(given[name])
        for name in ("events", "links"):
            given[name] = [tuple(item) for item in given.get(name, ())]
        return cls(**given)


# `span` first, so that a reader of a journal can tell spans apart without parsing.
_FIELDS = ("span", *(f.name for f in fields(OtlpSpan) if f.name != "span"))


def read_request(request: ExportTraceServiceRequest) -> tuple[list[OtlpSpan], list[str]]:
    """The spans of an export request, and why each of those left out was."""
    spans: list[OtlpSpan] = []
    rejected: list[str] = []
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scoped in group.scope_spans:
            scope = scoped.scope
            for span in scoped.spans:
                reason = _unusable(span)
                if reason is not None:
                    rejected.append(f"span {span.name[:80]!r}: {reason}")
                else:
                    spans.append(_read(span, scope.name, scope.version, resource))
    return spans, rejected


def _unusable(span: trace_pb2.Span) -> str | None:
    for what, value, size in (("trace", span.trace_id, 16), ("span", span.span_id, 8)):
        if len(value) != size or not any(value):
            return f"{what} id {value[:32].hex() or 'missing'} is not {size} bytes, not all zero"
    if span.parent_span_id and len(span.parent_span_id) != 8:
        return f"parent id {span.parent_span_id[:32].hex()} is not 8 bytes"
    if span.parent_span_id == span.span_id:
        return "it is its own parent"
    start, end = span.start_time_unix_nano, span.end_time_unix_nano
    if not 0 < start <= _MAX_NS or end > _MAX_NS:
        return f"its times {start} to {end} are no times in ns"
    if end and end < start:
        return f"it ends {start - end} ns before it starts"
    return None


def _read(span: trace_pb2.Span, scope: str, version: str, resource: JsonObject) -> OtlpSpan:
    return OtlpSpan(
        run=span.trace_id.hex(),
        span=span.span_id.hex(),
        parent=span.parent_span_id.hex() if any(span.parent_span_id) else None,
        name=span.name,
        kind=int(span.kind),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano or None,
        status=_STATUS.get(int(span.status.code), "unset"),
        error=span.status.message or None,
        scope=scope,
        scope_version=version,
        resource=resource,
        attributes=_attributes(span.attributes),
        events=[(e.name, min(e.time_unix_nano, _MAX_NS), _attributes(e.attributes)) for e in span.events],
        links=[(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in span.links],
        trace_state=span.trace_state,
        flags=span.flags,
        dropped=span.dropped_attributes_count + span.dropped_events_count + span.dropped_links_count,
    )


def _attributes(pairs: Iterable[KeyValue]) -> JsonObject:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    """A value as JSON has it; protobuf itself bounds the depth."""
    which = value.WhichOneof("value")
    match which:
        case None:
            return None
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case "kvlist_value":
            return _attributes(value.kvlist_value.values)
        case "bytes_value":
            return {"base64": base64.b64encode(value.bytes_value).decode()}
        case "double_value":
            number = value.double_value
            return number if math.isfinite(number) else _NOT_JSON[str(number)]
        case _:
            return getattr(value, which)
