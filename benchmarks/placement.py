"""Policies of placement against each other and against Ray Serve's: the same replicas, arrivals and lengths.

Routers, on a fixed pool: Serve's power of two choices as it comes and tuned, round robin, least outstanding, prefix
affinity, shortest expected delay, ours, ours with each part removed, and ours with the true lengths (the oracle: what
knowing them would be worth; its rule is ours, so it is no strict bound). Provisioners, on a load that rises and falls:
Serve's rule with Serve's router as they come and tuned, and ours. Seeds are paired: every policy has the same runs;
differences are of pairs, with a bootstrap interval (95 %).

Serve is tuned by `--trials` trials (its provisioner by three times as many, ours by eight) on seeds of their own at
the load near saturation. The numbers of ours (`deadline.Parts`) were chosen by hand, on other seeds than are compared
on. Policies that learn learn from other runs of the same kind, never from those they place. Workloads: runs of our own
agents (the shipped recording, or `--store`); made-up ones: coding agents matched to published means, chats beside them
with an SLO of their own, fan-outs; a sample of Mooncake's conversations. Engines are made up (an 8B-like model on
three kinds of hardware). `--quick` takes about half a minute on a machine with nothing to do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.support.placement_tables import show
from benchmarks.support.placement_workloads import Mix, capacity, drawn, mixes, next_of, pools
from redecode.optimizer.placement.beliefs import Beliefs, Truth
from redecode.optimizer.placement.deadline import DeadlineRouter, Parts
from redecode.optimizer.placement.estimates import Estimator
from redecode.optimizer.placement.risk_scaling import RiskRule, RiskScaling
from redecode.optimizer.placement.serve_router import PowerOfTwoChoices
from redecode.optimizer.placement.serve_scaling import ServeRule, ServeScaling
from redecode.optimizer.placement.simple import LeastOutstanding, PrefixAffinity, RoundRobin, ShortestExpectedDelay
from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import PS, to_ps
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.results import Quantiles, Simulated
from redecode.replay.simulator.views import Provisioner, Router
from redecode.replay.simulator.workload import Workload

_BEGAN = time.perf_counter()
_DEADLINES = 3.0
_TUNING, _COMPARED = 1000, 2000
"""First seeds. Serve is tuned on others than are compared on; so were, by hand, the numbers of ours (0, 1, 100)."""
DEFAULT, TUNED, OURS = "Serve default", "Serve tuned", "ours"
ENOUGH = 0.95
"""So many runs in time a provisioner may be asked for."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to place calls.

    Attributes:
        make: from (what it may learn from, the workload, replicas, seed): a router, and a provisioner if it has one.
        by_priority: its engines let in by priority.
    """

    name: str
    make: Callable[[Mix, Workload, Sequence[Engine], int], tuple[Router, Provisioner | None]]
    by_priority: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one workload under one policy."""

    goodput: float
    by_class: dict[str, float]
    refused: float
    ttft_p95: float
    e2e_p95: float
    utilisation: float
    usd: float
    good: int
    cpu_s: float


def run_policies(
    policies: Sequence[Policy], mix: Mix, workload: Workload, engines: Sequence[Engine], seed: int
) -> dict[str, Outcome]:
    """Every policy on the same runs and replicas, simulated. A live comparison has the same signature."""
    out = {}
    for policy in policies:
        kinds = {id(e): replace(e, limits=replace(e.limits, by_priority=policy.by_priority)) for e in engines}
        mine = [kinds[id(e)] for e in engines]
        begun = time.process_time()
        router, provisioner = policy.make(mix, workload, mine, seed)
        found = Simulation(workload, mine, router=router, provisioner=provisioner).run()
        out[policy.name] = outcome(found, time.process_time() - begun)
    return out


