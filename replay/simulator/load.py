"""Many runs at a load: recorded ones again and again, and what came of them in a few numbers. Nothing is recorded."""

from __future__ import annotations

import math
import random
import re
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any

from redecode.replay.simulator.costs import LONGEST_S, to_ps
from redecode.replay.simulator.errors import SimulationError, TooLong
from redecode.replay.simulator.results import Quantiles, Simulated
from redecode.replay.simulator.workload import Call, Shape, Workload

_PER_S = {"s": 1.0, "m": 1 / 60, "h": 1 / 3600}
_FEWEST, _FEW = 30, 5  # runs, to tell whether they pile up


def rate_of(text: str) -> float:
    """Runs a second of "10rps", "10/s", "90/m", "3rpm", "5rph" or a plain number.

    Raises:
        SimulationError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:(?:rp|/)([smh])|)", text.strip())
    rate = float(found[1]) * _PER_S[found[2] or "s"] if found else 0.0
    if not 0 < rate < math.inf:
        raise SimulationError(f"a load is runs a second above 0, like 10rps, 0.5rps or 30/m, not '{text}'")
    return rate


@dataclass(frozen=True, slots=True)
class RunSlo:
    """So many of a hundred runs end within `threshold_s`."""

    threshold_s: float
    percentile: float = 95.0

    @classmethod
    def parse(cls, text: str) -> RunSlo:
        """From "2s@p95", "800ms@p99" or "2s" (p95).

        Raises:
            SimulationError: it is none.
        """
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m)(?:@p(\d+(?:\.\d+)?))?", text.strip())
        if found is None or not float(found[1]) > 0 or not 0 < float(found[3] or 95) <= 100:
            raise SimulationError(f"an SLO is a time within which so many of 100 runs end, like 2s@p95, not '{text}'")
        threshold_s = float(found[1]) * {"ms": 1e-3, "s": 1.0, "m": 60.0}[found[2]]
        if threshold_s > LONGEST_S:
            raise TooLong(f"an SLO is at most {LONGEST_S // 86400} days, not '{text}'")
        return cls(threshold_s, float(found[3] or 95))

    def __str__(self) -> str:
        return f"{self.threshold_s:g}s@p{self.percentile:g}"


def poisson_workload(
    shapes: Sequence[Shape], runs: int, rate_per_s: float, rng: random.Random, slo: RunSlo | None = None
) -> Workload:
    """Runs drawn from these shapes, beginning as a Poisson process, the first at 0.

    A run that is drawn twice does not find itself in a prefix cache: what only one shape has is of each copy alone.
    """
    shapes = _told_apart(shapes)
    which = array("l", (rng.randrange(len(shapes)) for _ in range(runs)))
    begins = list(accumulate((rng.expovariate(rate_per_s) for _ in range(runs - 1)), initial=0.0))
    if begins and begins[-1] > LONGEST_S:
        raise TooLong(
            f"{runs} runs at {rate_per_s:.3g} a second begin within {begins[-1] / 86400:.3g} days, and "
            f"{LONGEST_S // 86400} can be simulated: ask for a greater load or fewer runs"
        )
    deadlines = array("q", [to_ps(slo.threshold_s)] * runs if slo is not None else [])
    return Workload(tuple(shapes), array("q", map(to_ps, begins)), which, deadlines)


def _told_apart(shapes: Sequence[Shape]) -> list[Shape]:
    """The shapes with what only one of them has as content of a run alone."""
    having = Counter(h for shape in shapes for h in {h for call in shape.calls for h in call.hashes})

    def own(call: Call) -> Call:
        return replace(call, hashes=tuple(-h - 1 if h >= 0 and having[h] == 1 else h for h in call.hashes))

    return [replace(shape, calls=tuple(map(own, shape.calls))) for shape in shapes]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What a simulated load came to. Times in seconds.

    Attributes:
        offered_per_s: runs that begin; `done_per_s`: runs that end, while there are any.
        run, ttft, tpot, call, queue: E2E latency of runs, and of their FM calls TTFT, TPOT, E2E and time until they
            are in a step.
        attained: share of runs that ended within the SLO, of all that were offered; `met`: whether that is enough.
        utilisation: share of their time in which replicas were in a step.
        cached_share: of prompt tokens, those found in a prefix cache.
        growing: runs pile up all along: the load is beyond what the replicas serve, and all times depend on how many
            runs were simulated.
        doubts: why it may be wrong.
    """

    runs: int
    failed: int
    calls: int
    virtual_s: float
    offered_per_s: float
    done_per_s: float
    run: Quantiles
    ttft: Quantiles
    tpot: Quantiles
    call: Quantiles
    queue: Quantiles
    slo: str | None
    attained: float | None
    met: bool | None
    utilisation: float
    preemptions: int
    cached_share: float | None
    tokens: int
    growing: bool
    doubts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def report_of(
    found: Simulated,
    rate_per_s: float,
    slo: RunSlo | None,
    doubts: Sequence[str],
    alone_ps: Callable[[Shape], int] = lambda shape: 0,
) -> LoadReport:
    """What came of a simulation.

    Args:
        alone_ps: what a run takes by itself: so long it is under way at any load.
    """
    runs = len(found.workload.begins)
    attained = found.attained()
    cached = sum(c.cached for c in found.counts)
    prompts = cached + sum(c.prefilled for c in found.counts)
    ended = [end for end in found.run_ended if end >= 0]
    span_s = (max(ended, default=0) - found.workload.begins[0]) / 1e12 if runs else 0.0
    return LoadReport(
        runs=runs,
        failed=found.refused,
        calls=sum(done >= 0 for done in found.done),
        virtual_s=found.end_ps / 1e12,
        offered_per_s=rate_per_s,
        done_per_s=len(ended) / span_s if span_s else 0.0,
        run=Quantiles.of(found.run_s()),
        ttft=Quantiles.of(found.ttft_s()),
        tpot=Quantiles.of(found.tpot_s()),
        call=Quantiles.of(found.e2e_s()),
        queue=Quantiles.of(found.queue_s()),
        slo=None if slo is None else str(slo),
        attained=attained,
        met=None if slo is None or attained is None else attained >= slo.percentile / 100,
        utilisation=found.utilisation(),
        preemptions=sum(c.preempted for c in found.counts),
        cached_share=cached / prompts if prompts else None,
        tokens=found.tokens(),
        growing=_growing(found, lambda shape: 0) and _growing(found, alone_ps),
        doubts=tuple(doubts),
    )


def _growing(found: Simulated, alone_ps: Callable[[Shape], int]) -> bool:
    """Whether there are ever more runs under way: in the mean over each third of the arrivals clearly more.

    A load that is served has so many as Little's law says, all along. Beyond it they are as 1, 3, 5 in the thirds. The
    time that runs take by themselves does not count: of runs of an hour there are ever more for an hour.
    """
    w = found.workload
    alone = {which: alone_ps(w.shapes[which]) for which in set(w.which)}
    begins = w.begins
    ends = [
        max(b, e - alone[which]) if e >= 0 else e for b, e, which in zip(begins, found.run_ended, w.which, strict=True)
    ]
    last = begins[-1] if begins else 0
    if len(begins) < _FEWEST or not last:
        return False
    means = []
    for third in range(3):
        low, high = last * third // 3, last * (third + 1) // 3
        inside = (
            min(end if end >= 0 else begin, high) - max(begin, low) for begin, end in zip(begins, ends, strict=True)
        )
        means.append(sum(time for time in inside if time > 0) / max(1, high - low))
    return means[1] > 1.5 * means[0] and means[2] > 1.25 * means[1] and means[2] > _FEW
