"""What the front of a cluster costs a call: the same calls to an engine and through `redecode front` before it.

The engine is a paced one in a process of its own, which takes the times of a profile and computes nothing, so that what
is measured is the front. Direct and through the front take turns, call by call; streamed, and not. `--quick` takes
under a minute; `--json` prints the same as data.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import aiohttp

from redecode.optimizer.placement.cluster.http_front import listen
from redecode.optimizer.placement.cluster.paced_answers import paced_server
from redecode.replay.simulator.costs import StepCosts, to_ps
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.rows import Limits

STEP_S = 0.005


@dataclass(frozen=True, slots=True)
class Row:
    """Calls of one kind; ms, medians and 95th percentiles.

    Attributes:
        added: the median of (front - direct) over pairs of neighbours.
        ratio: front over direct, of the medians.
    """

    what: str
    calls: int
    at_a_time: int
    direct_p50: float
    direct_p95: float
    front_p50: float
    front_p95: float
    added: float
    ratio: float


async def serve_engine() -> None:
    """The engine; says where it is, and serves until its stdin ends."""
    limits = Limits(max_num_seqs=256, token_budget=8192, kv_blocks=1 << 16)
    engine = Engine(costs=StepCosts(step=to_ps(STEP_S)), limits=limits, model="m")
    runner = await listen(paced_server(engine), "127.0.0.1", 0)
    sys.stdout.write(f"http://127.0.0.1:{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


async def one(
    session: aiohttp.ClientSession, url: str, *, stream: bool, tokens: int, prompt: str
) -> tuple[float, float]:
    """Seconds until the first byte of an answer, and until its last."""
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "stream": stream}
    begun, first = time.perf_counter(), 0.0
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        async for _ in response.content.iter_any():
            first = first or time.perf_counter()
        response.raise_for_status()
    return first - begun, time.perf_counter() - begun


async def measure(
    direct: str, front: str, calls: int, at_a_time: int, *, stream: bool, prompt: str, tokens: int
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Each call once to either, in turns; who is first changes."""
    found: dict[str, list[tuple[float, float]]] = {direct: [], front: []}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def lane(count: int) -> None:
            for n in range(count):
                pair = {}
                for url in (direct, front) if n % 2 else (front, direct):
                    pair[url] = await one(session, url, stream=stream, tokens=tokens, prompt=prompt)
                for url, took in pair.items():
                    found[url].append(took)

        await asyncio.gather(*(lane(calls // at_a_time) for _ in range(at_a_time)))
    return found[direct], found[front]


def row(what: str, at_a_time: int, direct: Sequence[float], front: Sequence[float]) -> Row:
    """Of these seconds."""
    ms = [[1e3 * value for value in values] for values in (direct, front)]
    p50 = [statistics.median(values) for values in ms]
    p95 = [statistics.quantiles(values, n=20)[-1] for values in ms]
    added = statistics.median(f - d for d, f in zip(*ms, strict=True))
    return Row(what, len(direct), at_a_time, p50[0], p95[0], p50[1], p95[1], added, p50[1] / p50[0])


async def rows(direct: str, front: str, calls: int) -> list[Row]:
    """All of them."""
    out = []
    short, long = "hello " * 20, "hello " * 4000
    await measure(direct, front, 20, 2, stream=True, prompt=short, tokens=2)  # connections, imports
    for what, at_a_time, stream, prompt, tokens in (
        ("streamed, 120 bytes", 1, True, short, 10),
        ("streamed, 24 kB", 1, True, long, 10),
        ("whole, 120 bytes", 1, False, short, 10),
        ("streamed, 16 at a time", 16, True, short, 10),
    ):
        d, f = await measure(direct, front, calls, at_a_time, stream=stream, prompt=prompt, tokens=tokens)
        if stream:
            out.append(row(f"{what}: first byte", at_a_time, [x[0] for x in d], [x[0] for x in f]))
        out.append(row(f"{what}: all", at_a_time, [x[1] for x in d], [x[1] for x in f]))
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        asyncio.run(serve_engine())
        return
    calls = 96 if options.quick else 800
    load = os.getloadavg()[0]
    engine = subprocess.Popen(
        [sys.executable, __file__, "--engine"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    front = None
    try:
        assert engine.stdout is not None
        direct = engine.stdout.readline().strip()
        verb = [sys.executable, "-m", "redecode.cli", "front", "--policy", "least", "--port", "0"]
        command = [*verb, "--replica", direct]
        front = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert front.stdout is not None
        url = front.stdout.readline().split()[2].removesuffix("/v1")
        found = asyncio.run(rows(direct, url, calls))
    finally:
        for process in (front, engine):
            if process is not None:
                process.terminate()
                process.wait()
    if options.json:
        print(json.dumps({"load_before": load, "cpus": os.cpu_count(), "rows": [asdict(r) for r in found]}, indent=1))
        return
    print(f"redecode front before a paced engine ({STEP_S * 1e3:g} ms a step), Python {platform.python_version()},")
    print(f"{os.cpu_count()} CPUs for client, front and engine, load average before: {load:.1f}; ms, direct | front")
    print(f"{'':36}{'calls':>6}{'p50':>9}{'p95':>9} |{'p50':>8}{'p95':>9}{'added':>8}{'ratio':>7}")
    for r in found:
        print(
            f"{r.what:36}{r.calls:6}{r.direct_p50:9.2f}{r.direct_p95:9.2f} |{r.front_p50:8.2f}{r.front_p95:9.2f}"
            f"{r.added:8.2f}{r.ratio:7.2f}"
        )


if __name__ == "__main__":
    main()