def outcome(found: Simulated, cpu_s: float) -> Outcome:
    """The measures of one simulation."""
    w = found.workload
    good: dict[str, list[bool]] = {}
    for which, begin, end, limit in zip(w.which, w.begins, found.run_ended, w.deadlines, strict=True):
        good.setdefault(w.shapes[which].name, []).append(0 <= end <= begin + limit)
    # What replicas cost while runs come, not while the last of them end.
    until = w.begins[-1]
    alive = sum(min(a, until) / PS * c for a, c in zip(found.alive_ps, found.costs, strict=True))
    return Outcome(
        goodput=found.attained() or 0.0,
        by_class={name: fmean(met) for name, met in sorted(good.items())},
        refused=found.refused / len(w.begins),
        ttft_p95=Quantiles.of(found.ttft_s()).p95 or 0.0,
        e2e_p95=Quantiles.of(found.run_s()).p95 or 0.0,
        utilisation=found.utilisation(),
        usd=alive,
        good=sum(map(sum, good.values())),
        cpu_s=cpu_s,
    )


# --- policies --------------------------------------------------------------------------------


def _estimator(mix: Mix, engines: Sequence[Engine]) -> Estimator:
    return Estimator(Beliefs(mix.known, engines))


def _ours(name: str = OURS, parts: Parts | None = None) -> Policy:
    return Policy(
        name,
        lambda mix, w, engines, seed: (DeadlineRouter(_estimator(mix, engines), parts=parts), None),
        by_priority=(parts or Parts()).order,
    )


def serve(name: str, most: int) -> Policy:
    """Serve's router with this max_ongoing_requests."""
    return Policy(
        name,
        lambda mix, w, engines, seed: (
            PowerOfTwoChoices(random.Random(f"serve/{seed}"), max_ongoing_requests=most),
            None,
        ),
    )


def routers(tuned_most: int) -> list[Policy]:
    """Those that are compared at every load."""
    return [
        serve(DEFAULT, 5),
        serve(TUNED, tuned_most),
        Policy("round robin", lambda *_: (RoundRobin(), None)),
        Policy("least outstanding", lambda *_: (LeastOutstanding(), None)),
        Policy("prefix affinity", lambda *_: (PrefixAffinity(), None)),
        Policy(
            "shortest expected delay",
            lambda mix, w, engines, seed: (ShortestExpectedDelay(_estimator(mix, engines)), None),
        ),
        _ours(),
        Policy(
            "oracle (true lengths)",
            lambda mix, w, engines, seed: (DeadlineRouter(Estimator(Truth(w, engines))), None),
            by_priority=True,
        ),
    ]


def ablation() -> list[Policy]:
    """Ours with each part removed, and with the one that is off."""
    return [
        _ours("ours - chance", Parts(chance=False)),
        _ours("ours - burden", Parts(burden=False)),
        _ours("ours - committed", Parts(committed=False)),
        _ours("ours - order", Parts(order=False)),
        _ours("ours - shed", Parts(shed=False)),
        _ours("ours - prefix", Parts(prefix=False)),
        _ours("ours + hold", Parts(hold=True)),
    ]


def tune_serve(mix: Mix, engines: Sequence[Engine], rate: float, runs: int, trials: int) -> tuple[int, float]:
    """max_ongoing_requests of most goodput on seeds that are not compared on."""
    tried = [5, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 100_000]
    best = (5, -1.0)
    count = max(2, min(trials, len(tried)))
    for most in [tried[round(i * (len(tried) - 1) / (count - 1))] for i in range(count)]:
        found = [
            run_policies([serve("s", most)], mix, drawn(mix, rate, runs, _TUNING + s), engines, s)["s"]
            for s in range(2)
        ]
        goodput = fmean(f.goodput for f in found)
        if goodput > best[1]:
            best = (most, goodput)
    return best


# --- routers on a fixed pool -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Size:
    """How much is simulated.

    Attributes:
        runs, most_runs: in each simulation; between these so many that they begin over three of the longest deadlines.
    """

    seeds: int
    runs: int
    loads: tuple[float, ...]
    trials: int
    most_runs: int


