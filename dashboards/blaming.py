"""The blame table step by step, what may be changed in a what-if, and the command that measures one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redecode.dashboards.data import LoadedRun
from redecode.dashboards.gains import affordable, gain_ns
from redecode.replay import RunAnalysis
from redecode.replay.analysis.activities import RunActivities
from redecode.replay.analysis.model import ActivityAnalysis
from redecode.replay.closed_loop.scaling import names_of
from redecode.tracer import SpanKind

_LEAVES = frozenset({SpanKind.DECODE, SpanKind.TOOL, SpanKind.RETRIEVAL, SpanKind.PARSE, SpanKind.CACHE})
_MOST_STEPS = 200


@dataclass(slots=True)
class Row:
    """What one step did on the critical path, and off it; times in ns.

    Attributes:
        path_ns: its stretches of the critical path; over all rows they add up to the run's duration.
        budget_ns, burn_ns: of these stretches; `None` without a deadline.
        float_ns: the least total float of its parts; `None`: nothing waits for it.
        drag_ns: what the run gains without it; `None`: too many steps to find out for each.
        margin_ns: the least deadline slack of its parts.
    """

    step: str
    what: str
    path_ns: int = 0
    budget_ns: int | None = None
    burn_ns: int | None = None
    float_ns: int | None = None
    drag_ns: int | None = 0
    margin_ns: int | None = None
    profiled: bool = False


def table(loaded: LoadedRun, analysis: RunAnalysis, *, everything: bool = False) -> list[Row]:
    """A row per step (its gaps apart), worst first: by burn, or without a deadline by time on the path.

    Args:
        everything: steps that are not on the critical path, too.
    """
    rows: dict[tuple[str, bool], Row] = {}
    for line in analysis.blame:
        a = line.activity
        row = rows.setdefault(
            (a.step_key or a.id, line.gap), Row(a.step_key or a.id, "gap before" if line.gap else a.kind)
        )
        row.path_ns += line.duration_ns
        if line.gap:
            row.drag_ns = _plus(row.drag_ns, line.drag_ns)
        row.budget_ns = _plus(row.budget_ns, line.budget_ns)
        row.burn_ns = _plus(row.burn_ns, line.burn_ns)
        row.profiled = row.profiled or line.has_profile
        if not line.gap:
            row.float_ns = 0
    for found in analysis.activities:
        a = found.activity
        if not found.duration_ns:
            continue
        key = (a.step_key or a.id, False)
        if key not in rows and everything:
            rows[key] = Row(*key[:1], a.kind)
        if key in rows:
            row = rows[key]
            row.float_ns = _least(row.float_ns, found.total_float_ns)
            row.margin_ns = _least(row.margin_ns, found.deadline_slack_ns)
            if not row.path_ns:
                row.budget_ns = _plus(row.budget_ns, found.latency_budget_ns)
                row.burn_ns = _plus(row.burn_ns, found.burn_ns)
    _drags(loaded, analysis, [row for (_, gap), row in rows.items() if row.path_ns and not gap])
    worst = sorted(rows.values(), key=lambda r: (-(r.path_ns if r.burn_ns is None else r.burn_ns), -r.path_ns))
    return sorted(worst, key=lambda r: r.path_ns == 0)


def _drags(loaded: LoadedRun, analysis: RunAnalysis, rows: list[Row]) -> None:
    """Fill in the drags of the steps that took longest."""
    parts: dict[str, list[ActivityAnalysis]] = {}
    for found in analysis.activities:
        if found.critical and found.duration_ns:
            parts.setdefault(found.activity.step_key or found.id, []).append(found)
    rows.sort(key=lambda r: -r.path_ns)
    most = affordable(loaded)
    for row in rows:
        mine = parts.get(row.step, [])
        if len(mine) > 1:
            most -= 1
        row.drag_ns = gain_ns(loaded, mine) if len(mine) < 2 or most >= 0 else None


def _plus(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other


def _least(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def changeable(loaded: LoadedRun) -> list[str]:
    """Names of steps that a what-if may scale: tools and FMs by name (all their calls), then single steps, by drag."""
    if loaded.cut is None or loaded.analysis is None:
        return []
    drags: dict[str, int] = {}
    for row in loaded.analysis.activities:
        if row.critical:
            drags[row.activity.span_id] = drags.get(row.activity.span_id, 0) + row.drag_ns
    named: dict[str, int] = {}
    single: dict[str, int] = {}
    for span_id, span in loaded.cut.spans.items():
        if span.kind not in _LEAVES:
            continue
        drag = drags.get(span_id, 0)
        names = names_of(span)
        name = names[-1] if span.kind is not SpanKind.DECODE else span.name
        named[name] = named.get(name, 0) + drag
        if span.step_key:
            single[span.step_key] = single.get(span.step_key, 0) + drag
    by_drag = [sorted(found, key=lambda n: (-found[n], n)) for found in (named, single)]
    return list(dict.fromkeys([*by_drag[0], *by_drag[1]]))[:_MOST_STEPS]


def waiting(analysis: RunAnalysis, cut: RunActivities) -> list[str]:
    """Step keys of nodes that could begin or be done with sooner without a barrier."""
    if analysis.barrier_cost_ns <= 0:
        return []
    nodes = [s.step_key for s in cut.spans.values() if s.kind is SpanKind.NODE and s.step_key]
    return list(dict.fromkeys(nodes))[:_MOST_STEPS]


def arguments(run_id: str, factors: Mapping[str, float], loosened: Sequence[str]) -> list[str]:
    """Of the command that makes the same prediction, and holds it against replays."""
    out = [run_id[:12]]
    for step, factor in factors.items():
        # At once means the same for a tool, and of an FM call it is the only time a replay can give it.
        out += ["--step", f"{step}={factor:g}"] if factor else ["--cached", step]
    for step in loosened:
        out += ["--data-only", step]
    return [*out, "--measure"]


def command(run_id: str, factors: Mapping[str, float], loosened: Sequence[str]) -> str:
    """The same, to be typed."""
    return shlex.join(["redecode", "whatif", *arguments(run_id, factors, loosened)])
