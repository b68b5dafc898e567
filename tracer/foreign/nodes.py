"""A span of a trace in its tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from redecode.tracer.events import SpanEvent
from redecode.tracer.foreign.otlp import OtlpSpan
from redecode.tracer.foreign.reading import Reading


@dataclass(slots=True, kw_only=True, eq=False)
class Node:
    """A span in the tree.

    Attributes:
        own: the span as we had recorded it, if it is ours.
        parent: `None` of the run alone.
        missing: the parent it names, if that has not come.
        made: the run was made up here: no span of the trace is it.
    """

    span: OtlpSpan
    reading: Reading
    own: SpanEvent | None = None
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    missing: str | None = None
    made: bool = False

    @property
    def order(self) -> tuple[int, int, str]:
        """Sorts siblings: by start, then end, then id, so that no order of arrival shows."""
        end = self.span.end_ns
        return self.span.start_ns, (1 << 64) if end is None else end, self.span.span

    def walk(self) -> Iterator[Node]:
        """The node and all below it, parents first, siblings in order."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(node.children)
