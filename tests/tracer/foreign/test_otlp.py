"""A span of OTLP is read, written and read again without losing anything of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from redecode.tracer import events
from redecode.tracer.foreign.otlp import OtlpSpan, read_request

RUN, SPAN, PARENT = bytes(range(16)), bytes(range(1, 9)), bytes(range(2, 10))


def request(**fields: Any) -> ExportTraceServiceRequest:
    message = ExportTraceServiceRequest()
    group = message.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "svc"
    scoped = group.scope_spans.add()
    scoped.scope.name, scoped.scope.version = "some.scope", "1.2"
    given = {"trace_id": RUN, "span_id": SPAN, "start_time_unix_nano": 10, "end_time_unix_nano": 20, **fields}
    scoped.spans.add(**given)
    return message


def again(span: OtlpSpan) -> OtlpSpan:
    return OtlpSpan.from_event(events.parse(span.payload()))


def test_every_part_of_a_span_survives_the_journal() -> None:
    message = request(parent_span_id=PARENT, name="op", kind=3, trace_state="a=b", flags=0x301, dropped_events_count=2)
    proto = message.resource_spans[0].scope_spans[0].spans[0]
    proto.status.code, proto.status.message = 2, "it broke"
    proto.attributes.add(key="text").value.string_value = "a\0b"
    proto.attributes.add(key="huge").value.int_value = -(2**63)
    proto.attributes.add(key="bytes").value.bytes_value = b"\x00\xff"
    proto.attributes.add(key="yes").value.bool_value = True
    proto.attributes.add(key="nothing")
    for name, number in (("nan", math.nan), ("up", math.inf), ("down", -math.inf), ("half", 0.5)):
        proto.attributes.add(key=name).value.double_value = number
    array = proto.attributes.add(key="array").value.array_value
    array.values.add().int_value = 1
    array.values.add().kvlist_value.values.add(key="deep").value.string_value = "x"
    proto.events.add(name="e", time_unix_nano=15).attributes.add(key="k").value.int_value = 7
    proto.links.add(trace_id=RUN, span_id=PARENT)

    [span], rejected = read_request(message)

    assert rejected == []
    assert again(span) == span
    assert span == OtlpSpan(
        run=RUN.hex(),
        span=SPAN.hex(),
        parent=PARENT.hex(),
        name="op",
        kind=3,
        start_ns=10,
        end_ns=20,
        status="error",
        error="it broke",
        scope="some.scope",
        scope_version="1.2",
        resource={"service.name": "svc"},
        attributes={
            "text": "a\0b",
            "huge": -(2**63),
            "bytes": {"base64": "AP8="},
            "yes": True,
            "nothing": None,
            "nan": "NaN",
            "up": "Infinity",
            "down": "-Infinity",
            "half": 0.5,
            "array": [1, {"deep": "x"}],
        },
        events=[("e", 15, {"k": 7})],
        links=[(RUN.hex(), PARENT.hex(), {})],
        trace_state="a=b",
        flags=0x301,
        dropped=2,
    )
    assert span.remote_parent


def test_a_root_and_an_open_span_are_told_apart_from_broken_ones() -> None:
    [span], rejected = read_request(request(parent_span_id=bytes(8), end_time_unix_nano=0))
    assert (span.parent, span.end_ns, rejected) == (None, None, [])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"trace_id": b""}, "trace id missing"),
        ({"trace_id": bytes(16)}, "trace id 0000"),
        ({"trace_id": RUN[:8]}, "trace id 0001"),
        ({"span_id": bytes(8)}, "span id 0000"),
        ({"span_id": SPAN + b"\1"}, "span id 0102"),
        ({"parent_span_id": b"\1"}, "parent id 01"),
        ({"parent_span_id": SPAN}, "its own parent"),
        ({"start_time_unix_nano": 0}, "its times 0"),
        ({"start_time_unix_nano": 2**63}, "its times 9223372036854775808"),
        ({"end_time_unix_nano": 2**64 - 1}, "its times 10 to"),
        ({"end_time_unix_nano": 9}, "ends 1 ns before it starts"),
    ],
)
def test_a_span_that_cannot_be_kept_is_named_and_left_out(fields: dict[str, Any], reason: str) -> None:
    message = request(name="op", **fields)
    message.MergeFrom(request())
    spans, rejected = read_request(message)
    assert [span.name for span in spans] == [""]
    assert len(rejected) == 1 and rejected[0].startswith("span 'op': ") and reason in rejected[0]


values = st.recursive(
    st.one_of(
        st.text(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.binary(max_size=20),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=12,
)


def fill(target: AnyValue, value: Any) -> None:
    match value:
        case bool():
            target.bool_value = value
        case int():
            target.int_value = value
        case float():
            target.double_value = value
        case str():
            target.string_value = value
        case bytes():
            target.bytes_value = value
        case list():
            target.array_value.SetInParent()
            for item in value:
                fill(target.array_value.values.add(), item)
        case dict():
            target.kvlist_value.SetInParent()
            for key, item in value.items():
                fill(target.kvlist_value.values.add(key=key).value, item)


@given(attributes=st.dictionaries(st.text(), values, max_size=5))
def test_whatever_a_sender_puts_into_attributes_is_read_and_kept(attributes: dict[str, Any]) -> None:
    message = request()
    for key, value in attributes.items():
        fill(message.resource_spans[0].scope_spans[0].spans[0].attributes.add(key=key).value, value)
    parsed = ExportTraceServiceRequest.FromString(message.SerializeToString())
    [span], rejected = read_request(parsed)
    assert rejected == [] and span.attributes.keys() == attributes.keys()
    assert again(span) == span
    for key, value in attributes.items():
        if isinstance(value, str | bool | int):
            assert span.attributes[key] == value


@given(st.binary(max_size=200))
def test_reading_never_fails_on_a_request_that_protobuf_took(body: bytes) -> None:
    try:
        message = ExportTraceServiceRequest.FromString(body)
    except Exception:
        return
    spans, _ = read_request(message)
    for span in spans:
        assert again(span) == span


def test_a_value_as_deep_as_protobuf_takes_is_kept() -> None:
    message = request()
    value = message.resource_spans[0].scope_spans[0].spans[0].attributes.add(key="deep").value
    for _ in range(40):
        value = value.array_value.values.add()
    value.string_value = "bottom"
    parsed = ExportTraceServiceRequest.FromString(message.SerializeToString())
    [span], _ = read_request(json_format.Parse(json_format.MessageToJson(parsed), ExportTraceServiceRequest()))
    assert again(span) == span
    found = span.attributes["deep"]
    while isinstance(found, list):
        [found] = found
    assert found == "bottom"
