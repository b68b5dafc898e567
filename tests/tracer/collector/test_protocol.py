"""What OTLP asks of a receiver, over HTTP and gRPC, from a real collector."""

from __future__ import annotations

import gzip
import json
import random
import socket
import time
import zlib
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace

from tests.tracer.collector.support import (
    JSON,
    PROTOBUF,
    CollectorProcess,
    as_json,
    ask,
    span_ids,
    trace_request,
    written,
)

TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"
Collect = Callable[..., CollectorProcess]


def call(collector: CollectorProcess, message: bytes, service: str = TRACES, **options: Any) -> bytes:
    """One gRPC call with bytes in and out."""
    with grpc.insecure_channel(collector.grpc) as channel:
        return bytes(channel.unary_unary(f"/{service}/Export")(message, timeout=30, **options))


def refused(collector: CollectorProcess, message: bytes, **options: Any) -> Any:
    with pytest.raises(grpc.RpcError) as raised:
        call(collector, message, **options)
    return raised.value


def ids_written(collector: CollectorProcess) -> list[str]:
    return [event["span"] for event in written(collector.store)]


@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate", None])
@pytest.mark.parametrize("content_type", [PROTOBUF, JSON, "application/json; charset=utf-8"])
def test_every_encoding_is_taken_and_answered_in_its_own(
    collector: CollectorProcess, content_type: str, encoding: str | None
) -> None:
    request = trace_request(3, random.Random(f"{content_type} {encoding}"))
    is_json = content_type.startswith(JSON)
    body = json.dumps(as_json(request)).encode() if is_json else request.SerializeToString()
    if encoding in {"gzip", "deflate"}:
        body = (gzip.compress if encoding == "gzip" else zlib.compress)(body)
    headers = {"content-encoding": encoding} if encoding else {}
    status, answered, answer = collector.post(body, content_type, **headers)
    assert (status, answered["content-type"]) == (200, JSON if is_json else PROTOBUF)
    if is_json:
        assert json.loads(answer) == {}
    else:
        assert trace.ExportTraceServiceResponse.FromString(answer) == trace.ExportTraceServiceResponse()
    assert [i for i in ids_written(collector) if i in span_ids(request)] == span_ids(request)


@pytest.mark.parametrize("compression", list(grpc.Compression))
def test_grpc_is_taken_compressed_or_not(collector: CollectorProcess, compression: grpc.Compression) -> None:
    request = trace_request(3, random.Random(f"grpc {compression}"))
    answer = call(collector, request.SerializeToString(), compression=compression)
    assert trace.ExportTraceServiceResponse.FromString(answer) == trace.ExportTraceServiceResponse()
    assert [i for i in ids_written(collector) if i in span_ids(request)] == span_ids(request)


def test_a_span_is_written_word_for_word(collector: CollectorProcess) -> None:
    request = trace_request(2, random.Random("words"), text="naïve \u0000 \U0001f40d")
    collector.post(request.SerializeToString())
    (event,) = [e for e in written(collector.store) if e["span"] == span_ids(request)[1]]
    attributes = json.loads(event["attributes"])
    assert attributes["text"] == "naïve \u0000 \U0001f40d"
    assert (attributes["list"], attributes["map"], attributes["ratio"]) == (["a"], {"k": -1}, 1 / 7)
    assert json.loads(event["resource"]) == {"service.name": "test"}
    assert (event["scope"], event["parent"]) == ("tests", span_ids(request)[0])


@pytest.mark.parametrize("is_json", [False, True])
def test_spans_that_cannot_be_used_are_counted_and_the_rest_is_kept(collector: CollectorProcess, is_json: bool) -> None:
    request = trace_request(3, random.Random(f"partial {is_json}"))
    _, no_id, backwards = request.resource_spans[0].scope_spans[0].spans
    good = span_ids(request)[0]
    no_id.span_id = bytes(8)
    backwards.end_time_unix_nano = backwards.start_time_unix_nano - 5
    before = collector.health()
    if is_json:
        status, _, answer = collector.post(json.dumps(as_json(request)).encode(), JSON)
        partial = json.loads(answer)["partialSuccess"]
        rejected, why = partial["rejectedSpans"], partial["errorMessage"]
        assert rejected == "2"  # 64-bit numbers are text in protobuf's JSON
    else:
        status, _, answer = collector.post(request.SerializeToString())
        success = trace.ExportTraceServiceResponse.FromString(answer).partial_success
        rejected, why = success.rejected_spans, success.error_message
        assert rejected == 2
    assert status == 200
    assert "'span 1': span id 0000000000000000" in why
    assert "'span 2': it ends 5 ns before it starts" in why
    after = collector.health()
    assert (after["accepted"] - before["accepted"], after["rejected"] - before["rejected"]) == (1, 2)
    assert good in ids_written(collector)
    assert backwards.span_id.hex() not in ids_written(collector)


