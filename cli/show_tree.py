"""A run as a tree with bars on a common time axis.

The first bar is what the critical path was doing; below it each span has its own: an FM call in its parts, a tool, own
code, the gap before it, a thin tail of float behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.text import Text

from redecode.cli.common import seconds
from redecode.cli.screen import clean, fitted, last_part, short
from redecode.cli.show_bars import BARRIER, BEYOND, FLOAT, GAP, OPEN, WITHIN, Axis, Interval
from redecode.cli.show_fold import ROWS, Folded, Row, rows_of
from redecode.replay import ActivityAnalysis, RunAnalysis
from redecode.replay.analysis import RunActivities
from redecode.tracer import ANSWERED_BY, Decode, EdgeKind, RecordedRun, Span, SpanKind
from redecode.tracer.conventions import INTERRUPTED, LEFT_BY, RETRIES

_DETAILS_FROM = 130  # columns
_DETAIL = 48
_DURATION = 9


@dataclass(slots=True)
class Tree:
    """A run to be drawn.

    Attributes:
        cut, analysis: `None` of what cannot be analysed: its spans are drawn all the same.
        depth, everything: what is not folded.
    """

    recorded: RecordedRun
    cut: RunActivities | None
    analysis: RunAnalysis | None
    width: int
    unicode: bool = True
    depth: int | None = None
    everything: bool = False
    _parts: dict[str, list[ActivityAnalysis]] = field(default_factory=dict)
    _by_id: dict[str, ActivityAnalysis] = field(default_factory=dict)
    _critical: dict[str, list[Interval]] = field(default_factory=dict)
    _held: dict[str, Interval] = field(default_factory=dict)
    _above: set[str] = field(default_factory=set)
    _parents: dict[str, str] = field(default_factory=dict)
    _callers: set[str] = field(default_factory=set)
    _begun: int = 0

    def lines(self) -> Iterator[Text]:
        """Ruler, rows, what the signs mean, what was folded."""
        self._read()
        folded = self._fold()
        details = _DETAIL if self.width >= _DETAILS_FROM else 0
        most = (self.width - details) * 35 // 100
        label = max(12, min(most, max((cell_len(self._label(row, most)) for row in folded.rows), default=0)))
        before = label + _DURATION + 5
        axis = self._axis(max(10, self.width - before - (details + 1 if details else 0)))
        for line in axis.ruler(self._begun):
            yield Text(" " * before + self._said(line.rstrip()), style="dim", no_wrap=True)
        decodes = {d.span_id: d for d in self.recorded.decodes}
        retried = {e.dst for e in self.recorded.edges if e.kind is EdgeKind.RETRY}
        for row in folded.rows:
            yield self._line(row, axis, label, decodes, retried, details)
        marks = [("●", "*", "on the critical path"), ("✗", "x", "failed"), ("↻", "r", "a further attempt")]
        used = {"●"} if self._above else set()
        used |= {"✗"} if any(s.status == "error" for s in self.recorded.spans) else set()
        used |= {"↻"} if retried else set()
        said = [f"{m if self.unicode else a} {words}" for m, a, words in marks if m in used]
        yield Text("   ".join([*said, axis.legend()]), style="dim")
        if folded.hidden:
            yield Text(
                f"{folded.hidden} of {len(self.recorded.spans)} spans have no row of their own; "
                "--depth N chooses how deep to look, --all shows all",
                style="dim",
            )

    # -- what is known --

    def _read(self) -> None:
        begun = self.recorded.run.started_ns
        if self.cut is not None:
            self._parents, begun = dict(self.cut.parents), self.cut.start_ns
        else:
            known = {s.span_id for s in self.recorded.spans}
            self._parents = {
                s.span_id: s.parent_span_id
                for s in self.recorded.spans
                if s.parent_span_id in known and s.parent_span_id is not None
            }
        self._begun, self._callers = begun, set(self._parents.values())
        if self.analysis is None:
            return
        for row in self.analysis.activities:
            self._by_id[row.id] = row
            self._parts.setdefault(row.activity.span_id, []).append(row)
        held = None
        for segment in self.analysis.critical_path:
            of = segment.activity.span_id
            if not segment.gap:
                self._critical.setdefault(of, []).append((segment.start_ns, segment.end_ns, segment.kind))
            if held is not None and segment.start_ns == held[1] and not segment.barrier_wait_ns:
                self._held[of] = held
                held = None
            if segment.barrier_wait_ns:
                start = held[0] if held is not None else segment.end_ns - segment.barrier_wait_ns
                held = start, segment.end_ns, BARRIER
        for span_id in self._critical:
            at: str | None = span_id
            while at is not None and at not in self._above:
                self._above.add(at)
                at = self._parents.get(at)

    def _fold(self) -> Folded:
        on_path = {i: sum(end - start for start, end, _ in found) for i, found in self._critical.items()}
        spans = list(self.cut.spans.values()) if self.cut is not None else list(self.recorded.spans)
        return rows_of(spans, self._parents, on_path, depth=self.depth, most=None if self.everything else ROWS)

    def _axis(self, width: int) -> Axis:
        spans, begun = self.recorded.spans, self._begun
        end = self.analysis.end_ns if self.analysis is not None else max((_end(s) for s in spans), default=begun)
        length = max(end - begun, 1)
        # Clocks of other machines differ, and work may outlive its run: both are shown, within reason.
        low = min((s.start_ns for s in spans if begun - length <= s.start_ns), default=begun)
        high = max((_end(s) for s in spans if _end(s) <= end + length), default=end)
        deadline = None
        if self.analysis is not None and self.analysis.headroom_ns is not None:
            deadline = self.analysis.end_ns + self.analysis.headroom_ns
            if deadline <= end + length // 2:
                high = max(high, deadline + length // 50)
        return Axis(min(low, begun), max(high, end), width, deadline, self.unicode)

    # -- rows --

    def _line(
        self, row: Row, axis: Axis, label: int, decodes: dict[str, Decode], retried: set[str], details: int
    ) -> Text:
        span = row.span
        critical = span is not None and span.span_id in self._above
        signs = "●✗↻" if self.unicode else "*xr"
        mark = signs[0] if critical else " "
        state = " "
        if span is not None:
            state = signs[1] if span.status == "error" else signs[2] if span.span_id in retried else " "
        out = Text(no_wrap=True, overflow="ignore")
        out.append(self._fitted(self._label(row, label), label), style="bold" if critical else "")
        out.append(f" {mark}", style="bold red")
        out.append(state, style="bold yellow")
        out.append(f" {self._said('' if span is None else _duration(span)):>{_DURATION}} ")
        out.append_text(self._bar(row, axis))
        if details and span is not None and (said := _detail(span, decodes.get(span.span_id))):
            out.append(" " + self._fitted(said, details).rstrip(), style="dim")
        out.rstrip()
        return out

    def _bar(self, row: Row, axis: Axis) -> Text:
        cells = axis.blank()
        span = row.span
        if span is None:
            axis.paint(cells, [(s.start_ns, _end(s), WITHIN) for s in row.folded])
            return axis.draw(cells)
        top = span.span_id not in self._parents
        if top and self.analysis is not None:
            doing: Iterable[Interval] = _doing(self.analysis)
            if span.start_ns > self._begun:  # a run that resumed another: what came before it is drawn there
                begin = span.start_ns
                doing = [(max(a, begin), b, what) for a, b, what in doing if b > begin]
            axis.paint(cells, doing)
            return axis.draw(cells)
        end = _end(span) if span.end_ns is not None or self.analysis is None else self.analysis.end_ns
        parts = self._parts.get(span.span_id, [])
        leaf = span.span_id not in self._callers
        own = [(a.activity.start_ns, a.activity.end_ns, a.activity.kind) for a in parts if a.duration_ns or leaf]
        flags = axis.blank()
        axis.paint(flags, self._critical.get(span.span_id, ()))
        if leaf and (parts or self.analysis is None):
            axis.paint(cells, own or [(span.start_ns, end, "")])
        else:
            axis.paint(cells, own, least=0)
            axis.paint(cells, [(span.start_ns, end, WITHIN)])
        self._sides(cells, span, axis)
        if span.end_ns is None:
            cells[min(max(axis.cell(end) - 1, 0), axis.width - 1)] = OPEN
        if end < axis.low_ns or span.start_ns > axis.high_ns:
            cells[0 if end < axis.low_ns else -1] = BEYOND
        return axis.draw(cells, [bool(flag) for flag in flags])

    def _sides(self, cells: list[str], span: Span, axis: Axis) -> None:
        """What is before a span, and behind it."""
        if self.cut is None or span.span_id not in self.cut.ends:
            return
        first, last = (self._by_id.get(i) for i in self.cut.ends[span.span_id])
        if (held := self._held.get(span.span_id)) is not None:
            axis.paint(cells, [held], least=0)
        if first is not None and first.gap_ns > 0:
            start = first.activity.start_ns
            axis.paint(cells, [(start - first.gap_ns, start, GAP)], least=0)
        if last is not None and last.total_float_ns:
            end = last.activity.end_ns
            axis.paint(cells, [(end, end + last.total_float_ns, FLOAT)], least=0)

    def _said(self, text: str) -> str:
        """Text as the terminal can show it."""
        if self.unicode:
            return text
        for sign, plain in (("µ", "u"), ("→", "->"), ("…", "~")):
            text = text.replace(sign, plain)
        return text.encode("ascii", "backslashreplace").decode()

    def _fitted(self, text: str, width: int) -> str:
        return self._said(fitted(self._said(text), width))

    def _label(self, row: Row, width: int) -> str:
        return self._branches(row, width) + self._title(row)

    def _branches(self, row: Row, width: int) -> str:
        """What connects a row with those above it, in at most half the width: of what is deeper, the nearest levels."""
        if not row.lines:
            return ""
        more, last, through = ("├─ ", "└─ ", "│  ") if self.unicode else ("|- ", "`- ", "|  ")
        hidden = max(0, len(row.lines) - max(1, width // 6))
        above = "".join(through if goes_on else "   " for goes_on in row.lines[hidden:-1])
        return above + (more if row.lines[-1] else last)

    def _title(self, row: Row) -> str:
        if row.span is None:
            kinds = Counter(s.kind.value for s in row.folded)
            return f"{'…' if self.unicode else '...'} {len(row.folded)} more: " + ", ".join(
                f"{count} {kind}" for kind, count in kinds.most_common(3)
            )
        span = row.span
        name = short(last_part(span.step_key)) if span.kind is SpanKind.NODE else clean(span.name)
        return name.replace("execute_tool ", "tool ", 1) if span.kind is SpanKind.TOOL else name


def _doing(analysis: RunAnalysis) -> Iterator[Interval]:
    """What the critical path was doing; where a barrier alone held the next step up, that."""
    for s in analysis.critical_path:
        freed = s.end_ns - s.barrier_wait_ns
        yield s.start_ns, freed, s.kind
        yield freed, s.end_ns, BARRIER


def _detail(span: Span, decode: Decode | None) -> str:
    said = {"live": ["live"], "recording": ["played"]}.get(str(span.attributes.get(ANSWERED_BY)), [])
    if span.attributes.get(INTERRUPTED) or span.attributes.get(LEFT_BY):
        said.append(clean(str(span.attributes.get(LEFT_BY) or f"interrupted {span.attributes[INTERRUPTED]}")))
    if retries := span.attributes.get(RETRIES):
        said.append(f"{clean(str(retries))} retries inside")
    if span.status == "error":
        said.append(f"error: {clean(str(span.error))}")
    elif decode is not None:
        ttft = seconds(None if decode.ttft_ns is None else decode.ttft_ns / 1e9)
        tpot = seconds(None if decode.tpot_ns is None else decode.tpot_ns / 1e9)
        tokens = f"{_count(decode.input_tokens)}→{_count(decode.output_tokens)} tokens"
        said.append(f"{tokens}, TTFT {ttft}, TPOT {tpot}")
    return ", ".join(said)


def _count(tokens: int | None) -> str:
    return "?" if tokens is None else str(tokens)


def _end(span: Span) -> int:
    return span.start_ns if span.end_ns is None else span.end_ns


def _duration(span: Span) -> str:
    if span.duration_ns is None:
        return "open"
    if abs(span.duration_ns) < 100_000:
        return f"{span.duration_ns / 1e3:.1f} µs"
    hours = span.duration_ns / 3_600_000_000_000
    return f"{hours:.1f} h" if abs(hours) >= 2 else seconds(span.duration_ns / 1e9)
