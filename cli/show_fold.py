"""Which of a run's spans get a row of their own: all of them if they are few, else those that tell most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redecode.tracer import Span

ROWS = 60
_FAILED_ROWS = 10


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the tree.

    Attributes:
        span: `None` of a line that stands for several; `folded` are these, with all that is below them.
        lines: what connects it with the rows above: for each level whether more comes there.
    """

    span: Span | None
    folded: tuple[Span, ...]
    lines: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Folded:
    """The rows, and how many spans have none of their own."""

    rows: list[Row]
    hidden: int


def rows_of(
    spans: Sequence[Span],
    parents: Mapping[str, str],
    on_path_ns: Mapping[str, int],
    *,
    depth: int | None = None,
    most: int | None = ROWS,
) -> Folded:
    """Rows from the root down, siblings by their start.

    Args:
        parents: span id → its parent's, of every span that is not at the top.
        on_path_ns: time on the critical path, by span id: the longest are the last to be folded.
        depth: levels below the root that are shown; `None`: all.
        most: spans that are shown; `None`: all.
    """
    children: dict[str | None, list[Span]] = {}
    for span in spans:
        children.setdefault(parents.get(span.span_id), []).append(span)
    shown = _chosen(spans, parents, on_path_ns, most)
    rows: list[Row] = []
    hidden = 0
    waiting = [Row(span, (), ()) for span in reversed(children.get(None, []))]
    while waiting:  # runs of others may be of any depth
        row = waiting.pop()
        rows.append(row)
        if row.span is None:
            continue
        below = children.get(row.span.span_id, [])
        deep = depth is not None and len(row.lines) >= depth
        kept = [] if deep else [s for s in below if shown is None or s.span_id in shown]
        rest = [s for s in below if deep or not (shown is None or s.span_id in shown)]
        if len(rest) == 1 and not deep and rest[0].span_id not in children:  # its line would say no less
            kept, rest = below, []
        under = [Row(s, (), ()) for s in kept]
        if rest:
            everything = tuple(_with_all_below(rest, children))
            hidden += len(everything)
            if not deep:
                under.append(Row(None, everything, ()))
        last = len(under) - 1
        waiting += reversed([Row(r.span, r.folded, (*row.lines, n < last)) for n, r in enumerate(under)])
    return Folded(rows, hidden)


def _chosen(
    spans: Sequence[Span], parents: Mapping[str, str], on_path_ns: Mapping[str, int], most: int | None
) -> set[str] | None:
    if most is None or len(spans) <= most:
        return None
    failed = [s for s in spans if s.status != "ok"]
    failed.sort(key=lambda s: (s.status == "open", s.start_ns))
    longest = sorted(spans, key=lambda s: (-on_path_ns.get(s.span_id, 0), -(s.duration_ns or 0), s.start_ns))
    chosen: set[str] = set()
    for span in (*failed[:_FAILED_ROWS], *longest):
        line, at = [], span.span_id
        while at not in chosen:
            line.append(at)
            if (above := parents.get(at)) is None:
                break
            at = above
        if len(chosen) + len(line) <= most:
            chosen.update(line)
        elif not chosen:  # deeper than there are rows: from the top
            chosen.update(line[-most:])
        if len(chosen) >= most:
            break
    return chosen


def _with_all_below(spans: Sequence[Span], children: Mapping[str | None, list[Span]]) -> list[Span]:
    out, waiting = [], list(reversed(spans))
    while waiting:
        span = waiting.pop()
        out.append(span)
        waiting += reversed(children.get(span.span_id, []))
    return out
