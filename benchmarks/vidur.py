"""Our simulator against Vidur (MLSys 2024, arXiv 2405.05465) on the same calls: speed, and whether they say the same.

Single calls that arrive as a Poisson process at replicas of one made-up 8B-like engine, served in turns; chunked
prefill, the same limits, the same time for the same step (`support/vidur_driver.py`). No prefix caches: Vidur has none.
Vidur is not installed with redecode and needs other versions of some packages, so it is run by a Python of its own:

    python -m venv V && V/bin/pip install numpy pandas scikit-learn wandb ddsketch plotly_express matplotlib seaborn
    git clone https://github.com/microsoft/vidur
    python benchmarks/vidur.py --vidur-python V/bin/python --vidur-path vidur

"vidur" keeps no metrics, "vidur, metrics" those that it keeps by default. Without Vidur only ours is timed. Wall times
are of little worth on a busy machine, CPU times of more. `--quick` takes about a minute.
"""

from __future__ import annotations

import argparse
import csv
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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import to_ps
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.fleet import FleetRouter, Routing
from redecode.replay.simulator.profile import Seconds
from redecode.replay.simulator.results import quantile
from redecode.replay.simulator.rows import Limits
from redecode.replay.simulator.workload import Call, Workload, single

COSTS = Seconds(
    step=8e-3, prefill_token=2e-5, prefill_pair=5e-9, prefill_call=0.0, decode=5e-5, context_token=4e-8, gap=1e-3,
    gap_row=5e-6,
)  # fmt: skip
LIMITS = Limits(max_num_seqs=128, token_budget=2048, kv_blocks=20_000, prefix_caching=False)
_MOST = 4096


@dataclass(frozen=True, slots=True)
class Calls:
    """What both simulate."""

    replicas: int
    begins_s: list[float]
    prompts: list[int]
    outputs: list[int]


def calls_of(replicas: int, count: int, each_per_s: float) -> Calls:
    """Prompts of mean 500 tokens, outputs of mean 200, so many calls a second for each replica."""
    rng = random.Random(0)
    at, begins, prompts, outputs = 0.0, [], [], []
    for _ in range(count):
        at += rng.expovariate(each_per_s * replicas)
        begins.append(at)
        prompts.append(min(2500, int(rng.lognormvariate(5.9, 0.8)) + 1))
        outputs.append(min(1500, int(rng.lognormvariate(4.9, 0.9)) + 1))
    return Calls(replicas, begins, prompts, outputs)


def ours(calls: Calls) -> dict[str, Any]:
    """Simulate them here."""
    shapes: dict[tuple[int, int], int] = {}
    which = array("l")
    for size in zip(calls.prompts, calls.outputs, strict=True):
        which.append(shapes.setdefault(size, len(shapes)))
    made = tuple(single(Call(step="s", prompt_tokens=p, output_tokens=o)) for p, o in shapes)
    workload = Workload(made, array("q", map(to_ps, calls.begins_s)), which)
    engine = Engine(costs=COSTS.costs(), limits=LIMITS)
    cpu, wall = time.process_time(), time.perf_counter()
    router = FleetRouter(Routing.TURNS) if calls.replicas > 1 else None
    found = Simulation(workload, [engine] * calls.replicas, router=router).run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        "calls": len(found.ttft_s()),
        "tokens": sum(calls.prompts) + sum(calls.outputs),
        "virtual_s": found.end_ps / 1e12,
        "ttft_s": sorted(found.ttft_s()),
        "e2e_s": sorted(found.e2e_s()),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def vidurs(calls: Calls, python: str, path: Path, *, quiet: bool) -> dict[str, Any]:
    """Simulate them with Vidur."""
    with tempfile.TemporaryDirectory() as folder:
        file, job = Path(folder) / "calls.csv", Path(folder) / "job.json"
        with file.open("w", newline="") as out:
            rows = csv.writer(out)
            rows.writerow(("arrived_at", "num_prefill_tokens", "num_decode_tokens"))
            rows.writerows(zip(calls.begins_s, calls.prompts, calls.outputs, strict=True))
        told = {
            **asdict(LIMITS),
            "replicas": calls.replicas,
            "max_tokens": _MOST,
            "quiet": quiet,
            "costs": COSTS.model_dump(),
        }
        job.write_text(json.dumps(told))
        driver = Path(__file__).with_name("support") / "vidur_driver.py"
        env = {**os.environ, "PYTHONPATH": str(path.absolute()), "WANDB_MODE": "disabled"}
        command = [python, str(driver), str(file), str(job)]
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"Vidur did not run: {done.stderr.strip().splitlines()[-1]}")
    line = next(line for line in done.stdout.splitlines() if line.startswith("{"))  # Vidur has its own to say, too
    result: dict[str, Any] = json.loads(line)
    return result


