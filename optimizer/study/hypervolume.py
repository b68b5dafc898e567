"""Hypervolume: what points dominate together, up to a reference point. All objectives are to be small.

Sliced along the last objective, then the next (While et al., "A Faster Algorithm for Calculating Hypervolume", IEEE
Trans. Evol. Comput. 10(1), 2006): n² log n for three, which is enough for some hundred points.
"""

from __future__ import annotations

from collections.abc import Sequence

Point = Sequence[float]


def dominates(a: Point, b: Point) -> bool:
    """Whether a is nowhere worse than b, and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(points: Sequence[Point]) -> list[int]:
    """Places of the points that no other dominates; of equal ones the first."""
    out = []
    for i, p in enumerate(points):
        beaten = any(dominates(q, p) or (j < i and tuple(q) == tuple(p)) for j, q in enumerate(points))
        if not beaten:
            out.append(i)
    return out


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The volume between points and a reference; what is not below the reference everywhere adds nothing."""
    inside = [tuple(p) for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    return _sliced(inside, tuple(reference))


def _sliced(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    if not points:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in points)
    if len(reference) == 2:
        total, floor = 0.0, reference[1]
        for x, y in sorted(points):
            if y < floor:
                total += (reference[0] - x) * (floor - y)
                floor = y
        return total
    total = 0.0
    ordered = sorted(points, key=lambda p: p[-1])
    for i, p in enumerate(ordered):
        top = ordered[i + 1][-1] if i + 1 < len(ordered) else reference[-1]
        if top > p[-1]:
            total += (top - p[-1]) * _sliced([q[:-1] for q in ordered[: i + 1]], reference[:-1])
    return total


def subset(points: Sequence[Point], reference: Point, count: int) -> list[int]:
    """Places of so many points that cover much together: each time the one that adds most (1 - 1/e of the best).

    Nemhauser et al., "An analysis of approximations for maximizing submodular set functions", 1978. What adds nothing
    is not taken.
    """
    chosen: list[int] = []
    covered = 0.0
    while len(chosen) < count:
        best, most = -1, 0.0
        for i in range(len(points)):
            if i not in chosen:
                gain = hypervolume([points[j] for j in (*chosen, i)], reference) - covered
                if gain > most * (1 + 1e-12):
                    best, most = i, gain
        if best < 0:
            break
        chosen.append(best)
        covered += most
    return chosen


def scaled(points: Sequence[Point], low: Point, high: Point) -> list[tuple[float, ...]]:
    """Each objective on 0 (low) to 1 (high); 0 where both are equal."""
    return [tuple((x - a) / (b - a) if b > a else 0.0 for x, a, b in zip(p, low, high, strict=True)) for p in points]
