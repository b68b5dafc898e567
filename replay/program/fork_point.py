"""Where a step of a running program is, seen from a fork point: before it, held up by it alone, or after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from redecode.tracer import EdgeKind, LiveSpan, SpanEvent

BEFORE, BESIDE, AFTER = 0, 1, 2
"""Where a step is: before the fork point, held up by it alone, or depending on it."""


class ForkPoint:
    """Follows what depends on a step, over the edges that are recorded as the program runs.

    A span has two places: at its start (what it itself depends on) and at its end (what its calls did, too). An edge
    carries the one it leaves from.

    Args:
        is_it: whether an open span is the fork point.
        continues: whether a run, by its root, goes on with what came after it.
    """

    def __init__(self, is_it: Callable[[LiveSpan], bool], continues: Callable[[LiveSpan], bool]) -> None:
        self._is_it, self._continues = is_it, continues
        self._starts: dict[str, int] = {}
        self._ends: dict[str, int] = {}

    def place(self, span: LiveSpan) -> int:
        """Where an open span is."""
        known = self._starts.get(span.span_id)
        if known is None:
            if span.parent is None:
                known = AFTER if self._continues(span) else BEFORE
            else:
                known = max(self.place(span.parent), self.of_edges(span.event.edges))
            if self._is_it(span):
                known = AFTER
            self._starts[span.span_id] = known
        return known

    def depends(self, span: LiveSpan) -> None:
        """An open span turned out to depend on the fork point."""
        self._starts[span.span_id] = AFTER

    def ended(self, event: SpanEvent) -> None:
        """A span has ended: remember where, for what follows it."""
        self._ends[event.span] = max(self.of_edges(event.edges), self._starts.pop(event.span, BEFORE))

    def of_edges(self, edges: Iterable[Sequence[str]]) -> int:
        """Where something with these dependencies (span id, kind, provenance) is, as far as they tell."""
        edges = list(edges)
        # Without data edges, LangGraph's loop could not be seen: then its barriers are all that is known.
        barriers_alone = not any(kind == EdgeKind.DATA for _, kind, _ in edges)
        place = BEFORE
        for src, kind, _ in edges:
            found = self._ends.get(src, BEFORE)
            if kind in (EdgeKind.CALL, EdgeKind.STREAM):  # from its start
                found = self._starts.get(src, found)
            if kind == EdgeKind.BARRIER and not barriers_alone:
                found = min(found, BESIDE)
            place = max(place, found)
        return place
