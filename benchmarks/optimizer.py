"""How well the search searches: hypervolume against other samplers, on a problem whose front is known.

The problem is a made-up agent with ten knobs, six of them categorical, three noisy objectives (error, cost, latency)
and two constraints that 18 % of random candidates keep. Its true values are a formula, so the front can be
listed from many random candidates, and what a search has found is judged without the noise: the volume of its truly
feasible points (error, log of cost, log of latency), as a share of that of the listed front.

1. hypervolume after 50, 100 and 200 trials, each sampler with the same seeds (mean and standard error);
2. two fidelities: a cheap one that is biased (latency by up to a quarter, error by up to .05, by kind of candidate),
   then an exact one that is dear: hypervolume after 10, 20 and 40 dear evaluations, from nothing, and begun with those
   ten of the cheap study's points that cover most, as they were measured, and with the noise taken out (`gaussian`);
3. what a trial costs the driver itself, ask and tell, with the journal on a disk.

`--quick` takes under a minute; `--json` prints the same as data.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna

from redecode.optimizer.knobs import Choice, Config, Range, Space
from redecode.optimizer.objectives import Goals, Measured
from redecode.optimizer.study.hypervolume import front, hypervolume, subset
from redecode.optimizer.study.search import Asked, Evaluated, Search, begins_with
from redecode.optimizer.study.storage import About, opened

SPACE = Space(
    {
        "architecture": Choice("single", "parallel", "sequential", "debate"),
        "model": Choice("xs", "s", "m", "l"),
        "format": Choice("json", "yaml", "xml", "text"),
        "wording": Choice("brief", "plain", "careful", "few_shot"),
        "cache": Choice("none", "exact", "semantic"),
        "repair": Choice("no", "yes"),
        "shots": Range(0, 6, integer=True),
        "max_tokens": Range(32, 512, log=True, integer=True),
        "temperature": Range(0.0, 1.0),
        "threshold": Range(0.7, 0.99, when={"cache": ["semantic"]}),
    }
)
SLO_S, MOST_ERROR, MOST_COST = 0.75, 0.3, 14.0
GOALS = Goals(slo_s=SLO_S, most_error=MOST_ERROR)
REFERENCE = (MOST_ERROR, math.log(MOST_COST), math.log(SLO_S))
"""The worst that is worth anything, as `judged` gives it."""
_ARCHITECTURES = {  # calls in all, calls one after the other, what it adds to being right
    "single": (1.0, 1.0, 0.0),
    "parallel": (3.0, 1.0, 0.25),
    "sequential": (3.0, 3.0, 0.5),
    "debate": (4.2, 2.4, 0.8),
}
_MODELS = {"xs": (0.12, 0.25, 0.0), "s": (0.3, 0.45, 0.9), "m": (1.0, 0.8, 1.7), "l": (3.0, 1.6, 2.2)}
_FORMATS = {"json": (1.0, 0.0), "yaml": (0.86, -0.12), "xml": (1.4, 0.18), "text": (0.78, -0.3)}
_WORDINGS = {"brief": (40, -0.5), "plain": (70, 0.0), "careful": (130, 0.35), "few_shot": (160, 0.2)}


NOTHING, MEASURED, SMOOTHED = "from nothing", "begun with the best as measured", "begun with the best, smoothed"


def truth(config: Config, *, biased: bool = False) -> tuple[float, float, float]:
    """Error, cost and latency of a candidate; biased: as a model of it would say."""
    c = {"threshold": 0.9, **config}
    calls, depth, skill = _ARCHITECTURES[str(c["architecture"])]
    price, pace, strength = _MODELS[str(c["model"])]
    wordy, ease = _FORMATS[str(c["format"])]
    prompt, clear = _WORDINGS[str(c["wording"])]
    shots, heat, limit = float(c["shots"] or 0), float(c["temperature"] or 0), float(c["max_tokens"] or 0)
    needed = 90 * wordy / (calls**0.7)
    cut = 1 / (1 + math.exp((limit - needed * 1.1) / 12))
    hits, lies = 0.0, 0.0
    if c["cache"] == "exact":
        hits = 0.18
    elif c["cache"] == "semantic":
        loose = (0.99 - float(c["threshold"] or 0.9)) / 0.29
        hits, lies = 0.25 + 0.4 * loose, 0.25 * loose**2
    mended = 0.3 if c["repair"] == "yes" else 0.0
    helped = 0.28 * math.sqrt(shots) * (1.0 if c["model"] in ("s", "m") else 0.4)
    tempered = -1.8 * (heat - (0.45 if c["architecture"] == "debate" else 0.05)) ** 2
    clash = (
        -0.5 if c["format"] == "text" and c["model"] == "xs" else 0.3 if c["format"] == "yaml" and shots > 2 else 0.0
    )
    logit = (
        -0.2
        + strength
        + skill * (0.6 if c["model"] == "xs" else 1.0)
        + ease
        + clear
        + mended
        + helped
        + tempered
        + clash
    )
    error = 1 - (1 - cut) * (1 - lies) / (1 + math.exp(-logit))
    length = prompt + 110 * shots + 200
    output = min(limit, needed)
    cost = calls * (1 - hits) * price * (length * 0.002 + output * 0.02) + (0.05 if c["repair"] == "yes" else 0.0)
    seconds = depth * pace * (0.06 + length * 0.00035 + output * 0.0065) * (1 - 0.7 * hits) + 0.03 * calls
    if biased:
        error = min(1.0, max(0.0, error + 0.05 * math.sin(7 * calls + 3 * strength + wordy)))
        seconds *= 1 + 0.25 * math.sin(5 * depth + 11 * pace)
    return error, cost, seconds


def feasible(values: Sequence[float]) -> bool:
    """Whether true values keep the constraints."""
    return values[0] <= MOST_ERROR and values[2] <= SLO_S


def judged(values: Sequence[float]) -> tuple[float, float, float]:
    """Values on the scales of the volume."""
    return values[0], math.log(values[1]), math.log(values[2])


def noisy(config: Config, rng: random.Random, *, biased: bool = False, runs: int = 60) -> Measured:
    """What an evaluation over so many runs would say."""
    error, cost, seconds = truth(config, biased=biased)
    error = min(1.0, max(0.0, rng.gauss(error, math.sqrt(max(error * (1 - error), 1e-4) / runs))))
    cost *= math.exp(rng.gauss(0, 0.02))
    seconds *= math.exp(rng.gauss(0, 0.05))
    # Of a hundred runs that are log-normal around their mean so many miss the SLO; five are allowed where it is kept.
    spread = 0.2
    missed = runs * (1 - statistics.NormalDist().cdf(math.log(SLO_S / seconds) / spread + 1.645))
    return Measured(
        runs=runs, scored=runs, failed=0, missed=round(missed), error=error, error_se=0.0, cost=cost,
        cost_se=0.0, latency_s=seconds, median_s=seconds, live=0, memo=0,
    )  # fmt: skip


def about(seed: int, sampler: str, fidelity: str = "engine") -> About:
    """A study of the made-up agent."""
    return About(
        spec="benchmark", agent="made-up", fidelity=fidelity, space={}, space_digest=SPACE.digest, base={},
        incumbent={}, search=(), decide=(), goals={}, sampler=sampler, seed=seed, versions={}, settings={}, made_ns=0,
    )  # fmt: skip


def drawn(rng: random.Random) -> Config:
    """A random candidate."""
    config: Config = {}
    for name, knob in SPACE.knobs.items():
        if not SPACE.active(name, config):
            continue
        if isinstance(knob, Choice):
            config[name] = rng.choice(knob.labels)
        elif knob.log:
            config[name] = round(math.exp(rng.uniform(math.log(knob.low), math.log(knob.high))))
        else:
            config[name] = (
                rng.randint(round(knob.low), round(knob.high)) if knob.integer else rng.uniform(knob.low, knob.high)
            )
    return config


def best_volume(count: int) -> tuple[float, float]:
    """The hypervolume of the front of many random candidates, and the share of candidates that are feasible."""
    rng = random.Random(20261121)
    points = [judged(v) for v in (truth(drawn(rng)) for _ in range(count)) if feasible(v)]
    kept: list[tuple[float, float, float]] = []
    for start in range(0, len(points), 500):  # fronts of fronts: quadratic in the little ones only
        some = kept + points[start : start + 500]
        kept = [some[i] for i in front(some)]
    return hypervolume(kept, REFERENCE), len(points) / count


def volume(configs: Sequence[Config]) -> float:
    """What truly feasible candidates cover."""
    points = [judged(v) for v in (truth(c) for c in configs) if feasible(v)]
    return hypervolume([points[i] for i in front(points)], REFERENCE)


def searched(
    sampler: str, seed: int, trials: int, *, biased: bool = False, first: Sequence[Config] = ()
) -> tuple[list[Config], list[Measured]]:
    """The candidates that a search evaluates, in order, and what it was told of them."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = Search(optuna.storages.InMemoryStorage(), about(seed, sampler), SPACE, GOALS)
    rng = random.Random(f"noise/{seed}/{biased}")
    for config in first:
        search.enqueue(config)
    configs: list[Config] = []
    found: list[Measured] = []
    while len(configs) < trials:
        (asked,) = search.ask(1)
        values = noisy(asked.config, rng, biased=biased)
        search.tell(asked, Evaluated(measured=values))
        configs.append(asked.config)
        found.append(values)
    return configs, found


