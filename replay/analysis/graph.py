"""The run's graph in numbers: activities by position, what each waits for, an order to go through them.

Positions are by (start, end, id), so that nothing depends on the order in which rows came. Plain lists: a dictionary or
an object per edge would cost more than all the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from redecode.replay.analysis.errors import (
    BackwardsActivity,
    CyclicEdges,
    DuplicateActivity,
    NoActivities,
    UnknownActivity,
)
from redecode.replay.analysis.model import Activity
from redecode.tracer import Edge, EdgeKind, Provenance

_BARRIER, _RESOURCE = EdgeKind.BARRIER, EdgeKind.RESOURCE  # waits for a turn, not for data
_DECLARED, _TIME = Provenance.DECLARED, Provenance.TIME


@dataclass(frozen=True, slots=True)
class Graph:
    """Activities and what they waited for, by position.

    Attributes:
        before: position → what it waited for, ascending, each once.
        data_before: position → what it waits for if nothing waits for its turn; only where that is not `before`.
        order: all positions, each before everything it waited for (last things first).
        last: the position whose finish is the run's end; `None`: the last finish of all is.
        origin_ns: when the run began; whoever waits for nothing waits for that.
        by_time: edges guessed from times.
    """

    activities: list[Activity]
    at: dict[str, int]
    start: list[int]
    finish: list[int]
    before: list[list[int]]
    data_before: dict[int, list[int]]
    order: list[int]
    last: int | None
    origin_ns: int
    by_time: int

    def releases(self) -> list[int]:
        """The last finish each waited for."""
        finish, origin = self.finish, self.origin_ns
        return [finish[b[0]] if len(b) == 1 else max([finish[i] for i in b]) if b else origin for b in self.before]


def build_graph(
    activities: Iterable[Activity], edges: Sequence[Edge], *, start_ns: int | None, end: str | None
) -> Graph:
    """The graph of activities and edges, checked.

    Raises:
        NoActivities, DuplicateActivity, UnknownActivity, BackwardsActivity, CyclicEdges: as they say.
    """
    ordered = sorted(activities, key=lambda a: (a.start_ns, a.end_ns, a.id))
    if not ordered:
        raise NoActivities("there are no activities to analyse")
    at = {a.id: n for n, a in enumerate(ordered)}
    if len(at) != len(ordered):
        raise DuplicateActivity(f"activity {_twice(ordered)!r} is there twice; give every activity an id of its own")
    for a in ordered:
        if a.end_ns < a.start_ns:
            raise BackwardsActivity(f"activity {a.id!r} ends {a.start_ns - a.end_ns} ns before it starts")
    if end is not None and end not in at:
        raise UnknownActivity(f"the run is to end with activity {end!r}, which is not there")
    before, data_before, by_time = _waits(at, edges)
    return Graph(
        activities=ordered,
        at=at,
        start=[a.start_ns for a in ordered],
        finish=[a.end_ns for a in ordered],
        before=before,
        data_before=data_before,
        order=_last_first(before, ordered),
        last=None if end is None else at[end],
        origin_ns=ordered[0].start_ns if start_ns is None else start_ns,
        by_time=by_time,
    )


def _waits(at: dict[str, int], edges: Sequence[Edge]) -> tuple[list[list[int]], dict[int, list[int]], int]:
    before: list[list[int]] = [[] for _ in at]
    other: dict[int, list[int]] = {}  # data and declared edges of whoever has an edge that is not both of these
    scheduled: set[int] = set()
    declared: list[tuple[int, int]] = []
    plain: dict[int, list[int]] = {}
    by_time = 0
    for edge in edges:
        try:
            src, dst = at[edge.src], at[edge.dst]
        except KeyError as missing:
            raise UnknownActivity(
                f"an edge {edge.src!r} → {edge.dst!r} names activity {missing}, which is not there"
            ) from None
        if edge.provenance == _DECLARED:
            declared.append((src, dst))
            continue
        if edge.provenance == _TIME:
            by_time += 1
        before[dst].append(src)
        if edge.kind == _BARRIER or edge.kind == _RESOURCE:
            scheduled.add(dst)
    for waits in before:
        if len(waits) > 1:
            waits[:] = sorted(set(waits))
    touched = scheduled.union(dst for _, dst in declared)
    if touched:
        for edge in edges:
            if edge.kind not in (_BARRIER, _RESOURCE) and edge.provenance != _DECLARED:
                dst = at[edge.dst]
                if dst in touched:
                    plain.setdefault(dst, []).append(at[edge.src])
        for src, dst in declared:
            plain.setdefault(dst, []).append(src)
        # Who is known to wait for its turn alone keeps doing so: what it needs is not known.
        other = {dst: sorted(set(plain[dst])) for dst in touched if dst in plain}
    return before, {dst: waits for dst, waits in other.items() if waits != before[dst]}, by_time


def _last_first(before: list[list[int]], activities: list[Activity]) -> list[int]:
    """Kahn's order of the reversed graph: O(V + E), and what is waited for is found once all that waits has been."""
    followers = [0] * len(before)
    for waits in before:
        for i in waits:
            followers[i] += 1
    order = [n for n, count in enumerate(followers) if not count]
    for n in order:  # it grows while it is gone through
        for i in before[n]:
            followers[i] -= 1
            if not followers[i]:
                order.append(i)
    if len(order) < len(before):
        stuck = ", ".join(activities[n].id for n in _cycle(before, followers)[:5])
        raise CyclicEdges(f"the edges form a cycle through {stuck}")
    return order


def _cycle(before: list[list[int]], followers: list[int]) -> list[int]:
    """One cycle among the positions that were never free, from its first position on."""
    waiting = {n: count for n, count in enumerate(followers) if count}
    # Walking to something that waits for us stays among these, so it must come back to where it has been.
    after: dict[int, int] = {}
    for n in waiting:
        for i in before[n]:
            if i in waiting:
                after.setdefault(i, n)
    seen: dict[int, int] = {}
    n = min(waiting)
    while n not in seen:
        seen[n] = len(seen)
        n = after[n]
    cycle = [m for m, when in seen.items() if when >= seen[n]]
    first = cycle.index(min(cycle))
    return cycle[first:] + cycle[:first]


def _twice(activities: list[Activity]) -> str:
    seen: set[str] = set()
    for a in activities:
        if a.id in seen:
            return a.id
        seen.add(a.id)
    raise AssertionError("all ids differ")
