"""A run's time in tables: along its critical path, step by step, and by blame. What adds up, adds up as printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from redecode.cli.screen import Unit, grid, short
from redecode.replay import Activity, ActivityKind, RunAnalysis
from redecode.replay.analysis import PathSegment, TimeSplit
from redecode.tracer import EdgeKind, Provenance

ROWS = 60
_LEAST_SHARE = 0.01

_KINDS = {
    ActivityKind.FM: "FM call",
    ActivityKind.TRANSPORT: "network",
    ActivityKind.CODE: "own code",
    ActivityKind.PERSON: "a person",
}
_SPLIT = {
    "queue_ns": "queue",
    "prefill_ns": "prefill",
    "decode_ns": "decode",
    "fm_ns": "rest of FM calls",
    "tool_ns": "tools",
    "code_ns": "own code",
    "framework_ns": "framework",
    "barrier_wait_ns": "barrier wait",
    "person_ns": "a person",
}


def kind_words(kind: str) -> str:
    """A kind of activity, on a screen."""
    return _KINDS.get(ActivityKind(kind), kind) if kind in list(ActivityKind) else "own code"


def split_line(split: TimeSplit) -> str:
    """Where the time went, largest first; the shares are of the critical path, which is the run's duration."""
    total = split.total_ns
    unit = Unit.of(total)
    parts = sorted(((ns, _SPLIT[name]) for name, ns in split.to_json().items()), key=lambda part: (-part[0], part[1]))
    shown = [part for part in parts if part[0] >= total * _LEAST_SHARE]
    if rest := total - sum(ns for ns, _ in shown):
        shown.append((rest, "other"))
    times = unit.adding_up([ns for ns, _ in shown])
    said = [f"{name} {unit.show(ns)} ({ns / total:.0%})" for ns, (_, name) in zip(times, shown, strict=True)]
    return " + ".join(said) + f" = {unit.show(sum(times))} {unit.name}"


def step_of(activity: Activity, *, gap: bool = False) -> str:
    """A step and which part of it, on a screen; parts that go by their kind are told by that."""
    name, part = short(activity.step_key or activity.id), activity.part
    if gap:
        return f"{name}, gap before {'its end' if part == 'end' else 'it'}"
    return name if part in ("", "start", "end", activity.kind) else f"{name}, {short(part)}"


def critical_table(analysis: RunAnalysis, width: int, *, everything: bool) -> Iterator[Text]:
    """The critical path from start to end. Neighbours too short to matter share a line."""
    unit, origin, total = Unit.of(analysis.makespan_ns), analysis.start_ns, max(analysis.makespan_ns, 1)
    rows = []
    for group in _groups(analysis.critical_path, everything=everything):
        start, end = unit.shown_ns(group[0].start_ns - origin), unit.shown_ns(group[-1].end_ns - origin)
        share = sum(s.duration_ns for s in group) / total
        held = sum(s.barrier_wait_ns for s in group)
        first = group[0]
        what, after = "gap" if first.gap else kind_words(first.kind), _waited(first)
        if len(group) > 1:
            what, after = f"{len(group)} short", ""
        rows.append((
            unit.show(start), unit.show(end - start), f"{share:.1%}", unit.show(held) if held else "", after, what,
            step_of(first.activity) + (" …" if len(group) > 1 else ""),
        ))  # fmt: skip
    rows.append(("", unit.show(unit.shown_ns(analysis.makespan_ns)), "100.0%", "", "", "in all", ""))
    barriers = any(s.barrier_wait_ns for s in analysis.critical_path)
    header = [f"at, {unit.name}", unit.name, "share", "of it barrier", "after a", "what", "step"]
    keep = [n for n in range(len(header)) if n != 3 or barriers]
    chosen = [[row[n] for n in keep] for row in rows]
    yield from grid([header[n] for n in keep], chosen, width, last="bold")


