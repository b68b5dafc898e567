"""A body is read as it was meant, or refused with the reason; nothing else comes of it."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from redecode.tracer.collector import bodies
from redecode.tracer.collector.refusals import BadMediaType, Malformed, TooLarge
from redecode.tracer.collector.signals import TRACES
from redecode.tracer.foreign.otlp import read_request
from tests.tracer.collector.support import as_json, trace_request

LIMIT = 1 << 20


def test_json_and_protobuf_of_one_request_are_one_request() -> None:
    request = trace_request(3, random.Random(1))
    from_json = bodies.from_json(TRACES, json.dumps(as_json(request)).encode())
    assert from_json == request == bodies.from_protobuf(TRACES, request.SerializeToString())


def test_ids_in_json_are_hex_and_not_base64() -> None:
    document = {"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "5B8EFFF798038103D269B633813FC60C"}]}]}]}
    request: Any = bodies.from_json(TRACES, json.dumps(document).encode())
    (span,) = request.resource_spans[0].scope_spans[0].spans
    assert span.trace_id.hex() == "5b8efff798038103d269b633813fc60c"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no ExportTraceServiceRequest in JSON"),
        (b"[]", "it is not an object"),
        (b"{", "no ExportTraceServiceRequest in JSON"),
        (b'{"a": NaN}', "no ExportTraceServiceRequest in JSON"),
        (b"\xff\xfe", "no ExportTraceServiceRequest in JSON"),
        (b'{"resourceSpans": 5}', "resourceSpans"),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"spanId": "xyz"}]}]}]}', "spanId 'xyz' is not hex"),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"kind": {}}]}]}]}', "kind"),
        (b'{"resourceSpans": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "no ExportTraceServiceRequest in JSON"),
    ],
)
def test_what_is_no_otlp_in_json_is_refused_with_the_reason(body: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        bodies.from_json(TRACES, body)


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\x7f", b"\x0a\x02\x12\x7f", b"\x00"])
def test_what_is_no_protobuf_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed, match="no ExportTraceServiceRequest in protobuf"):
        bodies.from_protobuf(TRACES, body)


@given(data=st.binary(max_size=5000))
def test_what_is_compressed_comes_back(data: bytes) -> None:
    assert bodies.decompressed(gzip.compress(data), "gzip", LIMIT) == data
    assert bodies.decompressed(gzip.compress(data) + gzip.compress(b"more"), "gzip", LIMIT) == data + b"more"
    assert bodies.decompressed(zlib.compress(data), "deflate", LIMIT) == data
    assert bodies.decompressed(data, "identity", LIMIT) == bodies.decompressed(data, "", LIMIT) == data


@given(data=st.binary(min_size=1, max_size=500), cut=st.integers(min_value=1, max_value=30))
def test_what_is_cut_short_is_refused(data: bytes, cut: int) -> None:
    whole = gzip.compress(data)
    with pytest.raises(Malformed, match="no whole gzip"):
        bodies.decompressed(whole[: max(len(whole) - cut, 1)], "gzip", LIMIT)


def test_an_unknown_encoding_is_named() -> None:
    with pytest.raises(BadMediaType, match="'br'"):
        bodies.decompressed(b"x", "br", LIMIT)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_refused_before_it_has_gone_off(encoding: str) -> None:
    bomb = (gzip.compress if encoding == "gzip" else zlib.compress)(bytes(60 * LIMIT))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="send smaller batches"):
            bodies.decompressed(bomb, encoding, 4 * LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * LIMIT


@given(spans=st.integers(min_value=0, max_value=3), seed=st.integers())
def test_a_message_of_grpc_is_told_from_a_compressed_one(spans: int, seed: int) -> None:
    plain = trace_request(spans, random.Random(seed)).SerializeToString()
    assert bodies.sniffed(plain) == "identity"
    assert bodies.sniffed(gzip.compress(plain)) == "gzip"
    for level in (1, 6, 9):
        assert bodies.sniffed(zlib.compress(plain, level)) == "deflate"


def names() -> st.SearchStrategy[str]:
    """Names of OTLP's JSON, so that generated documents get far into the reading."""
    known = "resourceSpans resource scopeSpans scope spans attributes key value traceId spanId parentSpanId name kind"
    more = (
        "startTimeUnixNano endTimeUnixNano status code links events stringValue intValue doubleValue arrayValue values"
    )
    return st.sampled_from([*known.split(), *more.split(), "resource_spans", "trace_id", "bytesValue", "kvlistValue"])


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("ab" * 8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names() | st.text(max_size=5), inner, max_size=4),
    max_leaves=30,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first of them, on a busy machine
@given(document=st.dictionaries(names(), documents, max_size=4))
def test_any_json_is_read_or_refused(document: dict[str, Any]) -> None:
    take(lambda: bodies.from_json(TRACES, json.dumps(document).encode()))


@given(body=st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    take(lambda: bodies.from_protobuf(TRACES, body))
    take(lambda: bodies.from_json(TRACES, body))


@given(seed=st.integers(), flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8))
def test_a_damaged_request_is_read_or_refused(seed: int, flips: list[tuple[int, int]]) -> None:
    body = bytearray(trace_request(2, random.Random(seed)).SerializeToString())
    for at, value in flips:
        body[at % len(body)] = value
    take(lambda: bodies.from_protobuf(TRACES, bytes(body)))


def take(read: Any) -> None:
    """Read a body, and what came of it as the collector would."""
    try:
        request: ExportTraceServiceRequest = read()
    except Malformed as refusal:
        assert str(refusal)
        return
    spans, rejected = read_request(request)
    assert len(spans) + len(rejected) == TRACES.count(request)
    for span in spans:
        assert span.payload().startswith(b'{"t":"otlp","span":')
