"""Which candidates are out of the race before they have run on all cases.

Two rules, looked at after each block, all candidates on the same cases in the same order: (a) so many runs have missed
the SLO that its true rate is above what is allowed (exact binomial lower bound); (b) a candidate that is kept is better
on average than this one is at its best: its optimistic corner is dominated (as syftr's ParetoPruner does).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from redecode.optimizer.objectives import Goals, Measured, Outcome, measured
from redecode.optimizer.study.hypervolume import dominates

LEAST = 8
"""Runs before rule (b) is asked."""
_Z = 1.645
_ALPHA = 0.05


def lower_rate(misses: float, runs: float, alpha: float = _ALPHA) -> float:
    """Exact (Clopper-Pearson) one-sided lower bound of a rate; between whole numbers what lies between."""
    from scipy.stats import beta  # type: ignore[import-untyped]

    return 0.0 if misses == 0 else float(beta.ppf(alpha, misses, runs - misses + 1))


def upper_rate(misses: float, runs: float, alpha: float = _ALPHA) -> float:
    """Exact (Clopper-Pearson) one-sided upper bound of a rate, likewise."""
    from scipy.stats import beta

    return 1.0 if misses >= runs else float(beta.ppf(1 - alpha, misses + 1, runs - misses))


def least_quantile(ordered: Sequence[float], percentile: float, alpha: float = _ALPHA) -> float:
    """A lower bound of a quantile from order statistics, whatever the distribution; 0 if there is none.

    P(X_(r) <= quantile) = P(Bin(n, q) >= r): the greatest r for which that is at least 1 - alpha.
    """
    from scipy.stats import binom

    n, q = len(ordered), percentile / 100
    rank = int(binom.ppf(alpha, n, q)) if n else 0
    while rank > 0 and binom.sf(rank - 1, n, q) < 1 - alpha:
        rank -= 1
    return ordered[rank - 1] if rank > 0 else 0.0


def optimistic(found: Measured, outcomes: Sequence[Outcome], goals: Goals) -> tuple[float, float, float]:
    """The best that a candidate may well be: each objective at its one-sided 95 % bound."""
    n = max(found.scored, 1)
    shrunk = (found.error * n + 1) / (n + 2)  # Agresti and Coull: no spread seen is not no spread
    error_se = max(found.error_se if math.isfinite(found.error_se) else 1.0, math.sqrt(shrunk * (1 - shrunk) / (n + 2)))
    cost_se = found.cost_se if math.isfinite(found.cost_se) else found.cost
    seconds = sorted(o.seconds for o in outcomes)
    return (
        max(0.0, found.error - _Z * error_se),
        max(0.0, found.cost - _Z * cost_se),
        least_quantile(seconds, goals.percentile),
    )


def breaks_slo(outcomes: Sequence[Outcome], goals: Goals) -> str | None:
    """Why a candidate is out by rule (a)."""
    if goals.slo_s is None:
        return None
    misses = sum(goals.misses(o) for o in outcomes)
    bound = lower_rate(misses, len(outcomes))
    if bound <= goals.allowed:
        return None
    failed = [o.error for o in outcomes if o.error is not None]
    told = f" ({len(failed)} failed: {failed[0]})" if failed else ""
    least = f"at least {bound:.1%} do, {goals.allowed:.1%} may (95 % sure)"
    return f"{misses} of {len(outcomes)} runs missed the SLO{told}: {least}"


def dominated(outcomes: Sequence[Outcome], kept: Sequence[tuple[int, Measured]], goals: Goals) -> str | None:
    """Why a candidate is out by rule (b); `kept` are trials that ran on all cases and are feasible."""
    if len(outcomes) < LEAST:
        return None
    corner = optimistic(measured(outcomes, goals), outcomes, goals)
    for number, other in kept:
        if dominates(other.values, corner):
            return (
                f"trial {number} is better in all on average than this one is at its best, after {len(outcomes)} runs"
            )
    return None
