"""A plan: how many replicas of what serve these runs at this load within their SLOs, how surely, what would break it.

First an integer programme over what kinds of replicas can do (`kinds.first_mix`), then the simulator: replicas are
added where there are too few while the SLO is missed, and taken away while it is met without them. What is printed was
simulated, with several seeds of arrivals and step times.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, sqrt
from statistics import fmean, stdev
from typing import Any

from redecode.optimizer.placement.alone import Alone, runs_alone, way_of
from redecode.optimizer.placement.beliefs import Beliefs
from redecode.optimizer.placement.deadline import DeadlineRouter
from redecode.optimizer.placement.decisions import DecisionLog
from redecode.optimizer.placement.errors import PlacementError
from redecode.optimizer.placement.estimates import Estimator
from redecode.optimizer.placement.kinds import Kind, check_models, first_mix
from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import PS, to_ps
from redecode.replay.simulator.load import RunSlo, poisson_workload
from redecode.replay.simulator.results import Quantiles, Simulated
from redecode.replay.simulator.rows import Extremes
from redecode.replay.simulator.workload import Shape, Workload

_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10)
"""Student's t at 97.5 % for 1, 2, ... degrees of freedom."""
_SEARCH_SEEDS = 3
_MOST_CHANGES = 40
_MOST_HALVES = 16
_SLOS, _FEWEST_RUNS, _MOST_RUNS = 5, 400, 2000
"""Of a load a fifth beyond what is served the last runs of so many SLOs' worth end too late; those of one do not."""


class Impossible(PlacementError):
    """No number of replicas meets the SLO: the answer is no."""


class BeyondCapacity(PlacementError):
    """All replicas that there may be do not serve this load within the SLO: the answer is no.

    Attributes:
        most_per_s: they serve so many runs a second.
    """

    def __init__(self, words: str, most_per_s: float) -> None:
        super().__init__(words)
        self.most_per_s = most_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for.

    Attributes:
        slos: by agent; under "" of all others.
        runs: simulated for each seed.
    """

    shapes: tuple[Shape, ...]
    slos: Mapping[str, RunSlo]
    per_s: float
    kinds: tuple[Kind, ...]
    seeds: int = 10
    runs: int = 400

    def slo(self, agent: str) -> RunSlo:
        """Of this agent's runs."""
        return self.slos.get(agent) or self.slos[""]

    def longest_s(self) -> float:
        """The longest of the SLOs."""
        return max(self.slo(shape.name).threshold_s for shape in self.shapes)

    def runs_within_slo(self) -> int:
        """Fewer tell nothing: all have begun while the first may still run.

        Whatever pile of work there is by then may be done in time, and ever more of it would not be.
        """
        return ceil(self.per_s * self.longest_s())

    def runs_that_tell(self) -> int:
        """How many to simulate if nobody says: enough to see an overload, not so many that it takes all day."""
        return max(_FEWEST_RUNS, min(_MOST_RUNS, _SLOS * self.runs_within_slo()))

    def most_told(self) -> float:
        """The greatest load, runs a second, of which so many runs do tell something."""
        return self.runs / self.longest_s()


@dataclass(frozen=True, slots=True)
class Class:
    """One agent's runs, over all seeds.

    Attributes:
        attained: the mean over seeds, and its interval (95 %, Student's t).
    """

    agent: str
    slo: str
    attained: float
    low: float
    high: float
    met: bool
    run: Quantiles


@dataclass(frozen=True, slots=True)
class Breaks:
    """The load at which the plan's SLO is missed, and what takes the time then.

    Attributes:
        per_s: runs a second; `None` if none was found up to 8 times the load, or `Wanted.most_told`.
        holds_per_s: the most at which it was met.
        step: the step that takes the most more time than at the load that was asked for, on average over runs.
    """

    per_s: float | None
    holds_per_s: float
    agent: str
    step: str
    more_s: float