def _groups(path: Sequence[PathSegment], *, everything: bool) -> list[list[PathSegment]]:
    """Segments one by one, or the short ones with their neighbours."""
    if everything:
        return [[s] for s in path]
    enough = sum(s.duration_ns for s in path) * _LEAST_SHARE
    longest = sorted(path, key=lambda s: -s.duration_ns)[: ROWS // 2]
    alone = {id(s) for s in longest if s.duration_ns >= enough}
    groups: list[list[PathSegment]] = []
    for segment in path:
        if id(segment) not in alone and groups and id(groups[-1][-1]) not in alone:
            groups[-1].append(segment)
        else:
            groups.append([segment])
    return groups


def _waited(segment: PathSegment) -> str:
    if segment.edge is None:
        return ""
    guessed = " (by time)" if segment.provenance is Provenance.TIME else ""
    if segment.edge is EdgeKind.CALL and not guessed:
        return ""
    return segment.edge.value + guessed


def float_table(analysis: RunAnalysis, width: int, *, everything: bool) -> Iterator[Text]:
    """Every activity that took time: duration, floats, drag and, under a deadline, its share of it."""
    unit, deadline = Unit.of(analysis.makespan_ns), analysis.deadline_ns is not None
    rows = [r for r in analysis.activities if r.duration_ns]
    shown = rows
    if not everything:
        longest = sorted(rows, key=lambda r: (-r.drag_ns, _least(r.total_float_ns), -r.duration_ns))
        enough = analysis.makespan_ns * _LEAST_SHARE
        kept = {r.id for r in longest[:ROWS] if r.duration_ns >= enough}
        shown = [r for r in rows if r.id in kept]
    header = [unit.name, "float", "free", "drag", *(["deadline", "budget", "burn"] if deadline else []), "", "what",
              "step"]  # fmt: skip
    table = []
    for r in shown:
        own = [unit.show(v) for v in (r.duration_ns, r.total_float_ns, r.free_float_ns, r.drag_ns)]
        if deadline:
            own += [unit.show(r.deadline_slack_ns), unit.show(r.latency_budget_ns), unit.show(r.burn_ns, signed=True)]
        table.append([*own, "●" if r.critical else " ", kind_words(r.activity.kind), step_of(r.activity)])
    yield from grid(header, table, width)
    if len(shown) < len(rows):
        yield Text(f"and {len(rows) - len(shown)} more, short or with less drag; --all shows them", style="dim")


def _least(value: int | None) -> float:
    return float("inf") if value is None else value


@dataclass(frozen=True, slots=True)
class _Line:
    duration_ns: int
    budget_ns: int | None
    burn_ns: int | None
    drag_ns: int | None
    what: str
    step: str


def blame_table(analysis: RunAnalysis, width: int, *, everything: bool) -> Iterator[Text]:
    """The critical path, worst first; durations add up to the run's, burns to what it is over its deadline by."""
    unit, deadline = Unit.of(analysis.makespan_ns), analysis.deadline_ns is not None
    blame = analysis.blame
    lines = [
        _Line(
            b.duration_ns, b.budget_ns, b.burn_ns, b.drag_ns, "gap" if b.gap else kind_words(b.activity.kind),
            step_of(b.activity, gap=b.gap) + ("" if b.has_profile or not deadline or b.gap else " *"),
        )
        for b in blame
    ]  # fmt: skip
    if not everything:
        least = analysis.makespan_ns * _LEAST_SHARE
        most = sorted(lines, key=lambda line: -max(line.duration_ns, abs(line.burn_ns or 0)))[:ROWS]
        told = {id(line) for line in most if max(line.duration_ns, abs(line.burn_ns or 0)) >= least}
        if rest := [line for line in lines if id(line) not in told]:
            lines = [line for line in lines if id(line) in told]
            lines.append(_together(rest, f"and {len(rest)} more; --all shows them"))
    total = _together(lines, "in all")
    durations = unit.adding_up([line.duration_ns for line in lines])
    burns = unit.adding_up([line.burn_ns or 0 for line in lines])
    header = [unit.name, "share", "drag", *(["budget", "burn"] if deadline else []), "what", "step"]
    rows = []
    for line, duration, burn in zip([*lines, total], [*durations, sum(durations)], [*burns, sum(burns)], strict=True):
        share = line.duration_ns / max(analysis.makespan_ns, 1)
        row = [unit.show(duration), f"{share:.1%}", "" if line.drag_ns is None else unit.show(line.drag_ns)]
        if deadline:
            row += [unit.show(line.budget_ns), "-" if line.burn_ns is None else unit.show(burn, signed=True)]
        rows.append([*row, line.what, line.step])
    yield from grid(header, rows, width, last="bold")
    yield from (Text(words, style="dim") for words in _budget_words(analysis, total.burn_ns))


def _together(lines: Sequence[_Line], step: str) -> _Line:
    budgets = [line.budget_ns for line in lines if line.budget_ns is not None]
    burns = [line.burn_ns for line in lines if line.burn_ns is not None]
    return _Line(
        sum(line.duration_ns for line in lines), sum(budgets) if budgets else None, sum(burns) if burns else None,
        None, "", step,
    )  # fmt: skip


def _budget_words(analysis: RunAnalysis, burnt: int | None) -> Iterator[str]:
    if analysis.headroom_ns is None:
        yield "no SLO: worst is what took longest; --slo 2s shares that out as budgets"
        return
    unit = Unit.of(analysis.makespan_ns)
    if burnt is not None:
        over = -analysis.headroom_ns
        shown = [unit.show(ns, signed=True) for ns in unit.adding_up([over, burnt - over])]
        yield (
            f"burn {unit.show(unit.shown_ns(burnt), signed=True)} {unit.name} = {shown[0]} (the run's end - its "
            f"deadline) {shown[1]} (of the SLO's time, in no budget on this path)"
        )
    match analysis.budgets_from:
        case "recorded":
            yield "budgets share out this run's own durations (*): no other run of this agent gives profiles"
        case "both":
            yield "* no profile from other runs: this run's own duration stands in"
