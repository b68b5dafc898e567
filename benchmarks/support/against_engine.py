"""The simulator against a real vLLM: recorded agents replayed at several rates, and the same runs simulated.

Runs of the reference agents come in two groups of architectures. Each round sweeps the engine and replays each group at
each rate, in an order that turns round, so that what else the machine does falls on all. Fits of the engine model:

    sweep         the sweeps alone
    other loads   recorded replays of the same group at the other rates
    other agents  recorded replays of the other group
    itself        the very replays that are compared: what is left when step times are known

Each is simulated twice: with the noise that was fitted, and with the speed that the machine had at the time ("known":
`machine.py`), which leaves out what else it did and nothing of the model.

How far one live replay is from another, at the same rate, is the floor under all of them: the rounds are halved, and
one half is compared with the other as the model is with both.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.support.machine import AsItWas, predicted_s, slowness
from redecode.agents import model_dir
from redecode.replay.closed_loop.arrivals import Arrivals
from redecode.replay.closed_loop.engine_replay import choose, make_batch, replay_batch
from redecode.replay.closed_loop.options import ReplayMode, ReplayOptions
from redecode.replay.engine import EngineClient, EngineInfo, EngineOptions, start, stop
from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import to_ps
from redecode.replay.simulator.fit import fit_profile
from redecode.replay.simulator.observed import Observed, from_decodes, passages_of
from redecode.replay.simulator.profile import EngineProfile
from redecode.replay.simulator.results import Quantiles
from redecode.replay.simulator.rows import Extremes
from redecode.replay.simulator.sweep import Swept, sweep
from redecode.replay.simulator.workload import Contents, Workload, shape_of
from redecode.tracer import Decode, RecordedRun, Store

MEASURES = ("ttft", "tpot", "e2e")
QUANTILES = ("p50", "p95", "p99")
GROUPS = {"extraction": ("single", "parallel"), "chains": ("sequential", "contacts_desk")}
Values = dict[str, list[float]]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of the engine's time is spent.

    Attributes:
        each: runs recorded of each agent.
    """

    each: int
    rates: tuple[float, ...]
    rounds: int
    sweep_s: float


@dataclass(frozen=True, slots=True)
class Replayed:
    """One replay of a group's runs, and what to simulate for it."""

    group: str
    rate: float
    turn: int
    decodes: list[Decode]
    begins_s: list[float]
    run_ids: list[str]


def record(url: str, name: str, store: Path, agents: Iterable[str], each: int) -> list[RecordedRun]:
    """Runs of these reference agents on this engine."""
    env = {**os.environ, "REDECODE_STORE": str(store)}
    for place, agent in enumerate(agents):
        command = [sys.executable, "-m", "redecode.cli", "record", "--", sys.executable, "-m", "redecode.agents"]
        command += ["--agent", agent, "--runs", str(each), "--base-url", f"{url}/v1", "--model", name]
        command += ["--seed", str(place)]
        subprocess.run(command, env=env, check=True, capture_output=True)
    opened = Store(store)
    return [run for r in opened.runs() if (run := opened.load(r.run_id)).decodes]


def replayed(url: str, store: Path, runs: Sequence[RecordedRun], group: str, rate: float, turn: int) -> Replayed:
    """Replay them all, beginning as a Poisson process."""
    chosen = choose(runs, ReplayMode.FORCE)
    options = ReplayOptions(arrivals=Arrivals.POISSON, rate_per_s=rate, seed=turn)
    batch = make_batch(runs, ReplayMode.FORCE, url, options)
    report = asyncio.run(replay_batch(store, batch, chosen.plans, url))
    opened = Store(store)
    decodes = [d for r in report.replays for d in opened.load(r.replay_run_id).decodes]
    return Replayed(group, rate, turn, decodes, [i.at_s for i in batch.items], [i.run_id for i in batch.items])


