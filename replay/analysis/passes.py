"""The passes over a run's graph: latest finishes and floats, drag, the path, the run without barriers.

Every pass is O(V + E) but drag, which is O((V + E) log V) at worst and O(V + E) on most graphs.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

from redecode.replay.analysis.graph import Graph

Time = float
"""An int of ns, or infinity."""


@dataclass(frozen=True, slots=True)
class Floats:
    """By position. `latest[n]` and `free[n]` are infinite where nothing holds n back.

    Attributes:
        end_ns: the run's end.
        release: the last finish each waited for.
        latest: the latest finish that leaves the end where it is.
        latest_release: the latest release likewise: `latest` − duration − gap.
        free: the earliest release of what waits for it (the end, of the last).
    """

    end_ns: int
    release: list[int]
    latest: list[Time]
    latest_release: list[Time]
    free: list[Time]


def floats(graph: Graph) -> Floats:
    """The backward pass. The forward one is what was observed: ES = start, EF = finish, gap = start − release."""
    finish, before = graph.finish, graph.before
    end = max(finish) if graph.last is None else finish[graph.last]
    release = graph.releases()
    bound: Time = end if graph.last is None else math.inf
    latest: list[Time] = [bound] * len(finish)
    free: list[Time] = [bound] * len(finish)
    if graph.last is not None:
        latest[graph.last] = free[graph.last] = end
    latest_release: list[Time] = [0] * len(finish)
    for n in graph.order:
        freed = release[n]
        late = latest_release[n] = latest[n] - (finish[n] - freed)
        for i in before[n]:
            if late < latest[i]:
                latest[i] = late
            if freed < free[i]:
                free[i] = freed
    return Floats(end, release, latest, latest_release, free)


def path(graph: Graph) -> list[int]:
    """Positions on the critical path, first to last: back from the end, always to what finished last.

    Among equals it is the last by (start, end, id).
    """
    finish = graph.finish
    n = graph.last
    if n is None:
        n = max(range(len(finish)), key=lambda i: (finish[i], i))
    out = [n]
    while waits := graph.before[n]:
        n = waits[0] if len(waits) == 1 else max(waits, key=lambda i: (finish[i], i))
        out.append(n)
    out.reverse()
    return out


def avoidable(graph: Graph, floats: Floats, critical: list[int]) -> list[Time]:
    """For each activity on the critical path: by how much the longest path that avoids it is shorter than the run.

    In any order of the graph, a path avoids v exactly if one of its edges leaps over v's place, and any edge that does
    is on such a path. An edge's float (latest release of its end − finish of its start) says how much shorter than the
    run the longest path through it is; so it is the least float of the edges that leap over v: a sweep with a heap.
    Activities not on this path need none of it: a run of the same length avoids them.
    """
    finish, end = graph.finish, len(critical)
    on_path = set(critical)
    upto, past = [0] * len(finish), [0] * len(finish)  # activities of the path before one in the order, and with it
    count = 0
    for n in reversed(graph.order):
        upto[n] = count
        if n in on_path:
            count += 1
        past[n] = count
    # Beyond that a leap tells nothing: an activity gains at most what it, or its gap, took.
    most = max([max(finish[n] - graph.start[n], graph.start[n] - floats.release[n]) for n in critical])
    out: list[Time] = [math.inf] * end
    leaps: list[
        tuple[int, int, Time]
    ] = []  # (the first of the path it leaps over, the next after it, how much shorter)
    add, origin, latest_release = leaps.append, graph.origin_ns, floats.latest_release
    for n, waits in enumerate(graph.before):
        to = upto[n]
        if not to:
            continue
        late = latest_release[n]
        if waits:
            for i in waits:
                if past[i] < to and late - finish[i] < most:
                    add((past[i], to, late - finish[i]))
        elif late - origin < most:
            add((0, to, late - origin))
    if graph.last is None:  # any finish may become the end
        soon = floats.end_ns - most
        for n, when in enumerate(finish):
            if when > soon and past[n] < end:
                add((past[n], end, floats.end_ns - when))
    longer: dict[int, list[tuple[Time, int]]] = {}  # over more than one, by the first
    for first, to, shorter in leaps:
        if to - first > 1:
            longer.setdefault(first, []).append((shorter, to))
        elif shorter < out[first]:
            out[first] = shorter
    if not longer:
        return out
    heap: list[tuple[Time, int]] = []
    for k in range(end):
        for entry in longer.get(k, ()):
            heapq.heappush(heap, entry)
        while heap and heap[0][1] <= k:
            heapq.heappop(heap)
        if heap and heap[0][0] < out[k]:
            out[k] = heap[0][0]
    return out


def data_only_finishes(graph: Graph, release: list[int]) -> list[int] | None:
    """Finishes if each waited for its data alone, its gap and duration as they were; `None` if nothing would change.

    A declared read counts as far as it can have been one: it held nothing up that was not held up anyway.
    """
    if not graph.data_before:
        return None
    finish, out, before = graph.finish, list(graph.finish), graph.before
    for n in reversed(graph.order):
        waits = graph.data_before.get(n)
        if waits is None:
            waits = before[n]
            freed = out[waits[0]] if len(waits) == 1 else max([out[i] for i in waits]) if waits else None
            if freed is None or freed == release[n]:
                continue
        else:
            waits = [i for i in waits if finish[i] <= release[n]]
            if not waits:
                continue
            freed = max([out[i] for i in waits])
        earliest = min(graph.origin_ns, release[n])  # nothing begins before the run does
        out[n] = (freed if freed > earliest else earliest) + finish[n] - release[n]
    return out