def test_metrics_and_logs_are_answered_as_rejected_and_never_as_kept(collector: CollectorProcess) -> None:
    points = metrics.ExportMetricsServiceRequest()
    metric = points.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    metric.sum.data_points.add().as_int = 1
    metric.sum.data_points.add().as_int = 2
    records = logs.ExportLogsServiceRequest()
    records.resource_logs.add().scope_logs.add().log_records.add().body.string_value = "secret line"

    status, _, answer = collector.post(points.SerializeToString(), path="/v1/metrics")
    said = metrics.ExportMetricsServiceResponse.FromString(answer).partial_success
    assert (status, said.rejected_data_points) == (200, 2)
    assert "OTEL_METRICS_EXPORTER=none" in said.error_message
    over_grpc = call(
        collector, records.SerializeToString(), service="opentelemetry.proto.collector.logs.v1.LogsService"
    )
    rejected = logs.ExportLogsServiceResponse.FromString(over_grpc).partial_success
    assert rejected.rejected_log_records == 1
    assert "traces only" in rejected.error_message
    assert not any(b"secret line" in path.read_bytes() for path in collector.store.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/traces", 405),
        ("POST", "/healthz", 405),
        ("OPTIONS", "/v1/traces", 405),
        ("POST", "/v1/profiles", 404),
        ("GET", "/", 404),
    ],
)
def test_what_is_not_here_is_said_so(collector: CollectorProcess, method: str, path: str, status: int) -> None:
    answered, _, body = ask(collector.connect(), method, path)
    assert answered == status
    assert json.loads(body)["message"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "why"),
    [
        (b"{}", {"content_type": "text/plain"}, 415, "content type 'text/plain'"),
        (b"{}", {"content_encoding": "br"}, 415, "content encoding 'br'"),
        (b"\xff\xff", {}, 400, "no ExportTraceServiceRequest in protobuf"),
        (b"not gzip", {"content_encoding": "gzip"}, 400, "no whole gzip"),
    ],
)
def test_what_cannot_be_read_is_refused_in_its_own_encoding(
    collector: CollectorProcess, body: bytes, headers: dict[str, str], status: int, why: str
) -> None:
    answered, sent, document = collector.post(body, **headers)
    said = status_pb2.Status.FromString(document)
    assert (answered, sent["content-type"], said.code) == (status, PROTOBUF, grpc.StatusCode.INVALID_ARGUMENT.value[0])
    assert why in said.message
    answered, sent, document = collector.post(b"[1", JSON)
    assert (answered, sent["content-type"]) == (400, JSON)
    assert "in JSON" in json.loads(document)["message"]


def test_a_grpc_message_that_is_none_is_refused(collector: CollectorProcess) -> None:
    error = refused(collector, b"\xff\xff")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no ExportTraceServiceRequest" in error.details()
    with grpc.insecure_channel(collector.grpc) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.stream_unary(f"/{TRACES}/Export")(iter([]), timeout=30)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "without a message" in raised.value.details()


def test_a_request_over_a_limit_is_refused_whole_and_not_to_be_sent_again(collect: Collect) -> None:
    collector = collect("--max-body-mib", "1", "--max-spans", "10")
    too_many = trace_request(11, random.Random(1))
    too_long = trace_request(1, random.Random(2), text="x" * (1 << 20))
    a_bomb = trace_request(1, random.Random(3), text="x" * (64 << 20))
    repeated = trace_request(10, random.Random(4))
    repeated.resource_spans[0].resource.attributes.add(key="big").value.string_value = '"' * 900_000
    for request, why in (
        (too_many, "11 spans in one request, at most 10"),
        (too_long, "a request may have 1048576 bytes"),
        (a_bomb, "a request may have 1048576 bytes"),
        (repeated, "its spans come to more than"),
    ):
        body = request.SerializeToString()
        status, answered, document = collector.post(gzip.compress(body), content_encoding="gzip")
        assert (status, answered.get("retry-after")) == (413, None)
        assert why in status_pb2.Status.FromString(document).message
        error = refused(collector, body, compression=grpc.Compression.Gzip)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert why in error.details()
    status, _, _ = collector.post(too_long.SerializeToString())
    assert status == 413
    assert ids_written(collector) == []
    assert collector.health()["refused"] == 9
    assert collector.post(trace_request(10, random.Random(5)).SerializeToString())[0] == 200
    assert collector.rss_bytes() < 400 << 20


