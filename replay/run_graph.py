"""The graph of a run: the starts and ends of its spans, and what each had to wait for.

Every span is two points in time. Recorded edges (see `EdgeKind`) and the work of leaf spans are the arcs;
a point happens when all it waits for has happened, plus a gap of its own (dispatch, framework, the agent's
own code). That is what the critical path walks back over and what a closed-loop replay walks forward over.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from redecode.replay.errors import ReplayError
from redecode.tracer import Edge, EdgeKind, Provenance, RecordedRun, Span

START, END = "start", "end"
Point = tuple[str, str]
"""(span id, START or END)"""

_STARTS_FROM_START = frozenset({EdgeKind.CALL, EdgeKind.STREAM})


@dataclass(frozen=True, slots=True)
class RunGraph:
    """Points of a run and what they wait for.

    Attributes:
        spans: by id; spans that never ended are not part of the graph.
        time_ns: when each point happened, UTC.
        before: point → the points it waits for. A leaf's end waits for its start: that arc is its work.
        order: all points, each after everything it waits for.
        leaves: spans without children: what a replay executes or waits through.
        open: ids of spans that never ended.
    """

    root: str
    spans: dict[str, Span]
    time_ns: dict[Point, int]
    before: dict[Point, tuple[Point, ...]]
    order: tuple[Point, ...]
    leaves: frozenset[str]
    open: tuple[str, ...]

    def gap_ns(self, point: Point) -> int:
        """Time from the last thing waited for until the point, ns; never negative (clocks of threads may cross)."""
        waited = self.before[point]
        if not waited:
            return 0
        return max(0, self.time_ns[point] - max(self.time_ns[p] for p in waited))

    def is_work(self, point: Point) -> bool:
        """Whether the arc into this point is a leaf's own work."""
        return point[1] == END and point[0] in self.leaves


@dataclass(slots=True)
class _Builder:
    spans: dict[str, Span]
    before: dict[Point, dict[Point, None]] = field(default_factory=dict)

    def arc(self, src: Point, dst: Point) -> None:
        self.before.setdefault(dst, {})[src] = None


def build_run_graph(run: RecordedRun) -> RunGraph:
    """The graph of a recorded run, from its recorded edges."""
    ended = {s.span_id: s for s in run.spans if s.end_ns is not None}
    root = run.run.run_id
    roots = [s for s in run.spans if s.parent_span_id is None]
    if roots:
        root = roots[0].span_id
        ended.setdefault(root, roots[0])  # an unfinished run still has finished parts to look at
    build = _Builder(ended)
    parents = {s.parent_span_id for s in ended.values()}
    leaves = frozenset(i for i in ended if i not in parents)
    for edge in run.edges:
        if edge.provenance is Provenance.DECLARED:
            continue  # nobody waited for that: the superstep's barrier was there before
        if edge.src in ended and edge.dst in ended:
            build.arc(*_points(edge, ended))
    for span_id, span in ended.items():
        parent = span.parent_span_id
        if not build.before.get((span_id, START)) and parent in ended:
            build.arc((str(parent), START), (span_id, START))  # no edge was recorded: at least it was called
        if parent == root and ended[root].end_ns is None:
            build.arc((span_id, END), (root, END))  # nothing returned to a run that never ended: it lasts so long
        if span_id in leaves or not build.before.get((span_id, END)):
            build.arc((span_id, START), (span_id, END))
    latest = max((s.end_ns or s.start_ns for s in ended.values()), default=0)
    times: dict[Point, int] = {}
    for span_id, span in ended.items():
        times[span_id, START] = span.start_ns
        times[span_id, END] = span.end_ns if span.end_ns is not None else latest
    before = {p: tuple(build.before.get(p, ())) for p in times}
    return RunGraph(
        root=root,
        spans=ended,
        time_ns=times,
        before=before,
        order=tuple(_topological(before, times)),
        leaves=leaves,
        open=tuple(s.span_id for s in run.spans if s.end_ns is None),
    )


def _points(edge: Edge, spans: dict[str, Span]) -> tuple[Point, Point]:
    """The two points an edge joins; the table is in `EdgeKind`."""
    src = (edge.src, START if edge.kind in _STARTS_FROM_START else END)
    returns = edge.kind in (EdgeKind.RETURN, EdgeKind.JOIN)
    to_end = returns and spans[edge.src].parent_span_id == edge.dst
    return src, (edge.dst, END if to_end else START)


def _topological(before: dict[Point, tuple[Point, ...]], times: dict[Point, int]) -> Iterator[Point]:
    """Kahn's order, earliest first among equals, so that it does not depend on how spans were stored.

    Raises:
        ReplayError: the edges form a cycle (a foreign or damaged recording).
    """
    waiting = {p: len(b) for p, b in before.items()}
    after: dict[Point, list[Point]] = {}
    for point, waited in before.items():
        for w in waited:
            after.setdefault(w, []).append(point)
    ready = [(times[p], p) for p, n in waiting.items() if not n]
    heapq.heapify(ready)
    count = 0
    while ready:
        _, point = heapq.heappop(ready)
        count += 1
        yield point
        for nxt in after.get(point, ()):
            waiting[nxt] -= 1
            if not waiting[nxt]:
                heapq.heappush(ready, (times[nxt], nxt))
    if count != len(before):
        stuck = sorted(p[0] for p, n in waiting.items() if n)
        raise ReplayError(f"the edges of this run form a cycle through spans {', '.join(stuck[:5])}")
