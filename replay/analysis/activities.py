"""A recorded run, cut into activities and the edges between them.

Every span has two points in time, its start and its end, and a recorded edge joins two points (see `EdgeKind`). What
stands between a point and the last it waited for is an activity if the span it passed in was at work (the agent's own
code between two calls, a tool's around what it calls), and a gap if that span only schedules (a LangGraph graph between
supersteps). A span without children is an activity, or several (`parts`). A start, and the end of a graph, are
activities that take no time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from redecode.replay.analysis.errors import NoActivities
from redecode.replay.analysis.model import Activity, ActivityKind
from redecode.replay.analysis.parts import OWN, launched_at, parts_of
from redecode.tracer import Edge, EdgeKind, Provenance, Run, Span, SpanKind
from redecode.tracer.conventions import HOST, SUPERSTEP

if TYPE_CHECKING:
    from redecode.replay.analysis.parts import Call
    from redecode.tracer import RecordedRun
    from redecode.tracer.store import RunStructure

START, END = "start", "end"
_Point = tuple[str, str]
# Looking an enum's member up, or hashing it, takes longer than what is done with it.
_CALL, _STREAM, _RETURN, _JOIN = EdgeKind.CALL, EdgeKind.STREAM, EdgeKind.RETURN, EdgeKind.JOIN
_BARRIER, _RECORDED, _DECLARED = EdgeKind.BARRIER, Provenance.RECORDED, Provenance.DECLARED
_SCHEDULERS = (SpanKind.RUN, SpanKind.GRAPH)


@dataclass(frozen=True, slots=True)
class RunActivities:
    """A run as `analyze` wants it.

    Attributes:
        start_ns: the start of its root span.
        end: the activity whose finish is the run's end: what does not lead to it, nobody waited for.
        spans: by id; `parents`: span id → its parent's, of every span but the root.
        ends: span id → the activity that waits for what its start waited for, and the one that its end is.
        tpot_ns: of FM calls, by span id, where it is known.
    """

    run: Run
    activities: tuple[Activity, ...]
    edges: tuple[Edge, ...]
    start_ns: int
    end: str
    status: str
    spans: dict[str, Span] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    ends: dict[str, tuple[str, str]] = field(default_factory=dict)
    tpot_ns: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def gaps_ns(self) -> dict[str, int]:
        """The gap before each activity, by id (`ActivityAnalysis.gap_ns`)."""
        finishes = {a.id: a.end_ns for a in self.activities}
        release: dict[str, int] = {}
        for edge in self.edges:
            if edge.provenance is not _DECLARED:
                release[edge.dst] = max(finishes[edge.src], release.get(edge.dst, 0))
        return {a.id: a.start_ns - release.get(a.id, self.start_ns) for a in self.activities}


def activities_of(recorded: RecordedRun | RunStructure) -> RunActivities:
    """The activities and edges of a recorded run.

    Raises:
        NoActivities: nothing of the run was recorded but its name.
    """
    return _Cutter(recorded).cut()


@dataclass(slots=True)
class _Arc:
    src: _Point
    kind: EdgeKind
    provenance: Provenance


@dataclass(slots=True)
class _Cutter:
    recorded: RecordedRun | RunStructure
    spans: dict[str, Span] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=dict)
    decodes: dict[str, Call] = field(default_factory=dict)
    schedulers: set[str] = field(default_factory=set)
    arcs: dict[_Point, list[_Arc]] = field(default_factory=dict)
    waiting: set[_Point] = field(default_factory=set)  # points that wait for something
    orphans: list[str] = field(default_factory=list)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    activities: list[Activity] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    # The activity whose finish a point is, and when that is; what a point's own activity waits with.
    finish: dict[_Point, tuple[str, int]] = field(default_factory=dict)
    entry: dict[_Point, str] = field(default_factory=dict)

    def cut(self) -> RunActivities:
        root = self._read_spans()
        self._read_edges()
        self._complete(root)
        self._cut_streams()
        callers = {arc.src for arcs in self.arcs.values() for arc in arcs if arc.src[1] == START}
        for span_id in self.spans:
            if span_id not in self.children:
                self._leaf(span_id, calls=(span_id, START) in callers)
            else:
                self._mark_start(span_id)
                self.finish[span_id, END] = f"{span_id}/{END}", self.ends[span_id]
        for point, arcs in self.arcs.items():
            self._join(point, arcs)
        self._without_barriers()
        status = "open" if self.spans[root].end_ns is None else self.spans[root].status
        return RunActivities(
            run=self.recorded.run,
            activities=tuple(self.activities),
            edges=tuple(self.edges),
            start_ns=self.spans[root].start_ns,
            end=self.finish[root, END][0],
            status=status,
            spans=self.spans,
            parents=self.parents,
            ends={
                span_id: (self.entry.get((span_id, "wait"), self.entry[span_id, START]), self.finish[span_id, END][0])
                for span_id in self.spans
            },
            tpot_ns={i: d.tpot_ns for i, d in self.decodes.items() if d.tpot_ns is not None},
            warnings=tuple(self.warnings),
        )

    # -- what was recorded --

    def _read_spans(self) -> str:
        spans, twice = self.spans, 0
        for span in sorted(self.recorded.spans, key=lambda s: (s.start_ns, s.span_id, s.end_ns or 0)):
            if span.span_id in spans:
                twice += 1
            else:
                spans[span.span_id] = span
        if not spans:
            raise NoActivities(f"nothing of run {self.recorded.run.run_id} was recorded that took time")
        if twice:
            self.warnings.append(f"{twice} spans have the id of another one and are left out")
        decodes = self.decodes = {d.span_id: d for d in self.recorded.decodes}
        latest = max(
            max(s.start_ns if s.end_ns is None else s.end_ns for s in spans.values()),
            max((d.done_ns or d.sent_ns for d in decodes.values()), default=0),
        )
        root = min(spans.values(), key=lambda s: (s.parent_span_id is not None, s.kind is not SpanKind.RUN)).span_id
        backwards = 0
        for span_id, span in spans.items():
            end = latest if span.end_ns is None else span.end_ns
            backwards += end < span.start_ns
            self.ends[span_id] = max(end, span.start_ns)
            if span_id == root:
                continue
            parent = span.parent_span_id
            if parent is None or parent not in spans:
                self.orphans.append(span_id)
                parent = root
            self.parents[span_id] = parent
            self.children.setdefault(parent, []).append(span_id)
            if SUPERSTEP in span.attributes and spans[parent].kind in _SCHEDULERS:
                self.schedulers.add(parent)
        if backwards:
            self.warnings.append(f"{backwards} spans end before they start and are taken to take no time")
        if self.orphans:
            self.warnings.append(
                f"{len(self.orphans)} spans have no parent that was recorded and are taken to be the run's"
            )
        return root

    def _read_edges(self) -> None:
        unknown = 0
        for edge in self.recorded.edges:
            src, dst, kind = edge.src, edge.dst, edge.kind
            if src not in self.spans or dst not in self.spans:
                unknown += 1
                continue
            to_end = (kind is _RETURN or kind is _JOIN) and self.parents.get(src) == dst
            point = (dst, END if to_end else START)
            side = START if kind is _CALL or kind is _STREAM else END
            self.arcs.setdefault(point, []).append(_Arc((src, side), kind, edge.provenance))
            if edge.provenance is not _DECLARED:
                self.waiting.add(point)
        if unknown:
            self.warnings.append(f"{unknown} edges name spans that were not recorded and are left out")

    def _complete(self, root: str) -> None:
        """What every point waits for at least."""
        waiting, orphans = self.waiting, set(self.orphans)
        for span_id, parent in self.parents.items():
            if (span_id, START) not in waiting:
                how = Provenance.TIME if span_id in orphans else _RECORDED
                self._arc((span_id, START), _Arc((parent, START), _CALL, how))
        unended = [i for i in self.children if (i, END) not in waiting]
        if not orphans and not unended:
            return
        followed = {a.src for arcs in self.arcs.values() for a in arcs if a.provenance is not _DECLARED}
        for span_id in self.orphans:
            if (span_id, END) not in followed and self.ends[span_id] <= self.ends[root]:
                self._arc((root, END), _Arc((span_id, END), _JOIN, Provenance.TIME))
        for span_id in unended:
            if (span_id, END) in waiting:
                continue
            arcs = []
            if self.spans[span_id].end_ns is None:
                # The record stops here. As at a recorded end, it waits for what nothing else has waited for.
                below = self.children[span_id]
                rest = [c for c in below if (c, END) not in followed] or below
                arcs = [_Arc((c, END), _JOIN, _RECORDED) for c in rest]
            for arc in arcs or [_Arc((span_id, START), _CALL, _RECORDED)]:
                self._arc((span_id, END), arc)

    def _arc(self, point: _Point, arc: _Arc) -> None:
        self.arcs.setdefault(point, []).append(arc)
        self.waiting.add(point)

    def _cut_streams(self) -> None:
        """A call that something was launched from while it streamed is cut at the token that launched it."""
        for (span_id, _), arcs in self.arcs.items():
            for arc in arcs:
                source = arc.src[0]
                if arc.kind is _STREAM and source not in self.children:
                    begun = self.spans[span_id].start_ns
                    cut = launched_at(self.decodes.get(source), begun, self.spans[source])
                    cut = min(cut, self.ends[source])
                    self.cuts.setdefault(source, []).append(cut)
                    arc.src = (source, f"cut {cut}")

    # -- activities --

    def _leaf(self, span_id: str, *, calls: bool) -> None:
        cuts = self.cuts.get(span_id, ())
        parts = parts_of(self.spans[span_id], self.ends[span_id], self.decodes.get(span_id), cuts)
        self.activities += parts
        self.entry[span_id, START] = parts[0].id
        self.finish[span_id, END] = parts[-1].id, parts[-1].end_ns
        for one, other in pairwise(parts):
            self.edges.append(Edge(one.id, other.id, _CALL, _RECORDED))
        if calls or any(cut < parts[0].end_ns for cut in cuts):
            # What is launched before anything has come is launched with the call.
            self._mark_start(span_id)
            self.edges.append(Edge(f"{span_id}/{START}", parts[0].id, _CALL, _RECORDED))
        for cut in cuts:
            before = [(a.id, a.end_ns) for a in parts if a.end_ns <= cut]
            self.finish[span_id, f"cut {cut}"] = before[-1] if before else self.finish[span_id, START]

    def _mark_start(self, span_id: str) -> None:
        """An activity that takes no time, where a span starts."""
        span, id_ = self.spans[span_id], f"{span_id}/{START}"
        self._own(span, id_, span.start_ns, span.start_ns, START, ActivityKind.FRAMEWORK)
        self.finish[span_id, START] = id_, span.start_ns
        self.entry[span_id, START] = id_

    def _own(self, span: Span, id_: str, start: int, end: int, part: str, kind: str) -> None:
        self.activities.append(
            Activity(
                id_, start, end, kind, span.span_id, span.step_key, part, span.status, span.attributes.get(HOST), None,
                span.name,
            )
        )  # fmt: skip

    def _join(self, point: _Point, arcs: list[_Arc]) -> None:
        """What a point waits for, the own code between that and it, and its activity."""
        span_id, side = point
        if side == END and span_id not in self.children:
            return  # of what has no children: its work leads there
        span = self.spans[span_id]
        at = self.ends[span_id] if side == END else span.start_ns
        release = None
        for arc in arcs:
            when = self.finish[arc.src][1]
            if arc.provenance is not _DECLARED and (release is None or when > release):
                release = when
        if release is None or release > at:
            release = at
        owner = span if side == END else self.spans[self.parents.get(span_id, span_id)]
        works = owner.span_id not in self.schedulers
        if side == END:
            entry = f"{span_id}/{END}"
            if works:
                self._own(span, entry, release, at, "at its end", OWN[span.kind])
            else:
                self._own(span, entry, at, at, END, ActivityKind.FRAMEWORK)
        else:
            entry = self.entry[point]
            if works and release < at:
                code = f"{span_id}/before"
                part = "before " + span.step_key.removeprefix(owner.step_key).lstrip("/")
                self._own(owner, code, release, at, part, OWN[owner.kind])
                self.edges.append(Edge(code, entry, _CALL, _RECORDED))
                self.entry[span_id, "wait"] = entry = code
        for arc in arcs:
            self.edges.append(Edge(self.finish[arc.src][0], entry, arc.kind, arc.provenance))

    def _without_barriers(self) -> None:
        """Without its barrier, what a superstep ran would still be waited for at the end of its graph."""
        held = {arc.src[0]: None for arcs in self.arcs.values() for arc in arcs if arc.kind is _BARRIER}
        for span_id in held:
            if (parent := self.parents.get(span_id)) is not None:
                src = self.finish[span_id, END][0]
                self.edges.append(Edge(src, f"{parent}/{END}", _JOIN, _DECLARED))
