"""What tracing costs: one LangGraph workload untraced, under redecode, and under each of the others' instrumentations.

Each tracer has a process of its own; they take turns, and every number is the median over the rounds of its difference
from the untraced turn of the same round. A turn is timed until everything recorded was handed over: to the spool on
disk (redecode), or to an OTLP sink in another process by the SDK's batch processor with its default settings. CPU is
that of the traced process, all threads. What moving the spool into DuckDB costs another process, later, is added in a
row of its own: one drain of all that was measured, shared evenly among the runs (the others' databases are not here).

The token server answers at once, so added wall time is at its worst here; behind a real engine much of it is hidden.
It sends token ids, logprobs and prompt ids to redecode alone, since only redecode asks: reading them is in its numbers.
Every tracer records content. `--quick` takes under a minute; `--json` prints the same as data.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from redecode.tracer import Store

PEERS = {
    "openinference": "openinference-instrumentation-langchain",
    "openllmetry": "opentelemetry-instrumentation-langchain",
    "otel-genai": "opentelemetry-instrumentation-genai-langchain",
}
TRACERS = ("untraced", "redecode", *PEERS)
DRAINED = "redecode+drain"
SHOWN = ("untraced", "redecode", DRAINED, *PEERS)
OTHER_CALLS = 4  # FM calls of a run besides its questions
WIDE, NARROW = 8, 1  # questions at once: where spans are counted, and where tokens are
_SUPPORT = Path(__file__).parent / "support"

Kind = tuple[str, bool]
"""How the graph is run (sync, async) and whether its calls stream."""
Shape = tuple[int, int]
"""Sampled tokens of a call, and questions at once."""
KINDS: tuple[Kind, ...] = tuple(product(("sync", "async"), (False, True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured.

    Attributes:
        few: sampled tokens of a call where spans are counted.
        many: of a call that does not stream, and of one that does, where tokens are: an untraced client takes 2 us
            for a token in a whole response and 200 us for one in a stream. One call runs at a time there: what eight
            threads lose to each other over the interpreter's lock varies by more than a token costs.
    """

    few: int
    many: tuple[int, int]
    rounds: int
    bursts: int
    burst_spans: int = 20_000

    def shapes(self, kind: Kind) -> tuple[Shape, Shape, Shape]:
        """Where spans are counted, and the two whose difference is tokens."""
        return (self.few, WIDE), (self.few, NARROW), (self.many[kind[1]], NARROW)


QUICK = Size(few=16, many=(1040, 144), rounds=3, bursts=1)
FULL = Size(few=32, many=(2080, 416), rounds=20, bursts=5)


