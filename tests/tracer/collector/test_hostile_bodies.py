"""10,000 malformed and hostile bodies: each is answered, none crashes the collector or makes it grow."""

from __future__ import annotations

import copy
import gzip
import http.client
import json
import random
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import grpc
import pytest

from redecode.tracer import Store
from tests.tracer.collector.support import (
    JSON,
    PROTOBUF,
    CollectorProcess,
    as_json,
    span_ids,
    trace_request,
)

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
WARM_UP, HOSTILE = 2_000, 10_000
MAY_GROW = 32 << 20
REFUSED = {grpc.StatusCode.INVALID_ARGUMENT}
Case = tuple[bytes, dict[str, str]]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def nested_value(depth: int) -> bytes:
    """An attribute value inside a list inside a value, `depth` times."""
    value = field(1, b"x")
    for _ in range(depth):
        value = field(5, field(1, value))
    return value


def with_attribute(value: bytes) -> bytes:
    """A request with one valid span that has an attribute of this value."""
    attribute = field(1, b"key") + field(2, value)
    times = b"\x39" + (10**18).to_bytes(8, "little") + b"\x41" + (10**18 + 1).to_bytes(8, "little")
    span = field(1, b"t" * 16) + field(2, b"s" * 8) + field(5, b"name") + times + field(9, attribute)
    return field(1, field(2, field(2, span)))


