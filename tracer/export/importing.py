"""Runs back from OTLP files: read, and written down in a store's spool exactly as the collector would."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from redecode.tracer import conventions as c
from redecode.tracer.clock import Clock
from redecode.tracer.errors import ImportRefused
from redecode.tracer.events import process_event
from redecode.tracer.export import otlp
from redecode.tracer.foreign.otlp import OtlpSpan, read_request
from redecode.tracer.foreign.own import LOST_BEFORE
from redecode.tracer.foreign.reading import believable
from redecode.tracer.records import JsonObject
from redecode.tracer.spool import JournalWriter, unique_name

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest as ExportTraceServiceRequest,
    )

_BATCH = 1000


@dataclass(slots=True)
class Imported:
    """What came of it.

    Attributes:
        runs: ids of the runs that were written, in the order they were met.
        present: ids of those left alone because the store has them.
        spans: written.
        rejected: why spans that are no usable spans were left out.
    """

    runs: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    spans: int = 0
    rejected: list[str] = field(default_factory=list)


def read_requests(data: bytes, name: str) -> Iterator[ExportTraceServiceRequest]:
    """The requests of a file: OTLP JSON (one document, or one a line as collectors write them) or protobuf; gzip too.

    Args:
        name: of the file, for errors.

    Raises:
        ImportRefused: it is none of these.
    """
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ImportRefused(f"{name} is no whole gzip file: {error}") from error
    if not data.strip():
        raise ImportRefused(f"{name} is empty")
    if not data.startswith(b"{"):
        try:
            yield ExportTraceServiceRequest.FromString(data)
            return
        except DecodeError:
            pass  # JSON may begin with a blank
    try:
        for document in _documents(data):
            yield otlp.from_json(document)
    except ValueError as error:
        raise ImportRefused(
            f"{name} holds no OTLP traces, neither JSON nor protobuf ({error}); "
            "redecode export --format otlp writes such files"
        ) from error


def _documents(data: bytes) -> Iterator[JsonObject]:
    try:
        documents = [orjson.loads(data)]
    except orjson.JSONDecodeError:
        documents = [orjson.loads(line) for line in data.splitlines() if line.strip()]
    for document in documents:
        if not isinstance(document, dict):
            raise ValueError(f"a document is {type(document).__name__}, not an object")
        yield document


def write_down(
    store: Path, requests: Iterable[ExportTraceServiceRequest], present: Collection[str] = frozenset()
) -> Imported:
    """Write spans into a store's spool; they are on disk when this returns, and runs when the store reads them.

    Args:
        store: the store directory.
        present: ids of runs the store has: their spans are left out.

    Raises:
        StoreUnwritable: the spool cannot be made or written.
        OSError: the disk did not take it all.
    """
    out, clock = Imported(), Clock.start()
    journal = JournalWriter(store / "spool", unique_name(clock.wall_ns), lambda: _preamble(clock))
    seen: dict[str, bool] = {}  # run → whether its spans are taken
    told: set[str] = set()
    try:
        for request in requests:
            spans, rejected = read_request(request)
            out.rejected += rejected
            for span in spans:
                if span.run not in seen:
                    seen[span.run] = span.run not in present
                    (out.runs if seen[span.run] else out.present).append(span.run)
            taken = [span for span in spans if seen[span.run]]
            events, names = resource_events(taken, told)
            told |= names
            payloads = [*events, *(span.payload() for span in taken)]
            for at in range(0, len(payloads), _BATCH):
                journal.commit(payloads[at : at + _BATCH])
            out.spans += len(taken)
    finally:
        journal.close()
    return out


def resource_events(spans: Iterable[OtlpSpan], told: Collection[str]) -> tuple[list[bytes], set[str]]:
    """Journal events for what exported runs carry with their resource, which is taken off the spans.

    Args:
        told: names of what was written before.

    Returns:
        The events, and the names of what they tell.
    """
    events: list[JsonObject] = []
    names: set[str] = set()
    bare: dict[int, JsonObject] = {}
    for span in spans:
        if c.ENGINES not in span.resource and c.LOST not in span.resource:
            continue
        events += _lost(span, told, names) + _engines(span, told, names)
        if id(span.resource) not in bare:
            kept = {name: value for name, value in span.resource.items() if name not in {c.ENGINES, c.LOST}}
            bare[id(span.resource)] = kept
        span.resource = bare[id(span.resource)]
    return [c.dumps(event) for event in events], names


def _lost(span: OtlpSpan, told: Collection[str], names: set[str]) -> list[JsonObject]:
    count = believable(span.resource.get(c.LOST))
    if not count or span.run in told or span.run in names:
        return []
    names.add(span.run)
    return [{"t": "dropped", "run": span.run, "count": count, "why": LOST_BEFORE}]


def _engines(span: OtlpSpan, told: Collection[str], names: set[str]) -> list[JsonObject]:
    try:
        engines = orjson.loads(span.resource.get(c.ENGINES, "{}"))
        new = {n: info for n, info in engines.items() if isinstance(info, dict) and n not in told and n not in names}
    except (ValueError, TypeError, AttributeError):
        return []
    names.update(new)
    return [{"t": "engine", "id": name, "info": info} for name, info in new.items()]


def _preamble(clock: Clock) -> JsonObject:
    return process_event(clock, ["redecode", "import"])