@dataclass(frozen=True, slots=True)
class AtLoad:
    """What the plan attains at a load: the share of runs in time, its interval (95 %), and whether all SLOs are met."""

    per_s: float
    attained: float
    low: float
    high: float
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The answer.

    Attributes:
        curve: at the load asked for and at the greater ones that were tried, the least load first.
    """

    per_s: float
    replicas: tuple[tuple[str, str, int, float], ...]
    usd_per_hour: float
    classes: tuple[Class, ...]
    met: bool
    utilisation: float
    refused: float
    usd_per_good_run: float | None
    breaks: Breaks
    curve: tuple[AtLoad, ...]
    alone: tuple[Alone, ...]
    guesses: tuple[str, ...]
    seeds: int
    runs: int

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        found = asdict(self)
        names = ("model", "hardware", "replicas", "usd_per_hour")
        found["replicas"] = [dict(zip(names, row, strict=True)) for row in self.replicas]
        return found


def make_plan(wanted: Wanted, tell: Callable[[str], None] = lambda words: None, log: DecisionLog | None = None) -> Plan:
    """Find it.

    Args:
        log: takes the router's decisions in the first simulation of the plan.

    Raises:
        Impossible: runs alone on the best replicas take longer; names the way.
        BeyondCapacity: there are not enough replicas; says what they serve.
        PlacementError: something asked for makes no sense, or is not known, or too few runs tell nothing.
    """
    check_models(wanted.shapes, wanted.kinds)
    tell("runs alone")
    alone = check_alone(wanted)
    if (least := wanted.runs_within_slo()) > wanted.runs:
        _grow(wanted, [k.most for k in wanted.kinds], tell)  # where even these few are late, that is the answer
        raise PlacementError(
            f"{wanted.runs} runs at {wanted.per_s:g} a second begin within less than the SLO: that they end in time "
            "does not tell whether as many can go on to begin. Simulate "
            f"{least} (--runs), or plan a part of the load"
        )
    counts = _first(wanted)
    counts = _grow(wanted, counts, tell)
    counts = _shrink(wanted, counts, tell)
    found = [_simulate(wanted, counts, wanted.per_s, seed) for seed in range(wanted.seeds)]
    if not _met(wanted, found) and (grown := _grow(wanted, counts, tell, seeds=wanted.seeds)) != counts:
        counts = grown
        found = [_simulate(wanted, counts, wanted.per_s, seed) for seed in range(wanted.seeds)]
    if log is not None:
        _simulate(wanted, counts, wanted.per_s, 0, log)
    tell("more and more load")
    breaks, curve = _breaks(wanted, counts, found)
    classes = _classes(wanted, found)
    good = sum(found_.attained() or 0.0 for found_ in found) / len(found)
    usd = sum(n * k.usd_per_hour for n, k in zip(counts, wanted.kinds, strict=True))
    return Plan(
        per_s=wanted.per_s,
        replicas=tuple(
            (k.engine.model, k.name, n, k.usd_per_hour) for n, k in zip(counts, wanted.kinds, strict=True) if n
        ),
        usd_per_hour=usd,
        classes=classes,
        met=all(c.met for c in classes),
        utilisation=fmean(f.utilisation() for f in found),
        refused=fmean(f.refused / len(f.workload.begins) for f in found),
        usd_per_good_run=usd / 3600 / (wanted.per_s * good) if good else None,
        breaks=breaks,
        curve=curve,
        alone=tuple(alone),
        guesses=tuple(_guesses(wanted, counts, found)),
        seeds=wanted.seeds,
        runs=wanted.runs,
    )


def check_alone(wanted: Wanted) -> list[Alone]:
    """How long the runs take by themselves on the best there is; of each agent that at the SLO's percentile.

    Raises:
        Impossible: that is longer than the SLO.
    """
    best: dict[str, Kind] = {}
    for kind in wanted.kinds:
        known = best.get(kind.engine.model)
        if known is None or _alone_pace(kind) < _alone_pace(known):
            best[kind.engine.model] = kind
    engines = [k.engine for k in best.values() for _ in range(min(8, k.most))]
    runs = runs_alone(wanted.shapes, engines)
    out = []
    for agent in sorted({r.name for r in runs}):
        slo = wanted.slo(agent)
        mine = sorted((r for r in runs if r.name == agent), key=lambda r: r.seconds)
        at = mine[max(0, -(-len(mine) * round(slo.percentile * 1000) // 100_000) - 1)]
        out.append(at)
        if at.seconds > slo.threshold_s:
            late = sum(r.seconds > slo.threshold_s for r in mine)
            raise Impossible(
                f"{agent or 'the runs'}: {slo} cannot be met by any number of replicas: alone on "
                f"{', '.join(sorted(k.name for k in best.values()))}, {late} of {len(mine)} recorded runs take longer, "
                f"the one at p{slo.percentile:g} {at.seconds:.3g} s: {at.words()}"
            )
    return out


# --- how many ------------------------------------------------------------------------------------


def _first(wanted: Wanted) -> list[int]:
    """By the integer programme, model by model; where that finds none, as many as there may be."""
    counts = [0] * len(wanted.kinds)
    agents = {s.name for s in wanted.shapes}
    slo_s = {agent: wanted.slo(agent).threshold_s for agent in agents}
    late = min(1.0 - wanted.slo(agent).percentile / 100 for agent in agents)
    called = {c.model for s in wanted.shapes for c in s.calls}
    for model in sorted({k.engine.model for k in wanted.kinds if k.engine.model in called or not k.engine.model}):
        places = [i for i, k in enumerate(wanted.kinds) if k.engine.model == model]
        kinds = [wanted.kinds[i] for i in places]
        try:
            numbers = first_mix(wanted.shapes, kinds, wanted.per_s, slo_s, max(0.01, late)).replicas
        except PlacementError:
            numbers = tuple(k.most for k in kinds)
        for place, number in zip(places, numbers, strict=True):
            counts[place] = number
        if not any(numbers):
            counts[min(places, key=lambda i: wanted.kinds[i].usd_per_hour)] = 1
    return counts


def _grow(wanted: Wanted, counts: list[int], tell: Callable[[str], None], seeds: int = _SEARCH_SEEDS) -> list[int]:
    """More replicas until the SLO is met."""
    counts = list(counts)
    for _ in range(_MOST_CHANGES * 8):
        tell(f"simulating {_words(wanted, counts)}")
        found = [_simulate(wanted, counts, wanted.per_s, seed) for seed in range(seeds)]
        if _met(wanted, found):
            return counts
        more = [i for i, (n, k) in enumerate(zip(counts, wanted.kinds, strict=True)) if n < k.most]
        if not more:
            most = _most_served(wanted, counts, tell)
            raise BeyondCapacity(
                f"{wanted.per_s:g} runs a second are more than all {_words(wanted, counts)} serve within the SLO: "
                + (f"at most about {most:.3g}" if most else "nearly none"),
                most,
            )
        busy = _busy(wanted, counts, found)
        best = max(more, key=lambda i: (busy[wanted.kinds[i].engine.model], _per_usd(wanted.kinds[i])))
        counts[best] += 1
    return counts


def _shrink(wanted: Wanted, counts: list[int], tell: Callable[[str], None]) -> list[int]:
    """Fewer, or cheaper ones, while the SLO is met."""
    counts = list(counts)
    for place in sorted(range(len(counts)), key=lambda i: -wanted.kinds[i].usd_per_hour):
        model = wanted.kinds[place].engine.model
        while counts[place]:
            fewer = list(counts)
            fewer[place] -= 1
            if not any(n for n, k in zip(fewer, wanted.kinds, strict=True) if k.engine.model == model):
                break
            tell(f"simulating {_words(wanted, fewer)}")
            if not _met(wanted, [_simulate(wanted, fewer, wanted.per_s, seed) for seed in range(_SEARCH_SEEDS)]):
                break
            counts = fewer
    return counts


def _most_served(wanted: Wanted, counts: Sequence[int], tell: Callable[[str], None]) -> float:
    """By halves until it is met (the load that was asked for may be thousands of times that), then between the two."""

    def served(per_s: float) -> bool:
        tell(f"simulating {per_s:.3g} runs a second")
        return _met(wanted, [_simulate(wanted, counts, per_s, seed) for seed in range(_SEARCH_SEEDS)])

    high = min(wanted.per_s, wanted.most_told())
    for _ in range(_MOST_HALVES):
        low = high / 2
        if served(low):
            break
        high = low
    else:
        return 0.0
    for _ in range(5):
        middle = (low + high) / 2
        low, high = (middle, high) if served(middle) else (low, middle)
    return low


def _busy(wanted: Wanted, counts: Sequence[int], found: Sequence[Simulated]) -> dict[str, float]:
    """How long calls of each model took, over what they take alone: where more replicas help."""
    took: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for f in found:
        for call, sent, done in zip(f.calls(), f.sent, f.done, strict=True):
            if done >= 0:
                took[call.model] += done - sent
                tokens[call.model] += call.output_tokens
    pace = {k.engine.model: _alone_pace(k) for k in wanted.kinds}
    out = {name: took[name] / PS / max(1, tokens[name]) / pace[name] for name in pace if name in took}
    return {name: out.get(name, max(out.values(), default=0.0) if not name else 0.0) for name in pace}


# --- what it comes to ----------------------------------------------------------------------------


def _simulate(
    wanted: Wanted, counts: Sequence[int], per_s: float, seed: int, log: DecisionLog | None = None
) -> Simulated:
    engines = [k.engine for n, k in zip(counts, wanted.kinds, strict=True) for _ in range(n)]
    workload = workload_at(wanted, per_s, seed)
    router = DeadlineRouter(Estimator(Beliefs(wanted.shapes, engines)), log=log)
    return Simulation(workload, engines, router=router, seed=seed, noise=True).run()


def workload_at(wanted: Wanted, per_s: float, seed: int) -> Workload:
    """Runs drawn from the recorded ones, each with its agent's deadline."""
    plain = poisson_workload(wanted.shapes, wanted.runs, per_s, random.Random(f"place/{seed}"))
    deadlines = plain.begins[:0]
    deadlines.extend(to_ps(wanted.slo(plain.shapes[i].name).threshold_s) for i in plain.which)
    return replace(plain, deadlines=deadlines)