def measured(tests: Iterable[Replayed]) -> Values:
    """Of the calls that the step clock has seen, in seconds."""
    timed = [d for t in tests for d in t.decodes if d.first_token_ns is not None and d.error is None]
    return {
        "ttft": [d.ttft_ns / 1e9 for d in timed if d.ttft_ns is not None],
        "tpot": [d.tpot_ns / 1e9 for d in timed if d.tpot_ns is not None],
        "e2e": [d.e2e_ns / 1e9 for d in timed if d.e2e_ns is not None],
    }


@dataclass(frozen=True, slots=True)
class Modelled:
    """What the simulator said of some replays."""

    values: Values
    extremes: Extremes
    cached: int


def simulated(
    profile: EngineProfile, runs: Sequence[RecordedRun], tests: Sequence[Replayed], seeds: int, *, known: bool = False
) -> Modelled:
    """The same runs, begun at the same times, on the engine model; `known`: with the speed the machine had."""
    plans = choose(runs, ReplayMode.FORCE).plans
    contents = Contents(profile.limits.block_size)
    shapes = {run_id: shape_of(plan, contents) for run_id, plan in plans.items()}
    places = {run_id: place for place, run_id in enumerate(shapes)}
    engine = replace(profile.to_engine(), model="")
    values: Values = {name: [] for name in MEASURES}
    extremes, cached = Extremes(), 0
    for test in tests:
        first = min(test.begins_s)
        begins = array("q", [to_ps(b - first) for b in test.begins_s])
        workload = Workload(tuple(shapes.values()), begins, array("l", [places[i] for i in test.run_ids]))
        there = AsItWas.of(engine, slowness(profile, test.decodes, _origin_ns(workload, test))) if known else engine
        for seed in range(1 if known else seeds):
            found = Simulation(workload, [there], noise=True, seed=seed).run()
            for name, new in zip(MEASURES, (found.ttft_s(), found.tpot_s(), found.e2e_s()), strict=True):
                values[name] += new
            extremes = extremes.join(found.extremes[0])
            cached += sum(c for c in found.cached if c > 0)
    return Modelled(values, extremes, cached if known else cached // seeds)


def _origin_ns(workload: Workload, test: Replayed) -> int:
    """When in the replay the simulation begins, UTC: both send their first call at the same time."""
    gaps = [min(gap for _, gap in shape.first) for shape in workload.shapes]
    first = min(begin + gaps[which] for begin, which in zip(workload.begins, workload.which, strict=True))
    return min(d.sent_ns for d in test.decodes) - first // 1000


def compare(real: Values, model: Values) -> list[dict[str, Any]]:
    """Quantile by quantile."""
    rows = []
    for name in MEASURES:
        a, b = Quantiles.of(real[name]), Quantiles.of(model[name])
        row: dict[str, Any] = {"measure": name, "calls": a.count}
        for quantile in QUANTILES:
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


def _measure(
    url: str, name: str, store: Path, size: Size, say: Say
) -> tuple[dict[str, list[RecordedRun]], list[Swept], list[Replayed]]:
    """Record, then sweep and replay in turns: runs by group, sweeps, replays."""
    groups = {g: record(url, name, store.with_name(g), agents, size.each) for g, agents in GROUPS.items()}
    for group, runs in groups.items():
        replayed(url, store.with_name(group), runs[:2], group, 10.0, 0)  # connections, kernels
    parts: list[Swept] = []
    tests: list[Replayed] = []
    for turn in range(size.rounds):
        order = [(g, r) for g in groups for r in size.rates]
        for group, rate in order if turn % 2 == 0 else reversed(order):
            say(f"round {turn + 1} of {size.rounds}: a sweep, then {len(groups[group])} runs of {group} at {rate}/s")
            parts.append(asyncio.run(_swept(url, len(parts), size.sweep_s)))
            tests.append(replayed(url, store.with_name(group), groups[group], group, rate, turn))
    return groups, parts, tests


def validate(model: str, folder: Path, size: Size, say: Say) -> dict[str, Any]:
    """Measure on an engine of its own, fit and simulate; the tables as data."""
    home, store = folder / "engine", folder / "store"
    begun = time.perf_counter()
    state = start(model_dir(model), home=home, options=EngineOptions(max_num_seqs=16))
    cold_start_s = time.perf_counter() - begun
    try:
        groups, parts, tests = _measure(state.base_url, state.served_name, store, size, say)
        info: EngineInfo = asyncio.run(_info(state.base_url))
    finally:
        stop(home)
    return judge(groups, parts, tests, info, cold_start_s, say)


def judge(
    groups: dict[str, list[RecordedRun]],
    parts: Sequence[Swept],
    tests: Sequence[Replayed],
    info: EngineInfo,
    cold_start_s: float,
    say: Say,
) -> dict[str, Any]:
    """Fit what was measured, and simulate it."""
    rates = sorted({t.rate for t in tests})
    whole, now_ns = together(parts), time.time_ns()
    swept = fit_profile(
        whole.observed, info, source="sweep", now_ns=now_ns, passages=whole.passages, cold_start_s=cold_start_s
    )

    def stored(its: Sequence[Replayed]) -> EngineProfile:
        steps = from_decodes([d for t in its for d in t.decodes], None)
        passages = [p for t in its for p in passages_of(t.decodes)]
        made = fit_profile(steps, info, source="store", now_ns=now_ns, passages=passages)
        return made if made.overheads.known else made.model_copy(update={"overheads": swept.overheads})

    table, floor, drift, extremes = [], [], [], Extremes()
    for group, runs in groups.items():
        for rate in rates:
            say(f"simulating {group} at {rate}/s")
            mine = [t for t in tests if (t.group, t.rate) == (group, rate)]
            where = {"group": group, "rate": rate}
            drift.append({**where, **drifted(swept, mine)})
            halves = [[t for t in mine if t.turn % 2 == half] for half in (0, 1)]
            if all(halves):
                floor += [{**where, **row} for row in compare(measured(halves[0]), measured(halves[1]))]
            fits: dict[str, list[Replayed]] = {"sweep": [], "itself": mine}
            if len(rates) > 1:
                fits["other loads"] = [t for t in tests if t.group == group and t.rate != rate]
            fits["other agents"] = [t for t in tests if t.group != group]
            for fit, its in fits.items():
                profile = stored(its) if its else swept
                for machine in ("fitted", "known"):
                    found = simulated(profile, runs, mine, seeds=5, known=machine == "known")
                    extremes = extremes.join(found.extremes)
                    told = {
                        "fit": fit,
                        "machine": machine,
                        "cached_measured": sum(d.cached_tokens or 0 for t in mine for d in t.decodes),
                        "cached_simulated": found.cached,
                    }
                    table += [{**where, **told, **row} for row in compare(measured(mine), found.values)]
    return {
        "profile": swept.model_dump(exclude={"sample"}),
        "drift": drift,
        "table": table,
        "floor": floor,
        "outside": swept.outside(extremes),
        "runs": sum(map(len, groups.values())),
    }


def drifted(profile: EngineProfile, tests: Sequence[Replayed]) -> dict[str, Any]:
    """Steps of the replays over what the sweep's model says of them: how much the machine was another."""
    ratios, real, told = [], 0.0, 0.0
    for test in tests:
        for step in from_decodes(test.decodes, None).steps:
            predicted = predicted_s(profile, step)
            ratios.append(step.work_s / predicted)
            real, told = real + step.work_s, told + predicted
    ratios.sort()
    return {"steps": len(ratios), "median_ratio": ratios[len(ratios) // 2], "total_ratio": real / told}


async def _swept(url: str, seed: int, seconds: float) -> Swept:
    async with EngineClient(url) as client:
        return await sweep(client, rng=random.Random(seed), rounds=1, seconds=seconds)


async def _info(url: str) -> EngineInfo:
    async with EngineClient(url) as client:
        return await client.info()
