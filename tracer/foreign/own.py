"""Our own spans come back from OTLP (`tracer/export/otlp.py` wrote them): exactly as they were."""

from __future__ import annotations

import base64
from array import array
from typing import Any

import orjson

from redecode.tracer import conventions as c
from redecode.tracer.events import SpanEdge, SpanEvent
from redecode.tracer.foreign.otlp import OtlpSpan
from redecode.tracer.foreign.reading import COUNTS, believable, boolean, integer, number, words
from redecode.tracer.records import EdgeKind, Fidelity, Provenance, SpanKind, TimeSource

LOST_BEFORE = "lost before it was exported"
"""Why events of an exported run are missing: whoever sent it had lost them already."""
_OVER_OTLP = frozenset({c.KIND, c.STEP_KEY, c.EDGES, c.OPEN})
_INTEGERS = frozenset(
    {
        c.REQUEST_SEED, c.SENT_NS, c.FIRST_CHUNK_NS, c.DONE_NS, c.QUEUE_NS, c.PREFILL_NS, c.DECODE_NS, c.CHOICES,
    }
)  # fmt: skip
_BOOLEANS = frozenset({c.REQUEST_STREAM, c.SIDE_EFFECT})
_JSON = frozenset({
    c.RUN_INPUT, c.RUN_OUTPUT, c.LABELS, c.SAMPLING, c.INPUT_MESSAGES, c.OUTPUT_MESSAGES, c.TOOL_DEFINITIONS,
    c.TOOL_ARGUMENTS, c.TOOL_RESULT, c.RUN_BESIDES,
})  # fmt: skip
_KINDS, _EDGES, _PROVENANCES = frozenset(SpanKind), frozenset(EdgeKind), frozenset(Provenance)
_WORDS = {c.FIDELITY: frozenset(Fidelity), c.TOKEN_TIME_SOURCE: frozenset(TimeSource)}
_MAX_CHOICES = 1000


def read_own(span: OtlpSpan) -> SpanEvent | None:
    """The span that was exported, `None` if it is none of ours (or was changed beyond reading on its way)."""
    kind, step_key = span.attributes.get(c.KIND), span.attributes.get(c.STEP_KEY)
    if not isinstance(kind, str) or kind not in _KINDS or not isinstance(step_key, str):
        return None
    edges = _edges(span.attributes.get(c.EDGES))
    if edges is None:
        return None
    try:
        attributes = {n: _attribute(n, v) for n, v in span.attributes.items() if n not in _OVER_OTLP}
    except (TypeError, ValueError):  # binascii.Error and orjson's are ValueErrors
        return None
    still_open = span.end_ns is None or span.attributes.get(c.OPEN) is True
    return SpanEvent(
        run=span.run,
        span=span.span,
        parent=span.parent,
        kind=kind,
        name=span.name,
        step_key=step_key,
        start_ns=span.start_ns,
        end_ns=None if still_open else span.end_ns,
        status="open" if still_open else "error" if span.status == "error" else "ok",
        error=span.error,
        attributes=attributes,
        edges=edges,
    )


def _edges(given: Any) -> list[SpanEdge] | None:
    if given is None:
        return []
    try:
        edges = orjson.loads(given)
        out = [(str(src), str(kind), str(provenance)) for src, kind, provenance in edges]
    except (TypeError, ValueError):
        return None
    return out if all(kind in _EDGES and how in _PROVENANCES for _, kind, how in out) else None


def _attribute(name: str, value: Any) -> Any:
    """The value of one attribute.

    Raises:
        TypeError, ValueError: it cannot go into its column.
    """
    base, _, choice = name.rpartition(".")
    typecode = c.ARRAYS.get(name) or (c.ARRAYS.get(base) if choice.isdecimal() else None)
    if typecode is not None:
        return _packed(value, typecode)
    if name == c.SLO:
        return _checked(number(value))
    if name in COUNTS:
        return _checked(believable(value))
    if name == c.REDACTED:
        return _checked(words(value))
    if name in _INTEGERS:
        count: int = _checked(integer(value))
        if name == c.CHOICES and not 0 < count < _MAX_CHOICES:
            raise ValueError(f"{count} choices")
        return count
    if name in _BOOLEANS:
        return _checked(boolean(value))
    if name in _WORDS and value not in _WORDS[name]:
        raise ValueError(f"{name} cannot be {value!r}")
    if name in c.COLUMNS and not isinstance(value, str):
        raise TypeError(f"{name} is a text")
    if name in _JSON:
        orjson.loads(value)
    return value


def _checked(value: Any) -> Any:
    if value is None:
        raise TypeError("not of its column's type")
    return value


def _packed(value: Any, typecode: str) -> bytes:
    data = base64.b64decode(value, validate=True)
    if len(data) % array(typecode).itemsize:
        raise ValueError(f"{len(data)} bytes are no items of type {typecode}")
    return data
