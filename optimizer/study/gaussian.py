"""A Gaussian process over the knobs: what a candidate is worth, by all that were measured, and how sure that is.

Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 and 5. Two candidates are alike by
exp(-Σ weight · distance) over the knobs: a categorical one is 0 or 1 away, a number the square of how far it is on
0 to 1. Weights and noise are those under which the measurements are most likely, weights that are far from common
paying for it (so that a few trials do not make a knob all that matters).

With it the noise is taken out of measurements, too (`smoothed`): the candidate that looks best of hundreds is one that
was lucky (the winner's curse). That is used to choose what a further study begins with, and never told to a study.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from redecode.optimizer.knobs import Choice, Config, Range, Space

LEAST = 16
"""Trials below which nothing is smoothed: too few to learn how alike neighbours are."""
MOST = 800
"""Trials above which nothing is smoothed: time grows with the cube."""
_Array = np.ndarray[Any, np.dtype[np.float64]]
_NOISE = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_COMMON = (0.1, 0.3, 1.0, 3.0)
_NUMBERS = 4.0
"""Of a number the weight is so many times that of a categorical knob, to begin with: squares on 0 to 1 are small."""
_FITTED = 160
"""Measurements, evenly over all of them, that weights and noise are found with: time grows with the cube."""
_SWEEPS = 2
_STEP = math.log(3.0)
_WIDTH = 1.5
"""Standard deviation of a weight's logarithm around the common one, before anything was measured."""


def distances(space: Space, some: Sequence[Config], others: Sequence[Config]) -> _Array:
    """By knob, of `some` and `others`: an array of (knobs, some, others)."""
    out = np.zeros((len(space.knobs), len(some), len(others)))
    for place, (name, knob) in enumerate(space.knobs.items()):
        a, b = _places(name, knob, some), _places(name, knob, others)
        if isinstance(knob, Choice):
            out[place] = a[:, None] != b[None, :]
        else:  # one that has not got it is in the middle of the range and half of it aside
            absent = np.isnan(a)[:, None] ^ np.isnan(b)[None, :]
            out[place] = np.square(np.nan_to_num(a, nan=0.5)[:, None] - np.nan_to_num(b, nan=0.5)[None, :])
            out[place] += 0.25 * absent
    return out


def _places(name: str, knob: Choice | Range, configs: Sequence[Config]) -> _Array:
    """Where each has the knob: a number for each value (one for "not at all"), or a place on 0 to 1 (nan)."""
    if isinstance(knob, Choice):
        codes = {(type(label), label): n for n, label in enumerate(knob.labels)}
        # a value that the knob has no more is unlike every other
        return np.asarray([codes.get((type(c[name]), c[name]), -1) if name in c else -2 for c in configs], float)
    return np.asarray([_place(knob, float(c[name] or 0)) if name in c else math.nan for c in configs], float)


def _place(knob: Range, value: float) -> float:
    low, high, x = (math.log(v) for v in (knob.low, knob.high, value)) if knob.log else (knob.low, knob.high, value)
    return (x - low) / (high - low) if high > low else 0.0


def one_thread() -> AbstractContextManager[Any]:
    """For matrices as small as these: several threads wait for each other, for seconds where a machine is busy."""
    limits: AbstractContextManager[Any] = threadpool_limits(1, user_api="blas")
    return limits


class Process:
    """Fitted to measurements.

    Args:
        apart: of the measured candidates, as `distances` gives it, (knobs, n, n).
        values: n of them, finite.
    """

    def __init__(self, space: Space, apart: _Array, values: Sequence[float]) -> None:
        y = np.asarray(values, dtype=float)
        self._mean, self._spread = float(y.mean()), float(y.std()) or 1.0
        z = (y - self._mean) / self._spread
        some = np.unique(np.linspace(0, len(y) - 1, min(len(y), _FITTED)).round().astype(int))
        self._apart, self._z = apart[:, some[:, None], some], z[some]
        self._base = np.log([1.0 if isinstance(k, Choice) else _NUMBERS for k in space.knobs.values()])
        self._logs, self._noise = self._fitted()
        kernel = np.exp(-np.tensordot(np.exp(self._logs), apart, 1))
        self._lower = np.linalg.cholesky(kernel + self._noise * np.eye(len(y)))
        self._weights = np.linalg.solve(self._lower.T, np.linalg.solve(self._lower, z))

    def _fitted(self) -> tuple[_Array, float]:
        """Logarithms of the weights, and the noise: all weights alike first, then knob after knob."""
        far = np.tensordot(np.exp(self._base), self._apart, 1)
        score, common, noise = max((self._likelihood(c * far, n), c, n) for c in _COMMON for n in _NOISE)
        far *= common
        unlike = np.zeros(len(self._base))
        for _ in range(_SWEEPS):
            for place, base in enumerate(self._base):
                for step in (_STEP, -_STEP):
                    weight = common * math.exp(base + unlike[place])
                    tried = far + weight * math.expm1(step) * self._apart[place]
                    moved = unlike.copy()
                    moved[place] += step
                    found = self._likelihood(tried, noise) - 0.5 * float(np.square(moved / _WIDTH).sum())
                    if found > score:
                        far, unlike, score = tried, moved, found
                        break
            paid = 0.5 * float(np.square(unlike / _WIDTH).sum())
            score, noise = max((self._likelihood(far, n) - paid, n) for n in _NOISE)
        return self._base + math.log(common) + unlike, noise

    def _likelihood(self, far: _Array, noise: float) -> float:
        """Of the measurements, its logarithm less a constant."""
        kernel = np.exp(-far)
        kernel.flat[:: len(kernel) + 1] += noise
        lower = np.linalg.cholesky(kernel)
        half = np.linalg.solve(lower, self._z)
        return float(-0.5 * half @ half - np.log(np.diag(lower)).sum())

    def at(self, apart: _Array) -> tuple[_Array, _Array]:
        """Mean and standard deviation, the noise of measuring left out.

        Args:
            apart: (knobs, n measured, m others), as `distances` gives it.
        """
        kernel = np.exp(-np.tensordot(np.exp(self._logs), apart, 1))
        mean = kernel.T @ self._weights * self._spread + self._mean
        known = np.linalg.solve(self._lower, kernel)
        return mean, np.sqrt(np.maximum(1e-12, 1.0 - np.square(known).sum(axis=0))) * self._spread


def smoothed(space: Space, configs: Sequence[Config], values: Sequence[float]) -> list[float]:
    """The mean of a process at each candidate; the values themselves where there are too few, or all alike."""
    y = np.asarray(values, dtype=float)
    if not LEAST <= len(configs) <= MOST or not space.knobs or not np.isfinite(y).all() or float(y.std()) <= 1e-12:
        return [float(v) for v in values]
    apart = distances(space, configs, configs)
    with one_thread():
        return [float(v) for v in Process(space, apart, values).at(apart)[0]]
