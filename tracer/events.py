"""The events of a journal: what is written down as it happens, and its form on disk.

A payload is one JSON object; a decode's has packed arrays behind it, after a NUL byte (JSON has none), in the order
and sizes its `arrays` names. `t`, `span` and `kind` come first in a span's, so that a reader can tell starts from ends
and pair them without parsing; `attributes` is JSON in JSON, so that it can be stored without parsing.

| `t`        | meaning                                                                                      |
|------------|----------------------------------------------------------------------------------------------|
| `start`    | a span began: everything known of it then                                                     |
| `end`      | it ended: everything known of it, `start` included, so that an end stands alone                |
| `edge`     | a dependency found after both its ends were written                                            |
| `timing`   | the step clock of a decode, fetched after its end                                              |
| `engine`   | what an engine said of itself                                                                  |
| `otlp`     | a span that came from another tracer, as it came (the collector)                               |
| `process`  | who writes this journal, on which clock                                                        |
| `dropped`  | so many events could not be written                                                            |
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from typing import Any

import orjson

from redecode.tracer import conventions as c
from redecode.tracer.clock import Clock, boot_id
from redecode.tracer.records import JsonObject

RECORD_FORMAT = 2
SpanEdge = tuple[str, str, str]
"""Span id it depends on, `EdgeKind`, `Provenance`."""


def process_event(clock: Clock, argv: list[str]) -> JsonObject:
    """The first event of a journal: who writes it, on which clock.

    Args:
        argv: of the process, as far as it may be written down.
    """
    return {
        "t": "process",
        "format": RECORD_FORMAT,
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "argv": argv,
        "python": platform.python_version(),
        "boot_id": boot_id(),
        "wall_ns": clock.wall_ns,
        "monotonic_ns": clock.monotonic_ns,
    }


@dataclass(slots=True, kw_only=True, eq=False)
class SpanEvent:
    """A span as it is written: at its start, and again, complete, at its end.

    Attributes:
        attributes: under the names of `conventions`; those in `conventions.ARRAYS` are packed bytes.
        edges: what the span (its start, or its end) depended on, within its run.
    """

    run: str
    span: str
    parent: str | None
    kind: str
    name: str
    step_key: str
    start_ns: int
    end_ns: int | None = None
    status: str = "open"
    error: str | None = None
    attributes: JsonObject = field(default_factory=dict)
    edges: list[SpanEdge] = field(default_factory=list)

    def payload(self) -> bytes:
        """The bytes of its record: a `start` while it is open, an `end` afterwards."""
        attributes, arrays = self.attributes, {}
        if self.kind == "decode":
            arrays = {name: value for name, value in attributes.items() if isinstance(value, bytes)}
            attributes = {name: value for name, value in attributes.items() if name not in arrays}
        document: JsonObject = {
            "t": "start" if self.end_ns is None else "end",
            "span": self.span,
            "kind": self.kind,
            "run": self.run,
            "parent": self.parent,
            "name": self.name,
            "step_key": self.step_key,
            "start_ns": self.start_ns,
            "end_ns": self.end_ns,
            "status": self.status,
            "error": self.error,
            "attributes": c.to_json(attributes),
            "edges": self.edges,
        }
        if not arrays:
            return c.dumps(document)
        return with_arrays(document, arrays)


def with_arrays(document: JsonObject, arrays: dict[str, bytes]) -> bytes:
    """A payload with packed arrays behind its JSON."""
    document["arrays"] = [[name, len(data)] for name, data in arrays.items()]
    return b"\0".join((c.dumps(document), b"".join(arrays.values())))


def parse(payload: bytes) -> JsonObject:
    """The event of a payload; `arrays` becomes a dict of name → packed bytes.

    Raises:
        ValueError: it is not one.
    """
    text, _, data = payload.partition(b"\0")
    event: JsonObject = orjson.loads(text)
    arrays: dict[str, bytes] = {}
    at = 0
    for name, size in event.pop("arrays", ()):
        arrays[name] = data[at : at + size]
        at += size
    if at != len(data):
        raise ValueError(f"{len(data)} bytes of arrays, {at} announced")
    event["arrays"] = arrays
    return event


def span_event(event: JsonObject) -> SpanEvent:
    """A parsed `start` or `end` as a span."""
    fields: dict[str, Any] = {k: v for k, v in event.items() if k not in {"t", "arrays", "attributes", "edges"}}
    attributes = {**orjson.loads(event["attributes"]), **event["arrays"]}
    return SpanEvent(**fields, attributes=attributes, edges=[tuple(edge) for edge in event["edges"]])
