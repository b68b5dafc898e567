"""From the bytes of a request to its message, whatever they are: a body is either read or refused, never trusted."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import orjson
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from redecode.tracer.collector.refusals import BadMediaType, Malformed, TooLarge
from redecode.tracer.collector.signals import Signal
from redecode.tracer.records import JsonObject

GZIP, DEFLATE, IDENTITY = "gzip", "deflate", "identity"
_WINDOW_BITS = {GZIP: 31, DEFLATE: 15}
_PIECE = 1 << 20
_IDS = frozenset({"traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"})


def decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """The body as it was before it was compressed; memory stays near `limit` whatever it claims to be.

    Raises:
        BadMediaType: an encoding that is not spoken here.
        Malformed: not of that encoding, or cut short.
        TooLarge: more than `limit` bytes.
    """
    if encoding in {"", IDENTITY}:
        if len(body) > limit:
            raise too_large(limit)
        return body
    if encoding not in _WINDOW_BITS:
        raise BadMediaType(f"content encoding {encoding[:40]!r}: want gzip, deflate or identity")
    pieces: list[bytes] = []
    size, rest = 0, body
    while rest:  # gzip members may follow each other
        unzip = zlib.decompressobj(_WINDOW_BITS[encoding])
        while not unzip.eof:
            try:
                piece = unzip.decompress(rest, _PIECE)
            except zlib.error as error:
                raise Malformed(f"the body is no whole {encoding}: {error}") from None
            rest = unzip.unconsumed_tail
            size += len(piece)
            if size > limit:
                raise too_large(limit)
            if piece:
                pieces.append(piece)
            elif not rest and not unzip.eof:
                raise Malformed(f"the body is no whole {encoding}: it is cut short")
        rest = unzip.unused_data
        if encoding == DEFLATE and rest:
            raise Malformed("the body is no whole deflate: something follows it")
    return b"".join(pieces)


def too_large(limit: int) -> TooLarge:
    """The refusal of a body, as sent or decompressed."""
    return TooLarge(f"a request may have {limit} bytes, as sent and decompressed; send smaller batches")


def sniffed(body: bytes) -> str:
    """The encoding of a gRPC message that was left as it came.

    No request that anyone makes starts like a compressed one: as protobuf, gzip's first byte is no valid field, and
    deflate's is field 15, which no OTLP request has.
    """
    if body[:2] == b"\x1f\x8b":
        return GZIP
    if body[:1] == b"\x78" and len(body) > 1 and int.from_bytes(body[:2]) % 31 == 0:
        return DEFLATE
    return IDENTITY


def from_protobuf(signal: Signal, body: bytes) -> Message:
    """The request in a protobuf body.

    Raises:
        Malformed: it is none.
    """
    try:
        return signal.request.FromString(body)
    except DecodeError:  # its text says nothing that a sender could use
        raise Malformed(f"the body is no {signal.request.DESCRIPTOR.name} in protobuf") from None


def from_json(signal: Signal, body: bytes) -> Message:
    """The request in a JSON body, as OTLP has it: ids in hex (protobuf's own JSON has base64), unknown fields ignored.

    Raises:
        Malformed: it is none.
    """
    what = f"the body is no {signal.request.DESCRIPTOR.name} in JSON"
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"{what}: {error}") from None
    if not isinstance(document, dict):
        raise Malformed(f"{what}: it is not an object")
    request = signal.request()
    try:
        _ids_to_base64(document)
        json_format.ParseDict(document, request, ignore_unknown_fields=True)
    # Whatever a value of a wrong type makes the parser trip over; it raises more kinds than it says.
    except (json_format.Error, ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
        raise Malformed(f"{what}: {str(error)[:300]}") from None
    except RecursionError:
        raise Malformed(f"{what}: it is nested too deeply") from None
    return request


def to_json(message: Message) -> bytes:
    """A message as OTLP's JSON (ours hold no ids)."""
    text: str = json_format.MessageToJson(message, indent=None)
    return text.encode()


def _ids_to_base64(document: JsonObject) -> None:
    for group in _objects(document, "resourceSpans", "resource_spans"):
        for scope in _objects(group, "scopeSpans", "scope_spans"):
            for span in _objects(scope, "spans"):
                _convert(span)
                for link in _objects(span, "links"):
                    _convert(link)
    for group in _objects(document, "resourceLogs", "resource_logs"):
        for scope in _objects(group, "scopeLogs", "scope_logs"):
            for record in _objects(scope, "logRecords", "log_records"):
                _convert(record)


def _objects(parent: JsonObject, *names: str) -> list[JsonObject]:
    values = [value for name in names if isinstance(value := parent.get(name), list)]
    return [item for value in values for item in value if isinstance(item, dict)]


def _convert(holder: dict[str, Any]) -> None:
    for name in _IDS & holder.keys():
        value = holder[name]
        if isinstance(value, str):
            try:
                holder[name] = base64.b64encode(bytes.fromhex(value)).decode()
            except ValueError:
                raise ValueError(f"{name} {value[:40]!r} is not hex") from None