def fixed_pool(mix: Mix, pool: str, engines: Sequence[Engine], size: Size, near: float) -> dict[str, Any]:
    """All routers at all loads, and the parts of ours at the load nearest to saturation.

    Loads are multiples of what the replicas could end by the engine model with full batches, the same for all policies.
    """
    top = capacity(engines, mix.known)
    longest_s = max(mix.deadlines.values()) / PS
    runs = max(size.runs, min(size.most_runs, round(_DEADLINES * longest_s * near * top)))
    most, _ = tune_serve(mix, engines, near * top, runs, size.trials)
    rows = []
    for load in size.loads:
        found: dict[str, list[Outcome]] = {}
        chosen = routers(most) + (ablation() if load == near else [])
        for seed in range(_COMPARED, _COMPARED + size.seeds):
            workload = drawn(mix, load * top, runs, seed)
            for name, result in run_policies(chosen, mix, workload, engines, seed).items():
                found.setdefault(name, []).append(result)
        rows += [summary(name, load, results, found) for name, results in found.items()]
        _say(f"{mix.name} on {pool}: load {load:g} done")
    return {
        "workload": mix.name,
        "source": mix.source,
        "pool": pool,
        "replicas": [e.hardware for e in engines],
        "capacity_runs_per_s": round(top, 3),
        "deadlines_s": {name: round(d / PS, 2) for name, d in mix.deadlines.items()},
        "tuned_max_ongoing_requests": most,
        "near_saturation": near,
        "runs": runs,
        "rows": rows,
        "most_at_95": most_at(rows, 0.95),
        "verdict": verdict(rows, near),
    }


def summary(name: str, load: float, results: Sequence[Outcome], all_: dict[str, list[Outcome]]) -> dict[str, Any]:
    """Means over seeds, and ours less it in pairs."""
    row: dict[str, Any] = {"policy": name, "load": load, "seeds": len(results)}
    for field in ("goodput", "refused", "ttft_p95", "e2e_p95", "utilisation", "cpu_s"):
        row[field] = fmean(getattr(r, field) for r in results)
    names = results[0].by_class
    row["by_class"] = {c: fmean(r.by_class.get(c, 0.0) for r in results) for c in names}
    good = sum(r.good for r in results)
    row["usd_per_1000_good"] = 1000 * sum(r.usd for r in results) / good if good else None
    ours = all_.get(OURS)
    if ours is not None and name != OURS:
        row["ours_less_it"] = paired([a.goodput - b.goodput for a, b in zip(ours, results, strict=True)])
        base = fmean(r.goodput for r in results)
        row["ours_over_it"] = fmean(r.goodput for r in ours) / base - 1 if base else None
    return row


def paired(differences: Sequence[float], draws: int = 2000) -> tuple[float, float, float]:
    """Mean of paired differences, and its 95 % bootstrap interval."""
    rng = random.Random(0)
    n = len(differences)
    means = sorted(fmean(rng.choices(differences, k=n)) for _ in range(draws))
    return fmean(differences), means[int(0.025 * draws)], means[int(0.975 * draws) - 1]


def most_at(rows: Sequence[dict[str, Any]], share: float) -> dict[str, float | None]:
    """Of each policy the highest load with this share in time, between loads by straight lines."""
    out: dict[str, float | None] = {}
    for name in dict.fromkeys(r["policy"] for r in rows):
        points = [(r["load"], r["goodput"]) for r in rows if r["policy"] == name]
        best = None
        for (l0, g0), (l1, g1) in pairwise(points):
            if g0 >= share > g1:
                best = l0 + (l1 - l0) * (g0 - share) / (g0 - g1)
        if best is None and points and points[-1][1] >= share:
            best = points[-1][0]
        if len(points) > 1:
            out[name] = best
    return out


def verdict(rows: Sequence[dict[str, Any]], near: float) -> dict[str, Any]:
    """Against the goals: +25 % on default, +10 % on tuned near saturation; worse nowhere beyond noise."""
    at = {r["policy"]: r for r in rows if r["load"] == near}
    losses = [
        {"policy": r["policy"], "load": r["load"], "ours_less_it": r["ours_less_it"]}
        for r in rows
        if "ours_less_it" in r and r["ours_less_it"][2] < 0 and not r["policy"].startswith(("oracle", "ours"))
    ]
    return {
        "over_default": at[DEFAULT].get("ours_over_it"),
        "over_tuned": at[TUNED].get("ours_over_it"),
        "worse_beyond_noise": losses,
    }


