"""Killing whoever moves the spool into the database loses nothing and doubles nothing."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import duckdb

from redecode.tracer import Recorder, SpanKind, Store

_DRAIN = """
import sys
from pathlib import Path
import redecode.tracer.store.store as module
from redecode.tracer.store import Store
from redecode.tracer.spool import read_journal
module.read_journal = lambda *args, **named: read_journal(*args, **named, batch_bytes=20_000)  # many transactions
print("ready", flush=True)
Store(Path(sys.argv[1])).drain()
"""


def test_killed_at_random_moments(store: Path) -> None:
    spans = 0
    for _ in range(3):
        recorder = Recorder(store)
        for _ in range(150):
            run = recorder.start_run("agent")
            recorder.end(recorder.start(SpanKind.NODE, "n", run, "n"))
            recorder.end(run)
            spans += 2
        recorder.close()
    rng = random.Random(5)
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", _DRAIN, str(store)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.wait()
        process.stdout.close()
    opened = Store(store)
    opened.drain()
    assert len(opened.runs()) == spans // 2
    with duckdb.connect(str(store / "runs.duckdb"), read_only=True) as db:
        assert db.execute("SELECT count(*), count(DISTINCT span_id) FROM spans").fetchall() == [(spans, spans)]
        assert db.execute("SELECT count(*) FROM edges").fetchall() == [(spans,)]
    assert not list((store / "spool").iterdir())
