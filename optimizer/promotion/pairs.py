"""Pairs of runs as numbers: what a run that failed counts for, and what is sure of times that were taken together.

A run that fails at once is neither fast nor cheap: it counts in the error and the SLO, and otherwise takes as long and
costs as much as the one it is compared with, or more if it did.

Runs of one turn went on at one time, so what else the machine did then is in all of them. Resampled one by one they
would seem to say the same again and again; so times are resampled by whole turns, too, and what is less sure counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from redecode.optimizer.evaluation.ladder import BLOCK
from redecode.optimizer.objectives import Outcome
from redecode.optimizer.promotion.statistics import Effect, paired

_FEWEST = 5
"""Units of two turns."""


def blocks_of(runs: int, settings: Mapping[str, Any]) -> list[int]:
    """Which two turns each run of a lane is in: what the machine did may have gone on from one to the next.

    Of a few turns each is one: of two or three units nothing could be said at all.
    """
    size = block_size(settings)
    size *= 2 if runs >= _FEWEST * 2 * size else 1
    return [place // size for place in range(runs)]


def block_size(settings: Mapping[str, Any]) -> int:
    """Runs of a lane before it is another one's turn: as many as go on at a time, so that turns are short.

    Args:
        settings: of a study.
    """
    return max(1, min(BLOCK, int(settings.get("concurrency", BLOCK))))


def of_pairs(
    lane: Sequence[Outcome], base: Sequence[Outcome], value: Callable[[Outcome], float]
) -> tuple[list[float], list[float]]:
    """A value of the candidate's runs and of the incumbent's."""
    pairs = zip(lane, base, strict=True)
    return failing([(value(a), value(b), a.error is not None, b.error is not None) for a, b in pairs])


def failing(pairs: Iterable[tuple[float, float, bool, bool]]) -> tuple[list[float], list[float]]:
    """Both sides of pairs of values, each with whether its run failed."""
    ours, theirs = [], []
    for x, y, our_failed, their_failed in pairs:
        ours.append(max(x, y) if our_failed else x)
        theirs.append(max(x, y) if their_failed else y)
    return ours, theirs


def timed(
    candidate: Sequence[float],
    incumbent: Sequence[float],
    clusters: Sequence[Hashable],
    together: Sequence[Hashable] | None,
    *,
    seed: int,
    ratio: bool = False,
    resamples: int,
) -> Effect:
    """The effect on what was measured by a clock, by conversation or by block, whichever is less sure.

    Args:
        together: of each pair, what it was measured together with (`blocks_of`); `None`: no clock was running. By
            simulation, with a machine that is slower for one to forty runs at a time, two equal candidates are found
            to differ in 3 to 6 % of cases at 5 %.
    """
    alone = paired(candidate, incumbent, clusters, seed=seed, ratio=ratio, resamples=resamples)
    if together is None or not clusters:
        return alone
    by_block = paired(candidate, incumbent, together, seed=seed, ratio=ratio, resamples=resamples)
    if by_block.high - by_block.low <= alone.high - alone.low:
        return alone
    sd = by_block.sd * math.sqrt(alone.clusters / by_block.clusters)
    return replace(by_block, sd=sd, clusters=alone.clusters, drawn=by_block.clusters)
