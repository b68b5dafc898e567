"""When a search ends: budgets of time, FM calls and cost; nothing new found; a file that says stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from redecode.optimizer.evaluation.placing import without_placement
from redecode.optimizer.study.hypervolume import front, hypervolume, scaled
from redecode.optimizer.study.search import Done

PATIENCE = 30
"""Trials without gain after which a search ends."""
_GAIN = 0.005


@dataclass(slots=True, kw_only=True)
class Budget:
    """What may be spent, and what was; each is kept to within a block of cases.

    Attributes:
        seconds, calls, cost: at most so much; `None` is no limit. Calls and cost are those an engine answered.
        used: seconds of these that had gone by when it began.
        now: a clock that only goes forward, seconds.
        stop_file: ends it when it is there.
    """

    now: Callable[[], float]
    seconds: float | None = None
    calls: int | None = None
    cost: float | None = None
    used: float = 0.0
    stop_file: Path | None = None
    began: float = 0.0
    spent_calls: int = 0
    spent_cost: float = 0.0

    def __post_init__(self) -> None:
        self.began = self.now()

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return self.now() - self.began

    def spend(self, calls: int, cost: float) -> None:
        """Count what was spent."""
        self.spent_calls += calls
        self.spent_cost += cost

    def over(self, share: float = 1.0) -> str | None:
        """Why to end, if this share of a budget is used up: the search's, where it is not all.

        Of time it is a share of what was left when this began.
        """
        if self.stop_file is not None and self.stop_file.exists():
            return f"{self.stop_file.name} says stop"
        if self.seconds is not None and (why := self._late(self.seconds, share)) is not None:
            return why
        if self.calls is not None and self.spent_calls >= self.calls * share:
            limit = _limit("make", str(self.calls), f"{self.calls * share:.0f}")
            return f"{self.spent_calls} FM calls were made, {limit}"
        if self.cost is not None and self.spent_cost >= self.cost * share:
            limit = _limit("spend", f"{self.cost:g}", f"{self.cost * share:g}")
            return f"{self.spent_cost:.4g} were spent, {limit}"
        return None

    def _late(self, cap: float, share: float) -> str | None:
        whole = share == 1 or self.used >= cap
        until = cap if whole else self.used + (cap - self.used) * share
        if (gone := self.used + self.elapsed) < until:
            return None
        if whole:
            return f"the time is used up ({seconds(gone)} s of {seconds(cap)} s)"
        return (
            f"the search's time is used up ({seconds(gone)} s, of the {seconds(until)} s that it may take of "
            f"{seconds(cap)} s; {_REST})"
        )


_REST = "the rest is for the decision"


def _limit(verb: str, cap: str, share: str) -> str:
    """A limit as somebody has set it, and the search's share of it, if that is what was reached."""
    return f"of at most {cap}" if share == cap else f"of the {share} that the search may {verb} of {cap} ({_REST})"


def seconds(value: float) -> str:
    """Whole ones, but of few the tenths too: a cap of half a second is not one of none."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def stagnant(done: Sequence[Done], patience: int = PATIENCE) -> str | None:
    """Why to end, if the last candidates that ran added next to nothing to what the feasible front covers.

    Those that differ from earlier ones in their placement alone do not run.
    """
    first: dict[str, Done] = {}
    for d in done:
        first.setdefault(json.dumps(without_placement(d.config), sort_keys=True), d)
    ran = list(first.values())
    if len(ran) < 2 * patience:
        return None
    feasible = [d for d in done if d.feasible]
    if not feasible:
        return None
    points = [d.measured.values for d in feasible]
    low = [min(v) for v in zip(*points, strict=True)]
    high = [max(v) for v in zip(*points, strict=True)]
    reference = (1.1,) * len(low)
    before = [d.measured.values for d in feasible if d.number < ran[-patience].number]
    now_covers, then_covers = (_covers(p, low, high, reference) for p in (points, before))
    if now_covers - then_covers >= _GAIN * now_covers:
        return None
    return f"the last {patience} candidates added nothing to the front"


def _covers(
    points: Sequence[Sequence[float]], low: Sequence[float], high: Sequence[float], reference: Sequence[float]
) -> float:
    best = [points[i] for i in front(points)]
    return hypervolume(scaled(best, low, high), reference)
