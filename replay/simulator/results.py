"""What came of a simulation: a column per fact, an entry per call or run, and their quantiles."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from redecode.replay.simulator.costs import PS
from redecode.replay.simulator.rows import Counts, Extremes
from redecode.replay.simulator.workload import Call, Workload

QUANTILES = (0.5, 0.95, 0.99)


def new_times(count: int) -> array[int]:
    """A column in which nothing has happened."""
    return array("q", [-1]) * count


def quantile(ordered: Sequence[float], share: float) -> float:
    """By linear interpolation between the two nearest (numpy's and vLLM bench's); NaN of nothing."""
    if not ordered:
        return math.nan
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of one measure, in seconds; `None` where nothing was measured."""

    count: int
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        """Of these values."""
        if not values:
            return cls(0, None, None, None, None)
        ordered = sorted(values)
        p50, p95, p99 = (quantile(ordered, share) for share in QUANTILES)
        return cls(len(ordered), math.fsum(ordered) / len(ordered), p50, p95, p99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """A simulation that is over. Times are ps of virtual time; -1 is never.

    Attributes:
        bases: number of the first call of each run; one more at the end.
        sent, scheduled, first, last, done: of each call: sent by its caller, first in a step, its first and its last
            token at the engine, and when its caller has it all.
        replica: where it ran (or was sent; the one that decodes, of two).
        cached: of its prompt, tokens that were found in the prefix cache.
        preempted: how often; -1 is never.
        run_ended: of each run; -1 if a call of it was refused.
        counts, extremes, peak_blocks, alive_ps, costs: of each replica: what it did, its largest steps, most KV blocks
            held, for how long it was
            there, and what a second of it costs.
        events: what the simulator itself went through.
        refused: runs that failed because the router refused a call.
    """

    workload: Workload
    bases: array[int]
    sent: array[int]
    scheduled: array[int]
    first: array[int]
    last: array[int]
    done: array[int]
    replica: array[int]
    cached: array[int]
    preempted: array[int]
    run_ended: array[int]
    counts: tuple[Counts, ...]
    extremes: tuple[Extremes, ...]
    peak_blocks: tuple[int, ...]
    alive_ps: tuple[int, ...]
    costs: tuple[float, ...]
    end_ps: int
    events: int
    refused: int

    def calls(self) -> list[Call]:
        """The call of each number."""
        shapes = self.workload.shapes
        return [call for which in self.workload.which for call in shapes[which].calls]

    def ttft_s(self) -> list[float]:
        """Call sent → first token at the engine, of those that have one."""
        return [(f - s) / PS for f, s in zip(self.first, self.sent, strict=True) if f >= 0]

    def tpot_s(self) -> list[float]:
        """(last - first token) / (tokens - 1), of calls with two tokens and more."""
        return [
            (last - first) / (call.output_tokens - 1) / PS
            for last, first, call in zip(self.last, self.first, self.calls(), strict=True)
            if last >= 0 and call.output_tokens > 1
        ]

    def e2e_s(self) -> list[float]:
        """Call sent → its caller has its last token."""
        return [(d - s) / PS for d, s in zip(self.done, self.sent, strict=True) if d >= 0]

    def queue_s(self) -> list[float]:
        """Call sent → first in a step: on its way and waiting."""
        return [(q - s) / PS for q, s in zip(self.scheduled, self.sent, strict=True) if q >= 0]

    def run_s(self) -> list[float]:
        """E2E latency of the runs that ended."""
        return [(e - b) / PS for e, b in zip(self.run_ended, self.workload.begins, strict=True) if e >= 0]

    def attained(self) -> float | None:
        """Share of runs that ended within their deadline, of all that were offered; `None` without deadlines."""
        w = self.workload
        if not w.deadlines:
            return None
        met = sum(0 <= e <= b + d for e, b, d in zip(self.run_ended, w.begins, w.deadlines, strict=True))
        return met / len(w.begins)

    def tokens(self) -> int:
        """Tokens computed: of prompts, and made."""
        return sum(c.prefilled + c.decoded for c in self.counts)

    def cost(self) -> float:
        """Of all replicas, while they were there."""
        return sum(alive / PS * cost for alive, cost in zip(self.alive_ps, self.costs, strict=True))

    def utilisation(self) -> float:
        """Share of their time in which replicas were in a step."""
        alive = sum(self.alive_ps)
        return sum(c.busy_ps for c in self.counts) / alive if alive else 0.0
