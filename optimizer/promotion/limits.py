"""What a candidate must keep by itself, whatever the incumbent does: the SLO, and the error that is allowed.

Runs of one conversation are not independent: of each the share counts, so that one bad conversation is one.
"""

from __future__ import annotations

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
    p_rate_above,
    paired,
    runs_for_rate,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Misses:
    """How often a finalist misses the SLO.

    Attributes:
        p: of "it is missed more often than is allowed".
        low, high: exact bounds of the rate, 95 % each, of runs or of conversations, whichever say less.
        share: the mean of the conversations' shares.
    """

    misses: int
    runs: int
    p: float
    low: float
    high: float
    share: float

    @classmethod
    def of(cls, missed: Sequence[bool], clusters: Sequence[Hashable], allowed: float) -> Misses:
        """Of runs, each of a cluster."""
        shares: dict[Hashable, list[bool]] = {}
        for miss, name in zip(missed, clusters, strict=True):
            shares.setdefault(name, []).append(miss)
        misses, runs, n = sum(missed), len(missed), len(shares)
        total = sum(sum(of) / len(of) for of in shares.values())
        return cls(
            misses=misses,
            runs=runs,
            p=max(p_rate_above(misses, runs, allowed), p_mean_above(total, n, allowed)),
            low=min(lower_rate(misses, runs), lower_rate(total, n)),
            high=max(upper_rate(misses, runs), upper_rate(total, n)),
            share=total / max(1, n),
        )

    def clusters_for(self, allowed: float, alpha: float) -> int | None:
        """Clusters to be sure to keep it, if all goes on as it looks; `None`: never."""
        return runs_for_rate(self.share, allowed, alpha)


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
            p, high = p_mean_above(found.worse, found.n, most), upper_rate(found.worse, found.n)
        else:
            p, high = max(seen.p_not_above(most), found.p_above(most)), found.upper()
        return cls(seen=replace(seen, high=max(seen.high, high)), p=p, few=found)

    def clusters_for(self, most: float, alpha: float) -> int | None:
        """Clusters to be sure to keep it, if all goes on as it looks; `None`: never."""
        if self.few is None:
            return None
        if isinstance(self.few, Counted):
            share = self.few.worse / self.few.n
            return fewest(lambda n: p_mean_above(share * n, n, most) <= alpha)
        told = self.seen.clusters_for(most - self.seen.estimate, alpha), self.few.for_margin(most, alpha)
        return None if None in told else max(n for n in told if n is not None)
