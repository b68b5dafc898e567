"""Routers on a real Ray Serve: its own power of two choices against ours, on the same replicas, arrivals and lengths.

Replicas are paced: they take the times of engines and compute nothing, so that a small machine can serve several. Calls
go over HTTP through Serve's proxy and the front, with forced lengths, closed loop: each is sent when those before it
have ended and what passed then has passed. Arms: Serve as it comes (max_ongoing_requests 5) and tuned (the limit that
was best in simulations of other runs), and on Serve with routers of ours: round robin, the shortest expected delay, and
by deadline, with queues by priority ("ours"). Every repeat runs all arms on the same runs, in another order; repeats
have different runs. Each arm is simulated, too, on the very same runs: does the simulator put them in the same order?

A repeat does not count, in none of its arms, if in any of them
  - calls failed (refused is not failed),
  - the client itself was late: its calls went out more than 25 ms after they should at the 95th percentile,
  - Serve's router missed a probe's deadline ("Failed to get queue length"), or
  - the machine was busy with other work before it: a load average (1 minute) above 1.5 per CPU.
This was written before the first run that counts. `--quick`: one repeat of few runs of three arms, on faster engines;
`--json`: the same as data.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.support.placement_workloads import BLOCK, Mix, capacity, drawn, made_up_engine, mixes
from redecode.optimizer.placement.cluster.names import Policy
from redecode.optimizer.placement.cluster.policies import make_router
from redecode.optimizer.placement.cluster.ray_cluster import RayCluster
from redecode.optimizer.placement.cluster.ray_spec import RayReplica, load_ray
from redecode.optimizer.placement.serve_router import PowerOfTwoChoices
from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import PS
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import Router
from redecode.replay.simulator.workload import Call, Shape, Workload

MODEL = "paced"
LATE_S, LOAD_PER_CPU = 0.025, 1.5
DEFAULT, TUNED, TURNS, SOONEST, OURS = "Serve default", "Serve tuned", "round robin", "shortest delay", "ours"
ROUTERS = {TURNS: Policy.TURNS, SOONEST: Policy.SOONEST, OURS: Policy.DEADLINE}
ARMS = (DEFAULT, TUNED, TURNS, SOONEST, OURS)


@dataclass(frozen=True, slots=True)
class Arm:
    """One policy in one repeat.

    Attributes:
        goodput: runs that ended in time, over all; `simulated` what the simulator says of the same.
        late_p95_s: how late the client sent its calls.
        probes_missed: by Serve's router.
        failure: what the first call that failed got.
    """

    name: str
    repeat: int
    runs: int
    goodput: float
    simulated: float
    refused: int
    failed: int
    e2e_p50_s: float
    e2e_p95_s: float
    late_p95_s: float
    probes_missed: int
    load_before: float
    failure: str


class Client:
    """Sends the runs of a workload, each call when it is its turn."""

    def __init__(self, session: aiohttp.ClientSession, url: str, workload: Workload, name: str) -> None:
        self._session, self._url, self._workload, self._name = session, url, workload, name
        self.late: list[float] = []
        self.ends: list[float | None] = [None] * len(workload.begins)
        self.refused = self.failed = 0
        self.failure = ""

    async def run(self) -> None:
        """All of them."""
        self._began, self._unix = time.monotonic() + 0.5, time.time_ns() / 1e9 + 0.5
        await asyncio.gather(*(self._one(n) for n in range(len(self._workload.begins))))

    async def _one(self, number: int) -> None:
        w = self._workload
        shape, begin = w.shapes[w.which[number]], w.begins[number] / PS
        await self._until(begin)
        headers = {
            "x-redecode-run": f"{self._name}/{number}",
            "x-redecode-agent": quote(shape.name),
            "x-redecode-deadline": repr(self._unix + begin + w.deadlines[number] / PS),
        }
        ends = [asyncio.get_running_loop().create_future() for _ in shape.calls]
        before: list[list[tuple[int, int]]] = [[] for _ in shape.calls]
        for place, after in enumerate(shape.after):
            for later, gap in after:
                before[later].append((place, gap))
        first = dict(shape.first)

        async def call(place: int) -> None:
            due: float | None = begin + first[place] / PS if place in first else 0.0
            for earlier, gap in before[place]:
                end = await ends[earlier]
                due = None if end is None or due is None else max(due, end + gap / PS)
            ended: float | None = None
            if due is not None:
                await self._until(due)
                self.late.append(self._now() - due)
                if await self._send(shape.calls[place], headers, number, place):
                    ended = self._now()
            ends[place].set_result(ended)

        await asyncio.gather(*(call(place) for place in range(len(shape.calls))))
        done = [end.result() for end in ends]
        if all(end is not None for end in done):
            self.ends[number] = max(done[place] + last / PS for place, last in shape.last.items()) - begin

    async def _send(self, call: Call, headers: dict[str, str], run: int, place: int) -> bool:
        body = {"model": MODEL, "prompt": prompt(call, run, place), "max_tokens": call.output_tokens}
        named = {**headers, "x-redecode-step": quote(call.step)}
        try:
            async with self._session.post(f"{self._url}/v1/completions", json=body, headers=named) as response:
                answer = await response.read()
                self.refused += response.status == 429
                if response.status not in (200, 429):
                    self.failed += 1
                    self.failure = self.failure or f"{response.status}: {answer[:200].decode(errors='replace')}"
                return response.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.failed += 1
            self.failure = self.failure or f"{type(error).__name__}: {error}"
            return False

    def _now(self) -> float:
        return time.monotonic() - self._began

    async def _until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - self._now()))


def prompt(call: Call, run: int, place: int) -> list[int]:
    """Token ids that share blocks as the call's content does; what only this run has is told apart by its number."""
    ids: list[int] = []
    for block in call.hashes[: call.prompt_tokens // BLOCK]:
        name = block if block >= 0 else (1 << 30) + run * 4096 - block
        ids += [name & 0x7FFFFFFF] * BLOCK
    return ids + [(run * 64 + place) & 0x7FFFFFFF] * (call.prompt_tokens - len(ids))


def engines(slower: float) -> list[Engine]:
    """Three replicas that are not alike."""
    kinds = (("fast", 1.0), ("middle", 2.0), ("slow", 5.0))
    made = [made_up_engine(name, factor * slower, 1.0, calls=16) for name, factor in kinds]
    return [replace(engine, model=MODEL) for engine in made]


def slowed(mix: Mix, slower: float) -> Mix:
    """The same runs, with as much more time as the engines take."""
    return replace(mix, deadlines={name: round(ps * slower) for name, ps in mix.deadlines.items()})


def arm(
    name: str, repeat: int, mix: Mix, workload: Workload, port: int, logs: Path, slower: float, tuned: int
) -> Arm:  # fmt: skip
    """One policy, on a cluster of its own."""
    kinds = [replace(e, limits=replace(e.limits, by_priority=name == OURS)) for e in engines(slower)]
    router, why = make_router(ROUTERS[name], kinds, named(mix.known)) if name in ROUTERS else (None, None)
    limit = {DEFAULT: 5, TUNED: tuned}.get(name, 100_000)
    load, missed = os.getloadavg()[0], probes_missed(logs)
    cluster = RayCluster(
        [RayReplica(engine=engine) for engine in kinds],
        router,
        why=why,
        name=f"{'-'.join(name.lower().replace(',', '').split())}-{repeat}",  # of its own: Serve's proxy remembers names
        port=port,
        cpus=0.1,
        max_ongoing_requests=limit,
    )

    async def go() -> Client:
        timeout = aiohttp.ClientTimeout(total=600)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            client = Client(session, cluster.url, workload, f"{name}/{repeat}")
            await client._send(workload.shapes[0].calls[0], {}, 0, 0)  # connections
            await client.run()
            return client

    with cluster:
        client = asyncio.run(go())
    took = sorted(end for end in client.ends if end is not None)
    good = sum(
        end is not None and end <= deadline / PS for end, deadline in zip(client.ends, workload.deadlines, strict=True)
    )

    def at(share: float) -> float:
        return took[min(len(took) - 1, int(share * len(took)))] if took else float("nan")

    late = sorted(client.late)
    return Arm(
        name=name,
        repeat=repeat,
        runs=len(client.ends),
        goodput=good / len(client.ends),
        simulated=simulated(name, mix, workload, slower, tuned, repeat),
        refused=client.refused,
        failed=client.failed,
        e2e_p50_s=at(0.5),
        e2e_p95_s=at(0.95),
        late_p95_s=late[int(0.95 * len(late))],
        probes_missed=probes_missed(logs) - missed,
        load_before=load,
        failure=client.failure,
    )


def simulated(name: str, mix: Mix, workload: Workload, slower: float, tuned: int, seed: int) -> float:
    """Goodput of the same arm on the same runs in the simulator."""
    kinds = [replace(e, model="", limits=replace(e.limits, by_priority=name == OURS)) for e in engines(slower)]
    router: Router
    if name in ROUTERS:
        router, _ = make_router(ROUTERS[name], kinds, mix.known)
    else:
        router = PowerOfTwoChoices(random.Random(seed), max_ongoing_requests={DEFAULT: 5, TUNED: tuned}[name])
    return Simulation(workload, kinds, router=router).run().attained() or 0.0


def tune(mix: Mix, rate: float, runs: int, slower: float) -> int:
    """Serve's limit that is best in simulations of runs that are not compared on."""

    def of(limit: int) -> float:
        tried = (drawn(mix, rate, runs, 1000 + n) for n in range(3))
        return statistics.fmean(simulated(TUNED, mix, w, slower, limit, n) for n, w in enumerate(tried))

    return max((5, 8, 12, 16, 24, 32, 64, 100_000), key=of)


def kendall(pairs: list[tuple[float, float]]) -> float:
    """Tau-b of pairs of values."""
    from scipy.stats import kendalltau  # type: ignore[import-untyped]

    return float(kendalltau(*zip(*pairs, strict=True)).statistic)


def named(shapes: tuple[Shape, ...]) -> list[Shape]:
    """The same runs, calling the model that is served."""
    return [replace(s, calls=tuple(replace(c, model=MODEL) for c in s.calls)) for s in shapes]


def probes_missed(logs: Path) -> int:
    """How often a router has said so by now."""
    files = logs.glob("session_latest/logs/serve/*.log")
    return sum(file.read_text(errors="replace").count("Failed to get queue length from") for file in files)


def reasons(repeat: list[Arm]) -> list[str]:
    """Why it does not count; none if it does."""
    out = []
    for one in repeat:
        if one.failed:
            out.append(f"{one.name}: {one.failed} calls failed ({one.failure})")
        if one.late_p95_s > LATE_S:
            out.append(f"{one.name}: the client was {one.late_p95_s * 1e3:.0f} ms late")
        if one.probes_missed:
            out.append(f"{one.name}: {one.probes_missed} probes missed")
    if repeat[0].load_before > LOAD_PER_CPU * (os.cpu_count() or 1):
        out.append(f"load average {repeat[0].load_before:.1f} before it")
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--runs", type=int, default=120, help="in each arm")
    parser.add_argument("--load", type=float, default=0.9, help="of what the replicas can do")
    parser.add_argument("--workload", default="recorded")
    parser.add_argument("--slower", type=float, default=6.0, help="engines are so many times as slow as made up")
    parser.add_argument("--port", type=int, default=8299)
    options = parser.parse_args()
    repeats, runs = (1, 20) if options.quick else (options.repeats, options.runs)
    if options.quick:
        options.slower = min(options.slower, 2.0)
    found = mixes()
    mix = slowed(found[options.workload], options.slower)
    rate = capacity(engines(options.slower), mix.known) * options.load
    tuned = tune(mix, rate, runs, options.slower)
    ray, _ = load_ray()
    home = Path(tempfile.mkdtemp(prefix="rd-live-"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
            _temp_dir=str(home),
        )  # fmt: skip
    arms: list[list[Arm]] = []
    try:
        for repeat in range(repeats):
            workload = drawn(mix, rate, runs, repeat)
            order = (DEFAULT, TUNED, OURS) if options.quick else ARMS[repeat % len(ARMS) :] + ARMS[: repeat % len(ARMS)]
            arms.append([])
            for name in order:
                arms[-1].append(arm(name, repeat, mix, workload, options.port, home, options.slower, tuned))
                sys.stderr.write(f"{arms[-1][-1]}\n")
    finally:
        ray.shutdown()
        shutil.rmtree(home, ignore_errors=True)
    valid = [r for r in arms if not reasons(r)]
    result = {
        "workload": mix.name,
        "source": mix.source,
        "runs_per_s": rate,
        "tuned_max_ongoing_requests": tuned,
        "repeats": [{"counts": not reasons(r), "reasons": reasons(r), "arms": [asdict(a) for a in r]} for r in arms],
        "rank_correlation": kendall([(a.goodput, a.simulated) for a in means(valid)]) if valid else None,
    }
    if options.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{mix.name} ({mix.source}); {rate:.3g} runs a second, {options.load:g} of capacity; {runs} runs an arm;")
    where = f"{os.cpu_count()} CPUs, Python {platform.python_version()}"
    print(f"3 paced replicas (1x, 2x, 5x) on Ray Serve {ray.__version__}; {where}; Serve tuned: {tuned} calls at most")
    names = ("goodput", "simul.", "refused", "failed", "p50 s", "p95 s", "late ms", "load")
    print(f"{'repeat':8}{'arm':18}" + "".join(f"{name:>8}" for name in names))
    for some in arms:
        for one in sorted(some, key=lambda a: ARMS.index(a.name)):
            print(
                f"{one.repeat:<8}{one.name:18}{one.goodput:8.1%}{one.simulated:8.1%}{one.refused:8}{one.failed:8}"
                f"{one.e2e_p50_s:8.2f}{one.e2e_p95_s:8.2f}{one.late_p95_s * 1e3:8.0f}{one.load_before:8.1f}"
            )
        for reason in reasons(some):
            print(f"        does not count: {reason}")
    if not valid:
        print("no repeat counts: nothing is said about which is better")
        return
    for mean in means(valid):
        values = [a.goodput for r in valid for a in r if a.name == mean.name]
        spread = f" ({min(values):.1%} to {max(values):.1%}); simulated {mean.simulated:.1%}"
        print(f"{mean.name:18} goodput {mean.goodput:.1%}{spread}; over {len(values)} repeats that count")
    print(f"order of the arms, live and simulated: Kendall's tau {result['rank_correlation']:.2f}")


def means(valid: list[list[Arm]]) -> list[Arm]:
    """Each arm over the repeats that count."""
    by_name = {name: [a for r in valid for a in r if a.name == name] for name in ARMS}
    return [
        replace(
            found[0],
            goodput=statistics.fmean(a.goodput for a in found),
            simulated=statistics.fmean(a.simulated for a in found),
        )
        for found in by_name.values()
        if found
    ]


if __name__ == "__main__":
    main()
