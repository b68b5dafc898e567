"""Several processes publish into one dataset while others read it; some are killed in the middle of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import duckdb

from redecode.tracer import Dataset, Store
from tests.tracer.export.recorded_runs import keep
from tests.tracer.publish.support import equal, files, publish, same, some_run

ENV = {**os.environ, "PYTHONPATH": str(Path.cwd())}
ROUNDS, STORES = 3, 3

_PUBLISH = """
import sys
from pathlib import Path
from tests.tracer.export.recorded_runs import keep
from tests.tracer.publish.support import publish, some_run
store, dest, first, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for turn in range(rounds):
    number = first + 2 * turn
    publish(keep(store, [some_run(number), some_run(number + 1, "other", days=turn % 2)]), dest)
"""


def test_collectors_publish_into_one_dataset_while_it_is_read(tmp_path: Path) -> None:
    """Each into it from its own store; and two processes that publish the same store."""
    dest = tmp_path / "dest"
    publishers = [
        subprocess.Popen(
            [sys.executable, "-c", _PUBLISH, str(tmp_path / f"store-{min(n, STORES - 1)}"), str(dest),
             str(1000 * n + 1), str(ROUNDS)],
            env=ENV, stderr=subprocess.PIPE, text=True,
        )
        for n in range(STORES + 1)
    ]  # fmt: skip
    wrong, counts, stop = list[str](), list[int](), threading.Event()

    def read() -> None:
        """What is listed is whole, and stays listed."""
        while not stop.wait(0.05):
            if not (dest / "_redecode.json").exists():
                continue
            try:
                dataset = Dataset(dest)
                runs = dataset.runs()
                counts.append(len(runs))
                for run in runs[:2]:
                    found = dataset.load(run.run_id)
                    if (len(found.spans), len(found.decodes), len(found.tools)) != (3, 1, 1):
                        wrong.append(run.run_id)
            except Exception:
                wrong.append(traceback.format_exc())

    reader = threading.Thread(target=read)
    reader.start()
    errors = [publisher.communicate()[1] for publisher in publishers]
    stop.set()
    reader.join()
    assert [p.returncode for p in publishers] == [0] * len(publishers), errors
    assert wrong == []
    assert counts == sorted(counts)
    assert len(set(counts)) > 2  # it was read while it grew
    dataset = Dataset(dest)
    stores = [Store(tmp_path / f"store-{n}") for n in range(STORES)]
    assert [publish(store, dest)[:2] for store in stores] == [(0, 0)] * STORES
    runs = {run.run_id: store for store in stores for run in store.runs()}
    assert len(runs) == 2 * ROUNDS * (STORES + 1)
    assert {run.run_id for run in dataset.runs()} == runs.keys()
    for run_id, store in list(runs.items())[::3]:
        assert same(dataset.load(run_id)) == same(store.load(run_id))
    for table, key in (("runs", "run_id"), ("spans", "span_id"), ("tool_steps", "span_id")):
        query = f"SELECT count(*), count(DISTINCT {key}) FROM read_parquet('{dest}/{table}/**/*.parquet')"
        ((rows, distinct),) = duckdb.execute(query).fetchall()
        assert rows == distinct
    assert len(dataset.health().stores) == STORES


_KILLED = """
import os, signal, sys
from pathlib import Path
import duckdb, pyarrow, fsspec
from tests.tracer.export.recorded_runs import keep
from tests.tracer.publish.support import publish, some_run, Store

def publish_until(step):
    '''A step is a line of the code that publishes, when it is come to for the first and the second time.'''
    lines = []
    def count(frame, event, _):
        name = Path(frame.f_code.co_filename).name
        if name not in ("publish.py", "places.py", "manifest.py"):
            return None
        if event == "line" and lines.count((name, frame.f_lineno)) < 2:
            lines.append((name, frame.f_lineno))
            if len(lines) == step:
                os.kill(os.getpid(), signal.SIGKILL)
        return count
    sys.settrace(count)
    publish(Store(Path(sys.argv[1])), sys.argv[2])
    sys.settrace(None)
    return len(lines)

for line in sys.stdin:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, str(publish_until(int(line))).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    print(os.read(read, 100).decode() or "killed", flush=True)
    os.close(read)
"""
KILLS = 12


def test_killed_in_the_middle(store: Path, tmp_path: Path) -> None:
    """Wherever it was: readers read, what was published is there as it was, and the next one finishes it."""
    dest = tmp_path / "dest"
    publish(keep(store, [some_run(1)]), dest)
    published, numbers, outcomes = {f"{1:032x}"}, iter(range(2, 1000)), set[bool]()
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(store), str(dest)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENV,
    ) as victims:  # fmt: skip

        def publish_until(step: int) -> str:
            assert victims.stdin is not None and victims.stdout is not None
            victims.stdin.write(f"{step}\n")
            victims.stdin.flush()
            return victims.stdout.readline().strip()

        def more() -> set[str]:
            new = [next(numbers), next(numbers)]
            # The second one begins before all others: were the plan not kept, parts would get other numbers.
            keep(store, [some_run(new[0]), some_run(new[1], f"agent-{new[1]}", days=-new[1] / 10_000)])
            return {f"{number:032x}" for number in new}

        published |= more()
        made, kills = set(published), 0
        steps = int(publish_until(0))
        assert steps > 100
        for turn in range(KILLS):
            new = more()
            kills += publish_until(1 + turn * steps // (KILLS - 1)) == "killed"
            for table in ("runs", "spans", "decodes", "edges", "tool_steps"):
                duckdb.execute(f"SELECT * FROM read_parquet('{dest}/{table}/**/*.parquet', hive_partitioning = true)")
            listed = {run.run_id for run in Dataset(dest).runs()}
            made |= new
            assert published <= listed <= made
            outcomes.add(new <= listed)
            for run in listed & new | {f"{1:032x}"}:
                assert same(Dataset(dest).load(run)) == same(Store(store).load(run))
            published |= listed
            if turn % 3 == 2:
                publish(Store(store), dest)
                published |= made
                assert {run.run_id for run in Dataset(dest).runs()} == made
    assert kills >= KILLS - 3  # there is not always as much to do
    assert outcomes == {True, False}
    publish(Store(store), dest)
    assert equal(Store(store), Dataset(dest))
    total = len(Store(store).runs())
    ((rows, runs),) = duckdb.execute(
        f"SELECT count(*), count(DISTINCT run_id) FROM read_parquet('{dest}/spans/**/*.parquet')"
    ).fetchall()
    assert (rows, runs) == (3 * total, total)
    before = files(dest)
    assert publish(Store(store), dest) == (0, 0, total, 0)
    assert files(dest) == before
    assert not [name for name in before if "/." in name or name.startswith((".", "_staging"))]
