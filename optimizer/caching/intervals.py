"""How sure a rate is, from counts.

Wilson's interval for how often something happens (E. B. Wilson, JASA 22, 1927); Clopper and Pearson's exact bounds for
what must not happen (Biometrika 26, 1934): their upper bound is at least the true rate in at least `confidence` of all
samples. Where some of it happens for another reason, the bound is a ratio of tails (A. L. Read's CLs, J. Phys. G 28,
2002): it stays above the true rate as often, and says nothing of what cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist


def wilson(hits: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of a rate; (0, 1) of nothing."""
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, square = hits / trials, z * z
    middle = (rate + square / (2 * trials)) / (1 + square / trials)
    half = z * ((rate * (1 - rate) + square / (4 * trials)) / trials) ** 0.5 / (1 + square / trials)
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == trials else middle + half)


def upper(bad: int, trials: int, *, confidence: float = 0.95, floor: float = 0.0) -> float:
    """One-sided exact upper bound of a rate; 1 of nothing.

    Args:
        floor: how often what is good looks bad. Then d = q + (1 - q) floor look bad, and the bound is that of q. It is
            where P(at most `bad` | d) is 1 - confidence of what it is without any q; of no floor, the usual one.
    """
    if bad >= trials:
        return 1.0
    from scipy.special import betainc, betaincinv  # type: ignore[import-untyped]

    seen = float(betaincinv(bad + 1, trials - bad, confidence))
    if not 0 < floor <= seen:  # a floor above what is seen is not that of these trials
        return seen
    tail = (1 - confidence) * betainc(trials - bad, bad + 1, 1 - floor)
    return float(1 - betaincinv(trials - bad, bad + 1, tail) / (1 - floor))


def lower(bad: int, trials: int, *, confidence: float = 0.95) -> float:
    """One-sided exact lower bound of a rate; 0 of nothing."""
    if bad == 0 or trials == 0:
        return 0.0
    from scipy.special import betaincinv

    return float(betaincinv(bad, trials - bad + 1, 1 - confidence))


def trials_needed(
    rate: float,
    budget: float,
    *,
    confidence: float,
    most: int = 10_000_000,
    floor: Callable[[int], float] = lambda _: 0.0,
) -> int | None:
    """Trials after which the upper bound is within a budget, if bad ones keep coming at a rate; `None`: never.

    Args:
        floor: as `upper`, as far as it is known after so many trials.
    """
    if not 0 <= rate < 1:
        return None
    least = min(floor(most), rate)
    if (rate - least) / (1 - least) >= budget:
        return None

    def within(trials: int) -> bool:
        bad = round(rate * trials)
        return upper(bad, trials, confidence=confidence, floor=min(floor(trials), rate)) <= budget

    high = 1
    while not within(high):
        high *= 2
        if high > most:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if within(middle) else (middle, high)
    return high
