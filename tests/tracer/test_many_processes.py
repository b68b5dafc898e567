"""Six processes record into one store while another reads it, as a dashboard would, and nothing is lost or doubled."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from redecode.tracer import Store

SECONDS = float(os.environ.get("REDECODE_TEST_SECONDS", "60"))
WRITERS = 6

_WRITE = """
import sys, time
from pathlib import Path
from redecode.tracer import Decode, Fidelity, Recorder, SpanKind
from redecode.tracer import decode_attributes
store, seconds = Path(sys.argv[1]), float(sys.argv[2])
recorder = Recorder(store, agent=f"writer-{sys.argv[3]}")
until, runs = time.monotonic() + seconds, 0
while time.monotonic() < until:
    run = recorder.start_run("agent")
    for n in range(5):
        node = recorder.start(SpanKind.NODE, "n", run, "n")
        call = recorder.start(SpanKind.DECODE, "chat m", node, "chat")
        decode = Decode(
            run_id=run.run_id, span_id=call.span_id, step_key=call.step_key, model="m", fidelity=Fidelity.TOKENS,
            sent_ns=1, first_chunk_ns=None, done_ns=2, prompt_ids=tuple(range(runs % 50, runs % 50 + 40)),
            sampled_ids=(runs, n), output_tokens=2,
        )
        recorder.end(call, attributes=decode_attributes(decode))
        recorder.end(node)
    recorder.end(run)
    runs += 1
    time.sleep(0.1)
recorder.close()
print(runs)
"""


@pytest.mark.long
def test_six_writers_and_a_reader(store: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITE, str(store), str(SECONDS), str(n)], stdout=subprocess.PIPE, text=True
        )
        for n in range(WRITERS)
    ]
    until, seen, looks = time.monotonic() + SECONDS, 0, 0
    opened = Store(store)
    while time.monotonic() < until or any(w.poll() is None for w in writers):
        runs = opened.runs()  # as a dashboard: everything, then one run whole, then a rest
        ended = [run for run in runs if run.status == "ok"]
        assert len(runs) >= seen
        seen, looks = len(runs), looks + 1
        if ended:
            whole = opened.load(ended[0].run_id)
            assert [d.output_tokens for d in whole.decodes] == [2] * 5
            assert len(whole.spans) == 11
            assert len(whole.edges) == 16  # one call or return into each start, and one return into each of six ends
        time.sleep(0.25)
    written = [int(w.communicate()[0]) for w in writers]
    assert [w.returncode for w in writers] == [0] * WRITERS
    assert all(count > 10 for count in written)
    assert looks > SECONDS / 8  # the reader was never locked out for long
    runs = opened.runs()
    assert {run.agent: 0 for run in runs}.keys() == {f"writer-{n}" for n in range(WRITERS)}
    assert len(runs) == len({run.run_id for run in runs}) == sum(written)
    assert {(run.status, run.decodes, run.lost) for run in runs} == {("ok", 5, 0)}
    with duckdb.connect(str(store / "runs.duckdb"), read_only=True) as db:
        counts = db.execute("SELECT count(*), count(DISTINCT span_id) FROM spans").fetchall()
        assert counts == [(11 * sum(written), 11 * sum(written))]
        assert db.execute("SELECT count(*), count(DISTINCT hash) FROM prompt_blocks").fetchall() == [(100, 100)]
    assert not list((store / "spool").iterdir())
