"""Where the time of a run went: how fast it is found, and how often a walk over times alone finds it wrongly.

Three tables. `analyze` with a deadline over graphs of growing size, by shape (best of three; one for the largest).
Fork-joins of random chains with a wait before every task: recorded edges against the last-returning-child walk of CRISP
and Jaeger, which has the times and the tree alone. An aggregate over stored runs: copies of the recordings that come
with redecode, drained beforehand; what is timed is reading them and adding them up. `--quick` takes under a minute;
`--json` prints the same as data.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from redecode.replay.analysis import Activity, aggregate, analyze
from redecode.tracer import Edge, EdgeKind, Provenance, Store
from redecode.tracer.spool import JournalWriter, read_journal

SHAPES = {"chain": 1, "4 wide": 4, "64 wide": 64}


@dataclass(frozen=True, slots=True)
class Size:
    """`analyze` over one graph. `ratio`: seconds per activity, against the size before."""

    shape: str
    activities: int
    edges: int
    seconds: float
    ratio: float | None


@dataclass(frozen=True, slots=True)
class ForkJoin:
    """Fork-joins of one kind: on how many the path is wrong, and how much of the run it then blames wrongly."""

    tasks: int
    wait_up_to_ms: int
    cases: int
    wrong_by_times: int
    blamed_wrongly: float
    wrong_by_edges: int


@dataclass(frozen=True, slots=True)
class Stored:
    """An aggregate over stored runs."""

    runs: int
    spans: int
    read_s: float
    analyse_s: float
    total_s: float


def layers(count: int, width: int, rng: random.Random) -> tuple[list[Activity], list[Edge]]:
    """Layers of activities, each waiting for two of the layer before."""
    activities: list[Activity] = []
    edges: list[Edge] = []
    before: list[Activity] = []
    at = 1_700_000_000_000_000_000
    while len(activities) < count:
        layer = []
        for _ in range(min(width, count - len(activities))):
            start = at + rng.randrange(100_000)
            layer.append(Activity(f"a{len(activities)}", start, start + rng.randrange(1, 10**7), "tool"))
            activities.append(layer[-1])
            for one in rng.sample(before, min(2, len(before))):
                edges.append(Edge(one.id, layer[-1].id, EdgeKind.DATA, Provenance.RECORDED))
        at, before = max(a.end_ns for a in layer), layer
    return activities, edges


def sizes(counts: list[int]) -> list[Size]:
    """The first table."""
    rows = []
    for shape, width in SHAPES.items():
        last = None
        for count in counts:
            activities, edges = layers(count, width, random.Random(7))
            deadline = max(a.end_ns for a in activities) + 10**9
            took = []
            for _ in range(1 if count > 200_000 else 3):
                begun = time.perf_counter()
                analyze(activities, edges, deadline_ns=deadline)
                took.append(time.perf_counter() - begun)
            each = min(took) / count
            rows.append(Size(shape, count, len(edges), min(took), None if last is None else each / last))
            last = each
    return rows


def last_returning(tasks: list[Activity]) -> list[str]:
    """Back from the last to return, to the last that had returned when it began, and so on."""
    path, horizon = [], None
    for task in sorted(tasks, key=lambda t: (t.end_ns, t.start_ns), reverse=True):
        if horizon is None or task.end_ns <= horizon:
            path.append(task.id)
            horizon = task.start_ns
    return path


def fork_joins(tasks: int, wait_up_to_ms: int, cases: int) -> ForkJoin:
    """Two to four branches of tasks one after another under one parent, and a join."""
    rng = random.Random(tasks * 1000 + wait_up_to_ms)
    by_times = by_edges = 0
    blamed = 0.0
    for _ in range(cases):
        activities: list[Activity] = []
        edges: list[Edge] = []
        owner: dict[str, int] = {}
        ends: list[tuple[int, int, str]] = []
        for branch in range(rng.randrange(2, 5)):
            at, prior = 0, None
            for _ in range(max(1, tasks // 2)):
                start = at + round(rng.random() * wait_up_to_ms * 1e6)
                task = Activity(f"t{len(activities)}", start, start + round(rng.uniform(5e6, 500e6)), "tool")
                activities.append(task)
                owner[task.id] = branch
                if prior is not None:
                    edges.append(Edge(prior, task.id, EdgeKind.RETURN, Provenance.RECORDED))
                at, prior = task.end_ns, task.id
            ends.append((at, branch, str(prior)))
        last = max(ends)
        truth = {i for i, branch in owner.items() if branch == last[1]}
        join = Activity("join", last[0], last[0], "code")
        edges += [Edge(name, "join", EdgeKind.JOIN, Provenance.RECORDED) for _, _, name in ends]
        run = analyze([*activities, join], edges, start_ns=0, end="join")
        by_edges += set(run.critical_spans) - {"join"} != truth
        guess = last_returning(activities)
        wrong = set(guess) - truth
        if wrong:
            by_times += 1
            blamed += sum(a.duration_ns for a in activities if a.id in wrong) / last[0]
    return ForkJoin(tasks, wait_up_to_ms, cases, by_times, blamed / max(by_times, 1), by_edges)


def stored(copies: int) -> Stored:
    """The third table."""
    recordings = Path(str(files("redecode.agents"))) / "recordings"
    run_ids = [run.encode() for run in json.loads((recordings / "demo.json").read_text())["run_ids"]]
    events = [p for batch in read_journal(recordings / "demo.journal", finished=True) for p in batch.payloads]
    of_runs = [p for p in events if any(run in p for run in run_ids)]
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place) / "store")
        writer = JournalWriter(store.spool, "copies", lambda: {"t": "test"})
        for n in range(copies):
            for payload in of_runs:
                copy = payload
                for run in run_ids:
                    copy = copy.replace(run, f"{n:08x}".encode() + run[8:])
                writer.append(copy)
        writer.close()
        store.drain()
        begun = time.perf_counter()
        runs = store.structures()
        read = time.perf_counter()
        found = aggregate(runs, slo_s=1.0)
        done = time.perf_counter()
        assert found.runs == copies * len(run_ids) and found.left_out == 0
        assert found.split.total_ns == found.total_ns
        return Stored(found.runs, sum(len(r.spans) for r in runs), read - begun, done - read, done - begun)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", action="store_true", help="the same as data")
    args = parser.parse_args()
    counts = [10_000, 100_000] if args.quick else [10_000, 100_000, 1_000_000]
    by_size = sizes(counts)
    joins = [fork_joins(tasks, wait, 200 if args.quick else 3000) for tasks in (4, 8, 16) for wait in (0, 5, 50)]
    kept = stored(100 if args.quick else 1000)
    conditions = {"python": platform.python_version(), "machine": platform.machine()}
    if args.json:
        document: dict[str, Any] = {
            "conditions": conditions,
            "analyze": [asdict(row) for row in by_size],
            "fork_joins": [asdict(row) for row in joins],
            "stored": asdict(kept),
        }
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        return
    print("conditions: " + ", ".join(f"{k} {v}" for k, v in conditions.items()))
    print(f"\n{'analyze':10}{'activities':>12}{'edges':>12}{'seconds':>10}{'µs each':>10}{'ratio':>8}")
    for row in by_size:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        each = row.seconds / row.activities * 1e6
        print(f"{row.shape:10}{row.activities:12,}{row.edges:12,}{row.seconds:10.2f}{each:10.1f}{ratio:>8}")
    print(
        f"\n{'fork-join':>10}{'wait up to':>12}{'cases':>8}{'wrong by times':>16}{'blamed wrongly':>16}{'by edges':>10}"
    )
    for case in joins:
        wrong = f"{case.wrong_by_times / case.cases:.0%}"
        print(
            f"{case.tasks:10}{case.wait_up_to_ms:9} ms{case.cases:8}{wrong:>16}"
            f"{case.blamed_wrongly:16.1%}{case.wrong_by_edges:10}"
        )
    print(f"\n{'stored runs':>12}{'spans':>10}{'read s':>9}{'analyse s':>11}{'total s':>9}")
    print(f"{kept.runs:12,}{kept.spans:10,}{kept.read_s:9.2f}{kept.analyse_s:11.2f}{kept.total_s:9.2f}")


if __name__ == "__main__":
    main()
