"""Which candidates of a search the decision is about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from redecode.optimizer.knobs import Config
from redecode.optimizer.objectives import Measured, nearest_rank
from redecode.optimizer.promotion.decide import Margins
from redecode.optimizer.promotion.pairs import failing
from redecode.optimizer.study.hypervolume import dominates, subset
from redecode.optimizer.study.search import Done


def finalists(
    done: Sequence[Done], incumbent: Config, margins: Margins, most: int = 3, *, percentile: float = 95.0
) -> list[Done]:
    """Feasible candidates within the margins of the incumbent that cover most of what is better than it.

    Where there is none, that may be noise in the numbers of either; those within it are for the decision to tell. As
    there, a run that failed at once is neither fast nor cheap.
    """
    if not done or done[0].config != incumbent:  # nothing to compare with
        return []
    now = done[0].measured
    limit: tuple[float, ...] = (now.error + margins.error, now.cost * margins.cost, now.latency_s * margins.latency)
    if not done[0].feasible:  # what it costs to keep the SLO at all is for the user to see
        kept: list[tuple[float, ...]] = [d.measured.values for d in done if d.feasible]
        limit = tuple(1.1 * max(v) for v in zip(limit, *kept, strict=True))
    whole = [
        (d, values)
        for d in done[1:]
        if d.feasible and d.why is None
        for values in [_values(done[0], d, percentile, beside=True)]
        if not dominates(now.values, values) and any(a < b for a, b in zip(values, now.values, strict=True))
    ]
    excess = [[v - a for v, a in zip(values, limit, strict=True)] for _, values in whole]
    noise = [[math.hypot(a, b) for a, b in zip(_noise(now), _noise(d.measured), strict=True)] for d, _ in whole]
    for allowed in ([[0.0] * len(limit)] * len(whole), noise):
        near = [
            one for one, over, most_over in zip(whole, excess, allowed, strict=True)
            if all(x <= y for x, y in zip(over, most_over, strict=True))
        ]  # fmt: skip
        if near:
            points = [_relative(_values(done[0], d, percentile, beside=False), limit) for d, _ in near]
            far = tuple(1.05 * max(1.0, *values) for values in zip(*points, strict=True))
            return [near[i][0] for i in subset(points, far, most)]
    return []


def _values(base: Done, one: Done, percentile: float, *, beside: bool) -> tuple[float, float, float]:
    """A candidate's objectives, where a run that failed, which is over sooner, takes and costs what the other did.

    Args:
        beside: the incumbent: its runs that failed count so, too, and it stays as it was measured, so a candidate is in
            proportion to it. Else beside other candidates.
    """
    both = [(ran, base.outcomes.get(case)) for case, ran in one.outcomes.items()]
    pairs = [(a, b or a) for a, b in both if b is not None or not beside]
    if not any(a.failed or (beside and b.failed) for a, b in pairs):
        return one.measured.values
    costs = failing((a.cost, b.cost, a.failed, beside and b.failed) for a, b in pairs)
    seconds = failing((a.seconds, b.seconds, a.failed, beside and b.failed) for a, b in pairs)
    cost, their_cost = map(fmean, costs)
    latency_s, their_latency_s = (nearest_rank(sorted(side), percentile) for side in seconds)
    if beside:
        cost = _in_proportion(base.measured.cost, cost, their_cost)
        latency_s = _in_proportion(base.measured.latency_s, latency_s, their_latency_s)
    return one.measured.error, cost, latency_s


def _in_proportion(base: float, ours: float, theirs: float) -> float:
    return base * ours / theirs if base > 0 and theirs > 0 else base + ours - theirs


def _noise(found: Measured) -> tuple[float, float, float]:
    """How far off the objectives of one candidate may be."""
    return 2 * found.error_se, 2 * found.cost_se, found.latency_s - found.median_s


def _relative(values: Sequence[float], limit: Sequence[float]) -> tuple[float, ...]:
    """Objectives as shares of what they may be; of what may be nothing as they are."""
    return tuple(v / m if m > 0 else v for v, m in zip(values, limit, strict=True))