def _attained(wanted: Wanted, f: Simulated) -> dict[str, tuple[int, int]]:
    """Of each agent the runs in time, and all."""
    good: Counter[str] = Counter()
    every: Counter[str] = Counter()
    w = f.workload
    for which, begin, end, limit in zip(w.which, w.begins, f.run_ended, w.deadlines, strict=True):
        name = w.shapes[which].name
        every[name] += 1
        good[name] += 0 <= end <= begin + limit
    return {name: (good[name], every[name]) for name in every}


def _met(wanted: Wanted, found: Sequence[Simulated]) -> bool:
    sums: dict[str, list[int]] = {}
    for f in found:
        for name, (good, every) in _attained(wanted, f).items():
            both = sums.setdefault(name, [0, 0])
            both[0], both[1] = both[0] + good, both[1] + every
    return all(good >= every * wanted.slo(name).percentile / 100 for name, (good, every) in sums.items())


def _classes(wanted: Wanted, found: Sequence[Simulated]) -> tuple[Class, ...]:
    out = []
    for agent in sorted({s.name for s in wanted.shapes}):
        shares, times = [], list[float]()
        for f in found:
            good, every = _attained(wanted, f).get(agent, (0, 0))
            if every:
                shares.append(good / every)
            w = f.workload
            times += [
                (end - begin) / PS
                for which, begin, end in zip(w.which, w.begins, f.run_ended, strict=True)
                if end >= 0 and w.shapes[which].name == agent
            ]
        if not shares:
            continue
        slo = wanted.slo(agent)
        mean, low, high = _interval(shares)
        out.append(Class(agent, str(slo), mean, low, high, mean >= slo.percentile / 100, Quantiles.of(times)))
    return tuple(out)


