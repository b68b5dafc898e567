"""The critical path as stretches of time, and what they were spent on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from redecode.replay.analysis.graph import Graph
from redecode.replay.analysis.model import ActivityKind, PathSegment, TimeSplit
from redecode.tracer import Edge, Provenance

_FIELDS: dict[str, str] = {
    ActivityKind.QUEUE: "queue_ns",
    ActivityKind.PREFILL: "prefill_ns",
    ActivityKind.DECODE: "decode_ns",
    ActivityKind.FM: "fm_ns",
    ActivityKind.TRANSPORT: "fm_ns",
    ActivityKind.TOOL: "tool_ns",
    ActivityKind.RETRIEVAL: "tool_ns",
    ActivityKind.FRAMEWORK: "framework_ns",
    ActivityKind.PERSON: "person_ns",
}


def tile(graph: Graph, release: list[int], critical: list[int], edges: Sequence[Edge]) -> tuple[PathSegment, ...]:
    """The path's activities and gaps, each up to where the next begins; together they are the run, exactly.

    Times are as recorded: where something began before what it waited for had finished, the later one has the time.
    """
    origin = graph.origin_ns
    how = _edges_on(graph, critical, edges)
    out: list[PathSegment] = []
    horizon = graph.finish[critical[-1]]
    held_since = horizon  # before that, back to here, a barrier alone held up what follows
    for k in range(len(critical) - 1, -1, -1):
        n = critical[k]
        a = graph.activities[n]
        src = critical[k - 1] if k else None
        edge = how.get(src) if src is not None else None
        after = None if src is None else graph.activities[src].id
        kind, known = (None, None) if edge is None else (edge.kind, edge.provenance)
        begin = graph.start[n]
        for gap in (False, True):
            if begin < origin:
                begin = origin
            if begin < horizon:
                waited = horizon - (begin if begin > held_since else held_since) if held_since < horizon else 0
                what = ActivityKind.FRAMEWORK if gap else a.kind
                out.append(PathSegment(a, gap, begin, horizon, what, after, kind, known, waited))
                horizon = begin
            begin = release[n]
        if src is not None and n in graph.data_before and src not in graph.data_before[n]:
            held_since = min(held_since, _ready(graph, n, release[n]))
    if horizon > graph.origin_ns:  # clocks before the run's own: nobody is known to have been at work
        first, gap = graph.activities[critical[0]], True
        out.append(PathSegment(first, gap, graph.origin_ns, horizon, ActivityKind.FRAMEWORK, None, None, None))
    out.reverse()
    return tuple(out)


def _ready(graph: Graph, n: int, freed: int) -> int:
    """When an activity had all its data."""
    return max((f for i in graph.data_before[n] if (f := graph.finish[i]) <= freed), default=freed)


def _edges_on(graph: Graph, critical: list[int], edges: Sequence[Edge]) -> dict[int, Edge]:
    """The edge that leaves each activity of the path along it; of several the one that says most."""
    ids = [graph.activities[n].id for n in critical]
    following = dict(pairwise(ids))
    out: dict[int, Edge] = {}
    declared = Provenance.DECLARED
    for edge in edges:
        if edge.src in following and following[edge.src] == edge.dst and edge.provenance is not declared:
            src = graph.at[edge.src]
            if src not in out or (edge.kind, edge.provenance) < (out[src].kind, out[src].provenance):
                out[src] = edge
    return out


def split_of(segments: Sequence[PathSegment]) -> TimeSplit:
    """What the time of a path was spent on."""
    by_kind: dict[str, int] = {}
    waited = 0
    for _, _, start, end, kind, _, _, _, wait in segments:
        by_kind[kind] = by_kind.get(kind, 0) + end - start - wait
        waited += wait
    spent = {"barrier_wait_ns": waited}
    for kind, time in by_kind.items():
        field = _FIELDS.get(kind, "code_ns")
        spent[field] = spent.get(field, 0) + time
    return TimeSplit(**spent)