def test_a_chunked_body_is_taken_and_cut_off_at_the_limit(collect: Collect) -> None:
    collector = collect("--max-body-mib", "1")
    request = trace_request(5, random.Random(1))
    body = request.SerializeToString()
    connection = collector.connect()
    connection.request("POST", "/v1/traces", iter([body[:100], body[100:]]), {"content-type": PROTOBUF})
    assert connection.getresponse().status == 200
    connection.close()
    assert ids_written(collector) == span_ids(request)
    with socket.create_connection(collector.address.split(":")) as raw:
        raw.settimeout(30)
        raw.sendall(b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n")
        raw.sendall(b"content-type: application/x-protobuf\r\n\r\n")
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        for _ in range(17):  # never ends; refused once it is over
            raw.sendall(chunk)
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_without_the_token_nothing_is_taken(collect: Collect) -> None:
    collector = collect(environ={"REDECODE_COLLECT_TOKEN": "open sesame"})
    request = trace_request(2, random.Random(1))
    body = request.SerializeToString()
    for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic open sesame"}):
        status, answered, document = collector.post(body, **given)
        assert (status, answered["www-authenticate"]) == (401, "Bearer")
        assert status_pb2.Status.FromString(document).code == grpc.StatusCode.UNAUTHENTICATED.value[0]
        error = refused(collector, body, metadata=tuple(given.items()))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert ids_written(collector) == []
    assert collector.post(body, authorization="bearer open sesame")[0] == 200
    call(collector, body, metadata=(("authorization", "Bearer open sesame"),))
    assert ids_written(collector) == span_ids(request) * 2
    assert collector.health()["accepted"] == 4


def test_the_token_is_nowhere_in_the_store_nor_in_what_is_said(collect: Collect) -> None:
    collector = collect("--token", "s3cret-argument")
    body = trace_request(1, random.Random(1)).SerializeToString()
    assert collector.post(body, authorization="Bearer s3cret-argument", x_api_key="s3cret-key")[0] == 200
    assert collector.post(body, authorization="Bearer s3cret-other")[0] == 401
    code, said = collector.stop()
    assert code == 0
    everything = said.encode() + b"".join(p.read_bytes() for p in collector.store.rglob("*") if p.is_file())
    assert b"span 0" in everything
    assert b"s3cret" not in everything


def test_more_requests_than_can_be_held_are_asked_to_come_again(collect: Collect) -> None:
    collector = collect()
    request = trace_request(1, random.Random(1)).SerializeToString()
    head = f"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: {len(request)}\r\n\r\n"
    slow = [socket.create_connection(collector.address.split(":")) for _ in range(64)]
    try:
        for connection in slow:
            connection.sendall(head.encode() + request[:10])
        deadline = time.monotonic() + 30
        while collector.health()["in_flight"] < 64 and time.monotonic() < deadline:
            time.sleep(0.02)
        status, answered, document = collector.post(request)
        assert (status, answered["retry-after"]) == (429, "2")
        (detail,) = status_pb2.Status.FromString(document).details
        assert detail.type_url == "type.googleapis.com/google.rpc.RetryInfo"
        error = refused(collector, request)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        trailing: Any = dict(error.trailing_metadata())
        info = error_details_pb2.RetryInfo.FromString(trailing["google.rpc.retryinfo-bin"])
        rich = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
        assert info.retry_delay.seconds == 2
        assert rich.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert error_details_pb2.RetryInfo.FromString(rich.details[0].value) == info
        for connection in slow:
            connection.sendall(request[10:])
            assert connection.recv(20).startswith(b"HTTP/1.1 200")
        assert collector.post(request)[0] == 200
    finally:
        for connection in slow:
            connection.close()
    assert collector.health()["accepted"] == 65