# --- provisioners ----------------------------------------------------------------------------


def wave(mix: Mix, low: float, high: float, seconds: float, seed: int) -> Workload:
    """Runs whose rate rises from low to high at once, and falls again: a third of the time each."""
    rng = random.Random(f"{mix.name}/wave/{seed}")
    at, begins, which = 0.0, array("q"), array("l")
    while True:
        rate = high if seconds / 3 <= at < 2 * seconds / 3 else low
        at += rng.expovariate(rate)
        if at >= seconds:
            break
        begins.append(to_ps(at))
        which.append(next_of(mix, len(which), rng))
    limits = array("q", [mix.deadlines[mix.shapes[i].name] for i in which])
    return Workload(mix.shapes, begins, which, limits)


def scaled(rule: ServeRule, most: int, name: str) -> Policy:
    """Serve's router and controller."""

    def make(mix: Mix, w: Workload, engines: Sequence[Engine], seed: int) -> tuple[Router, Provisioner | None]:
        router = PowerOfTwoChoices(random.Random(f"serve/{seed}"), max_ongoing_requests=most)
        return router, ServeScaling(rule, engines[0], lambda: router.queued)

    return Policy(name, make)


def risk(epsilon: float, most: int, name: str) -> Policy:
    """Our router and provisioner."""

    def make(mix: Mix, w: Workload, engines: Sequence[Engine], seed: int) -> tuple[Router, Provisioner | None]:
        estimator = _estimator(mix, engines)
        scaling: list[RiskScaling] = []
        router = DeadlineRouter(estimator, began=lambda call, now: scaling[0].began(call, now))
        kinds = list({id(e): e for e in engines}.values())
        scaling.append(RiskScaling(RiskRule(epsilon=epsilon, most=most), kinds, estimator, router.committed))
        return router, scaling[0]

    return Policy(name, make, by_priority=True)


@dataclass(frozen=True, slots=True)
class Setting:
    """A provisioner with its numbers, and what came of it on seeds that are not compared on."""

    policy: Policy
    numbers: dict[str, float]
    goodput: float
    usd_per_good: float


def chosen(settings: Sequence[Setting]) -> tuple[Setting, Setting]:
    """The one with most runs in time, and the cheapest of those with enough."""
    most = max(settings, key=lambda s: (s.goodput, -s.usd_per_good))
    enough = [s for s in settings if s.goodput >= ENOUGH]
    return most, min(enough, key=lambda s: s.usd_per_good) if enough else most


