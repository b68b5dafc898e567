"""What each FM call of a run had to wait for, found by walking back over the recorded edges."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redecode.tracer.records import EdgeKind, Provenance, SpanKind

if TYPE_CHECKING:
    from redecode.tracer.store import RecordedRun

_START, _END = "start", "end"
_Point = tuple[str, str]
_FROM_START = frozenset({EdgeKind.CALL, EdgeKind.STREAM})
_BACK = frozenset({EdgeKind.RETURN, EdgeKind.JOIN})


@dataclass(frozen=True, slots=True)
class Wait:
    """What stood before one call: the nearest calls on every way back, and the tools met on the way."""

    calls: frozenset[str]
    tools: frozenset[str]


def waits(run: RecordedRun, calls: Collection[str]) -> dict[str, Wait]:
    """Span id of each of `calls` → what it waited for; other FM calls are walked through."""
    before = _arcs(run)
    tools = {span.span_id for span in run.spans if span.kind is SpanKind.TOOL}
    out = {}
    for call in calls:
        found, met, seen = set(), set(), set()
        stack: list[_Point] = list(before.get((call, _START), ()))
        while stack:
            point = stack.pop()
            if point in seen:
                continue
            seen.add(point)
            span, side = point
            if side == _END and span in calls:
                found.add(span)
                continue
            if side == _END and span in tools:
                met.add(span)
            stack.extend(before.get(point, ()))
        out[call] = Wait(frozenset(found - {call}), frozenset(met))
    return out


def _arcs(run: RecordedRun) -> dict[_Point, set[_Point]]:
    """Point → the points it waits for; which ends an edge joins is in `EdgeKind`."""
    parents = {span.span_id: span.parent_span_id for span in run.spans}
    before: dict[_Point, set[_Point]] = {}
    for edge in run.edges:
        if edge.src in parents and edge.dst in parents and edge.provenance is not Provenance.DECLARED:
            to_end = edge.kind in _BACK and parents[edge.src] == edge.dst
            src = (edge.src, _START if edge.kind in _FROM_START else _END)
            before.setdefault((edge.dst, _END if to_end else _START), set()).add(src)
    for span, parent in parents.items():
        if (span, _START) not in before and parent is not None and parent in parents:
            before[span, _START] = {(parent, _START)}  # no edge was recorded: at least it was called
        before.setdefault((span, _END), {(span, _START)})
    return before
