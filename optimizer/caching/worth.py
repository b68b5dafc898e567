"""Whether a step is worth a cache: for each step none, exact, or semantic with a threshold; or that nobody can say yet.

Recorded calls are replayed in order of time. A false hit is one whose answer differs from what the call itself got.
Two samples of one prompt differ, too; that floor is measured on calls that asked the very same, and taken off. A
threshold is chosen if the exact upper bound of its false hits, among hits, is within a budget; of those that pass, the
smallest. The bounds hold for all thresholds together (each at 1 − (1 − confidence) / thresholds), so that trying many
finds no luck. They take hits for independent; hits of one conversation are not quite.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from redecode.optimizer.caching import intervals
from redecode.optimizer.caching.calls import Call, Recorded
from redecode.optimizer.caching.replayed import Hit, Judge, exact_hits, nearest, noise, same_answer, semantic_hits
from redecode.optimizer.caching.savings import Savings, savings
from redecode.optimizer.caching.vectors import Vectors, best_vectors
from redecode.replay.analysis import RunActivities

_TIMED = 5
THRESHOLDS = (0.70, 0.80, 0.90, 0.95, 0.98, 0.99, 0.999)
Choice = Literal["none", "exact", "semantic"]


@dataclass(frozen=True, slots=True)
class Noise:
    """How often two answers to the very same prompt differ. `low`: exact lower bound, which is what is taken off."""

    pairs: int
    differing: int
    low: float


@dataclass(frozen=True, slots=True)
class Level:
    """A cache of one kind for one step, replayed.

    Attributes:
        threshold: least cosine; `None`: an exact cache.
        low, high: Wilson's interval of the hit rate, 95%.
        false_upper: exact upper bound of false hits among hits; `excess_upper`: less the noise floor.
        savings: on the critical path.
    """

    threshold: float | None
    calls: int
    hits: int
    low: float
    high: float
    false_hits: int
    false_upper: float
    excess_upper: float
    savings: Savings

    @property
    def hit_rate(self) -> float:
        """Of calls."""
        return self.hits / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a step.

    Attributes:
        choice: the cache to use; `threshold` of a semantic one.
        refused: a better one may be there, but nobody can say: `why` says what is missing.
        hits_needed, calls_needed: how many more, at the rates seen; `None`: no number of them would do.
    """

    choice: Choice
    why: str
    threshold: float | None = None
    refused: bool = False
    hits_needed: int | None = None
    calls_needed: int | None = None


@dataclass(frozen=True, slots=True)
class StepWorth:
    """Everything about one step. `nearest`: greatest cosine of two calls that could answer each other."""

    agent: str
    node: str
    kind: str
    calls: int
    vectors: str
    nearest: float | None
    noise: Noise
    exact: Level | None
    semantic: tuple[Level, ...]
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def worth(
    recorded: Recorded,
    *,
    budget: float = 0.02,
    confidence: float = 0.95,
    thresholds: Sequence[float] = THRESHOLDS,
    vectors: Vectors | None = None,
    ttl_s: float | None = None,
    judge: Judge = same_answer,
    now_ns: Callable[[], int] = time.perf_counter_ns,
) -> list[StepWorth]:
    """What each step of recorded calls is worth caching.

    Args:
        budget: false hits among hits that may be, beyond the noise floor.
        thresholds: of cosine, to choose from.
        vectors: how texts are compared; by default sentence vectors where they are installed.
        ttl_s: how old an answer may be.
        judge: whether an answer would have been right; by default, whether it is what the call itself got.
    """
    vectors = vectors or best_vectors()
    steps: dict[tuple[str, str, str], list[Call]] = {}
    for call in recorded.calls:
        steps.setdefault((call.agent, call.node, call.kind), []).append(call)
    return [
        _Step(agent, node, kind, calls, recorded.runs, vectors).judged(
            budget, confidence, sorted(thresholds), ttl_s, judge, now_ns
        )
        for (agent, node, kind), calls in sorted(steps.items())
    ]


