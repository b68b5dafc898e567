"""How long what makes steps slower or faster stays: the difference between bad luck and a bad minute."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from statistics import NormalDist

_NORMAL = NormalDist()
_LAGS_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_FEWEST = 30


def lasting(times_s: Sequence[float], ratios: Sequence[float]) -> tuple[float, float]:
    """(share of the variance that stays, for how long, seconds) of noise measured at ascending times.

    From the correlation of normal scores at several distances in time, as share·exp(-distance/time); (0, 0) where
    nothing stays or too little was measured.
    """
    scores = _scores(ratios)
    found = [(lag, c) for lag in _LAGS_S if (c := _correlation(times_s, scores, lag)) is not None]
    near = [c for _, c in found[:2]]
    share = min(0.98, max(near, default=0.0))
    if share <= 0.05:
        return 0.0, 0.0
    decays = [lag / -math.log(min(c / share, 0.99)) for lag, c in found if c > 0.1 * share and lag > found[0][0]]
    decays.sort()
    return share, decays[len(decays) // 2] if decays else found[0][0]


def _scores(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    scores = [0.0] * len(values)
    for rank, place in enumerate(order):
        scores[place] = _NORMAL.inv_cdf((rank + 0.5) / len(values))
    return scores


def _correlation(times_s: Sequence[float], scores: Sequence[float], lag_s: float) -> float | None:
    """Of each step with the first that is about `lag_s` later."""
    products, count = 0.0, 0
    for place, time in enumerate(times_s):
        later = bisect_left(times_s, time + 0.75 * lag_s, place + 1)
        if later < len(times_s) and times_s[later] <= time + 1.5 * lag_s:
            products += scores[place] * scores[later]
            count += 1
    return products / count if count >= _FEWEST else None
