"""kill -9 at random moments, of who records and of who moves the spool into the database (of the collector:
tests/tracer/collector): no finished span is lost, nothing is doubled, unfinished spans show as open.

A process forks the victims, ready to run, so that the moments fall into the work and not into starting Python.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from redecode.tracer import Recorder, SpanKind, Store

RECORDERS, DRAINERS = 100, 60

_NURSERY = """
import os, sys
from pathlib import Path
import redecode.tracer.store.drain as module
from redecode.tracer import Decode, Fidelity, Recorder, SpanKind, Store
from redecode.tracer import decode_attributes

def record(store, said):
    '''Runs with nodes and decodes; says on a pipe what has begun and what has ended, once it has.'''
    tell = os.open(said, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    recorder = Recorder(store)
    while True:
        run = recorder.start_run("agent")
        os.write(tell, f"s {run.span_id}\\n".encode())
        for n in range(20):
            node = recorder.start(SpanKind.NODE, "n", run, "n")
            os.write(tell, f"s {node.span_id}\\n".encode())
            call = recorder.start(SpanKind.DECODE, "chat m", node, "chat")
            os.write(tell, f"s {call.span_id}\\n".encode())
            recorder.end(call, attributes=decode_attributes(Decode(
                run_id=run.run_id, span_id=call.span_id, step_key=call.step_key, model="m", fidelity=Fidelity.TOKENS,
                sent_ns=1, first_chunk_ns=None, done_ns=2, prompt_ids=tuple(range(n * 20)),
                sampled_ids=tuple(range(n)), logprobs=(-0.5,) * n)))
            os.write(tell, f"e {call.span_id}\\n".encode())
            recorder.end(node)
            os.write(tell, f"e {node.span_id}\\n".encode())
        recorder.end(run)
        os.write(tell, f"e {run.span_id}\\n".encode())

def drain(store, _):
    '''In many transactions.'''
    module.BATCH_BYTES = 30_000
    Store(store).drain()

for line in sys.stdin:
    what, store, said = line.split()
    pid = os.fork()
    if pid == 0:
        try:
            {"record": record, "drain": drain}[what](Path(store), said)
        finally:
            os._exit(0)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("gone", flush=True)
"""


class Nursery:
    """Starts victims; one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def kill_after(self, seconds: float, what: str, store: Path, said: Path) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{what} {store} {said}\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        time.sleep(seconds)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        assert self.process.stdout.readline() == "gone\n"


@contextmanager
def nursery() -> Iterator[Nursery]:
    with subprocess.Popen(
        [sys.executable, "-c", _NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Nursery(process)


def test_recording_processes(store: Path, tmp_path: Path) -> None:
    rng, said = random.Random(3), tmp_path / "said"
    with nursery() as victims:
        for _ in range(RECORDERS):
            victims.kill_after(rng.uniform(0.002, 0.12), "record", store, said)
    lines = re.findall(r"([se]) ([0-9a-f]{16})\n", said.read_text())  # a kill may leave a part of one before the next
    begun = {span for word, span in lines if word == "s"}
    ended = {span for word, span in lines if word == "e"}
    assert len(ended) > 10 * RECORDERS
    Store(store).drain()
    with duckdb.connect(str(store / "runs.duckdb"), read_only=True) as db:
        spans = [s for (s,) in db.execute("SELECT span_id FROM spans").fetchall()]
        opened = [s for (s,) in db.execute("SELECT span_id FROM span_starts").fetchall()]
        decodes = db.execute("SELECT count(*), count(DISTINCT span_id), sum(len(sampled_ids)) FROM decodes").fetchone()
        calls = db.execute("SELECT count(*) FROM spans WHERE kind = 'decode'").fetchone()
    assert len(spans) == len(set(spans))
    assert len(opened) == len(set(opened))
    assert ended <= set(spans)  # what it knew it had recorded
    assert begun <= set(spans) | set(opened)
    assert set(opened).isdisjoint(spans)
    # Between a write and its being said: at most one span more for each that was killed.
    assert len(set(spans) - ended) <= RECORDERS
    assert decodes is not None and calls is not None and decodes[0] == decodes[1] == calls[0]
    runs = Store(store).runs()
    assert sum(run.status == "open" for run in runs) <= RECORDERS
    some = next(run for run in runs if run.status == "open" and run.decodes)
    whole = Store(store).load(some.run_id)
    assert {s.status for s in whole.spans if s.kind is SpanKind.RUN} == {"open"}
    for decode in whole.decodes:
        assert decode.prompt_ids == tuple(range(20 * len(decode.sampled_ids or ())))
    assert not list((store / "spool").iterdir())


def test_draining_processes(store: Path, tmp_path: Path) -> None:
    rng, spans, runs = random.Random(5), 0, 0
    recorder = Recorder(store)
    with nursery() as victims:
        for turn in range(DRAINERS):
            for _ in range(30):
                run = recorder.start_run("agent")
                for _ in range(4):
                    recorder.end(recorder.start(SpanKind.NODE, "n", run, "n"))
                recorder.end(run)
                runs, spans = runs + 1, spans + 5
            if turn % 5 == 4:  # a finished journal, to be deleted
                recorder.close()
                recorder = Recorder(store)
            victims.kill_after(rng.uniform(0.01, 0.25), "drain", store, tmp_path / "said")
    recorder.close()
    opened = Store(store)
    opened.drain()
    assert len(opened.runs()) == runs
    with duckdb.connect(str(store / "runs.duckdb"), read_only=True) as db:
        assert db.execute("SELECT count(*), count(DISTINCT span_id) FROM spans").fetchall() == [(spans, spans)]
        # Of each run: a call into its first node, a return into each later one and into its own end.
        assert db.execute("SELECT count(*) FROM edges").fetchall() == [(spans,)]
        open_spans = "SELECT count(*) FROM span_starts ANTI JOIN spans USING (run_id, span_id)"
        assert db.execute(open_spans).fetchall() == [(0,)]
    assert not list((store / "spool").iterdir())
