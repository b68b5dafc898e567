"""Where everything stands on the waterfall of a run: a row per span, in columns, so that the drawing has little to do.

Times are ns after the run's start. Rows are in pre-order, each with the position behind its last descendant: folding is
leaving a stretch of rows out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, cast

from redecode.dashboards.data import LoadedRun
from redecode.dashboards.packing import BYTE, FLOAT, INT, packed
from redecode.dashboards.words import visible
from redecode.replay import RunAnalysis
from redecode.replay.analysis import ActivityKind
from redecode.tracer import EdgeKind, RecordedRun, Span, SpanKind
from redecode.tracer.bulk import uncollected

KINDS = tuple(dict.fromkeys([*(k.value for k in ActivityKind), *(k.value for k in SpanKind)]))
"""What bars are drawn as; the drawing has a colour, a mark and a name for each."""
NO_FLOAT = -1
_PACKED = {
    "name": INT, "kind": BYTE, "depth": INT, "below": INT, "start": FLOAT, "stop": FLOAT, "status": BYTE,
    "slack": FLOAT, "barrier": BYTE, "on_path": FLOAT,
}  # fmt: skip
_STATUS = {"ok": 0, "error": 1, "open": 2}
_MOST_NAME = 120


@dataclass(slots=True)
class Stretches:
    """Stretches of time, those of row n at `first[n]` up to `first[n + 1]`."""

    first: list[int] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)

    @classmethod
    def by_row(cls, rows: int, entries: Iterable[tuple[int, int, int, int]]) -> Stretches:
        """Of (row, start, end, kind), in any order; those without length are left out."""
        kept = sorted(e for e in entries if e[2] > e[1])
        first, at = [0] * (rows + 1), 0
        for row in range(rows):
            first[row] = at
            while at < len(kept) and kept[at][0] == row:
                at += 1
        first[rows] = at
        return cls(first, [e[1] for e in kept], [e[2] for e in kept], [e[3] for e in kept])


@dataclass(slots=True)
class Path:
    """The critical path in order of time; `wait` is how much of a segment a barrier alone held up."""

    row: list[int] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    gap: list[int] = field(default_factory=list)
    wait: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Waterfall:
    """A run, laid out.

    Attributes:
        end: of the run, or the last known time of an open one; `until` of all that is drawn.
        deadline: when the SLO is up; `None` without one.
        names: index → text; `name` has an index for each row.
        below: the position behind the row's last descendant.
        status: 0 ok, 1 error, 2 open.
        slack: total float of the row's end; `NO_FLOAT` where nothing waits for it, or nothing is known.
        barrier: whether it waited at a barrier when it had ended.
        on_path: ns of the critical path that passed in the row's own bars.
        parts: what is at work in a row; `gaps`: what passed between what a row waited for and its start.
    """

    run: str
    end: int
    until: int
    deadline: int | None
    open: bool
    names: list[str]
    id: list[str]
    name: list[int]
    kind: list[int]
    depth: list[int]
    below: list[int]
    start: list[int]
    stop: list[int]
    status: list[int]
    slack: list[int]
    barrier: list[int]
    on_path: list[int]
    parts: Stretches
    gaps: Stretches
    path: Path
    split: list[tuple[str, int]]

    def to_json(self) -> dict[str, Any]:
        """Plain data for the drawing: columns packed, ids in one string; `stamp` differs where anything does."""
        out: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        out |= {name: packed(out[name], kind) for name, kind in _PACKED.items()}
        for name in ("parts", "gaps", "path"):
            inner = getattr(self, name)
            kinds = {"first": INT, "row": INT, "kind": BYTE, "gap": BYTE}
            out[name] = {c: packed(getattr(inner, c), kinds.get(c, FLOAT)) for c in inner.__slots__}
        out |= {"id": " ".join(self.id), "kinds": list(KINDS)}
        return {**out, "stamp": blake2b(repr(out).encode(), digest_size=8).hexdigest()}


def drawing(loaded: LoadedRun) -> tuple[Waterfall, dict[str, Any]]:
    """The waterfall of a run and its data for the browser, made once."""
    kept = loaded.kept.get("drawing")
    if kept is None:
        with uncollected():
            laid = lay_out(loaded)
            kept = loaded.kept["drawing"] = laid, laid.to_json()
    return cast("tuple[Waterfall, dict[str, Any]]", kept)


def lay_out(loaded: LoadedRun) -> Waterfall:
    """The waterfall of a run; without an analysis it has no path, floats and gaps."""
    recorded, analysis = loaded.recorded, loaded.analysis
    order, depth, below = pre_order(recorded.spans)
    origin = analysis.start_ns if analysis else order[0].start_ns if order else recorded.run.started_ns
    latest = _latest(recorded, analysis)
    stops = [latest if span.end_ns is None else max(span.end_ns, span.start_ns) for span in order]
    row_of = {span.span_id: n for n, span in enumerate(order)}
    names: dict[str, int] = {}
    labels = _labels(recorded)
    gapless = Stretches.by_row(len(order), ())
    out = Waterfall(
        run=recorded.run.run_id,
        end=(analysis.end_ns if analysis else latest) - origin,
        until=max([*stops, latest], default=origin) - origin,
        deadline=_deadline(analysis, recorded, origin),
        open=recorded.run.ended_ns is None,
        names=[],
        id=[span.span_id for span in order],
        name=[names.setdefault(labels[span.span_id], len(names)) for span in order],
        kind=[KINDS.index(span.kind.value) for span in order],
        depth=depth,
        below=below,
        start=[span.start_ns - origin for span in order],
        stop=[stop - origin for stop in stops],
        status=[_STATUS.get(span.status, 0) for span in order],
        slack=[NO_FLOAT] * len(order),
        barrier=[0] * len(order),
        on_path=[0] * len(order),
        parts=gapless,
        gaps=gapless,
        path=Path(),
        split=[],
    )
    out.names = list(names)
    for edge in recorded.edges:
        if edge.kind is EdgeKind.BARRIER and edge.src in row_of:
            out.barrier[row_of[edge.src]] = 1
    if analysis is not None:
        _analysed(out, loaded, analysis, row_of, origin)
    return out


def _analysed(out: Waterfall, loaded: LoadedRun, analysis: RunAnalysis, row_of: dict[str, int], origin: int) -> None:
    rows = len(out.id)
    parts, gaps = [], []
    slack: dict[str, int | None] = {}
    for found in analysis.activities:
        a = found.activity
        slack[a.id] = found.total_float_ns
        row = row_of.get(a.span_id)
        if row is None:
            continue
        kind = KINDS.index(a.kind) if a.kind in KINDS else KINDS.index(ActivityKind.CODE)
        parts.append((row, a.start_ns - origin, a.end_ns - origin, kind))
        if found.gap_ns > 0:
            gaps.append((row, a.start_ns - found.gap_ns - origin, a.start_ns - origin, kind))
    out.parts = Stretches.by_row(rows, parts)
    out.gaps = Stretches.by_row(rows, gaps)
    if loaded.cut is not None:
        for span_id, (_, last) in loaded.cut.ends.items():
            found_float = slack.get(last)
            if found_float is not None and span_id in row_of:
                out.slack[row_of[span_id]] = found_float
    path = out.path
    for segment in analysis.critical_path:
        row = row_of.get(segment.activity.span_id, 0)
        path.row.append(row)
        path.start.append(segment.start_ns - origin)
        path.end.append(segment.end_ns - origin)
        path.kind.append(KINDS.index(segment.kind) if segment.kind in KINDS else KINDS.index(ActivityKind.CODE))
        path.gap.append(int(segment.gap))
        path.wait.append(segment.barrier_wait_ns)
        if row < rows:
            out.on_path[row] += segment.duration_ns
    told = [(name.removesuffix("_ns"), ns) for name, ns in analysis.split.to_json().items() if ns]
    out.split = sorted(told, key=lambda entry: -entry[1])


def pre_order(spans: Sequence[Span]) -> tuple[list[Span], list[int], list[int]]:
    """Spans, parents before children and these by start; the depth of each, and the position behind its subtree.

    What has no recorded parent (or is its own ancestor) hangs below the root; of spans of the same id the first counts.
    """
    known: dict[str, Span] = {}
    for span in sorted(spans, key=lambda s: (s.start_ns, s.span_id)):
        known.setdefault(span.span_id, span)
    if not known:
        return [], [], []
    root = min(known.values(), key=lambda s: (s.parent_span_id is not None, s.kind is not SpanKind.RUN)).span_id
    children: dict[str, list[str]] = {}
    for span_id, span in known.items():
        if span_id != root:
            parent = span.parent_span_id
            children.setdefault(parent if parent in known and parent is not None else root, []).append(span_id)
    order, depth, below, seen = list[Span](), list[int](), list[int](), set[str]()

    def walk(top: str, level: int) -> None:
        waiting: list[tuple[str, int, bool]] = [(top, level, False)]
        while waiting:
            span_id, at, done = waiting.pop()
            if done:
                below[index[span_id]] = len(order)
                continue
            if span_id in seen:
                continue
            seen.add(span_id)
            index[span_id] = len(order)
            order.append(known[span_id])
            depth.append(at)
            below.append(0)
            waiting.append((span_id, at, True))
            waiting += [(child, at + 1, False) for child in reversed(children.get(span_id, ()))]

    index: dict[str, int] = {}
    walk(root, 0)
    for span_id in known:  # a ring of parents is reached from nowhere
        if span_id not in seen:
            walk(span_id, 1)
    if len(order) > below[0]:
        below[0] = len(order)
    return order, depth, below


def _labels(recorded: RecordedRun) -> dict[str, str]:
    """What a row is called: the node's name, the FM, the tool."""
    models = {d.span_id: d.model for d in recorded.decodes if d.model}
    tools = {t.span_id: t.tool for t in recorded.tools if t.tool}
    out = {}
    for span in recorded.spans:
        text = models.get(span.span_id) or tools.get(span.span_id) or span.name or span.kind.value
        if span.kind is SpanKind.RUN:
            text = recorded.run.agent or text
        out[span.span_id] = visible(text).replace("\n", " ")[:_MOST_NAME]
    return out


def _latest(recorded: RecordedRun, analysis: RunAnalysis | None) -> int:
    """The last known time."""
    known = [s.start_ns if s.end_ns is None else s.end_ns for s in recorded.spans]
    known += [d.done_ns or d.sent_ns for d in recorded.decodes]
    if analysis is not None:
        known.append(analysis.end_ns)
    return max(known, default=recorded.run.started_ns)


def _deadline(analysis: RunAnalysis | None, recorded: RecordedRun, origin: int) -> int | None:
    if analysis is not None:
        return None if analysis.headroom_ns is None else analysis.end_ns + analysis.headroom_ns - origin
    return None if recorded.run.slo_s is None else round(recorded.run.slo_s * 1e9)