def one_sampler(job: tuple[str, int, tuple[int, ...]]) -> list[float]:
    """Volumes after so many trials."""
    sampler, seed, marks = job
    configs, _ = searched(sampler, seed, max(marks))
    return [volume(configs[:n]) for n in marks]


def two_fidelities(job: tuple[str, int, int, tuple[int, ...]]) -> list[float]:
    """Volumes after so many dear evaluations: from nothing, or begun with the best of the cheap study."""
    how, seed, cheap, marks = job
    first: list[Config] = []
    if how != NOTHING:
        configs, found = searched("gp", seed + 1000, cheap, biased=True)
        kept = [i for i, m in enumerate(found) if sum(max(0.0, v) for v in GOALS.constraints(m).values()) <= 0]
        if how == MEASURED:
            places = [kept[i] for i in subset([judged(found[i].values) for i in kept], REFERENCE, 10)]
        else:
            places = begins_with(SPACE, configs, [m.values for m in found], kept, 10)
        first = [configs[i] for i in places]
    configs, _ = searched("gp", seed, max(marks), first=first)
    return [volume(configs[:n]) for n in marks]


def overhead(trials: int) -> dict[str, float]:
    """Milliseconds of the driver for a trial, median over the first and the last tenth, with the journal on a disk."""
    with tempfile.TemporaryDirectory() as folder:
        search = Search(opened(Path(folder) / "studies.journal"), about(0, "gp"), SPACE, GOALS)
        rng, times = random.Random(0), []
        for _ in range(trials):
            begun = time.perf_counter()
            asked: list[Asked] = search.ask(1)
            search.tell(asked[0], Evaluated(measured=noisy(asked[0].config, rng)))
            times.append((time.perf_counter() - begun) * 1e3)
    tenth = max(1, trials // 10)
    return {"first": statistics.median(times[:tenth]), "last": statistics.median(times[-tenth:]), "trials": trials}


@dataclass(frozen=True, slots=True)
class Row:
    """Means over seeds, as shares of the listed front's volume, and their standard errors."""

    name: str
    means: list[float]
    errors: list[float]


def rows(names: Sequence[str], results: Sequence[list[float]], seeds: int, most: float) -> list[Row]:
    """Results in the order of names, then seeds."""
    out = []
    for place, name in enumerate(names):
        mine = [[v / most for v in r] for r in results[place * seeds : (place + 1) * seeds]]
        columns = list(zip(*mine, strict=True))
        errors = [statistics.stdev(c) / math.sqrt(len(c)) if len(c) > 1 else 0.0 for c in columns]
        out.append(Row(name, [statistics.mean(c) for c in columns], errors))
    return out


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer seeds and trials")
    parser.add_argument("--json", action="store_true", help="the same as data")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", choices=("samplers", "fidelities"), help="one of the two tables")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seeds = 2 if args.quick else args.seeds
    marks = (25, 50) if args.quick else (50, 100, 200)
    dear, cheap = ((10, 20), 60) if args.quick else ((10, 20, 40), 300)
    most, share = best_volume(20_000 if args.quick else 200_000)
    samplers: tuple[str, ...] = ("random", "nsga2", "tpe-multivariate", "tpe-default", "tpe", "gp")
    ways: tuple[str, ...] = (NOTHING, MEASURED, SMOOTHED)
    samplers = () if args.only == "fidelities" else samplers
    ways = () if args.only == "samplers" else ways
    with get_context("spawn").Pool(args.processes) as pool:
        of_samplers = pool.map(one_sampler, [(s, k, marks) for s in samplers for k in range(seeds)], 1)
        of_ways = pool.map(two_fidelities, [(w, k, cheap, dear) for w in ways for k in range(seeds)], 1)
    first, second = rows(samplers, of_samplers, seeds, most), rows(ways, of_ways, seeds, most)
    cost = overhead(40 if args.quick else 200)
    conditions = {"optuna": version("optuna"), "python": sys.version.split()[0], "seeds": seeds, "cheap trials": cheap}
    if args.json:
        document: dict[str, Any] = {
            "conditions": conditions,
            "feasible_share": share,
            "samplers": {"trials": marks, "rows": [{"name": r.name, "mean": r.means, "se": r.errors} for r in first]},
            "fidelities": {"dear": dear, "rows": [{"name": r.name, "mean": r.means, "se": r.errors} for r in second]},
            "driver_ms_per_trial": cost,
        }
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        return
    print("conditions: " + ", ".join(f"{k} {v}" for k, v in conditions.items()) + f"; {share:.0%} feasible at random")
    for title, marked, table in (("sampler", marks, first), ("dear evaluations", dear, second)):
        print(f"\n{title:36}" + "".join(f"{n:>18}" for n in marked))
        for row in table:
            cells = "".join(f"{m:>9.3f} ± {e:.3f} " for m, e in zip(row.means, row.errors, strict=True))
            print(f"{row.name:36}{cells}")
    print(f"\ndriver: {cost['first']:.1f} ms a trial at first, {cost['last']:.1f} ms after {cost['trials']:.0f}")


if __name__ == "__main__":
    main()