def hostile_protobuf(rng: random.Random) -> bytes:
    """A valid request, damaged; or one that is well-formed and means harm."""
    body = bytearray(trace_request(rng.randint(1, 3), rng).SerializeToString())
    match rng.randrange(10):
        case 0:  # cut short
            del body[rng.randrange(len(body)) :]
        case 1:  # bits flipped
            for _ in range(rng.randint(1, 30)):
                body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        case 2:  # a piece taken out, or put in twice
            at = rng.randrange(len(body))
            piece = body[at : at + rng.randrange(50)]
            body[at:at] = piece * rng.choice([2, 5])
        case 3:  # noise
            body = bytearray(rng.randbytes(rng.randrange(2000)))
        case 4:  # lengths and numbers far beyond what is there
            at = rng.randrange(len(body))
            body[at:at] = varint(rng.choice([1 << 31, 1 << 32, (1 << 63) - 1, (1 << 64) - 1, 1 << 70]))
        case 5:  # very deep
            return with_attribute(nested_value(rng.choice([10, 40, 60, 200, 5000])))
        case 6:  # text that is none
            return with_attribute(
                field(1, rng.choice([b"\xff\xfe", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\x80"]))
            )
        case 7:  # numbers that are none
            bits = rng.choice([0x7FF0 << 48, 0xFFF0 << 48, 0x7FF8 << 48, 1])
            return with_attribute(b"\x21" + bits.to_bytes(8, "little"))
        case 8:  # groups, and fields of wrong types
            at = rng.randrange(len(body))
            body[at:at] = bytes([rng.choice([0x0B, 0x0C, 0x0D, 0x0E, 0x0F, 0x00, 0x08, 0x09])])
        case _:  # ids and times that cannot be
            return hostile_span(rng)
    return bytes(body)


def hostile_span(rng: random.Random) -> bytes:
    request = trace_request(2, rng)
    span = request.resource_spans[0].scope_spans[0].spans[1]
    span.trace_id = rng.randbytes(rng.choice([0, 1, 15, 16, 17, 1000]))
    span.parent_span_id = rng.choice([b"", span.span_id, bytes(8), rng.randbytes(8), b"x" * 9])
    span.start_time_unix_nano = rng.choice([0, 1, 1 << 63, (1 << 64) - 1, 10**18])
    span.end_time_unix_nano = rng.choice([0, 1, (1 << 63) - 1, (1 << 64) - 1])
    span.kind = rng.choice([0, 5, 77, -1])
    span.status.code = rng.choice([0, 2, 99, -5])
    span.name = rng.choice(["", "\u0000", "x" * 10_000, "\U0010ffff"])
    span.events.add(time_unix_nano=(1 << 64) - 1)
    span.attributes.add()
    span.attributes.add(key="span")
    span.dropped_attributes_count = (1 << 32) - 1
    return bytes(request.SerializeToString())


def hostile_json(rng: random.Random) -> bytes:
    """A valid request in JSON with some of its values replaced; or damaged text."""
    document = as_json(trace_request(rng.randint(1, 2), rng))
    odd: list[Any] = [
        None, True, 0, -1, 1 << 63, 1 << 64, 1e308, -0.5, "", "NaN", "-Infinity", "\u0000", "zz", "ab" * 16, "AQI=",
        [], {}, [[]], [None], {"stringValue": 1}, {"arrayValue": {"values": [{}, None]}}, {"values": "x"}, "x" * 5000,
    ]  # fmt: skip
    for _ in range(rng.randint(1, 4)):
        holder: Any = document
        while True:
            places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            place = rng.choice(places)
            inner = holder[place]
            if not isinstance(inner, dict | list) or not inner or rng.random() < 0.1:
                holder[place] = copy.deepcopy(rng.choice(odd))
                break
            holder = inner
    text = json.dumps(document).encode()
    match rng.randrange(6):
        case 0:
            return text[: rng.randrange(len(text))]
        case 1:
            at = rng.randrange(len(text))
            return text[:at] + rng.randbytes(3) + text[at:]
        case 2:
            depth = rng.choice([50, 120, 900, 20_000])
            deep = b'{"arrayValue":{"values":[' * depth + b"]}}" * depth
            key = b'{"resourceSpans":[{"resource":{"attributes":[{"key":"k","value":'
            return key + deep + b"}]}}]}"
        case _:
            return text


def hostile(rng: random.Random) -> Case:
    is_json = rng.random() < 0.35
    body = hostile_json(rng) if is_json else hostile_protobuf(rng)
    headers = {"content-type": JSON if is_json else PROTOBUF}
    match rng.randrange(12):
        case 0:
            body, headers["content-encoding"] = gzip.compress(body, 1), "gzip"
        case 1:
            packed = bytearray(gzip.compress(body, 1))
            packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
            body, headers["content-encoding"] = bytes(packed), "gzip"
        case 2:
            body, headers["content-encoding"] = gzip.compress(body, 1)[: rng.randrange(1, 60)], "gzip"
        case 3:
            headers["content-encoding"] = rng.choice(["gzip", "deflate", "br", "identity", "gzip, gzip", "\xff"])
        case 4:
            headers["content-type"] = rng.choice([JSON, PROTOBUF, "", "text/html", "application/json;" * 100])
    return body, headers


class Sender:
    """Sends bodies over one connection of each protocol."""

    def __init__(self, connection: http.client.HTTPConnection, channel: grpc.Channel) -> None:
        self.http, self.export = connection, channel.unary_unary(EXPORT)
        self.answers: Counter[int] = Counter()

    def send(self, body: bytes, headers: dict[str, str]) -> None:
        self.http.request("POST", "/v1/traces", body, headers)
        response = self.http.getresponse()
        response.read()
        self.answers[response.status] += 1

    def call(self, body: bytes) -> None:
        try:
            self.export(body, timeout=30)
            self.answers[200] += 1
        except grpc.RpcError as error:
            assert error.code() in REFUSED, (error.code(), error.details(), body[:200])
            self.answers[400] += 1

    def send_many(self, count: int, rng: random.Random) -> None:
        for n in range(count):
            if n % 10 == 0:
                body = hostile_protobuf(rng)
                self.call(gzip.compress(body, 1)[: rng.randrange(400)] if n % 20 else body)
            else:
                self.send(*hostile(rng))


@pytest.mark.long
def test_hostile_bodies_are_answered_and_leave_nothing_behind(collect: Callable[..., CollectorProcess]) -> None:
    collector = collect()
    rng = random.Random(2024)
    with grpc.insecure_channel(collector.grpc) as channel, closing(collector.connect()) as connection:
        sender = Sender(connection, channel)
        sender.send_many(WARM_UP, rng)
        warm = collector.rss_bytes()
        sender.answers.clear()
        sender.send_many(HOSTILE, rng)
        grown = collector.rss_bytes() - warm
        assert sender.answers.total() == HOSTILE
        assert set(sender.answers) == {200, 400, 415}
        assert min(sender.answers.values()) > HOSTILE / 50  # the bodies are not all of a kind
        assert grown < MAY_GROW
        request = trace_request(3, random.Random("after"))
        assert collector.post(request.SerializeToString())[0] == 200
    assert collector.health()["in_flight"] == 0
    code, said = collector.stop()
    assert code == 0
    assert len(said.splitlines()) == 1, said[:2000]  # nothing logged, nothing traced back
    store = Store(collector.store)
    run = store.load(request.resource_spans[0].scope_spans[0].spans[0].trace_id.hex())
    assert sorted(span.span_id for span in run.spans) == sorted(span_ids(request))
    assert store.health().corrupt == []
    runs = store.runs()
    assert len(runs) > 100
    for other in runs[:: len(runs) // 50]:
        store.load(other.run_id)


def test_what_is_no_http_is_hung_up_on(collector: CollectorProcess) -> None:
    rng = random.Random(7)
    for _ in range(200):
        with socket.create_connection(collector.address.split(":"), timeout=30) as connection:
            connection.sendall(rng.randbytes(rng.randrange(1, 300)) + b"\r\n\r\n")
            assert connection.recv(12) in {b"HTTP/1.1 400", b""}
    for lie in (b"content-length: -5", b"content-length: 99999999999999999999", b"content-length: x", b"a" * 100_000):
        with socket.create_connection(collector.address.split(":"), timeout=30) as connection:
            connection.sendall(
                b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" + lie + b"\r\n\r\n"
            )
            assert connection.recv(12) in {b"HTTP/1.1 400", b"HTTP/1.1 413"}
    assert collector.health()["ok"]