def autoscaled(mix: Mix, engine: Engine, seeds: int, seconds: float, trials: int) -> dict[str, Any]:
    """A rise and fall of the load with at most 8 replicas, beginning with 2."""
    most, start = 8, [engine] * 2
    one = capacity([engine], mix.known)
    low, high = 0.9 * one, 4.0 * one

    def tried(policy: Policy, **numbers: float) -> Setting:
        found = [
            run_policies([policy], mix, wave(mix, low, high, seconds, _TUNING + s), start, s)[policy.name]
            for s in range(2)
        ]
        usd = sum(f.usd for f in found) / max(1, sum(f.good for f in found))
        return Setting(policy, numbers, fmean(f.goodput for f in found), usd)

    grid = [
        (target, ongoing, up)
        for up in (0.0, 10.0)
        for target in (4.0, 5.0, 6.0, 8.0, 12.0, 16.0, 32.0)
        for ongoing in (24, 64, 100_000)
    ]
    serves = []
    for target, ongoing, up in grid[:: max(1, len(grid) // (3 * trials))]:
        rule = ServeRule(
            min_replicas=1,
            max_replicas=most,
            target_ongoing_requests=target,
            upscale_delay_s=up,
            downscale_delay_s=60.0,
        )
        serves.append(
            tried(scaled(rule, ongoing, TUNED), target_ongoing=target, max_ongoing=ongoing, upscale_delay_s=up)
        )
    epsilons = (0.15, 0.1, 0.05, 0.03, 0.02, 0.015, 0.01, 0.005)
    ours = [tried(risk(e, most, OURS), epsilon=e) for e in (epsilons if trials > 4 else epsilons[::3])]
    serve_most, serve_enough = chosen(serves)
    ours_most, ours_enough = chosen(ours)
    policies = [
        scaled(ServeRule(min_replicas=1, max_replicas=most), 5, DEFAULT),
        serve_most.policy,
        replace(serve_enough.policy, name=f"Serve, {ENOUGH:.0%} cheaply"),
        risk(0.05, most, OURS),
        replace(ours_most.policy, name="ours, tuned"),
        replace(ours_enough.policy, name=f"ours, {ENOUGH:.0%} cheaply"),
    ]
    found: dict[str, list[Outcome]] = {}
    for seed in range(_COMPARED, _COMPARED + seeds):
        for name, result in run_policies(policies, mix, wave(mix, low, high, seconds, seed), start, seed).items():
            found.setdefault(name, []).append(result)
    rows = [summary(name, 0.0, results, found) for name, results in found.items()]
    return {
        "workload": mix.name,
        "rates_per_s": [round(low, 3), round(high, 3)],
        "seconds": seconds,
        "settings": {
            p.name: s.numbers
            for p, s in zip(
                policies[1:3] + policies[4:], (serve_most, serve_enough, ours_most, ours_enough), strict=True
            )
        },
        "rows": rows,
    }


# --- the program -----------------------------------------------------------------------------


def _say(words: str) -> None:
    sys.stderr.write(f"[{time.perf_counter() - _BEGAN:.0f} s] {words}\n")


def conditions() -> dict[str, Any]:
    """Of this machine; simulated results do not depend on it."""
    return {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "seconds": round(time.perf_counter() - _BEGAN),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer seeds, loads and workloads")
    parser.add_argument("--json", action="store_true", help="print the same as data")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=400, help="runs in each simulation")
    parser.add_argument("--most-runs", type=int, default=1500, help="so many at most where deadlines are long")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.8, 1.0, 1.3])
    parser.add_argument("--near", type=float, default=1.0, help="the load that is called near saturation")
    parser.add_argument("--workloads", nargs="+", help="only these")
    parser.add_argument("--pools", nargs="+", default=["equal", "unequal"])
    parser.add_argument("--trials", type=int, default=12, help="for tuning Serve")
    parser.add_argument("--part", choices=["routers", "provisioners", "both"], default="both")
    parser.add_argument("--seconds", type=float, default=600.0, help="of the load that rises and falls")
    parser.add_argument("--store", help="take recorded runs from here, not from the shipped recording")
    args = parser.parse_args()
    size = Size(args.seeds, args.runs, tuple(args.loads), args.trials, max(args.runs, args.most_runs))
    known = mixes(args.store)
    names = args.workloads or list(known)
    if args.quick:
        size, names = Size(3, 120, (0.5, 0.8), 4, 120), args.workloads or ["tenants", "recorded"]
    if unknown := [n for n in names if n not in known]:
        parser.error(f"no workload {unknown[0]}; there are {', '.join(known)}")
    near = args.near if args.near in size.loads else size.loads[-1]
    made = pools()
    result: dict[str, Any] = {"fixed_pool": [], "autoscaled": []}
    for name in names if args.part != "provisioners" else []:
        for pool in args.pools[-1:] if args.quick else args.pools:
            result["fixed_pool"].append(fixed_pool(known[name], pool, made[pool], size, near))
    varying = names[:1] if args.quick else [n for n in names if n in ("tenants", "research")]
    for name in varying if args.part != "routers" else []:
        seconds, seeds = (120.0, 2) if args.quick else (args.seconds, args.seeds)
        result["autoscaled"].append(autoscaled(known[name], made["equal"][0], seeds, seconds, size.trials))
        _say(f"{name}: provisioners done")
    result["conditions"] = conditions()
    if args.json:
        print(json.dumps(result, indent=1, default=asdict))
    else:
        show(result)


if __name__ == "__main__":
    main()
