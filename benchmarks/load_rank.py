"""Does simulation at a load rank candidates as the engine does? Reference agents on a real engine, both ways.

Each candidate runs on some articles alone, one run after another, recorded. From these runs its latency at a load is
simulated on the engine's profile, as `redecode tune --load` does. Then it really gets that load: other articles of the
same kind, runs that begin as a Poisson process. What counts for a search is the order of candidates: the rank
correlation of simulated and measured latency, with an interval from resampling the runs of both.

Needs an engine with a bundled FM and its profile: `redecode engine start`, `redecode profile --measure`, both with the
same `--store`. `--quick` takes under a minute; `--json` prints the same as data.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redecode import tracer
from redecode.agents.catalogue import make_agent
from redecode.agents.context import close_clients
from redecode.agents.runner import Job, run_job_async
from redecode.optimizer.evaluation.simulated import AtLoad
from redecode.optimizer.objectives import nearest_rank
from redecode.replay import ReplayMode
from redecode.replay.closed_loop.engine_replay import choose
from redecode.tracer import Store

CANDIDATES: dict[str, tuple[str, dict[str, Any]]] = {
    "single, yaml, brief": ("single", {"format": "yaml", "wording": "brief"}),
    "single, json, plain": ("single", {}),
    "single, json, few_shot": ("single", {"wording": "few_shot"}),
    "single, text, careful": ("single", {"format": "text", "wording": "careful"}),
    "parallel, question first": ("parallel", {"layout": "question_first"}),
    "parallel, article first": ("parallel", {}),
    "sequential, article first": ("sequential", {}),
    "debate, yaml": ("debate", {"format": "yaml", "max_rounds": 1}),
    "debate, json": ("debate", {}),
}
Latencies = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is run: `alone` and `loaded` articles for each candidate, and runs a second."""

    store: Path
    url: str
    model: str
    alone: int
    loaded: int
    rate_per_s: float
    seed: int


def jobs_of(setting: Setting, name: str, count: int, *, seed: int) -> list[Job]:
    """The jobs of a candidate."""
    architecture, knobs = CANDIDATES[name]
    agent = make_agent(architecture, seed=seed, count=count)
    context = agent.context_type(base_url=setting.url, model=setting.model, seed=0, **knobs)
    return [Job(number=n, agent=agent, case=case, context=context) for n, case in enumerate(agent.cases)]


async def begun(jobs: Sequence[Job], rate_per_s: float | None, rng: random.Random) -> None:
    """All jobs: one after another, or as a Poisson process."""
    try:
        if rate_per_s is None:
            for job in jobs:
                await run_job_async(job)
            return
        tasks = []
        for job in jobs:
            tasks.append(asyncio.create_task(run_job_async(job)))
            await asyncio.sleep(rng.expovariate(rate_per_s))
        await asyncio.gather(*tasks)
    finally:
        await close_clients()


def recorded(setting: Setting, jobs: Sequence[Job], rate_per_s: float | None, seed: int) -> list[str]:
    """Ids of the runs that were made."""
    before = {r.run_id for r in Store(setting.store).runs()}
    tracer.instrument(setting.store)
    try:
        asyncio.run(begun(jobs, rate_per_s, random.Random(seed)))
    finally:
        tracer.uninstrument()
    return [r.run_id for r in Store(setting.store).runs() if r.run_id not in before]


def simulated(setting: Setting, ids: Sequence[str]) -> list[float]:
    """Latencies at the load, of the runs that were recorded alone."""
    store = Store(setting.store)
    plans = choose([store.load(i) for i in ids], ReplayMode.SIMULATE, leave_out=True).plans
    times = AtLoad(store=setting.store, rate_per_s=setting.rate_per_s, seed=setting.seed).latencies(plans)
    return sorted(v for found in times.values() for v in found)


def measured(setting: Setting, ids: Sequence[str]) -> list[float]:
    """Latencies of runs."""
    return sorted(r.duration_s for r in Store(setting.store).runs(run_ids=list(ids)) if r.duration_s is not None)


