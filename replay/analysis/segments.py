"""The critical path as stretches of time, and what they were spent on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from redecode.replay.analysis.graph import Graph
from redecode.replay.analysis.model import ActivityKind, PathSegment, TimeSplit
from redecode.tracer import Edge, Provenance

_HELD = "held by a barrier"
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
    _HELD: "barrier_wait_ns",
}

_FRAMEWORK: str = ActivityKind.FRAMEWORK


class Stretch(NamedTuple):
    """A stretch `[start_ns, end_ns)` of the critical path; `k` and `n`: whose, by place on the path and by position.

    Attributes:
        gap: whether it is the gap before that activity.
        held_ns: how much of it passed only because of a barrier.
    """

    k: int
    n: int
    gap: bool
    start_ns: int
    end_ns: int
    held_ns: int


def stretches(graph: Graph, release: list[int], critical: list[int]) -> list[Stretch]:
    """The path's activities and gaps, last to first, each up to where the next begins; together they are the run.

    Times are as recorded: where something began before what it waited for had finished, the later one has the time.
    """
    origin, starts, data_before = graph.origin_ns, graph.start, graph.data_before
    out: list[Stretch] = []
    horizon = graph.finish[critical[-1]]
    held_since = horizon  # before that, back to here, a barrier alone held up what follows
    for k in range(len(critical) - 1, -1, -1):
        n = critical[k]
        begin = starts[n]
        for gap in (False, True):
            if begin < origin:
                begin = origin
            if begin < horizon:
                held = horizon - (begin if begin > held_since else held_since) if held_since < horizon else 0
                out.append(Stretch(k, n, gap, begin, horizon, held))
                horizon = begin
            begin = release[n]
        if k and n in data_before and critical[k - 1] not in data_before[n]:
            held_since = min(held_since, _ready(graph, n, release[n]))
    if horizon > origin:  # clocks before the run's own: nobody is known to have been at work
        out.append(Stretch(0, critical[0], gap=True, start_ns=origin, end_ns=horizon, held_ns=0))
    return out


def tile(graph: Graph, found: Sequence[Stretch], critical: list[int], edges: Sequence[Edge]) -> tuple[PathSegment, ...]:
    """The stretches as segments, first to last, each with the edge over which its activity was reached."""
    how = _edges_on(graph, critical, edges)
    out: list[PathSegment] = []
    for k, n, gap, start, end, held in reversed(found):
        a = graph.activities[n]
        src = critical[k - 1] if k else None
        edge = how.get(src) if src is not None else None
        after = None if src is None else graph.activities[src].id
        kind, known = (None, None) if edge is None else (edge.kind, edge.provenance)
        out.append(PathSegment(a, gap, start, end, ActivityKind.FRAMEWORK if gap else a.kind, after, kind, known, held))
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


def split_of(graph: Graph, found: Sequence[Stretch]) -> TimeSplit:
    """What the time of a path was spent on."""
    spent: dict[str, int] = {}
    spend(graph, found, spent)
    return split(spent)


def spend(graph: Graph, found: Sequence[Stretch], spent: dict[str, int]) -> None:
    """Add the time of a path to what was spent so far, by kind; what barriers held up has a name of its own."""
    held_in_all = 0
    for _, n, gap, start, end, held in found:
        kind = _FRAMEWORK if gap else graph.activities[n].kind
        spent[kind] = spent.get(kind, 0) + end - start - held
        held_in_all += held
    spent[_HELD] = spent.get(_HELD, 0) + held_in_all


def split(spent: Mapping[str, int]) -> TimeSplit:
    """Times by kind (`spend`) as a split."""
    fields: dict[str, int] = {}
    for kind, time in spent.items():
        field = _FIELDS.get(kind, "code_ns")
        fields[field] = fields.get(field, 0) + time
    return TimeSplit(**fields)
