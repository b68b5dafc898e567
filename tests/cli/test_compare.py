"""`redecode compare`: which runs it takes by default, what it says, and how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from redecode.cli.main import app
from redecode.tracer import Recorder, Run, SpanKind, Store


def act(recorder: Recorder, steps: list[str], source: Run | None = None) -> None:
    run = (
        recorder.start_run("agent")
        if source is None
        else recorder.start_replay(source, mode="force", start_ns=recorder.clock.now_ns())
    )
    for step in steps:
        recorder.end(recorder.start(SpanKind.TOOL, step, run, step))
    recorder.end(run)


@pytest.fixture
def ids(store: Path) -> list[str]:
    """A recorded run, three replays of it, a run that does more, oldest first."""
    recorder = Recorder(store)
    act(recorder, ["find", "check"])
    recorder.journal.sync()
    (source,) = Store(store).runs()
    for _ in range(3):
        act(recorder, ["find", "check"], source)
    act(recorder, ["find", "find", "check"])
    recorder.close()
    return [r.run_id for r in reversed(Store(store).runs())]


def redecode(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_by_default_the_newest_replay_beside_the_others(store: Path, ids: list[str]) -> None:
    done = redecode("compare", ids[0], "--store", store, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["recorded"], told["candidate"], told["same"]) == (ids[0], ids[3], True)
    assert sorted(told["baseline"]) == sorted(ids[1:3])
    assert told["e2e"]["baseline"]["n"] == 2
    assert sum(s["delta_ns"] for s in told["shares"]) == told["e2e"]["delta_ns"]
    text = redecode("compare", ids[0], "--store", store)
    assert text.exit_code == 0
    assert "both did, asked and answered the same" in text.stdout
    assert "baseline   2 replays" in text.stdout


def test_a_run_that_did_more_is_not_the_same(store: Path, ids: list[str]) -> None:
    done = redecode("compare", ids[0], ids[4], "--store", store, "--baseline", ids[1])
    assert done.exit_code == 1
    assert "only in the candidate: run/find#1" in done.stdout
    assert "baseline   none" in done.stdout  # one tells nothing of noise


@pytest.mark.parametrize(("place", "words"), [(4, "has no replay to compare it with"), (None, "no run starts with")])
def test_nothing_to_compare_with(store: Path, ids: list[str], place: int | None, words: str) -> None:
    done = redecode("compare", "ffff" if place is None else ids[place], "--store", store)
    assert done.exit_code == 2
    assert words in done.stderr
