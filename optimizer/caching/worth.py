"""Whether a step is worth a cache: for each step none, exact, or semantic with a threshold; or that nobody can say yet.

Recorded calls are replayed in order of time. A false hit is one whose answer differs from what the call itself got.
Two samples of one prompt differ, too: that floor f is measured on calls that asked the very same. So a cache of FM
calls is judged by its hits that asked something else. Of these d = q + (1 − q) f differ if q are false, and where
nearly all samples differ nothing is known of q. A tool has no such noise: all of its hits count. A threshold is chosen
if the exact upper bound of false hits, among hits, is within a budget; of those that pass, the smallest. The
bounds hold for all thresholds together (each at 1 − (1 − confidence) / thresholds), so that trying many finds no luck.
They take hits for independent, and the noise for that of every prompt of a step; neither is quite so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
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
    """How often two answers to the very same prompt differ.

    Attributes:
        low: so many answers at least differ from whichever one a cache keeps (`least_noise`): what is taken off. Of a
            tool nothing is: another result to the same arguments is not what was asked for.
    """

    pairs: int
    differing: int
    low: float


@dataclass(frozen=True, slots=True)
class Level:
    """A cache of one kind for one step, replayed.

    Attributes:
        threshold: least cosine; `None`: an exact cache.
        low, high: Wilson's interval of the hit rate, 95%.
        false_upper: exact upper bound of false hits among hits.
        judged: hits that could be the cache's fault: of FM calls those that asked something else, of a tool all;
            `judged_false`: of them.
        excess_upper: exact upper bound of those among all hits that are the cache's fault, not the noise's.
        savings: on the critical path.
    """

    threshold: float | None
    calls: int
    hits: int
    low: float
    high: float
    false_hits: int
    false_upper: float
    judged: int
    judged_false: int
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
        budget: false hits among hits that may be, beyond the noise floor; of a tool none is beyond it.
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
        pairs, differing = noise(self.calls, judge)
        tool = self.kind == "tool"
        low = 0.0 if tool else least_noise(differing, pairs, 1 - (1 - confidence) / 2)
        floor = Noise(pairs, differing, low)
        found = exact_hits(self.calls, ttl_s=ttl_s, judge=judge)
        exact = self._level(None, found, confidence, floor, 0.0)
        if tool:
            return self._worth(None, floor, exact, (), decide_tool(exact, budget, confidence))
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
        judged = [hit for hit in hits if self.kind == "tool" or not hit.equal]
        judged_false = sum(hit.false for hit in judged)
        excess = 0.0 if hits else 1.0
        if judged:  # the others are right, so these are so many of all
            excess = intervals.upper(judged_false, len(judged), confidence=confidence, floor=floor.low)
            excess *= len(judged) / len(hits)
        return Level(
            threshold,
            len(self.calls),
            len(hits),
            low,
            high,
            false,
            intervals.upper(false, len(hits), confidence=confidence),
            len(judged),
            judged_false,
            excess,
            savings(self.calls, hits, self.runs, lookup_s=lookup_s),
        )

    def _worth(
        self, near: float | None, floor: Noise, exact: Level | None, levels: tuple[Level, ...], verdict: Verdict
    ) -> StepWorth:
        return StepWorth(
            self.agent, self.node, self.kind, len(self.calls), self.vectors.name, near, floor, exact, levels, verdict
        )


def least_noise(differing: int, pairs: int, confidence: float) -> float:
    """How often answers differ, at least, from one that is kept and given again and again.

    It may be the likeliest one, from which fewer differ than two answers from each other: of two, the sum of p² are
    equal, and the greatest p is at most the root of that.
    """
    return float(1 - (1 - intervals.lower(differing, pairs, confidence=confidence)) ** 0.5)


def decide_tool(exact: Level, budget: float, confidence: float) -> Verdict:
    """The verdict over a tool's exact cache: the same arguments may well have another result by now."""
    why = f"{exact.hits} of {exact.calls} calls ask what was asked before"
    if not exact.hits:
        return Verdict("none", why)
    why += f", {exact.false_hits} of them for another result"
    if exact.excess_upper <= budget:
        return Verdict("exact", f"{why}, which is at most {exact.excess_upper:.1%}")
    needed = intervals.trials_needed(exact.false_hits / exact.hits, budget, confidence=confidence)
    if needed is None:
        return Verdict("none", f"{why}: more than the budget of {budget:.1%}", refused=True)
    more = max(needed - exact.hits, 1)
    calls = round(more / exact.hit_rate)
    why += f", which could be {exact.excess_upper:.0%}: too few to say more; {more} more hits would do, {calls} calls"
    return Verdict("none", why, refused=True, hits_needed=more, calls_needed=calls)


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
    # Within the budget of all hits, and yet of no use if none of those that an exact cache would not have is right.
    good = [lv for lv in gains if lv.excess_upper <= budget and (lv.judged_false < lv.judged or not lv.judged)]
    if good:
        best = min(good, key=lambda level: level.threshold or 0.0)
        why = (
            f"{best.hits} of {best.calls} calls hit, at most {best.excess_upper:.1%} of them falsely "
            f"({best.judged_false} seen{', noise among them' if floor.low and best.judged_false else ''}), "
            f"and {best.savings.saved_s:.3g} s are saved on critical paths"
        )
        return Verdict("semantic", why, best.threshold)
    fallback: Choice = "exact" if exact.hits else "none"
    base = f"an exact cache hits {exact.hits} of {exact.calls}" if exact.hits else "no two calls are equal"
    if exact.false_hits:
        base += f", {exact.false_hits} of them for another answer"
    if samples and exact.hits:
        base += "; it samples without a seed, so a hit also repeats what was meant to vary"
    if not gains:
        likest = "" if near is None else f" (the likest two have a cosine of {near:.3f})"
        if any(level.hits > exact.hits for level in levels):
            return Verdict(fallback, f"{base}; alike ones hit more, but looking them up costs more than they save")
        return Verdict(fallback, f"{base}, and alike ones would save no more{likest}")
    hidden = ""
    if floor.differing and any(level.judged_false for level in gains):
        hidden = (
            f"; {floor.differing} of {floor.pairs} pairs of answers to the very same prompt differ, too, which hides "
            "what is false: a `judge` that sees past the wording (say, `same_fields`) would tell it"
        )
    hopeful = [(*needed, level) for level in gains if (needed := _needed(level, floor, budget, confidence)) is not None]
    if not hopeful:
        worst = max(gains, key=lambda level: level.threshold or 0.0)
        why = (
            f"{base}; alike ones differ in their answers: {worst.judged_false} of {worst.judged} hits that asked "
            f"something else are false even at a cosine of {worst.threshold}{hidden}"
        )
        return Verdict(fallback, why, refused=True)
    calls, more, level = min(hopeful, key=lambda h: h[0])
    why = (
        f"{base}; too few alike ones to say more: at a cosine of {level.threshold}, {level.judged_false} of "
        f"{level.hits} hits are false, which could be {level.excess_upper:.0%}; {more} more hits would do, "
        f"{round(calls)} calls{hidden}"
    )
    return Verdict(fallback, why, refused=True, hits_needed=more, calls_needed=round(calls))


def _needed(level: Level, floor: Noise, budget: float, confidence: float) -> tuple[float, int] | None:
    """Calls and hits more that would bring a level within the budget, at the rates seen; `None`: no number of them."""

    def floor_after(judged: int) -> float:
        times = judged / level.judged
        return least_noise(round(floor.differing * times), round(floor.pairs * times), confidence)

    share = level.judged / level.hits
    rate = level.judged_false / level.judged
    needed = intervals.trials_needed(rate, budget / share, confidence=confidence, floor=floor_after)
    if needed is None:
        return None
    more = max(ceil(needed / share) - level.hits, 1)
    return more / level.hit_rate, more