def correlations(one: Latencies, other: Latencies, percentile: float) -> tuple[float, float]:
    """Spearman's and Kendall's, of a percentile."""
    from scipy.stats import kendalltau, spearmanr  # type: ignore[import-untyped]

    xs, ys = ([nearest_rank(sorted(of[name]), percentile) for name in one] for of in (one, other))
    return float(spearmanr(xs, ys).statistic), float(kendalltau(xs, ys).statistic)


def resampled(of: Latencies, most: int, rng: random.Random) -> Latencies:
    """As many runs of each again, drawn from what there is (at most so many, as were recorded)."""
    return {name: rng.choices(values, k=min(len(values), most)) for name, values in of.items()}


def with_interval(one: Latencies, other: Latencies, percentile: float, *, most: int) -> dict[str, list[float]]:
    """Name → estimate, and the ends of its 95 % interval."""
    rng = random.Random(20261122)
    drawn = [correlations(resampled(one, most, rng), resampled(other, most, rng), percentile) for _ in range(1000)]
    out = {}
    for place, name in enumerate(("spearman", "kendall")):
        values = sorted(d[place] for d in drawn)
        out[name] = [correlations(one, other, percentile)[place], values[24], values[974]]
    return out


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=tracer.default_store())
    parser.add_argument("--url", default=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"))
    parser.add_argument("--model", default="redecode-fm-s")
    parser.add_argument("--rate", type=float, default=1.0, help="runs a second")
    parser.add_argument("--alone", type=int, default=16)
    parser.add_argument("--loaded", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    alone, loaded = (2, 4) if args.quick else (args.alone, args.loaded)
    setting = Setting(args.store, args.url, args.model, alone, loaded, args.rate, args.seed)
    os.environ.setdefault("OPENAI_API_KEY", "none")
    foretold, found = {}, {}
    for turn, name in enumerate(CANDIDATES):
        ids = recorded(setting, jobs_of(setting, name, alone, seed=args.seed), None, turn)
        foretold[name] = simulated(setting, ids)
    names = list(CANDIDATES)
    random.Random(args.seed).shuffle(names)  # what else the machine does meanwhile falls on no order of ours
    for turn, name in enumerate(names):
        jobs = jobs_of(setting, name, loaded, seed=args.seed + 1000)
        found[name] = measured(setting, recorded(setting, jobs, args.rate, 100 + turn))
    found = {name: found[name] for name in foretold}
    ranks = {f"p{p:g}": with_interval(foretold, found, p, most=loaded) for p in (50.0, 95.0)}
    rows = [
        {
            "candidate": name,
            **{
                f"{word} {label}": value(of[name])
                for word, of in (("simulated", foretold), ("measured", found))
                for label, value in (("p50", _p50), ("p95", _p95))
            },
        }
        for name in foretold
    ]
    load = os.getloadavg()
    conditions = {
        "rate": args.rate, "alone": alone, "loaded": loaded, "model": args.model, "python": sys.version.split()[0],
        "load average at the end": round(load[1], 1),
    }  # fmt: skip
    if args.json:
        sys.stdout.write(json.dumps({"conditions": conditions, "rows": rows, "ranks": ranks}, indent=1) + "\n")
        return
    print("conditions: " + ", ".join(f"{k} {v}" for k, v in conditions.items()))
    print(f"\n{'candidate':28}{'simulated p50':>15}{'measured p50':>15}{'simulated p95':>15}{'measured p95':>15}")
    for row in rows:
        cells = (row[k] for k in ("simulated p50", "measured p50", "simulated p95", "measured p95"))
        print(f"{row['candidate']:28}" + "".join(f"{v:>13.2f} s" for v in cells))
    for label, of in ranks.items():
        told = ", ".join(f"{name} {v:.2f} ({a:.2f} to {b:.2f})" for name, (v, a, b) in of.items())
        print(f"\nrank correlation of {label}: {told}")


def _p50(values: Sequence[float]) -> float:
    return statistics.median(values)


def _p95(values: Sequence[float]) -> float:
    return nearest_rank(sorted(values), 95.0)


if __name__ == "__main__":
    main()
