"""How much a time varies from one replay to the next, so that noise is not taken for a change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import NamedTuple

# Student's t, two-sided 95 %, for 1, 2, ... degrees of freedom.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_T95_FAR = 1.960


class Band(NamedTuple):
    """Where one more measurement of the same thing falls 19 times of 20, if times are about normal.

    Attributes:
        n: measurements it comes from, at least 2.
        median_ns, low_ns, high_ns: the middle one, and the bounds (low is never below 0).
    """

    n: int
    median_ns: int
    low_ns: int
    high_ns: int

    def holds(self, value_ns: int) -> bool:
        """Whether a time is within it."""
        return self.low_ns <= value_ns <= self.high_ns


def band(values_ns: Sequence[int]) -> Band | None:
    """The prediction interval of repeated measurements (Hahn and Meeker 1991, eq. 4.7); `None` of fewer than 2.

    Two or three measurements know little about their spread, and the band is as wide as that.
    """
    n = len(values_ns)
    if n < 2:
        return None
    t = _T95[n - 2] if n - 2 < len(_T95) else _T95_FAR
    half = t * stdev(values_ns) * math.sqrt(1 + 1 / n)
    middle = fmean(values_ns)
    return Band(n, round(median(values_ns)), max(0, math.floor(middle - half)), math.ceil(middle + half))
