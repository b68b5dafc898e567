"""Parallel coordinates of a study: an axis for each knob and objective, and where the line of each trial passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redecode.dashboards.tuned import OBJECTIVES, Report, Trial
from redecode.dashboards.words import visible

MOST = 1500
"""Trials that are drawn: the newest."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis.

    Attributes:
        ticks: (place from 0, below, to 1; what stands there).
        at: where each trial passes; `None` where the knob does not matter: below the axis.
        said: what each trial has there.
    """

    name: str
    knob: bool
    ticks: list[tuple[float, str]]
    at: list[float | None]
    said: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain data for the drawing."""
        return {name: getattr(self, name) for name in self.__slots__}


def axes_of(report: Report, names: Sequence[tuple[str, str]]) -> list[Axis]:
    """Knobs, those that explain most first, then objectives.

    Args:
        names: (objective, what it is called).
    """
    trials = report.trials[-MOST:]
    weight = {k: sum(report.importances.get(o, {}).get(k, 0.0) for o in OBJECTIVES) for k in report.knobs}
    out = [_knob(name, report.knobs[name], trials) for name in sorted(report.knobs, key=lambda k: -weight[k])]
    for objective, called in names:
        values = [t.measured.value(objective) for t in trials]
        out.append(_numbers(called, values, knob=False, log=False))
    return out


def _knob(name: str, described: dict[str, Any], trials: Sequence[Trial]) -> Axis:
    values = [t.candidate.get(name) for t in trials]
    if "choices" not in described:
        numbers = [float(v) if isinstance(v, int | float) and not isinstance(v, bool) else None for v in values]
        return _numbers(name, numbers, knob=True, log=bool(described.get("log")))
    known = [*described["choices"], *(v for v in values if v is not None)]
    choices = list(dict.fromkeys(visible(str(v)) for v in known))
    place = {c: (n + 0.5) / len(choices) for n, c in enumerate(choices)}
    at = [None if name not in t.candidate else place[visible(str(t.candidate[name]))] for t in trials]
    said = ["does not matter" if p is None else visible(str(v)) for p, v in zip(at, values, strict=True)]
    return Axis(visible(name), knob=True, ticks=[(p, c) for c, p in place.items()], at=at, said=said)


def _numbers(name: str, values: Sequence[float | None], *, knob: bool, log: bool) -> Axis:
    known = [v for v in values if v is not None and math.isfinite(v)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    log = log and low > 0
    scale = math.log if log else float

    def place(value: float) -> float:
        return 0.5 if high == low else (scale(value) - scale(low)) / (scale(high) - scale(low))

    ends = [low] if high == low else [low, (math.sqrt(low * high) if log else (low + high) / 2), high]
    at = [None if v is None else place(v) for v in values]
    said = ["does not matter" if v is None else f"{v:.4g}" for v in values]
    return Axis(visible(name), knob=knob, ticks=[(place(v), f"{v:.3g}") for v in ends], at=at, said=said)
