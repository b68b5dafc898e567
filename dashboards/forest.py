"""Finalists against the incumbent, and trials against each other, as charts have it: rows of plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from redecode.dashboards.tuned import Report
from redecode.dashboards.words import visible

EFFECTS = ("error", "cost", "latency")
_MOST = math.log(11)


@dataclass(frozen=True, slots=True)
class Forest:
    """One objective: per finalist an estimate with its bounds, and how far worse it may be.

    Attributes:
        unit: "points" of error, or "%".
        rows: finalist, verdict, estimate, low, high, and whether the interval stays within the margin.
    """

    name: str
    unit: str
    margin: float | None
    rows: list[dict[str, Any]]


def forests(report: Report) -> list[Forest]:
    """A chart for each objective that finalists were compared in."""
    decision = report.decision
    if decision is None:
        return []
    out = []
    for name in EFFECTS:
        margin = decision.margins.get(name)
        shown = None if margin is None else margin * 100 if name == "error" else (margin - 1) * 100
        rows = []
        for finalist in decision.finalists:
            effect = finalist.effects.get(name)
            if effect is None:
                continue
            low, high = (None if v is None else _shown(name, v) for v in (effect.low, effect.high))
            rows.append(
                {
                    "finalist": visible(finalist.name),
                    "verdict": finalist.verdict,
                    "estimate": _shown(name, effect.estimate),
                    "low": low,
                    "high": high,
                    "is": _is(low, high, shown),
                }
            )
        if rows:
            out.append(Forest(name, "points" if name == "error" else "%", shown, rows))
    return out


def _shown(name: str, value: float) -> float:
    """Points of error; per cent of cost and latency, whose effects are logarithms of a ratio; as far as charts go."""
    return value * 100 if name == "error" else math.expm1(min(value, _MOST)) * 100


def _is(low: float | None, high: float | None, margin: float | None) -> str:
    if high is None or low is None:
        return "not known"
    if high < 0:
        return "better"
    if margin is not None and high <= margin:
        return "within the margin"
    return "worse than the margin" if margin is not None and low > margin else "not certain"


def points(report: Report, x: str, y: str) -> list[dict[str, Any]]:
    """A row for each trial that has both values."""
    rows = []
    for trial in report.trials:
        across, up = trial.measured.value(x), trial.measured.value(y)
        if across is None or up is None:
            continue
        what = ", ".join(f"{k}={v}" for k, v in trial.candidate.items())
        rows.append(
            {
                "trial": trial.number,
                "x": across,
                "y": up,
                "is": report.standing(trial),
                "candidate": visible(what)[:300],
            }
        )
    return rows
