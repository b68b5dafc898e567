"""Forgetting while others record and read, and being killed in the middle of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import duckdb

from redecode.tracer import Recorder, Store
from redecode.tracer.store.forget import forget
from tests.tracer.test_forget import SHARED, loaded, numbers_in, own, whole

_WRITE = """
import sys
from pathlib import Path
from redecode.tracer import Recorder
from tests.tracer.test_forget import whole
recorder, number = Recorder(Path(sys.argv[1])), int(sys.argv[2])
for number in range(number, number + 60):
    print(number, whole(recorder, number), flush=True)
sys.stdin.read()  # its journal stays its own until it is told to go
recorder.close()
"""


def test_while_others_record_and_read(store: Path) -> None:
    Store(store)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITE, str(store), str(first)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        for first in (1000, 2000)
    ]  # fmt: skip
    reading, wrong = threading.Event(), list[str]()

    def read() -> None:
        """As a dashboard; a run it sees is whole, or gone when it looks closer."""
        while not reading.is_set():
            runs = Store(store).runs()
            for run in runs[:1] + runs[-1:]:
                found = [r for r in Store(store).runs(run_ids=[run.run_id]) if r.status == "ok"]
                wrong.extend(r.run_id for r in found if (r.decodes, r.tools) != (1, 1))

    reader = threading.Thread(target=read)
    reader.start()
    written: dict[int, str] = {}
    gone: set[int] = set()
    try:
        for turn in range(32):
            for writer in writers:
                assert writer.stdout is not None
                for _ in range(4 if turn < 15 else 0):
                    number, run = writer.stdout.readline().split()
                    written[int(number)] = run
            if turn % 4 == 3 and (some := sorted(written.keys() - gone)[::2][:5]):
                done = forget(Store(store), runs=[written[number] for number in some])
                assert len(done.runs) == len(some)
                gone |= set(some)
                assert not gone & numbers_in(store)  # though their journals are still being written
    finally:
        for writer in writers:
            writer.communicate("")
        reading.set()
        reader.join()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(written) == 120
    assert len(gone) > 30
    assert wrong == []
    stay = {number: run for number, run in written.items() if number not in gone}
    assert {run.run_id for run in Store(store).runs()} == set(stay.values())
    assert numbers_in(store) == stay.keys()
    for at, run in list(stay.items())[::10]:
        (found,) = loaded(store, run)
        assert (len(found.spans), found.run.lost) == (3, 0)
        assert found.decodes[0].prompt_ids == SHARED + own(at)
    assert not list((store / "spool").iterdir())
    assert Store(store).health().corrupt == []


_FORGET = """
import os, signal, sys
from pathlib import Path
import duckdb, pyarrow
from redecode.tracer import Store
from redecode.tracer.store.forget import forget

def forget_until(step, run):
    '''A step is a line of the code that forgets, when it is come to for the first time.'''
    lines, swap = set(), []
    def count(frame, event, _):
        name = Path(frame.f_code.co_filename).name
        if name not in ("forget.py", "store.py"):
            return None
        if event == "line" and (name, frame.f_lineno) not in lines:
            lines.add((name, frame.f_lineno))
            if frame.f_code.co_name == "_take_its_place":
                swap.append(len(lines))
            if len(lines) == step:
                os.kill(os.getpid(), signal.SIGKILL)
        return count
    sys.settrace(count)
    forget(Store(Path(sys.argv[1])), runs=[run])
    sys.settrace(None)
    return len(lines), swap[0], swap[-1]

for line in sys.stdin:
    step, run = line.split()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, " ".join(map(str, forget_until(int(step), run))).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    print(os.read(read, 100).decode() or "killed", flush=True)
    os.close(read)
"""


def test_killed_in_the_middle(store: Path) -> None:
    """Wherever it was: every run in the store is whole, and the one to be forgotten is whole or gone."""
    recorder = Recorder(store)
    runs = {number: whole(recorder, number) for number in range(30)}
    Store(store).drain()
    outcomes = list[bool]()
    with subprocess.Popen(
        [sys.executable, "-c", _FORGET, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as victims:

        def forget_until(step: int, run: str) -> str:
            assert victims.stdin is not None and victims.stdout is not None
            victims.stdin.write(f"{step} {run}\n")
            victims.stdin.flush()
            return victims.stdout.readline().strip()

        steps, swap, swapped = map(int, forget_until(0, runs.pop(0)).split())
        assert swapped - swap > 5
        moments = [*range(1, swap, swap // 6), *range(swap, swapped + 2), steps - 1]
        for turn, moment in enumerate(moments):
            number = min(runs)
            assert forget_until(moment, runs[number]) == "killed"
            runs[1000 + turn] = whole(recorder, 1000 + turn)
            found = {run.run_id: run for run in Store(store).runs()}
            outcomes.append(runs[number] in found)
            assert found.keys() | {runs[number]} == set(runs.values())
            assert {(run.status, run.decodes, run.tools, run.lost) for run in found.values()} == {("ok", 1, 1, 0)}
            for run in {runs[number]} & found.keys():
                assert len(loaded(store, run)[0].decodes[0].prompt_ids or ()) == len(SHARED) + 35
            if outcomes[-1]:
                forget(Store(store), runs=[runs[number]])
                assert {path.name for path in store.iterdir()} == {"LOCK", "meta", "runs.duckdb", "spool"}
            del runs[number]
            assert numbers_in(store) == runs.keys()
    assert outcomes == sorted(outcomes, reverse=True)  # it is there, up to one step
    assert set(outcomes) == {True, False}
    recorder.close()
    assert {run.run_id for run in Store(store).runs()} == set(runs.values())
    with duckdb.connect(str(store / "runs.duckdb"), read_only=True) as db:
        twice = "SELECT count(*) FROM (SELECT span_id FROM spans GROUP BY span_id HAVING count(*) > 1)"
        assert db.execute(twice).fetchall() == [(0,)]
