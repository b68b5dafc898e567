"""What a study's measurements say with their noise taken out: a Gaussian process over the knobs.

The candidate that looks best of hundreds is one that was lucky (the winner's curse). Each trial says something of its
neighbours, so the mean of a Gaussian process over all trials, at each of them, is a better guess of what it is worth
than its own measurement. Used to choose what a further study begins with; never told to a study as a value.

Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 and 5. The kernel is one of how many
categorical knobs differ and how far numbers are apart; its two scales and the noise are those of a small grid under
which the measurements are most likely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

from redecode.optimizer.knobs import Choice, Config, Range, Space

LEAST = 16
"""Trials below which nothing is smoothed: too few to learn how alike neighbours are."""
MOST = 800
"""Trials above which nothing is smoothed: time grows with the cube."""
_NOISE = (0.01, 0.03, 0.1, 0.3, 1.0)
_CATEGORICAL = (0.1, 0.3, 0.6, 1.0)
_NUMERIC = (1.0, 4.0)


def smoothed(space: Space, configs: Sequence[Config], values: Sequence[float]) -> list[float]:
    """The mean of a Gaussian process at each candidate; the values themselves where there are too few."""
    import numpy as np

    y = np.asarray(values, dtype=float)
    if not LEAST <= len(configs) <= MOST or not space.knobs or not np.isfinite(y).all() or float(y.std()) <= 1e-12:
        return [float(v) for v in values]
    spread = float(y.std())
    z = (y - y.mean()) / spread
    unlike, far = _distances(space, configs)
    best, found = -math.inf, z
    for categorical, numeric in product(_CATEGORICAL, _NUMERIC):
        kernel = np.exp(-categorical * unlike - numeric * far)
        for noise in _NOISE:
            lower = np.linalg.cholesky(kernel + noise * np.eye(len(z)))
            weights = np.linalg.solve(lower.T, np.linalg.solve(lower, z))
            likelihood = float(-0.5 * z @ weights - np.log(np.diag(lower)).sum())
            if likelihood > best:
                best, found = likelihood, kernel @ weights
    return [float(v) for v in found * spread + y.mean()]


def _distances(space: Space, configs: Sequence[Config]) -> tuple[Any, Any]:
    """Between all pairs: how many categorical knobs differ, and the squared distance of numbers on 0 to 1.

    A number that one of two candidates does not have is half its range away.
    """
    import numpy as np

    count = len(configs)
    unlike, far = np.zeros((count, count)), np.zeros((count, count))
    for name, knob in space.knobs.items():
        if isinstance(knob, Choice):
            places = {(type(label), label): n for n, label in enumerate(knob.labels)}
            codes = np.asarray([places.get((type(c[name]), c[name]), -2) if name in c else -1 for c in configs])
            unlike += codes[:, None] != codes[None, :]
            continue
        at = np.asarray([_place(knob, float(c[name] or 0)) if name in c else math.nan for c in configs])
        apart = (at[:, None] - at[None, :]) ** 2
        one = np.isnan(at)[:, None] ^ np.isnan(at)[None, :]
        far += np.where(one, 0.25, np.nan_to_num(apart))
    return unlike, far


def _place(knob: Range, value: float) -> float:
    low, high, x = (math.log(v) for v in (knob.low, knob.high, value)) if knob.log else (knob.low, knob.high, value)
    return (x - low) / (high - low) if high > low else 0.0
