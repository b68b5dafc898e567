"""What the simulator needs to know of an engine and its hardware."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redecode.replay.simulator.costs import StepCosts
from redecode.replay.simulator.rows import Limits

_ALIKE = 4
"""From so many steps on, the mean of their errors is taken as normal."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution by its quantiles at equal distances, the least and the greatest included."""

    quantiles: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float], parts: int = 100) -> Spread:
        """Of measured values."""
        ordered = sorted(values)
        last = len(ordered) - 1
        return cls(tuple(ordered[round(i * last / parts)] for i in range(parts + 1)) if ordered else ())

    def mean(self) -> float:
        """By the trapezoid rule."""
        q = self.quantiles
        return q[0] if len(q) == 1 else (sum(q) - (q[0] + q[-1]) / 2) / (len(q) - 1)

    def deviation(self) -> float:
        """Standard deviation, likewise."""
        q, mean = self.quantiles, self.mean()
        return float((sum((x - mean) ** 2 for x in q) / len(q)) ** 0.5)

    def at(self, share: float) -> float:
        """The value that this share of all is below."""
        place = min(max(share, 0.0), 1.0) * (len(self.quantiles) - 1)
        below = min(int(place), len(self.quantiles) - 2) if len(self.quantiles) > 1 else 0
        low = self.quantiles[below]
        high = self.quantiles[min(below + 1, len(self.quantiles) - 1)]
        return low + (high - low) * (place - below)

    def share_below(self, value: float) -> float:
        """The share of all that is below."""
        return bisect_right(self.quantiles, value) / len(self.quantiles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One kind of replica.

    Attributes:
        before_ps, before_token_ps: from sending a call until the engine has it, and more per token of its prompt.
        after_ps: from its last token until its caller has it.
        cold_start_ps: from starting a replica until it takes calls; also from one model to another.
        steps, prefills: measured over predicted time of steps without and with prefill, for noise.
        before: measured over mean of `before_ps`, likewise.
        cost_per_s: of a replica, in any unit.
    """

    costs: StepCosts
    limits: Limits
    model: str = ""
    hardware: str = ""
    before_ps: int = 0
    before_token_ps: int = 0
    after_ps: int = 0
    cold_start_ps: int = 0
    steps: Spread | None = None
    prefills: Spread | None = None
    before: Spread | None = None
    cost_per_s: float = 1.0

    def noise(self, rng: random.Random) -> Callable[[int, bool], float] | None:
        """What times of steps are multiplied by, drawn; `None` if nothing was measured."""
        if self.steps is None and self.prefills is None:
            return None
        measured = {True: self.prefills or self.steps, False: self.steps or self.prefills}
        known = {kind: (s, s.mean(), s.deviation()) for kind, s in measured.items() if s is not None}

        def draw(steps: int, prefill: bool) -> float:  # noqa: FBT001
            spread, mean, deviation = known[prefill]
            if steps >= _ALIKE:
                return max(0.01, float(mean + deviation * rng.gauss(0.0, 1.0) / steps**0.5))
            return sum(spread.at(rng.random()) for _ in range(steps)) / steps

        return draw