@dataclass(frozen=True, slots=True)
class _Step:
    agent: str
    node: str
    kind: str
    calls: list[Call]
    runs: Mapping[str, RunActivities]
    vectors: Vectors

    def judged(
        self,
        budget: float,
        confidence: float,
        thresholds: Sequence[float],
        ttl_s: float | None,
        judge: Judge,
        now_ns: Callable[[], int],
    ) -> StepWorth:
        """Replay and decide."""
        never = next((call.never for call in self.calls if call.never is not None), None)
        if never is not None:
            why = f"never: {never}"
            return self._worth(None, Noise(0, 0, 0.0), None, (), Verdict("none", why, refused=True))
        pairs, differing = noise(self.calls)
        floor = Noise(pairs, differing, intervals.lower(differing, pairs, confidence=1 - (1 - confidence) / 2))
        found = exact_hits(self.calls, ttl_s=ttl_s, judge=judge)
        exact = self._level(None, found, confidence, floor, 0.0)
        if self.kind == "tool":
            why = f"{exact.hits} of {exact.calls} calls ask what was asked before"
            return self._worth(None, floor, exact, (), Verdict("exact" if exact.hits else "none", why))
        rows = self.vectors.of([call.text for call in self.calls])
        lookup_s = self._lookup_s(now_ns)
        each = 1 - (1 - confidence) / (2 * max(len(thresholds), 1))  # the other half is the floor's
        levels = tuple(
            self._level(t, semantic_hits(self.calls, rows, t, ttl_s=ttl_s, judge=judge), each, floor, lookup_s)
            for t in thresholds
        )
        near = nearest(self.calls, rows)
        return self._worth(
            near, floor, exact, levels, decide(exact, levels, floor, budget, each, near, samples=self._samples)
        )

    def _lookup_s(self, now_ns: Callable[[], int]) -> float:
        """Seconds to make one vector, one at a time as a cache in use has to: median of a few."""
        took = []
        for call in self.calls[:_TIMED]:
            begun = now_ns()
            self.vectors.of([call.text])
            took.append((now_ns() - begun) / 1e9)
        return median(took) if took else 0.0

    @property
    def _samples(self) -> bool:
        return any(call.samples for call in self.calls)

    def _level(
        self, threshold: float | None, hits: list[Hit], confidence: float, floor: Noise, lookup_s: float
    ) -> Level:
        low, high = intervals.wilson(len(hits), len(self.calls))
        false = sum(hit.false for hit in hits)
        bound = intervals.upper(false, len(hits), confidence=confidence)
        saved = savings(self.calls, hits, self.runs, lookup_s=lookup_s)
        return Level(threshold, len(self.calls), len(hits), low, high, false, bound, max(bound - floor.low, 0.0), saved)

    def _worth(
        self, near: float | None, floor: Noise, exact: Level | None, levels: tuple[Level, ...], verdict: Verdict
    ) -> StepWorth:
        return StepWorth(
            self.agent, self.node, self.kind, len(self.calls), self.vectors.name, near, floor, exact, levels, verdict
        )


def decide(
    exact: Level,
    levels: Sequence[Level],
    floor: Noise,
    budget: float,
    confidence: float,
    near: float | None = None,
    *,
    samples: bool = False,
) -> Verdict:
    """The verdict over replayed levels (see the module's docstring).

    Args:
        confidence: of each level's bound.
        samples: the step samples without a seed, so that an equal call is meant to get another answer.
    """
    gains = [level for level in levels if level.hits > exact.hits and level.savings.saved_s > exact.savings.saved_s]
    good = [level for level in gains if level.excess_upper <= budget]
    if good:
        best = min(good, key=lambda level: level.threshold or 0.0)
        why = (
            f"{best.hits} of {best.calls} calls hit, at most {best.excess_upper:.1%} of them falsely "
            f"({best.false_hits} seen), and {best.savings.saved_s:.3g} s are saved on critical paths"
        )
        return Verdict("semantic", why, best.threshold)
    fallback: Choice = "exact" if exact.hits else "none"
    base = f"an exact cache hits {exact.hits} of {exact.calls}" if exact.hits else "no two calls are equal"
    if samples and exact.hits:
        base += "; it samples without a seed, so a hit also repeats what was meant to vary"
    if not gains:
        likest = "" if near is None else f" (the likest two have a cosine of {near:.3f})"
        if any(level.hits > exact.hits for level in levels):
            return Verdict(fallback, f"{base}; alike ones hit more, but looking them up costs more than they save")
        return Verdict(fallback, f"{base}, and alike ones would save no more{likest}")
    hopeful = []
    for level in gains:
        rate = max(level.false_hits / level.hits - floor.low, 0.0)
        needed = intervals.trials_needed(rate, budget, confidence=confidence)
        if needed is not None:
            more = max(needed - level.hits, 1)
            hopeful.append((more / level.hit_rate, more, level))
    if not hopeful:
        worst = max(gains, key=lambda level: level.threshold or 0.0)
        why = f"{base}; alike ones differ in their answers: {worst.false_hits} of {worst.hits} hits are false even at "
        return Verdict(fallback, f"{why}a cosine of {worst.threshold}", refused=True)
    calls, more, level = min(hopeful, key=lambda h: h[0])
    why = (
        f"{base}; too few alike ones to say more: at a cosine of {level.threshold}, {level.false_hits} of {level.hits} "
        f"hits are false, which could be {level.excess_upper:.0%}; {more} more hits would do, {round(calls)} calls"
    )
    return Verdict(fallback, why, refused=True, hits_needed=more, calls_needed=round(calls))