def _interval(shares: Sequence[float]) -> tuple[float, float, float]:
    """The mean of what each seed gave, and its interval."""
    mean, n = fmean(shares), len(shares)
    half = _T95[min(n - 2, len(_T95) - 1)] * stdev(shares) / sqrt(n) if n > 1 else 1.0
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def _at_load(wanted: Wanted, per_s: float, found: Sequence[Simulated]) -> AtLoad:
    return AtLoad(per_s, *_interval([f.attained() or 0.0 for f in found]), _met(wanted, found))


def _breaks(wanted: Wanted, counts: Sequence[int], found: Sequence[Simulated]) -> tuple[Breaks, tuple[AtLoad, ...]]:
    holds, fails, worst = wanted.per_s, None, list[Simulated]()
    load = wanted.per_s
    curve = [_at_load(wanted, load, found)]
    for _ in range(6):
        load = min(load * sqrt(2.0), wanted.most_told())
        if load <= holds:
            break
        tried = [_simulate(wanted, counts, load, seed) for seed in range(_SEARCH_SEEDS)]
        curve.append(_at_load(wanted, load, tried))
        if not _met(wanted, tried):
            fails, worst = load, tried
            break
        holds = load
    if fails is None:
        return Breaks(None, holds, "", "", 0.0), tuple(curve)
    for _ in range(3):
        load = sqrt(holds * fails)
        tried = [_simulate(wanted, counts, load, seed) for seed in range(_SEARCH_SEEDS)]
        curve.append(_at_load(wanted, load, tried))
        if _met(wanted, tried):
            holds = load
        else:
            fails, worst = load, tried
    before, after = _time_by_step(found), _time_by_step(worst)
    key = max(after, key=lambda k: after[k] - before.get(k, 0.0), default=("", ""))
    broken = Breaks(fails, holds, key[0], key[1], after.get(key, 0.0) - before.get(key, 0.0))
    return broken, tuple(sorted(curve, key=lambda at: at.per_s))


