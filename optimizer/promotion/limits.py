"""What a candidate must keep by itself, whatever the incumbent does: the SLO, and the error that is allowed.

Both are of runs, but runs of one conversation are not independent: one bad conversation is one. So of each conversation
the share counts, and, since long ones may be worse than short ones, the share of all runs as if there were as many
conversations as say as much when their lengths differ (Kish, "Survey Sampling", 1965).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from redecode.optimizer.evaluation.racing import lower_rate, upper_rate
from redecode.optimizer.promotion.statistics import (
    Counted,
    Effect,
    Graded,
    few,
    fewest,
    p_mean_above,
    paired,
    runs_for_rate,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Misses:
    """How often a finalist misses the SLO.

    Attributes:
        p: of "it is missed more often than is allowed".
        low, high: exact bounds of the rate, 95 % each, of runs or of conversations, whichever say less.
        share: the mean of the conversations' shares, or that of all runs if it is larger.
        each: conversations, for one that counts.
    """

    misses: int
    runs: int
    p: float
    low: float
    high: float
    share: float
    each: float

    @classmethod
    def of(cls, missed: Sequence[bool], clusters: Sequence[Hashable], allowed: float) -> Misses:
        """Of runs, each of a cluster."""
        shares: dict[Hashable, list[bool]] = {}
        for miss, name in zip(missed, clusters, strict=True):
            shares.setdefault(name, []).append(miss)
        misses, runs, n = sum(missed), len(missed), len(shares)
        total = sum(sum(of) / len(of) for of in shares.values())
        counting = runs**2 / max(1, sum(len(of) ** 2 for of in shares.values()))
        rate = misses / max(1, runs)
        counted = ((misses, runs), (total, n), (rate * counting, counting))
        return cls(
            misses=misses,
            runs=runs,
            p=max(p_mean_above(some, of, allowed) for some, of in counted),
            low=min(lower_rate(some, of) for some, of in counted),
            high=max(upper_rate(some, of) for some, of in counted),
            share=max(rate, total / max(1, n)),
            each=n / max(1.0, counting),
        )

    def clusters_for(self, allowed: float, alpha: float) -> int | None:
        """Clusters to be sure to keep it, if all goes on as it looks; `None`: never."""
        found = runs_for_rate(self.share, allowed, alpha)
        return None if found is None else math.ceil(found * self.each)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A finalist's own error against the one that is allowed.

    Attributes:
        seen: the mean, with its bounds.
        p: of "it is above".
    """

    seen: Effect
    p: float
    few: Counted | Graded | None

    @classmethod
    def of(
        cls, losses: Sequence[float], clusters: Sequence[Hashable], most: float, *, seed: int, resamples: int
    ) -> Level:
        """Of runs that were scored, each of a cluster."""
        zeros = [0.0] * len(losses)
        seen = paired(losses, zeros, clusters, seed=seed, resamples=resamples)
        found = few(losses, zeros, clusters)
        if found is None:
            return cls(seen=seen, p=1.0, few=None)
        if isinstance(found, Counted):  # which is exact: no run can be better than right
            # Of all runs besides, where long conversations are worse than short ones.
            p = max(p_mean_above(found.worse, found.n, most), seen.p_not_above(most))
            high = upper_rate(found.worse, found.n)
        else:
            p, high = max(seen.p_not_above(most), found.p_above(most)), found.upper()
        return cls(seen=replace(seen, high=max(seen.high, high)), p=p, few=found)

    def clusters_for(self, most: float, alpha: float) -> int | None:
        """Clusters to be sure to keep it, if all goes on as it looks; `None`: never."""
        if self.few is None:
            return None
        if isinstance(self.few, Counted):
            share = self.few.worse / self.few.n
            own = fewest(lambda n: p_mean_above(share * n, n, most) <= alpha)
        else:
            own = self.few.for_margin(most, alpha)
        told = self.seen.clusters_for(most - self.seen.estimate, alpha)
        return None if own is None or told is None else max(own, told)
