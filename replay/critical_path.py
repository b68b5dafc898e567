"""The critical path: the chain of work and gaps that set a run's duration, as far as the edges tell.

Walked back from the run's end, always to what was waited for last. Work and gaps tile the run's duration
exactly: time in which nothing on the path worked is a gap of its own, attributed to the span it passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

from redecode.replay.run_graph import END, START, Point, RunGraph


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch [start_ns, end_ns) of the critical path.

    Attributes:
        span_id: the leaf at work or, for a gap, the span in which the time passed.
        work: whether a leaf was at work; otherwise a gap (framework, dispatch, the agent's own code).
    """

    span_id: str
    work: bool
    start_ns: int
    end_ns: int

    @property
    def duration_ns(self) -> int:
        """Length in ns."""
        return self.end_ns - self.start_ns


def find_critical_path(graph: RunGraph) -> tuple[Segment, ...]:
    """Segments from the run's start to its end, in time order; empty for a run without spans."""
    if graph.root not in graph.spans:
        return ()
    point: Point = (graph.root, END)
    begin = graph.time_ns[graph.root, START]
    horizon = graph.time_ns[point]
    segments: list[Segment] = []
    while graph.before[point]:
        waited = max(graph.before[point], key=lambda p: (graph.time_ns[p], p))
        at = max(min(graph.time_ns[waited], horizon), begin)
        if at < horizon:
            work = graph.is_work(point)
            owner = point[0] if work else _gap_owner(graph, waited, point)
            segments.append(Segment(owner, work=work, start_ns=at, end_ns=horizon))
        point, horizon = waited, at
    if horizon > begin:
        segments.append(Segment(graph.root, work=False, start_ns=begin, end_ns=horizon))
    return tuple(reversed(segments))


def _gap_owner(graph: RunGraph, src: Point, dst: Point) -> str:
    """In which span the time between two points passed: the one both are in, else their common parent's."""
    if src[0] == dst[0]:
        return src[0]
    src_span, dst_span = graph.spans[src[0]], graph.spans[dst[0]]
    if dst[1] == END and src_span.parent_span_id == dst[0]:
        return dst[0]
    if dst_span.parent_span_id in graph.spans:
        return str(dst_span.parent_span_id)
    return graph.root


def critical_spans(path: tuple[Segment, ...]) -> list[str]:
    """Ids of the spans whose work is on the path, in order, each once."""
    return list(dict.fromkeys(s.span_id for s in path if s.work))
