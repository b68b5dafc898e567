"""What a run would gain if a step took no time.

The drags of a step's parts do not add up: beside another branch, each of them may gain as much as that branch leaves,
and all of them together no more. So a step of several parts is taken out whole, and the run gone through once more.
"""

from __future__ import annotations

from collections.abc import Sequence

from redecode.dashboards.data import LoadedRun
from redecode.replay.analysis.changes import Scale
from redecode.replay.analysis.model import ActivityAnalysis
from redecode.replay.analysis.what_if import what_if
from redecode.tracer.bulk import uncollected

_ACTIVITIES_AT_ONCE = 100_000  # to go through about a quarter of a million takes some seconds


def affordable(loaded: LoadedRun) -> int:
    """How many steps of a run may be asked for on one page."""
    return 0 if loaded.cut is None else max(3, _ACTIVITIES_AT_ONCE // max(1, len(loaded.cut.activities)))


def gain_ns(loaded: LoadedRun, parts: Sequence[ActivityAnalysis]) -> int:
    """What the run gains without these activities."""
    critical = [p for p in parts if p.critical and p.duration_ns]
    if len(critical) < 2 or loaded.cut is None:
        return sum(p.drag_ns for p in critical)
    key = frozenset(p.id for p in critical)
    if key not in loaded.gains:
        with uncollected():
            loaded.gains[key] = what_if(loaded.cut, [Scale(p.id, 0.0) for p in critical]).gain_ns
    return loaded.gains[key]


def most_to_gain(loaded: LoadedRun) -> tuple[str, int] | None:
    """The span without whose own work the run gains most, and how much; `None` if no single one gains anything."""
    if loaded.analysis is None:
        return None
    parts: dict[str, list[ActivityAnalysis]] = {}
    for row in loaded.analysis.activities:
        if row.critical and row.duration_ns and row.activity.span_id:
            parts.setdefault(row.activity.span_id, []).append(row)
    likely = sorted(parts, key=lambda i: (-sum(p.drag_ns for p in parts[i]), i))[: min(8, affordable(loaded))]
    found = [(gain_ns(loaded, parts[span_id]), span_id) for span_id in likely]
    best, span_id = max(found, default=(0, ""), key=lambda entry: entry[0])
    return (span_id, best) if best > 0 else None
