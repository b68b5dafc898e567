"""The rule of promotion, on pairs of runs (incumbent, candidate) of the same held-out cases.

A candidate is promoted if it is surely not worse than the margins allow in error, cost and latency, surely keeps the
SLO and the error that is allowed, and is surely better in one of them. Each part is a test at 5 %; a candidate's p
value is the largest of them (of the three ways to be better the smallest, times three); over several finalists by
Holm. What is not sure is said with how many more runs would tell, if things go on as they look.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from redecode.optimizer.objectives import Goals, Measured, Outcome, measured
from redecode.optimizer.promotion.limits import Level, Misses
from redecode.optimizer.promotion.pairs import of_pairs, timed
from redecode.optimizer.promotion.statistics import (
    ALPHA,
    LEAST_CLUSTERS,
    RESAMPLES,
    Counted,
    Effect,
    Graded,
    few,
    holm,
    paired,
    runs_for_rate,
)

_WAYS = 3
_WORTH = {"error": 0.02, "cost": math.log(1.02), "latency": math.log(1.02)}
"""A gain below this is none worth waiting for."""
_BEYOND, _TIMES = 300.0, math.log(10)
"""Log ratios: of what one side has nothing of, and from where on nobody thinks in percent."""


class Verdict(StrEnum):
    """What to do."""

    PROMOTE = "promote"
    KEEP = "keep"
    UNSURE = "not enough evidence"


NO_MORE = "more runs would tell only if they look otherwise"
"""Where no number of them would do if things go on as they look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """How much worse a candidate may be: error by a difference, cost and latency by a factor.

    A margin says what is nobody's business (1.05: five percent), or what one would pay for a gain elsewhere.
    """

    error: float = 0.05
    cost: float = 1.05
    latency: float = 1.05

    def of(self, name: str) -> float:
        """On the scale of the effect: factors as logarithms."""
        return self.error if name == "error" else math.log(self.cost if name == "cost" else self.latency)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A finalist against the incumbent.

    Attributes:
        effects: "error" (difference), "cost" and "latency" (log of a ratio).
        p: of "it should not be promoted", before and after Holm.
        slo: misses, runs and the exact upper bound of their rate; `None` without an SLO.
        why: one line per reason, for the verdict or against another.
        more: runs that would tell, beyond those there were; `None` if none would.
    """

    name: str
    verdict: Verdict
    candidate: Measured
    effects: Mapping[str, Effect]
    p: float
    p_adjusted: float
    slo: tuple[int, int, float] | None
    why: tuple[str, ...]
    more: int | None

    def to_json(self) -> dict[str, Any]:
        """Without the resamples."""
        effects = {
            name: {k: getattr(e, k) for k in ("estimate", "low", "high", "sd", "clusters")}
            for name, e in self.effects.items()
        }
        slo = None if self.slo is None else dict(zip(("misses", "runs", "upper_rate"), self.slo, strict=True))
        return {
            "name": self.name,
            "verdict": self.verdict.value,
            "measured": asdict(self.candidate),
            "effects": effects,
            "p": self.p,
            "p_adjusted": self.p_adjusted,
            "slo": slo,
            "why": list(self.why),
            "more_runs": self.more,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The verdict over all finalists.

    Attributes:
        chosen: the finalist to promote.
        more: runs that would tell, if there is not enough evidence.
        cut: the budget that was used up before all pairs were run, where that is why it came to nothing.
    """

    verdict: Verdict
    chosen: str | None
    more: int | None
    pairs: int
    compared: Sequence[Compared] = ()
    incumbent: Measured | None = None
    why: str = ""
    cut: str | None = None
    margins: Margins = field(default_factory=Margins)

    def to_json(self) -> dict[str, Any]:
        """As data."""
        return {
            "verdict": self.verdict.value,
            "chosen": self.chosen,
            "more_runs": self.more,
            "pairs": self.pairs,
            "why": self.why,
            "margins": asdict(self.margins),
            "incumbent": None if self.incumbent is None else asdict(self.incumbent),
            "finalists": [c.to_json() for c in self.compared],
        }

    def ended_by(self, budget: str, held_out: int) -> Decision:
        """The decision where a budget was used up before it had all runs: what it lacks is no runs."""
        if self.verdict is not Verdict.UNSURE:
            return self
        return replace(self, more=None, cut=f"{budget}, after {self.pairs} of {held_out} held-out runs")

    def unsearched(self, budget: str, evaluated: int) -> Decision:
        """The decision where a budget was used up before there was a finalist: of one alone nothing can be kept."""
        if evaluated > 1:
            return replace(self, why=f"{self.why}, of {evaluated} that were evaluated until {budget}")
        told = "nothing but the incumbent" if evaluated else "not even the incumbent"
        return replace(self, verdict=Verdict.UNSURE, cut=budget, why=f"{told} was evaluated")

    def __str__(self) -> str:
        if self.verdict is Verdict.PROMOTE:
            return f"promote {self.chosen}"
        if self.cut is not None:
            return f"{self.verdict.value}: a budget was used up"
        if self.verdict is Verdict.UNSURE:
            return f"not enough evidence: {NO_MORE if self.more is None else f'need {self.more} more runs'}"
        return "keep"


