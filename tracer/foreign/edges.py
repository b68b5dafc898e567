"""What the spans of another tracer waited for, as far as it can be known.

No foreign trace records it. LangGraph's superstep numbers, where the instrumentation kept them, give the barriers
(provenance `superstep`). All else is guessed from times (provenance `time`): a call waits for those of its siblings
that had ended when it began, and for no one that another of these had waited for. Only that a parent called its
child is stated by the trace itself.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, pairwise

from redecode.tracer.events import SpanEdge
from redecode.tracer.foreign.nodes import Node
from redecode.tracer.records import EdgeKind, Provenance

_CLIENT, _SERVER = 3, 2  # OTLP kinds: a call that leaves the process, and its other side
_MOST = 200_000  # edges among the children of one span …
_FEWEST = 8  # … beyond which only so many are kept of those waited for, the latest


class _Budget:
    """Keeps the edges of a wide trace from growing with its square."""

    def __init__(self) -> None:
        self._left = _MOST

    def allow(self, waited: list[Node]) -> list[Node]:
        """As many of these, in order of their ends, as may still get an edge: the last ones stay."""
        if len(waited) > max(self._left, _FEWEST):
            waited = waited[-_FEWEST:]
        self._left -= len(waited)
        return waited


def edges_below(parent: Node, scheduled: list[Node]) -> dict[str, list[SpanEdge]]:
    """The edges of a span's children, and of its own end, by the id of the span that waited.

    Args:
        scheduled: those of its children that LangGraph scheduled in supersteps.
    """
    out: dict[str, list[SpanEdge]] = {}
    steps = {id(node) for node in scheduled}
    others = [child for child in parent.children if id(child) not in steps]
    _by_superstep(parent, scheduled, out)
    _by_time(parent, others, out)
    for child in parent.children:
        if not out.get(child.span.span):
            how = Provenance.TIME if parent.made or child.missing is not None else Provenance.RECORDED
            out[child.span.span] = [(parent.span.span, EdgeKind.CALL.value, how.value)]
    return out


def _by_superstep(parent: Node, scheduled: list[Node], out: dict[str, list[SpanEdge]]) -> None:
    """Barriers between successive supersteps; retries within one; data where only one task can have written it."""
    steps: dict[int, dict[str, list[Node]]] = {}
    for node in scheduled:
        assert node.reading.task is not None
        steps.setdefault(node.reading.task.step, {}).setdefault(node.reading.task.ns, []).append(node)
    before: list[Node] = []
    writers: dict[str, list[Node]] = {}  # node name → its last attempts in the last superstep it was in
    last_step: int | None = None
    budget = _Budget()
    for step in sorted(steps):
        tasks = steps[step]
        for attempts in tasks.values():
            first = attempts[0]
            edges = _data(first, before, writers, adjacent=last_step == step - 1)
            edges += [_edge(src, EdgeKind.BARRIER, Provenance.SUPERSTEP) for src in budget.allow(before)]
            out[first.span.span] = edges
            for failed, again in pairwise(attempts):
                out[again.span.span] = [_edge(failed, EdgeKind.RETRY, Provenance.SUPERSTEP)]
        before = sorted((attempts[-1] for attempts in tasks.values()), key=_by_end)
        last_step = step
        named: dict[str, list[Node]] = {}
        for node in before:
            assert node.reading.task is not None
            named.setdefault(node.reading.task.node, []).append(node)
        writers |= named
    if before and parent.span.end_ns is not None:
        kind = EdgeKind.JOIN if len(before) > 1 else EdgeKind.RETURN
        out.setdefault(parent.span.span, []).extend(_edge(src, kind, Provenance.SUPERSTEP) for src in before)


def _data(node: Node, before: list[Node], writers: dict[str, list[Node]], *, adjacent: bool) -> list[SpanEdge]:
    """Who wrote what triggered a task: a join names its sources; else it is known when there was one task only."""
    assert node.reading.task is not None
    sources: dict[str, Node] = {}
    for trigger in node.reading.task.triggers:
        if trigger.startswith("join:"):
            names = trigger[len("join:") :].rsplit(":", 1)[0].split("+")
            sources |= {src.span.span: src for name in names for src in writers.get(name, [])}
        elif adjacent and len(before) == 1 and (trigger.startswith("branch:to:") or trigger == "__pregel_push"):
            sources[before[0].span.span] = before[0]
    return [_edge(src, EdgeKind.DATA, Provenance.SUPERSTEP) for src in sources.values()]


def _by_time(parent: Node, children: list[Node], out: dict[str, list[SpanEdge]]) -> None:
    """Successors in time. Within `[start, end)`; a span that lasted no time is taken to have lasted 1 ns."""
    ended = sorted((n for n in children if n.span.end_ns is not None), key=_by_end)
    ends = [_end(n) for n in ended]
    latest_start = list(accumulate((n.span.start_ns for n in ended), max))
    budget = _Budget()
    for child in children:
        upto = bisect_right(ends, child.span.start_ns)
        if not upto:
            continue
        # Who ended before the latest-starting of those that had ended began was waited for by that one already.
        waited = ended[bisect_right(ends, latest_start[upto - 1]) : upto]
        kind = EdgeKind.JOIN if len(waited) > 1 else EdgeKind.RETURN
        out[child.span.span] = [_edge(src, kind, Provenance.TIME) for src in budget.allow(waited)]
    if parent.span.end_ns is None:
        return
    returned = [n for n in ended if n.span.end_ns is not None and n.span.end_ns <= parent.span.end_ns]
    if not returned and parent.span.kind == _CLIENT:  # the other side's clock may differ, but it did answer
        returned = [n for n in ended if n.span.kind == _SERVER]
    last_start = max((n.span.start_ns for n in returned), default=0)
    rest = [n for n in returned if _end(n) > last_start]
    kind = EdgeKind.JOIN if len(rest) > 1 else EdgeKind.RETURN
    if rest:
        out.setdefault(parent.span.span, []).extend(_edge(src, kind, Provenance.TIME) for src in rest)


def _by_end(node: Node) -> tuple[int, tuple[int, int, str]]:
    return _end(node), node.order


def _end(node: Node) -> int:
    return max(node.span.end_ns or 0, node.span.start_ns + 1)


def _edge(src: Node, kind: EdgeKind, how: Provenance) -> SpanEdge:
    return src.span.span, kind.value, how.value
