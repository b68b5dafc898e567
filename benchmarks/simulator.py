"""The simulator: against a real vLLM, and how fast it is.

Validation: an engine of its own with a bundled FM; sweeps of it take turns with closed-loop replays of recorded agents
at several arrival rates, so that what else the machine does falls on both. The engine model is fitted on the sweeps
alone. Each replay is then simulated from what was recorded before it (lengths, waits, arrivals) and compared with what
the replay measured: TTFT (sent to first token at the engine), TPOT and E2E latency (sent to answered), by quantile.
Fits: "sweep"; "store", on the recorded replays at the other rates; "itself", on those it is compared with, which shows
what is left when step times are known. Speed: many replicas, many calls, no engine. `--quick` takes about a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

from redecode.agents import BUNDLED_MODELS, DEFAULT_MODEL, model_dir
from redecode.replay.arrivals import Arrivals
from redecode.replay.engine import EngineClient, EngineInfo, EngineOptions, start, stop
from redecode.replay.engine_replay import choose, make_batch, replay_batch
from redecode.replay.options import ReplayMode, ReplayOptions
from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import StepCosts, to_ps
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.fit import fit_profile
from redecode.replay.simulator.observed import Observed, from_decodes
from redecode.replay.simulator.profile import EngineProfile
from redecode.replay.simulator.results import Quantiles
from redecode.replay.simulator.rows import Extremes, Limits
from redecode.replay.simulator.sweep import Swept, sweep
from redecode.replay.simulator.views import CallView, ReplicaView, Router
from redecode.replay.simulator.workload import Call, Contents, Shape, Workload, chain, shape_of, single
from redecode.tracer import Decode, RecordedRun, Store

_BEGAN = time.perf_counter()
MEASURES = ("ttft", "tpot", "e2e")
AGENTS = ("single", "parallel", "sequential", "contacts_desk")


# --- against a real engine -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Replayed:
    """One replay of the recorded runs, and what to simulate for it."""

    rate: float
    decodes: list[Decode]
    begins_s: list[float]
    run_ids: list[str]


def record(url: str, name: str, store: Path, each: int) -> list[RecordedRun]:
    """Runs of the reference agents on this engine."""
    env = {**os.environ, "REDECODE_STORE": str(store)}
    for place, agent in enumerate(AGENTS):
        command = [sys.executable, "-m", "redecode.cli", "record", "--", sys.executable, "-m", "redecode.agents"]
        command += ["--agent", agent, "--runs", str(each), "--base-url", f"{url}/v1", "--model", name]
        command += ["--seed", str(place)]
        subprocess.run(command, env=env, check=True, capture_output=True)
    opened = Store(store)
    return [run for r in opened.runs() if (run := opened.load(r.run_id)).decodes]


def replayed(url: str, store: Path, runs: Sequence[RecordedRun], rate: float, seed: int) -> Replayed:
    """Replay them all, beginning as a Poisson process."""
    chosen = choose(runs, ReplayMode.FORCE)
    options = ReplayOptions(arrivals=Arrivals.POISSON, rate_per_s=rate, seed=seed)
    batch = make_batch(runs, ReplayMode.FORCE, url, options)
    report = asyncio.run(replay_batch(store, batch, chosen.plans, url))
    opened = Store(store)
    decodes = [d for r in report.replays for d in opened.load(r.replay_run_id).decodes]
    return Replayed(rate, decodes, [i.at_s for i in batch.items], [i.run_id for i in batch.items])


def measured(decodes: Sequence[Decode]) -> dict[str, list[float]]:
    """Of those that the step clock has seen, in seconds."""
    timed = [d for d in decodes if d.first_token_ns is not None and d.error is None]
    return {
        "ttft": [d.ttft_ns / 1e9 for d in timed if d.ttft_ns is not None],
        "tpot": [d.tpot_ns / 1e9 for d in timed if d.tpot_ns is not None],
        "e2e": [d.e2e_ns / 1e9 for d in timed if d.e2e_ns is not None],
    }


def simulated(profile: EngineProfile, runs: Sequence[RecordedRun], done: Replayed, seeds: int) -> dict[str, Any]:
    """The same runs, begun at the same times, on the engine model."""
    plans = choose(runs, ReplayMode.FORCE).plans
    contents = Contents(profile.limits.block_size)
    shapes = {run_id: shape_of(plan, contents) for run_id, plan in plans.items()}
    places = {run_id: place for place, run_id in enumerate(shapes)}
    which = array("l", [places[run_id] for run_id in done.run_ids])
    first = min(done.begins_s)
    workload = Workload(tuple(shapes.values()), array("q", [to_ps(b - first) for b in done.begins_s]), which)
    values: dict[str, list[float]] = {name: [] for name in MEASURES}
    extremes = Extremes()
    engine = replace(profile.to_engine(), model="")
    cached = 0
    for seed in range(seeds):
        found = Simulation(workload, [engine], noise=True, seed=seed).run()
        for name, new in zip(MEASURES, (found.ttft_s(), found.tpot_s(), found.e2e_s()), strict=True):
            values[name] += new
        extremes = extremes.join(found.extremes[0])
        cached = sum(c for c in found.cached if c > 0)
    return {"values": values, "extremes": extremes, "cached": cached}


def compare(real: dict[str, list[float]], model: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Quantile by quantile."""
    rows = []
    for name in MEASURES:
        a, b = Quantiles.of(real[name]), Quantiles.of(model[name])
        row: dict[str, Any] = {"measure": name, "calls": a.count}
        for quantile in ("p50", "p95", "p99"):
            was, is_ = getattr(a, quantile), getattr(b, quantile)
            row[quantile] = {"measured_ms": was * 1e3, "simulated_ms": is_ * 1e3, "error": is_ / was - 1}
        rows.append(row)
    return rows


