"""The simulator: against a real vLLM, and how fast it is.

Validation (`support/against_engine.py`): an engine of its own with a bundled FM; sweeps of it take turns with
closed-loop replays of recorded agents of several architectures at several arrival rates. The engine model is fitted on
the sweeps, on replays at other loads, and on replays of other agents. Each replay is then simulated from what was
recorded before it (lengths, waits, arrivals) and compared with what it measured: TTFT (sent to first token at the
engine), TPOT and E2E latency (sent to answered), by quantile; and so is one half of the replays with the other, which
no model can be nearer than. Speed: many replicas, many calls, no engine. `--quick` takes about a minute, longer where
other work is done.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.support.against_engine import MEASURES, QUANTILES, Size, validate
from redecode.agents import BUNDLED_MODELS, DEFAULT_MODEL
from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import StepCosts, to_ps
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.rows import Limits
from redecode.replay.simulator.views import CallView, ReplicaView, Router
from redecode.replay.simulator.workload import Call, Shape, Workload, chain, single

_BEGAN = time.perf_counter()
GOALS = {"ttft": 0.05, "tpot": 0.05, "e2e": 0.10}


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
    parser.add_argument("--rounds", type=int, default=4, help="replays at each rate, sweeps between them")
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
            quick = Size(each=2, rates=(2.0,), rounds=1, sweep_s=5.0)
            full = Size(each=args.runs, rates=(0.5, 1.0, 2.0), rounds=args.rounds, sweep_s=4.0)
            result |= validate(args.model, Path(folder), quick if args.quick else full, _say)
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
    print("\nsteps of the replays over what the fit on sweeps says of them (what the machine did otherwise):")
    for r in result["drift"]:
        ratios = f"median {r['median_ratio']:.2f}, total {r['total_ratio']:.2f}"
        print(f"  {r['group']:<12}{r['rate']:>4}/s: {r['steps']} steps, {ratios}")
    head = "".join(f"{q.upper() + ' ms: real, model, error':>32}" for q in QUANTILES)
    print(f"\n{'agents':<12}{'runs/s':>6} {'fit':<13}{'machine':<8}{'measure':<8}{'calls':>6}   {head}")
    rows = [*result["table"], *({**r, "fit": "live, again", "machine": ""} for r in result["floor"])]
    for row in rows:
        cells = "".join(
            f"{row[q]['measured_ms']:>13.2f}{row[q]['simulated_ms']:>10.2f}{row[q]['error']:>9.1%}" for q in QUANTILES
        )
        what = f"{row['fit']:<13}{row['machine']:<8}{row['measure']:<8}"
        print(f"{row['group']:<12}{row['rate']:>6} {what}{row['calls']:>6}   {cells}")
    print("\nmedian |error| of P50, P95 and P99 (goals: " + ", ".join(f"{m} {g:.0%}" for m, g in GOALS.items()) + ")")
    for fit, machine in sorted(dict.fromkeys((r["fit"], r["machine"]) for r in rows), key=lambda f: f[1]):
        own = [r for r in rows if (r["fit"], r["machine"]) == (fit, machine)]
        medians = {m: _median_error(own, m) for m in MEASURES}
        met = "" if not machine else "  met" if all(medians[m] <= GOALS[m] for m in MEASURES) else "  not met"
        where = f"machine {machine}" if machine else ""
        print(f"  {fit:<13}{where:<16}" + ", ".join(f"{m} {e:.1%}" for m, e in medians.items()) + met)
    hits = sorted({(r["group"], r["rate"], r["cached_measured"], r["cached_simulated"]) for r in result["table"]})
    print("tokens from the prefix cache, real and model: " + ", ".join(f"{g} {r}/s {a} {b}" for g, r, a, b in hits))
    for words in result["outside"]:
        print(f"outside of the fit: {words}")


def _median_error(rows: Sequence[dict[str, Any]], measure: str) -> float:
    return float(median(abs(r[q]["error"]) for r in rows if r["measure"] == measure for q in QUANTILES))


if __name__ == "__main__":
    main()