@contextlib.contextmanager
def program(name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """One of the programs in `support/`, ended by the end of its input."""
    command = [sys.executable, str(_SUPPORT / name), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def line(process: subprocess.Popen[str]) -> str:
    """The next line a program prints.

    Raises:
        RuntimeError: it has ended instead.
    """
    assert process.stdout is not None
    text = process.stdout.readline()
    if not text:
        raise RuntimeError(f"a program of benchmarks/support ended with {process.wait()}: {process.args!r}")
    return text.strip()


class Sinks:
    """Where spans go, and what came: the OTLP sink, and redecode's store."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder

    def argument(self, tracer: str) -> str:
        """What a traced program is told."""
        return str(self.folder / tracer) if tracer == "redecode" else self.url

    def drain(self, tracer: str) -> float:
        """Move redecode's spool into its database; the CPU seconds that took."""
        begin = time.process_time()
        Store(self.folder / tracer).drain()
        return time.process_time() - begin

    def spans(self, tracer: str) -> int:
        """How many spans have arrived."""
        if tracer.startswith("redecode"):
            return Store(self.folder / tracer).health().spans
        return int(self._told(tracer)["spans"])

    def recorded(self, tracer: str) -> list[str]:
        """What of a run is in what arrived."""
        if tracer != "redecode":
            return [what for what, there in self._told(tracer)["has"].items() if there]
        store = Store(self.folder / tracer)
        run = store.load(store.runs(limit=1)[0].run_id)  # the last: its calls stream
        has = {
            "nodes": any(span.kind.value == "node" for span in run.spans),
            "prompts": all(decode.messages for decode in run.decodes),
            "answers": all(decode.output for decode in run.decodes),
            "seed": all(decode.seed is not None for decode in run.decodes),
            "usage": all(decode.output_tokens for decode in run.decodes),
            "token ids": all(decode.prompt_ids and decode.sampled_ids for decode in run.decodes),
            "logprobs": all(decode.logprobs for decode in run.decodes),
            "time of each chunk": all(decode.chunk_times_ns for decode in run.decodes),
            "edges": bool(run.edges),
        }
        return [what for what, there in has.items() if there]

    def _told(self, tracer: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/{tracer}") as answer:
            return json.load(answer)


class Workload:
    """The workload's measurements: seconds of CPU and wall per run, by what was run, one entry a round."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.shapes = [(kind, shape) for kind in KINDS for shape in size.shapes(kind)]
        self.wide: Shape = (size.few, WIDE)
        self.cpu: dict[tuple[str, Kind, Shape], list[float]] = defaultdict(list)
        self.wall: dict[tuple[str, Kind, Shape], list[float]] = defaultdict(list)
        self.spans: dict[tuple[str, int], int] = {}  # of a run of this width
        self.lost: dict[str, int] = {}
        self.recorded: dict[str, list[str]] = {}

    def measure(self, tracers: tuple[str, ...], model_url: str, sinks: Sinks) -> None:
        """Let the tracers take turns."""
        with contextlib.ExitStack() as stack:
            workers = {}
            for tracer in tracers:
                arguments = (tracer, model_url, sinks.argument(tracer))
                workers[tracer] = stack.enter_context(program("traced.py", *arguments))
            made = dict.fromkeys(tracers, 0)  # spans
            for tracer, worker in workers.items():  # a run of each width tells how many spans it has, the rest warms up
                for width in (WIDE, NARROW):
                    runs = self._turn(tracer, worker, KINDS[0], (self.size.few, width), keep=False)
                    arrived = sinks.spans(tracer) if tracer != "untraced" else 0
                    self.spans[tracer, width], odd = divmod(arrived - made[tracer], runs)
                    assert not odd, f"{tracer}: runs of one graph differ in their spans"
                    made[tracer] = arrived
                for kind, shape in self.shapes:
                    made[tracer] += self.spans[tracer, shape[1]] * self._turn(tracer, worker, kind, shape, keep=False)
            warm = dict(made)
            if "redecode" in tracers:
                sinks.drain("redecode")
            for round_ in range(self.size.rounds):
                order = tracers[round_ % len(tracers) :] + tracers[: round_ % len(tracers)]
                for (kind, shape), tracer in product(self.shapes, order):
                    runs = self._turn(tracer, workers[tracer], kind, shape, keep=True)
                    made[tracer] += self.spans[tracer, shape[1]] * runs
            for worker in workers.values():
                assert worker.stdin is not None
                worker.stdin.close()
                worker.wait()
        if "redecode" in tracers:
            self.spans[DRAINED, WIDE] = self.spans["redecode", WIDE]
            span_s = sinks.drain("redecode") / (made["redecode"] - warm["redecode"])
            for kind in KINDS:
                times = self.cpu["redecode", kind, self.wide]
                self.cpu[DRAINED, kind, self.wide] = [used + span_s * self.spans[DRAINED, WIDE] for used in times]
        for tracer in tracers[1:]:
            self.lost[tracer] = made[tracer] - sinks.spans(tracer)
            self.recorded[tracer] = sinks.recorded(tracer)

    def _turn(self, tracer: str, worker: subprocess.Popen[str], kind: Kind, shape: Shape, *, keep: bool) -> int:
        """Let one tracer run the graph; returns how often."""
        runs = 1 if kind[1] else 2
        turn = {"how": kind[0], "stream": kind[1], "tokens": shape[0], "width": shape[1], "runs": runs}
        assert worker.stdin is not None
        worker.stdin.write(json.dumps(turn) + "\n")
        worker.stdin.flush()
        used = json.loads(line(worker))
        if keep:
            self.cpu[tracer, kind, shape].append(used["cpu_s"] / runs)
            self.wall[tracer, kind, shape].append(used["wall_s"] / runs)
        return runs

    def rows(self) -> list[dict[str, Any]]:
        """The table."""
        return [self._row(tracer, kind) for kind in KINDS for tracer in SHOWN if (tracer, kind, self.wide) in self.cpu]

    def _row(self, tracer: str, kind: Kind) -> dict[str, Any]:
        wide, few, many = self.size.shapes(kind)
        row: dict[str, Any] = {"calls": f"{kind[0]}{', streamed' if kind[1] else ''}", "tracer": tracer}
        row["cpu_ms_run"] = median(self.cpu[tracer, kind, wide]) * 1e3
        if tracer == "untraced":
            plain = zip(self.cpu[tracer, kind, few], self.cpu[tracer, kind, many], strict=True)
            row["cpu_us_token"] = median(self._per_token(few, many, a, b) for a, b in plain)
            return row
        added = self._added(self.cpu, tracer, kind, wide)
        plain_run = self.cpu["untraced", kind, wide]
        row["cpu_ratio"] = median((a + b) / b for a, b in zip(added, plain_run, strict=True))
        row["added_us_run"] = median(added) * 1e6
        row["run_spread"] = _spread(added) * 1e6
        row["added_us_span"] = median(added) / self.spans[tracer, WIDE] * 1e6
        if tracer == DRAINED:
            return row
        more = zip(*(self._added(self.cpu, tracer, kind, shape) for shape in (few, many)), strict=True)
        tokens = [self._per_token(few, many, a, b) for a, b in more]
        row["added_us_token"], row["token_spread"] = median(tokens), _spread(tokens)
        before = self.wall["untraced", kind, wide]
        ratios = zip(self._added(self.wall, tracer, kind, wide), before, strict=True)
        row["added_wall_pct"] = median(a / b for a, b in ratios) * 100
        row["spans_run"] = self.spans[tracer, WIDE]
        row["spans_lost"] = self.lost[tracer]
        return row

    @staticmethod
    def _per_token(few: Shape, many: Shape, few_s: float, many_s: float) -> float:
        """Microseconds of a sampled token, from the seconds of a run with few and of one with many."""
        return (many_s - few_s) / (many[0] - few[0]) / (OTHER_CALLS + NARROW) * 1e6

    @staticmethod
    def _added(what: dict[tuple[str, Kind, Shape], list[float]], tracer: str, kind: Kind, shape: Shape) -> list[float]:
        pairs = zip(what[tracer, kind, shape], what["untraced", kind, shape], strict=True)
        return [traced - plain for traced, plain in pairs]


def _spread(values: list[float]) -> float:
    """Half of what the middle half of the values spans."""
    low, _, high = quantiles(values, n=4)
    return (high - low) / 2


def bursts(size: Size, sinks: Sinks) -> list[dict[str, Any]]:
    """Spans as fast as one thread makes them."""
    found: dict[str, list[dict[str, float]]] = {"redecode": [], "otel": []}
    for n, which in product(range(size.bursts), found):
        name = f"{which}-burst-{n}"
        sink = str(sinks.folder / name) if which == "redecode" else f"{sinks.url}/{name}/v1/traces"
        with program("burst.py", which, sink, str(size.burst_spans)) as process:
            used = json.loads(line(process))
        if which == "redecode":
            used["drain_s"] = sinks.drain(name)
        used["lost"] = size.burst_spans - sinks.spans(name)
        found[which].append(used)
    rows = []
    for which, several in found.items():
        row: dict[str, Any] = {"tracer": "redecode" if which == "redecode" else "OTel SDK, batch processor"}
        for name, key in (
            ("cpu_us_span", "cpu_s"),
            ("caller_waits_us_span", "waited_s"),
            ("drain_cpu_us_span", "drain_s"),
        ):
            if key in several[0]:
                row[name] = median(used[key] for used in several) / size.burst_spans * 1e6
        row["spans"] = size.burst_spans
        row["spans_lost"] = max(int(used["lost"]) for used in several)
        rows.append(row)
    return rows


def goals(workload: Workload, rows: list[dict[str, Any]], burst: list[dict[str, Any]]) -> list[str]:
    """What was set out to be reached, and whether it was."""
    said = []
    for kind in dict.fromkeys(row["calls"] for row in rows):
        mine = {row["tracer"]: row for row in rows if row["calls"] == kind}
        if "redecode" not in mine or not mine.keys() & PEERS.keys():
            continue
        for key, what in (("added_us_span", "CPU per span"), ("added_us_run", "CPU per run")):
            best = min(mine.keys() & PEERS.keys(), key=lambda tracer: float(mine[tracer][key]))
            ours, theirs = mine["redecode"][key], mine[best][key]
            verdict = "reached" if ours <= theirs else "MISSED"
            said.append(f"{verdict}: {kind}: {what} {ours:.0f} us, cheapest of the others {theirs:.0f} ({best})")
        token = mine["redecode"]["added_us_token"]
        said.append(f"{'reached' if token <= 2 else 'MISSED'}: {kind}: CPU per token {token:.1f} us, at most 2")
    lost = burst[0]["spans_lost"] + workload.lost.get("redecode", 0)
    said.append(f"{'reached' if not lost else 'MISSED'}: spans lost by redecode: {lost}")
    return said


def conditions(size: Size) -> dict[str, Any]:
    """Where and with what this was measured."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(text.split(":")[1].strip() for text in lines if text.startswith("model name"))
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **{name: version(name) for name in ("langgraph", "langchain-core", "langchain-openai", "openai")},
        **{name: version(package) for name, package in PEERS.items()},
        "opentelemetry-sdk": version("opentelemetry-sdk"),
        "load before": round(os.getloadavg()[0], 2),
        "rounds": size.rounds,
        "FM calls a run": f"{OTHER_CALLS} and {WIDE} at once; for tokens {OTHER_CALLS + NARROW}, one after another",
        "tokens a call": f"{size.few} and {size.many[0]}, streamed {size.few} and {size.many[1]}",
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[f"{v:.1f}" if isinstance(v, float) else str(v) for v in (row.get(n, "") for n in names)] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(names, *cells, strict=True)]
    for cell in (names, *cells):
        print(
            "  ".join(
                text.rjust(width) if n > 1 else text.ljust(width)
                for n, (text, width) in enumerate(zip(cell, widths, strict=True))
            )
        )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", action="store_true", help="the same as data")
    parser.add_argument("--rounds", type=int, help="how often each tracer takes its turns")
    parser.add_argument("--only", nargs="+", choices=TRACERS[1:], default=TRACERS[1:], help="beside untraced")
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    if args.rounds:
        size = replace(size, rounds=args.rounds)
    where, workload = conditions(size), Workload(size)
    with tempfile.TemporaryDirectory() as folder, program("token_server.py") as server, program("otlp_sink.py") as sink:
        model_url, sinks = line(server), Sinks(line(sink), Path(folder))
        workload.measure(("untraced", *args.only), model_url, sinks)
        burst = bursts(size, sinks)
    where["load after"] = round(os.getloadavg()[0], 2)
    rows = workload.rows()
    verdicts = goals(workload, rows, burst)
    if args.json:
        said = {"conditions": where, "rows": rows, "burst": burst, "recorded": workload.recorded, "goals": verdicts}
        sys.stdout.write(json.dumps(said, indent=1) + "\n")
        return
    print("conditions: " + ", ".join(f"{k} {v}" for k, v in where.items()) + "\n")
    show(rows)
    print()
    show(burst)
    print()
    for tracer, what in workload.recorded.items():
        print(f"{tracer} recorded: {', '.join(what)}")
    print()
    print("\n".join(verdicts))


if __name__ == "__main__":
    main()
