"""Robust least squares for a handful of columns whose factors cannot be negative.

Iteratively reweighted (Huber's weights, k = 1.345 of the scale from the median absolute deviation; Huber 1964, Holland
and Welsch 1977), on relative errors: a step of 2 ms counts as much as one of 200 ms. A factor that comes out below 0
is left out, the most negative first, and the rest is fitted again. In Python alone: there are six columns, and numpy is
no dependency of this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

_HUBER = 1.345
_NORMAL_MAD = 0.6745  # of a normal distribution, in standard deviations
_ROUNDS = 30
_SAME = 1e-10


def fit(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Factors x, none below 0, for which rows·x is near values (all above 0); 0 for a column that says nothing.

    Columns that others make up (all batches had one size) get 0, later ones first.
    """
    count = len(rows[0]) if rows else 0
    scale = [max((abs(row[c]) for row in rows), default=0.0) for c in range(count)]
    used = [c for c in range(count) if scale[c] > 0]
    columns = [[row[c] / scale[c] / value for c in used] for row, value in zip(rows, values, strict=True)]
    while used:
        found = _reweighted(columns)
        least = min(range(len(used)), key=found.__getitem__)
        if found[least] >= 0:
            factors = [0.0] * count
            for place, c in enumerate(used):
                factors[c] = found[place] / scale[c]
            return factors
        del used[least]
        columns = [row[:least] + row[least + 1 :] for row in columns]
    return [0.0] * count


def _reweighted(rows: Sequence[Sequence[float]]) -> list[float]:
    """rows·x near 1."""
    weights = [1.0] * len(rows)
    found: list[float] = []
    for _ in range(_ROUNDS):
        before, found = found, _solve(rows, weights)
        errors = [abs(sum(a * x for a, x in zip(row, found, strict=True)) - 1.0) for row in rows]
        spread = median(errors) / _NORMAL_MAD
        if spread < _SAME or (before and max(abs(a - b) for a, b in zip(before, found, strict=True)) < _SAME):
            break
        limit = _HUBER * spread
        weights = [1.0 if e <= limit else limit / e for e in errors]
    return found


def _solve(rows: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """The normal equations, by elimination; a column without a pivot of its own gets 0."""
    count = len(rows[0])
    matrix = [[0.0] * (count + 1) for _ in range(count)]
    for row, weight in zip(rows, weights, strict=True):
        for i in range(count):
            left = weight * row[i]
            if left:
                into = matrix[i]
                for j in range(i, count):
                    into[j] += left * row[j]
                into[count] += left
    for i in range(count):
        for j in range(i):
            matrix[i][j] = matrix[j][i]
    diagonal = [matrix[i][i] for i in range(count)]
    kept: list[int] = []
    for i in range(count):
        if matrix[i][i] <= 1e-9 * diagonal[i]:
            continue  # the columns before it make it up
        kept.append(i)
        for j in range(count):
            if j != i and matrix[j][i]:
                factor = matrix[j][i] / matrix[i][i]
                for k in range(i, count + 1):
                    matrix[j][k] -= factor * matrix[i][k]
    return [matrix[i][count] / matrix[i][i] if i in kept else 0.0 for i in range(count)]
