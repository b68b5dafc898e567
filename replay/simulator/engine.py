"""What the simulator needs to know of an engine and its hardware."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, sqrt
from statistics import NormalDist

from redecode.replay.simulator.costs import StepCosts
from redecode.replay.simulator.rows import Limits

_NORMAL = NormalDist()
_SLOW_PARTS, _QUICK_PARTS = 8, 3
"""Draws that stand for a long jump: more would change its mean by little."""

Noise = Callable[[int, bool, int, int], float]
"""(steps, whether there is prefill in them, beginning, mean duration; ps) → what their time is multiplied by."""


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

    def at(self, share: float) -> float:
        """The value that this share of all is below."""
        place = min(max(share, 0.0), 1.0) * (len(self.quantiles) - 1)
        below = min(int(place), len(self.quantiles) - 2) if len(self.quantiles) > 1 else 0
        low = self.quantiles[below]
        high = self.quantiles[min(below + 1, len(self.quantiles) - 1)]
        return low + (high - low) * (place - below)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One kind of replica.

    Attributes:
        before_ps, before_token_ps: from sending a call until the engine has it, and more per token of its prompt.
        after_ps: from its last token until its caller has it.
        cold_start_ps: from starting a replica until it takes calls; also from one model to another.
        steps, prefills: measured over predicted time of steps without and with prefill, for noise.
        lasting: the share of that noise (of its variance, as a normal score) that stays for about `lasts_ps`: what else
            a machine does comes and goes more slowly than steps do.
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
    lasting: float = 0.0
    lasts_ps: int = 0
    before: Spread | None = None
    cost_per_s: float = 1.0

    def noise(self, rng: random.Random) -> Noise | None:
        """What times of steps are multiplied by, drawn; `None` if nothing was measured.

        A normal score, part of which is an Ornstein-Uhlenbeck process and part new in each step, put through the
        measured quantiles (a Gaussian copula): single steps are spread as measured, and near ones are alike.
        """
        steps, prefills = self.steps or self.prefills, self.prefills or self.steps
        if steps is None or prefills is None:
            return None
        slow_share, quick_share = sqrt(self.lasting), sqrt(1.0 - self.lasting)
        slow, at = rng.gauss(0.0, 1.0), 0
        lasts = max(1, self.lasts_ps)

        def draw(count: int, prefill: bool, now: int, duration: int) -> float:  # noqa: FBT001
            nonlocal slow, at
            spread = prefills if prefill else steps
            parts = min(_SLOW_PARTS, count, 1 + duration // lasts)
            quick = min(_QUICK_PARTS, max(1, count // parts))
            total = 0.0
            for part in range(parts):
                then = now + duration * part // parts
                kept = exp(-max(0, then - at) / lasts)
                slow, at = slow * kept + sqrt(1.0 - kept * kept) * rng.gauss(0.0, 1.0), then
                for _ in range(quick):
                    total += spread.at(_NORMAL.cdf(slow_share * slow + quick_share * rng.gauss(0.0, 1.0)))
            return total / (parts * quick)

        return draw
