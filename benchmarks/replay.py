"""Replay on a real vLLM: throughput beside vLLM's own benchmark, schedule error, client CPU, determinism.

Starts an engine of its own with a bundled FM. What is compared takes turns on it, so that the ratios hold on a noisy
machine. What forcing costs a single token in the engine is benchmarks/forcing.py. `--quick` takes about a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.support.chains import chains
from benchmarks.support.vllm_bench import bench_serve
from redecode.agents import BUNDLED_MODELS, DEFAULT_MODEL, model_dir
from redecode.replay.closed_loop.engine_replay import choose, make_batch, replay_batch
from redecode.replay.closed_loop.options import ReplayMode, ReplayOptions
from redecode.replay.closed_loop.report import BatchReport
from redecode.replay.engine import EngineClient, EngineOptions, start, stop
from redecode.tracer import RecordedRun, Store

_BEGAN = time.perf_counter()
PROMPT_TOKENS, OUTPUT_TOKENS, CONCURRENCY = 128, 64, 16


def replayed(
    url: str, store: Path, runs: Sequence[RecordedRun], mode: ReplayMode, *, as_streamed: bool = True
) -> dict[str, Any]:
    """Replay as the command does, and what it took: tokens/s from the first call sent to the last done."""
    cpu, begin = time.process_time(), time.perf_counter()
    chosen = choose(runs, mode)
    batch = make_batch(runs, mode, url, ReplayOptions(as_streamed=as_streamed))
    report: BatchReport = asyncio.run(replay_batch(store, batch, chosen.plans, url))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - begin
    opened = Store(store)
    mine = [opened.load(r.replay_run_id) for r in report.replays]
    done = max(d.done_ns or 0 for r in mine for d in r.decodes)
    sent = min(d.sent_ns for r in mine for d in r.decodes)
    tokens = sum(r.tokens_replayed for r in report.replays)
    assert report.schedule_error is not None
    return {
        "tokens": tokens,
        "tokens_per_s": tokens / ((done - sent) / 1e9),
        "equal": sum(d.tokens_equal for r in report.replays for d in r.decodes),
        "decodes": sum(len(r.decodes) for r in report.replays),
        "cpu_us_per_token": cpu / tokens * 1e6,
        "wall_s": wall,
        "schedule_error": report.schedule_error,
    }


async def sampled(url: str, runs: Sequence[RecordedRun]) -> list[RecordedRun]:
    """The same runs with what this engine samples for their seeds, so that `resample` has something to find again."""
    async with EngineClient(url) as client:

        async def one(run: RecordedRun) -> RecordedRun:
            decodes = []
            for n, d in enumerate(run.decodes):
                sampling = {**d.sampling, "seed": d.seed}
                rid = f"{run.run.run_id}{n}"
                made = await client.complete(d.prompt_ids or (), sampling=sampling, rid=rid, with_steps=False)
                decodes.append(replace(d, sampled_ids=made.token_ids, logprobs=made.logprobs))
            return replace(run, decodes=decodes)

        return list(await asyncio.gather(*(one(r) for r in runs)))


def throughput(url: str, model: Path, name: str, store: Path, rounds: int, calls: int) -> list[dict[str, Any]]:
    """Tokens/s of plain generation (vLLM's benchmark), `force` and `resample`, in turns; ratios are of each round."""
    rows: dict[str, list[dict[str, Any]]] = {
        "vllm bench serve": [],
        "force": [],
        "resample": [],
        "force, no stream": [],
    }
    for turn in range(rounds):
        _say(f"throughput: round {turn + 1} of {rounds}")
        bench = bench_serve(
            url, model, name, prompts=CONCURRENCY * calls, concurrency=CONCURRENCY, input_len=PROMPT_TOKENS,
            output_len=OUTPUT_TOKENS, seed=turn,
        )  # fmt: skip
        rows["vllm bench serve"].append(
            {"tokens_per_s": bench["output_throughput"], "tokens": bench["total_output_tokens"],
             "prompt_tokens": bench["total_input_tokens"], "decodes": bench["completed"]}
        )  # fmt: skip
        runs = chains(CONCURRENCY, calls, prompt_tokens=PROMPT_TOKENS, output_tokens=OUTPUT_TOKENS, seed=turn)
        runs = asyncio.run(sampled(url, runs))
        order = [("force", ReplayMode.FORCE, True), ("resample", ReplayMode.RESAMPLE, True),
                 ("force, no stream", ReplayMode.FORCE, False)]  # fmt: skip
        for what, mode, streams in order if turn % 2 == 0 else reversed(order):
            rows[what].append(replayed(url, store, runs, mode, as_streamed=streams))
    plain = [r["tokens_per_s"] for r in rows["vllm bench serve"]]
    table = []
    for what, found in rows.items():
        speed = median(r["tokens_per_s"] for r in found)
        equal = (
            [f"{sum(r['equal'] for r in found)}/{sum(r['decodes'] for r in found)}"] if "equal" in found[0] else ["-"]
        )
        cpu = [r["cpu_us_per_token"] for r in found if "cpu_us_per_token" in r]
        table.append(
            {
                "what": what,
                "tokens_per_s": round(speed, 1),
                "to_bench": round(median(r["tokens_per_s"] / p for r, p in zip(found, plain, strict=True)), 3),
                "each_round": " ".join(f"{r['tokens_per_s']:.0f}" for r in found),
                "equal": equal[0],
                "client_cpu_us_per_token": round(median(cpu), 1) if cpu else None,
            }
        )
    return table


def schedule(url: str, store: Path, sessions: int, calls: int) -> dict[str, Any]:
    """Schedule error of many closed-loop sessions with waits between short calls."""
    _say(f"schedule error: {sessions} sessions")
    runs = chains(sessions, calls, prompt_tokens=24, output_tokens=4, wait_s=(0.2, 1.0), spread_s=1.0, seed=7)
    took = replayed(url, store, runs, ReplayMode.FORCE)
    error = took["schedule_error"]
    return {
        "sessions": sessions,
        "points": error.points,
        "p50_ms": round(error.p50_s * 1e3, 3),
        "p99_ms": round(error.p99_s * 1e3, 3),
        "max_ms": round(error.max_s * 1e3, 3),
        "median_wait_ms": round((error.median_wait_s or 0) * 1e3, 1),
        "equal": f"{took['equal']}/{took['decodes']}",
        "client_cpu_share": round(took["cpu_us_per_token"] * took["tokens"] / 1e6 / took["wall_s"], 3),
    }


def determinism(url: str, name: str, store: Path, times: int) -> dict[str, Any]:
    """A run of a real agent, recorded, then forced so many times, each in a process of its own."""
    redecode = [sys.executable, "-m", "redecode.cli"]
    env = {**os.environ, "REDECODE_STORE": str(store)}
    agent = [sys.executable, "-m", "redecode.agents", "--agent", "contacts_desk", "--runs", "1", "--base-url",
             f"{url}/v1", "--model", name, "--temperature", "0.7", "--seed", "3"]  # fmt: skip
    subprocess.run([*redecode, "record", "--", *agent], env=env, check=True, capture_output=True)
    opened = Store(store)
    source = next(r for r in opened.runs() if r.source_run_id is None)
    recorded = opened.load(source.run_id)
    what, e2e = _shape(recorded), []
    same = {"tokens": 0, "steps": 0, "edges": 0}
    for n in range(times):
        _say(f"determinism: {n + 1} of {times}")
        command = [*redecode, "replay", source.run_id, "--mode", "force", "--engine", url, "--json"]
        done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
        document = json.loads(done.stdout)
        replay = _shape(opened.load(document["replay_run_id"]))
        for part in same:
            same[part] += replay[part] == what[part]
        e2e.append(document["e2e_replayed_s"])
    e2e.sort()
    return {
        "times": times,
        **{f"same_{part}": f"{count}/{times}" for part, count in same.items()},
        "decodes": len(recorded.decodes),
        "e2e_recorded_s": round(source.duration_s or 0, 3),
        "e2e_min_s": round(e2e[0], 3),
        "e2e_p50_s": round(median(e2e), 3),
        "e2e_max_s": round(e2e[-1], 3),
        "band": f"±{(e2e[-1] - e2e[0]) / 2 / median(e2e):.1%}",
    }


def _shape(run: RecordedRun) -> dict[str, Any]:
    key = {s.span_id: s.step_key for s in run.spans}
    return {
        "tokens": sorted((d.step_key, d.prompt_ids, d.sampled_ids) for d in run.decodes),
        "steps": sorted((s.step_key, s.kind, s.name) for s in run.spans),
        "edges": sorted((key[e.src], key[e.dst], e.kind, e.provenance) for e in run.edges),
    }


def _say(words: str) -> None:
    sys.stderr.write(f"[{time.perf_counter() - _BEGAN:.0f} s] {words}\n")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute")
    parser.add_argument("--json", action="store_true", help="the same as data")
    parser.add_argument("--model", choices=BUNDLED_MODELS, default=DEFAULT_MODEL)
    parser.add_argument("--note", default="", help="said with the conditions, say what else ran on the machine")
    args = parser.parse_args()
    rounds, calls, sessions, turns, times = (1, 2, 200, 2, 3) if args.quick else (5, 6, 200, 8, 20)
    model = model_dir(args.model)
    load = [round(os.getloadavg()[0], 2)]
    with tempfile.TemporaryDirectory() as folder:
        store, home = Path(folder) / "store", Path(folder) / "engine"
        state = start(model, home=home, options=EngineOptions(max_num_seqs=CONCURRENCY))
        url, name = state.base_url, state.served_name
        try:
            warm = chains(CONCURRENCY, 1, prompt_tokens=PROMPT_TOKENS, output_tokens=8, seed=99)
            replayed(url, store, warm, ReplayMode.FORCE)
            speed = throughput(url, model, name, store, rounds, calls)
            late = schedule(url, store, sessions, turns)
            again = determinism(url, name, Path(folder) / "recorded", times)
        finally:
            stop(home)
    load.append(round(os.getloadavg()[0], 2))
    result: dict[str, Any] = {
        "conditions": {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load_before_after": load,
            "device": state.device,
            "model": name,
            "concurrency": CONCURRENCY,
            "prompt_tokens": PROMPT_TOKENS,
            "output_tokens": OUTPUT_TOKENS,
            "rounds": rounds,
            "calls_per_round": CONCURRENCY * calls,
            **({"note": args.note} if args.note else {}),
        },
        "throughput": speed,
        "schedule_error": late,
        "determinism": again,
    }
    if args.json:
        sys.stdout.write(json.dumps(result, indent=1) + "\n")
        return
    print("conditions: " + ", ".join(f"{k} {v}" for k, v in result["conditions"].items()))
    print(f"\n{'throughput':<20}{'tokens/s':>10}{'to bench':>10}{'equal':>12}{'client CPU':>16}   each round")
    for row in speed:
        cpu = "-" if row["client_cpu_us_per_token"] is None else f"{row['client_cpu_us_per_token']} µs/token"
        print(
            f"{row['what']:<20}{row['tokens_per_s']:>10}{row['to_bench']:>10}{row['equal']:>12}{cpu:>16}   "
            f"{row['each_round']}"
        )
    for title, found in (("schedule error", late), ("determinism", again)):
        print(f"\n{title}")
        for key, value in found.items():
            print(f"  {key:<20}{value}")


if __name__ == "__main__":
    main()