def commit_of(path: Path) -> str | None:
    """The commit Vidur is at, if it is a checkout."""
    command = ["git", "-C", str(path), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def row_of(name: str, replicas: int, r: dict[str, Any]) -> dict[str, Any]:
    """What is told of one simulation."""
    told = {k: r[k] for k in ("wall_s", "cpu_s", "calls", "tokens", "virtual_s", "memory_mib")}
    quantiles = {
        f"{measure}_p{share * 100:g}_s": quantile(r[f"{measure}_s"], share)
        for measure in ("ttft", "e2e")
        for share in (0.5, 0.95)
    }
    return {"simulator": name, "replicas": replicas, **told, "tokens_per_s": r["tokens"] / r["wall_s"], **quantiles}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    parser.add_argument("--json", action="store_true", help="the same as data")
    parser.add_argument("--vidur-python", help="a Python with what Vidur needs")
    parser.add_argument("--vidur-path", type=Path, default=Path("vidur"), help="a checkout of Vidur")
    parser.add_argument("--rounds", type=int, default=3, help="of each, in turns; the fastest counts")
    parser.add_argument("--note", default="", help="said with the conditions, say Vidur's commit")
    args = parser.parse_args()
    sizes = [(10, 300, 4.0)] if args.quick else [(1, 500, 4.0), (10, 2000, 1.0), (10, 2000, 4.0), (10, 2000, 16.0)]
    load = [round(os.getloadavg()[0], 2)]
    rows, ratios = [], []
    for replicas, count, each_per_s in sizes:
        calls = calls_of(replicas, count, each_per_s)
        found: dict[str, list[dict[str, Any]]] = {"redecode": [], "vidur": [], "vidur, metrics": []}
        for _ in range(1 if args.quick else args.rounds):
            found["redecode"].append(ours(calls))
            if args.vidur_python:
                for name in ("vidur", "vidur, metrics"):
                    quiet = name == "vidur"
                    found[name].append(vidurs(calls, args.vidur_python, args.vidur_path, quiet=quiet))
        best = {name: min(runs, key=lambda r: r["cpu_s"]) for name, runs in found.items() if runs}
        rows += [{**row_of(name, replicas, r), "each_per_s": each_per_s} for name, r in best.items()]
        for name in list(best)[1:]:
            times = {k: best[name][k] / best["redecode"][k] for k in ("wall_s", "cpu_s")}
            ratios.append({"simulator": name, "replicas": replicas, "calls": count, "each_per_s": each_per_s, **times})
    load.append(round(os.getloadavg()[0], 2))
    conditions = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before_after": load,
        "vidur": (commit_of(args.vidur_path) or "of unknown commit") if args.vidur_python else "not run",
        **({"note": args.note} if args.note else {}),
    }
    if args.json:
        sys.stdout.write(json.dumps({"conditions": conditions, "rows": rows, "ratios": ratios}, indent=1) + "\n")
        return
    print("conditions: " + ", ".join(f"{k} {v}" for k, v in conditions.items()))
    _print(rows, ratios)


def _print(rows: Sequence[dict[str, Any]], ratios: Sequence[dict[str, Any]]) -> None:
    head = (
        "replicas", "calls", "each /s", "tokens", "virtual s", "wall s", "CPU s", "tokens/s", "MiB", "TTFT p50", "p95",
        "E2E p50", "p95",
    )  # fmt: skip
    print(f"\n{'':<15}" + "".join(f"{name:>11}" for name in head))
    for r in rows:
        cells = (
            r["replicas"], r["calls"], r["each_per_s"], int(r["tokens"]), f"{r['virtual_s']:.1f}", f"{r['wall_s']:.2f}",
            f"{r['cpu_s']:.2f}", f"{r['tokens_per_s']:,.0f}", r["memory_mib"], f"{r['ttft_p50_s']:.3f}",
            f"{r['ttft_p95_s']:.3f}", f"{r['e2e_p50_s']:.3f}", f"{r['e2e_p95_s']:.3f}",
        )  # fmt: skip
        print(f"{r['simulator']:<15}" + "".join(f"{cell:>11}" for cell in cells))
    for r in ratios:
        times = f"{r['wall_s']:.0f} times its wall time, {r['cpu_s']:.0f} times its CPU time"
        load = f"{r['replicas']} replicas, {r['calls']} calls, {r['each_per_s']:g}/s each"
        print(f"{load}: {r['simulator']} takes {times}")


if __name__ == "__main__":
    main()