def together(parts: Sequence[Swept]) -> Swept:
    """Several sweeps as one."""
    left_out: dict[str, int] = {}
    for part in parts:
        for why, count in part.observed.left_out.items():
            left_out[why] = left_out.get(why, 0) + count
    steps = tuple(s for part in parts for s in part.observed.steps)
    passages = tuple(p for part in parts for p in part.passages)
    return Swept(Observed(steps, left_out), passages, sum(part.calls for part in parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of the engine's time is spent."""

    each: int
    rates: tuple[float, ...]
    rounds: int
    sweep_s: float


def validate(model: str, folder: Path, size: Size) -> dict[str, Any]:
    """Record, then sweep and replay in turns, then fit and simulate."""
    home, store = folder / "engine", folder / "store"
    begun = time.perf_counter()
    state = start(model_dir(model), home=home, options=EngineOptions(max_num_seqs=16))
    cold_start_s = time.perf_counter() - begun
    url, name = state.base_url, state.served_name
    parts: list[Swept] = []
    tests: list[Replayed] = []
    try:
        runs = record(url, name, store, size.each)
        replayed(url, store, runs[:2], 10.0, 0)  # connections, kernels
        for turn in range(size.rounds):
            for rate in size.rates if turn % 2 == 0 else reversed(size.rates):
                _say(f"round {turn + 1} of {size.rounds}: a sweep, then {len(runs)} runs at {rate}/s")
                parts.append(asyncio.run(_swept(url, len(parts), size.sweep_s)))
                tests.append(replayed(url, store, runs, rate, turn))
        info: EngineInfo = asyncio.run(_info(url))
    finally:
        stop(home)
    whole, now_ns = together(parts), time.time_ns()
    swept = fit_profile(
        whole.observed, info, source="sweep", now_ns=now_ns, passages=whole.passages, cold_start_s=cold_start_s
    )
    table, drift, extremes = [], [], Extremes()
    for rate in size.rates:
        mine = [t for t in tests if t.rate == rate]
        drift.append({"rate": rate, **drifted(swept, mine)})
        profiles = {"sweep": swept}
        for source, its in (("store", [t for t in tests if t.rate != rate]), ("itself", mine)):
            if its:  # what passes outside of steps is known from the sweep alone
                steps = from_decodes([d for t in its for d in t.decodes], None)
                stored = fit_profile(steps, info, source="store", now_ns=now_ns)
                profiles[source] = stored.model_copy(update={"overheads": swept.overheads})
        for source, profile in profiles.items():
            found = [simulated(profile, runs, test, seeds=5) for test in mine]
            for f in found:
                extremes = extremes.join(f["extremes"])
            hits = {
                "cached_measured": sum(d.cached_tokens or 0 for t in mine for d in t.decodes),
                "cached_simulated": sum(f["cached"] for f in found),
            }
            real = [measured(t.decodes) for t in mine]
            rows = compare(
                {m: [v for r in real for v in r[m]] for m in MEASURES},
                {m: [v for f in found for v in f["values"][m]] for m in MEASURES},
            )
            table += [{"rate": rate, "fit": source, **row, **hits} for row in rows]
    return {
        "profile": swept.model_dump(),
        "drift": drift,
        "table": table,
        "outside": swept.outside(extremes),
        "runs": len(runs),
    }


def drifted(profile: EngineProfile, tests: Sequence[Replayed]) -> dict[str, Any]:
    """Steps of the replays over what the sweep's model says of them: how much the machine was another."""
    ratios, real, told = [], 0.0, 0.0
    for test in tests:
        for step in from_decodes(test.decodes, None).steps:
            s = profile.seconds
            predicted = (
                s.step + s.prefill_token * step.prefill_tokens + s.prefill_pair * step.pairs
                + s.prefill_call * step.prefill_calls + s.decode * step.decodes
                + s.context_token * step.context_tokens + s.gap + s.gap_row * step.rows
            )  # fmt: skip
            ratios.append(step.work_s / predicted)
            real, told = real + step.work_s, told + predicted
    return {"steps": len(ratios), "median_ratio": median(ratios), "total_ratio": real / told}


async def _swept(url: str, seed: int, seconds: float) -> Swept:
    async with EngineClient(url) as client:
        return await sweep(client, rng=random.Random(seed), rounds=1, seconds=seconds)


async def _info(url: str) -> EngineInfo:
    async with EngineClient(url) as client:
        return await client.info()


# --- speed ---------------------------------------------------------------------------------


class Turns(Router):
    """One after the other."""

    def __init__(self) -> None:
        self._next: Iterator[int] = iter(())

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> int:
        """The next."""
        place = next(self._next, None)
        if place is None:
            self._next = cycle(range(len(replicas)))
            place = next(self._next)
        return replicas[place].number


def lasts(rng: random.Random) -> int:
    """Tokens of an answer."""
    return min(3000, int(rng.lognormvariate(4.9, 0.9)) + 1)


def agent(rng: random.Random) -> Shape:
    """Five calls whose prompts grow."""
    shared, tokens, calls = rng.randrange(20) * 8, 128, []
    for _ in range(5):
        prompt, output = tokens + 100, lasts(rng)
        tokens = prompt + output
        own = tuple(-block - 1 for block in range(tokens // 16 - 8))
        calls.append(
            Call(step="s", prompt_tokens=prompt, output_tokens=output, hashes=(*range(shared, shared + 8), *own))
        )
    return chain(calls, [0] + [to_ps(0.5)] * 4)


def speed(replicas: int, calls: int, *, agents: bool) -> dict[str, Any]:
    """Poisson arrivals to replicas of a made-up 8B-like engine; outputs are lognormal of mean 200 tokens.

    Runs are single calls with prompts of mean 500 tokens, or agents: five calls, each 0.5 s after the one before and
    with its prompt and output before its own 100 tokens. These begin with one of 20 prefixes of 128 tokens. Replicas
    are in a step nearly all the time (calls), with room in their batches.
    """
    rng = random.Random(0)
    costs = StepCosts(
        step=to_ps(8e-3), prefill_token=to_ps(2e-5), prefill_pair=to_ps(5e-9), decode=to_ps(5e-5),
        context_token=to_ps(4e-8), gap=to_ps(1e-3), gap_row=to_ps(5e-6),
    )  # fmt: skip
    engine = Engine(costs=costs, limits=Limits(max_num_seqs=128, token_budget=2048, kv_blocks=20_000))
    shapes = []
    for _ in range(1000):
        if agents:
            shapes.append(agent(rng))
        else:
            prompt, output = min(6000, int(rng.lognormvariate(5.9, 0.8)) + 136), lasts(rng)
            shapes.append(single(Call(step="s", prompt_tokens=prompt, output_tokens=output)))
    each = len(shapes[0].calls)
    at, begins = 0.0, array("q")
    for _ in range(calls // each):
        at += rng.expovariate(4.0 * replicas / each)
        begins.append(to_ps(at))
    workload = Workload(tuple(shapes), begins, array("l", [rng.randrange(1000) for _ in begins]))
    cpu, wall = time.process_time(), time.perf_counter()
    found = Simulation(workload, [engine] * replicas, router=Turns()).run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    steps, cached = sum(c.steps for c in found.counts), sum(c.cached for c in found.counts)
    return {
        "replicas": replicas,
        "calls": calls,
        "runs": "agents" if agents else "calls",
        "cached_share": round(cached / (cached + sum(c.prefilled for c in found.counts)), 3),
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "calls_per_s": round(calls / wall),
        "tokens": found.tokens(),
        "tokens_per_s": round(found.tokens() / wall),
        "steps": steps,
        "events": found.events,
        "virtual_s": round(found.end_ps / 1e12),
        "utilisation": round(found.utilisation(), 3),
        "memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _say(words: str) -> None:
    sys.stderr.write(f"[{time.perf_counter() - _BEGAN:.0f} s] {words}\n")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute")
    parser.add_argument("--json", action="store_true", help="the same as data")
    parser.add_argument("--only", choices=("speed", "engine"), help="one of the parts")
    parser.add_argument("--model", choices=BUNDLED_MODELS, default=DEFAULT_MODEL)
    parser.add_argument("--runs", type=int, default=4, help="recorded of each of four agents")
    parser.add_argument("--rounds", type=int, default=6, help="replays at each rate, sweeps between them")
    parser.add_argument("--note", default="", help="said with the conditions, say what else ran on the machine")
    args = parser.parse_args()
    load = [round(os.getloadavg()[0], 2)]
    result: dict[str, Any] = {}
    if args.only != "engine":
        # Small ones first: memory is the most this process ever had.
        sizes = [(10, 5_000), (100, 5_000)] if args.quick else [(10, 100_000), (1000, 100_000), (1000, 1_000_000)]
        result["speed"] = []
        for replicas, calls in sizes:
            for agents in (False, True):
                _say(f"speed: {replicas} replicas, {calls} calls, agents {agents}")
                result["speed"].append(speed(replicas, calls, agents=agents))
    if args.only != "speed":
        with tempfile.TemporaryDirectory() as folder:
            quick = Size(each=3, rates=(2.0,), rounds=1, sweep_s=8.0)
            full = Size(each=args.runs, rates=(0.5, 1.0, 2.0), rounds=args.rounds, sweep_s=5.0)
            result |= validate(args.model, Path(folder), quick if args.quick else full)
    load.append(round(os.getloadavg()[0], 2))
    conditions = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before_after": load,
        "model": args.model,
        **({"note": args.note} if args.note else {}),
    }
    if args.json:
        sys.stdout.write(json.dumps({"conditions": conditions, **result}, indent=1) + "\n")
        return
    print("conditions: " + ", ".join(f"{k} {v}" for k, v in conditions.items()))
    _print_speed(result.get("speed", []))
    if "table" in result:
        _print_engine(result)


def _print_speed(rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    print(f"\n{'replicas':>8}{'calls':>10}{'runs':>8}{'cached':>8}{'wall s':>9}{'CPU s':>8}{'calls/s':>9}"
          f"{'M tokens/s':>12}{'M steps':>9}{'virtual s':>11}{'busy':>7}{'MiB':>7}")  # fmt: skip
    for r in rows:
        print(
            f"{r['replicas']:>8}{r['calls']:>10}{r['runs']:>8}{r['cached_share']:>8}{r['wall_s']:>9}{r['cpu_s']:>8}{r['calls_per_s']:>9}"
            f"{r['tokens_per_s'] / 1e6:>12.2f}{r['steps'] / 1e6:>9.2f}{r['virtual_s']:>11}{r['utilisation']:>7}"
            f"{r['memory_mib']:>7}"
        )


def _print_engine(result: dict[str, Any]) -> None:
    profile = result["profile"]
    print(f"\nfit: {profile['steps']} steps of {profile['model']} on {profile['hardware']}")
    for name, value in profile["seconds"].items():
        print(f"  {name:<16}{value * 1e6:>14.4f} µs")
    o = profile["overheads"]
    print(f"  before a step {o['before_s'] * 1e3:.2f} ms, after the last token {o['after_s'] * 1e3:.2f} ms")
    print(f"  {'steps of':<28}{'count':>7}{'mean ms':>10}{'bias':>8}{'|error| P50':>13}{'P95':>8}")
    for r in profile["residuals"]:
        errors = f"{r['bias']:>8.1%}{r['p50']:>13.1%}{r['p95']:>8.1%}"
        print(f"  {r['kind']:<28}{r['steps']:>7}{r['measured_ms']:>10.2f}{errors}")
    print("\nsteps of the replays over what the fit says of them (what the machine did otherwise):")
    for r in result["drift"]:
        print(f"  {r['rate']:>4}/s: {r['steps']} steps, median {r['median_ratio']:.2f}, total {r['total_ratio']:.2f}")
    quantiles = ("p50", "p95", "p99")
    head = "".join(f"{q.upper() + ' ms: real, model, error':>32}" for q in quantiles)
    print(f"\n{'runs/s':>6} {'fit':<7}{'measure':<8}{'calls':>6}   {head}")
    for row in result["table"]:
        cells = "".join(
            f"{row[q]['measured_ms']:>13.2f}{row[q]['simulated_ms']:>10.2f}{row[q]['error']:>9.1%}" for q in quantiles
        )
        print(f"{row['rate']:>6} {row['fit']:<7}{row['measure']:<8}{row['calls']:>6}   {cells}")
    for fit in ("sweep", "store", "itself"):
        rows = [r for r in result["table"] if r["fit"] == fit]
        if rows:
            medians = {
                m: median(abs(r[q]["error"]) for r in rows if r["measure"] == m for q in quantiles) for m in MEASURES
            }
            print(f"median |error|, fit on {fit}: " + ", ".join(f"{m} {e:.1%}" for m, e in medians.items()))
    hits = sorted({(r["rate"], r["cached_measured"], r["cached_simulated"]) for r in result["table"]})
    print("tokens from the prefix cache, real and model: " + ", ".join(f"{r}/s {a} {b}" for r, a, b in hits))
    for words in result["outside"]:
        print(f"outside of the fit: {words}")


if __name__ == "__main__":
    main()
