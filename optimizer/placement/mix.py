"""Which hardware serves a mix of requests at the least cost: an integer programme, solved by HiGHS.

After Mélange (Griggs et al., arXiv 2404.14527): requests fall into buckets by size, each kind of replica serves each
bucket at some rate within the SLO (`rates`, 0: it cannot), and a bucket's load may be shared out. Minimise the cost of
whole replicas so that nobody is asked for more than it can do:

    min Σ_g cost_g·n_g   with   Σ_b share_bg·load_b / rate_bg ≤ n_g,   Σ_g share_bg = 1,   n_g ≤ most_g whole
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redecode.optimizer.placement.errors import PlacementError


@dataclass(frozen=True, slots=True)
class Bucket:
    """Requests of one size.

    Attributes:
        per_s: how many come.
        rates: that one replica of each kind serves per second if it does nothing else; 0 if it cannot meet the SLO.
    """

    name: str
    per_s: float
    rates: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MixPlan:
    """How many replicas of each kind, and which part of each bucket goes to each (bucket by kind)."""

    replicas: tuple[int, ...]
    cost: float
    shares: tuple[tuple[float, ...], ...]


def cheapest_mix(buckets: Sequence[Bucket], costs: Sequence[float], most: Sequence[int]) -> MixPlan:
    """The cheapest whole numbers of replicas that serve all of it.

    Args:
        costs: of a replica of each kind; `most`: how many there may be.

    Raises:
        PlacementError: a bucket that no kind can serve, or more than all of them can do.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp  # type: ignore[import-untyped]

    kinds = len(costs)
    for bucket in buckets:
        if not any(rate > 0 for rate in bucket.rates):
            raise PlacementError(f"no hardware serves {bucket.name} within the SLO")
    columns = kinds + len(buckets) * kinds
    objective = np.zeros(columns)
    objective[:kinds] = costs
    upper = np.ones(columns)
    upper[:kinds] = most
    asked = np.zeros((kinds, columns))
    whole = np.zeros((len(buckets), columns))
    for row, bucket in enumerate(buckets):
        for kind, rate in enumerate(bucket.rates):
            column = kinds + row * kinds + kind
            whole[row, column] = 1.0
            if rate > 0:
                asked[kind, column] = bucket.per_s / rate
            else:
                upper[column] = 0.0
    for kind in range(kinds):
        asked[kind, kind] = -1.0
    integer = np.zeros(columns)
    integer[:kinds] = 1
    constraints = [LinearConstraint(asked, -np.inf, 0.0)]
    if buckets:
        constraints.append(LinearConstraint(whole, 1.0, 1.0))
    found = milp(objective, integrality=integer, bounds=Bounds(0.0, upper), constraints=constraints)
    if found.x is None:
        raise PlacementError("all replicas that there may be cannot serve this load")
    replicas = tuple(round(float(x)) for x in found.x[:kinds])
    shares = tuple(
        tuple(float(x) for x in found.x[kinds + row * kinds : kinds + (row + 1) * kinds]) for row in range(len(buckets))
    )
    return MixPlan(replicas, sum(n * c for n, c in zip(replicas, costs, strict=True)), shares)