def decide(
    lanes: Mapping[str, Sequence[Outcome]],
    clusters: Sequence[Hashable],
    goals: Goals,
    *,
    incumbent: str = "incumbent",
    margins: Margins | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    kept: bool = True,
    together: Sequence[Hashable] | None = None,
) -> Decision:
    """The verdict on finalists that ran on the same cases as the incumbent, in the same order.

    Args:
        clusters: of each case, its conversation (or the case itself, if it is of none).
        kept: whether any candidate of the search kept the constraints.
        together: of each case, the block that it ran in (`pairs.blocks_of`); by default each was on its own.
    """
    allowed = margins or Margins()
    base = list(lanes[incumbent])
    names = [name for name in lanes if name != incumbent]
    if not names:
        why = "no candidate of the search is within the margins and better in anything"
        if not kept:
            why = f"no candidate of the search keeps {_constraints(goals)}"
        known = measured(base, goals) if base else None
        return Decision(
            verdict=Verdict.KEEP, chosen=None, more=None, pairs=len(base), incumbent=known, why=why, margins=allowed
        )
    if not base:
        least = 0 if goals.slo_s is None else runs_for_rate(0.0, goals.allowed, ALPHA / len(names)) or 0
        return Decision(
            verdict=Verdict.UNSURE,
            chosen=None,
            more=max(LEAST_CLUSTERS, least),
            pairs=0,
            why=f"nothing was run on held-out cases: {', '.join(names)} may be better",
            margins=allowed,
        )
    tests = {name: _tests(base, lanes[name], clusters, together, goals, allowed, seed, resamples) for name in names}
    adjusted = holm([tests[name].p for name in names])
    compared = [
        _judged(name, tests[name], p, lanes[name], goals, allowed, len(names))
        for name, p in zip(names, adjusted, strict=True)
    ]
    now = measured(base, goals)
    verdict, chosen, more, why = _overall(compared)
    return Decision(
        verdict=verdict,
        chosen=chosen,
        more=more,
        pairs=len(base),
        compared=tuple(compared),
        incumbent=now,
        why=why,
        margins=allowed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tests:
    effects: Mapping[str, Effect]
    not_worse: Mapping[str, float]
    better: Mapping[str, float]
    slo: Misses | None
    own: Level | None
    few: Counted | Graded | None
    p: float


def _tests(
    base: Sequence[Outcome],
    lane: Sequence[Outcome],
    clusters: Sequence[Hashable],
    together: Sequence[Hashable] | None,
    goals: Goals,
    margins: Margins,
    seed: int,
    resamples: int,
) -> _Tests:
    scored = [i for i, (a, b) in enumerate(zip(lane, base, strict=True)) if a.loss is not None and b.loss is not None]
    errors = (
        [float(lane[i].loss or 0.0) for i in scored],
        [float(base[i].loss or 0.0) for i in scored],
        [clusters[i] for i in scored],
    )
    costs = of_pairs(lane, base, goals.cost)
    effects = {
        "error": paired(*errors, seed=seed, shrink=1.0, resamples=resamples),
        "cost": timed(
            *costs,
            clusters,
            together if goals.by_clock else None,
            seed=seed + 1,
            ratio=True,
            resamples=resamples,
        ),
    }
    seconds = of_pairs(lane, base, lambda o: max(o.seconds, 1e-9))
    logs = list(map(math.log, seconds[0])), list(map(math.log, seconds[1]))
    clock = together if all(o.simulated_s is None for o in lane) else None
    times = (  # what is typical, and all of it: the one says nothing of a few long runs, the other little but of them
        timed(*logs, clusters, clock, seed=seed + 2, resamples=resamples),
        timed(*seconds, clusters, clock, seed=seed + 4, ratio=True, resamples=resamples),
    )
    most = margins.of("latency")
    effects["latency"] = max(times, key=lambda e: (e.p_not_below(most) <= ALPHA, e.high))  # the one to talk of
    not_worse = {name: e.p_not_above(margins.of(name)) for name, e in effects.items()}
    better = {name: e.p_not_above(0.0) for name, e in effects.items()}
    not_worse["latency"] = max(e.p_not_above(most) for e in times)
    for name, (ours, theirs) in {"cost": costs, "latency": seconds}.items():
        if ours == theirs and margins.of(name) >= 0:  # the very same in every pair is within a margin of nothing, too
            not_worse[name] = 0.0
    better["latency"] = max(e.p_not_above(0.0) for e in times)
    if (known := few(*errors)) is not None:
        not_worse["error"] = max(not_worse["error"], known.p_above(margins.error))
        better["error"] = max(better["error"], known.p_not_better())
        effects["error"] = replace(effects["error"], high=max(effects["error"].high, known.upper()))
    slo = None if goals.slo_s is None else Misses.of([goals.misses(o) for o in lane], clusters, goals.allowed)
    own = None
    if goals.most_error is not None:  # as far as it was scored, whether or not the incumbent was
        losses = [(o.loss, c) for o, c in zip(lane, clusters, strict=True) if o.loss is not None]
        values, whose = [x for x, _ in losses], [c for _, c in losses]
        own = Level.of(values, whose, goals.most_error, seed=seed + 3, resamples=resamples)
    kept = [limit.p for limit in (slo, own) if limit is not None]
    p = max(*not_worse.values(), min(1.0, _WAYS * min(better.values())), *kept)
    found = _Tests(effects=effects, not_worse=not_worse, better=better, slo=slo, own=own, few=known, p=p)
    return found if _compared(found) >= LEAST_CLUSTERS else replace(found, p=1.0)


def _compared(found: _Tests) -> int:
    """Conversations that there are numbers of."""
    return min(e.clusters for e in found.effects.values())


def _judged(
    name: str, found: _Tests, adjusted: float, lane: Sequence[Outcome], goals: Goals, margins: Margins, finalists: int
) -> Compared:
    verdict, why, more = Verdict.PROMOTE, _gains(found), None
    if adjusted > ALPHA:
        why = _harms(found, goals, margins)
        if why or not _hope(found):
            verdict = Verdict.KEEP
            why = why or ("it is better in nothing by an amount that matters",)
        else:
            verdict, why = Verdict.UNSURE, _open(found, goals, margins)
            more = _needed(found, lane, goals, margins, ALPHA / finalists)
    return Compared(
        name=name,
        verdict=verdict,
        candidate=measured(lane, goals),
        effects=found.effects,
        p=found.p,
        p_adjusted=adjusted,
        slo=None if found.slo is None else (found.slo.misses, found.slo.runs, found.slo.high),
        why=why,
        more=more,
    )


def said(name: str, value: float) -> str:
    """An effect in words: points of error, percent of cost and latency, times of what is many times as much."""
    if name == "error":
        return f"{value * 100:+.1f} points"
    return f"{math.expm1(value):+.1%}" if value < _TIMES else f"{math.exp(min(value, _BEYOND)):.3g} times"


def within(name: str, e: Effect) -> str:
    """An effect and its interval, in words."""
    if name != "error" and abs(e.estimate) > _BEYOND:
        return "from nothing" if e.estimate > 0 else "to nothing"
    return f"{said(name, e.estimate)} ({said(name, e.low)} to {said(name, e.high)})"


def _interval(name: str, e: Effect) -> str:
    return f"{name} {within(name, e)}"


def _constraints(goals: Goals) -> str:
    parts = [] if goals.slo_s is None else [f"the SLO ({goals.percentile:g} of 100 runs within {goals.slo_s:g} s)"]
    return " and ".join([*parts, *([] if goals.most_error is None else [f"the error of at most {goals.most_error:g}"])])


def _gains(found: _Tests) -> tuple[str, ...]:
    sure = [n for n, p in found.better.items() if p * _WAYS <= ALPHA]
    return tuple(f"better: {_interval(n, found.effects[n])}" for n in sure)


def _harms(found: _Tests, goals: Goals, margins: Margins) -> tuple[str, ...]:
    """What it surely does worse than it may."""
    out = [
        f"worse than the margin: {_interval(n, e)}"
        for n, e in found.effects.items()
        if e.clusters >= LEAST_CLUSTERS and e.p_not_below(margins.of(n)) <= ALPHA
    ]
    if found.slo is not None and found.slo.low > goals.allowed:
        out.append(f"it misses the SLO: {found.slo.misses} of {found.slo.runs} runs, {goals.allowed * 100:.3g}% may")
    most = goals.most_error
    if most is not None and found.own is not None and found.own.seen.p_not_below(most) <= ALPHA:
        out.append(f"its error is {_level(found.own.seen)}, {most:.3g} is allowed")
    return tuple(out)


def _level(error: Effect) -> str:
    return f"{error.estimate:.3f} ({error.low:.3f} to {error.high:.3f})"


def _hope(found: _Tests) -> bool:
    """Whether it may still turn out better in something by an amount that matters."""
    return any(e.low < -_WORTH[n] and e.estimate < 0 for n, e in found.effects.items())


def _open(found: _Tests, goals: Goals, margins: Margins) -> tuple[str, ...]:
    out = [
        f"not sure to be within the margin ({said(n, margins.of(n))}): {_interval(n, found.effects[n])}"
        for n, p in found.not_worse.items()
        if p > ALPHA
    ]
    if (slo := found.slo) is not None and slo.p > ALPHA:
        out.append(
            f"the SLO is not certain: {slo.misses} of {slo.runs} runs missed it, up to {slo.high:.1%} may be missing"
        )
    most = goals.most_error
    if most is not None and found.own is not None and found.own.p > ALPHA:
        out.append(f"not sure to have at most the error that is allowed ({most:.3g}): {_level(found.own.seen)}")
    if min(found.better.values()) * _WAYS > ALPHA:
        best = min(found.better, key=lambda n: found.better[n])
        out.append(f"not sure to be better in anything: {_interval(best, found.effects[best])}")
    if not found.effects["error"].clusters:
        return ("no held-out run has a quality (the scorer says None of each), so nobody knows what is right", *out[1:])
    if (compared := _compared(found)) < LEAST_CLUSTERS:
        out.insert(0, f"{compared} held-out conversations are too few to tell; {LEAST_CLUSTERS} are the least")
    return tuple(out) or ("several finalists were tried, which asks for more evidence of each",)


def _needed(found: _Tests, lane: Sequence[Outcome], goals: Goals, margins: Margins, alpha: float) -> int | None:
    """Runs that would tell, beyond those there were, if all goes on as it looks.

    Args:
        alpha: that a part must be sure at for the surest of the finalists to be promoted, by Holm.
    """
    if not found.effects["error"].clusters:
        return None
    per_cluster = len(lane) / max(1, min(e.clusters for e in found.effects.values()))
    wanted = [math.ceil(LEAST_CLUSTERS * per_cluster)]
    for name, e in found.effects.items():
        if found.not_worse[name] > alpha and e.clusters > 1:  # one alone does not say how much they vary
            wanted.append(_runs(e.clusters_for(margins.of(name) - e.estimate, alpha), per_cluster))
            if name == "error" and found.few is not None:
                wanted.append(_runs(found.few.for_margin(margins.error, alpha), per_cluster))
    telling = [e for e in found.effects.values() if e.clusters > 1]
    if telling and min(found.better.values()) * _WAYS > alpha:
        gains = [_runs(e.clusters_for(-e.estimate, alpha / _WAYS), per_cluster) for e in telling]
        if found.few is not None and found.effects["error"].clusters > 1:
            gains[0] = max(gains[0], _runs(found.few.for_gain(alpha / _WAYS), per_cluster))
        wanted.append(min(gains))
    if found.slo is not None and found.slo.p > alpha:
        wanted.append(_runs(found.slo.clusters_for(goals.allowed, alpha), per_cluster))
    if (own := found.own) is not None and own.seen.clusters > 1 and own.p > alpha:
        wanted.append(_runs(own.clusters_for(goals.most_error or 0.0, alpha), per_cluster))
    most = max(wanted)
    if most >= _NEVER and _compared(found) < LEAST_CLUSTERS:
        most = max(w for w in wanted if w < _NEVER)  # from so few nobody knows that none would tell
    # Where that says that there are enough, the numbers are not as even as it takes them to be: a fair guess.
    return None if most >= _NEVER else max(most - len(lane), math.ceil(len(lane) / 5))


_NEVER = 100_000
"""Runs that nobody waits for: what asks for more is a difference too near its margin to tell."""


def _runs(clusters: int | None, per_cluster: float) -> int:
    return _NEVER if clusters is None else min(_NEVER, math.ceil(clusters * per_cluster))


def _overall(compared: Sequence[Compared]) -> tuple[Verdict, str | None, int | None, str]:
    promoted = [c for c in compared if c.verdict is Verdict.PROMOTE]
    if promoted:
        best = min(promoted, key=lambda c: sum(min(0.0, e.estimate) for e in c.effects.values()))
        return Verdict.PROMOTE, best.name, None, "; ".join(best.why)
    unsure = [c for c in compared if c.verdict is Verdict.UNSURE]
    if unsure:
        told = [c for c in unsure if c.more is not None]
        first = min(told, key=lambda c: c.more or 0) if told else unsure[0]
        return Verdict.UNSURE, None, first.more, f"{first.name}: {'; '.join(first.why)}"
    return Verdict.KEEP, None, None, "; ".join(f"{c.name}: {'; '.join(c.why)}" for c in compared)