def _time_by_step(found: Sequence[Simulated]) -> dict[tuple[str, str], float]:
    """Seconds per run of the agent that steps take on the way that makes the run as long as it is."""
    total: Counter[tuple[str, str]] = Counter()
    runs: Counter[str] = Counter()
    for f in found:
        for run, end in enumerate(f.run_ended):
            if end >= 0:
                name = f.workload.shapes[f.workload.which[run]].name
                runs[name] += 1
                for leg in way_of(f, run):
                    if not leg.wait:
                        total[name, leg.step] += leg.seconds  # type: ignore[assignment]
    return {key: seconds / runs[key[0]] for key, seconds in total.items()}


def _guesses(wanted: Wanted, counts: Sequence[int], found: Sequence[Simulated]) -> list[str]:
    """Where nothing was measured."""
    out, place = [], 0
    for n, kind in zip(counts, wanted.kinds, strict=True):
        most = Extremes()
        for f in found:
            for extremes in f.extremes[place : place + n]:
                most = most.join(extremes)
        place += n
        if n and kind.outside is not None:
            out += [f"{kind.name}: {words}" for words in kind.outside(most)]
    return out


def _alone_pace(kind: Kind) -> float:
    c = kind.engine.costs
    return (c.step + c.gap + c.decode + c.gap_row) / PS


def _per_usd(kind: Kind) -> float:
    return 1.0 / (_alone_pace(kind) * max(1e-9, kind.usd_per_hour))


def _words(wanted: Wanted, counts: Sequence[int]) -> str:
    parts = [f"{n} × {k.name}" for n, k in zip(counts, wanted.kinds, strict=True) if n]
    return ", ".join(parts) or "nothing"
