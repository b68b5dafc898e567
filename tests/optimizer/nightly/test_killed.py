"""A night that is killed, stopped or contended for: real processes, a token server for an engine."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from redecode.optimizer.nightly.history import Change, History, config_id
from tests.optimizer.nightly.conftest import Job

ZYGOTE = Path(__file__).with_name("zygote.py")


class Starts:
    """Starts `redecode nightly` as processes of their own, one after the other."""

    def __init__(self, job: Job) -> None:
        self._job, self.said = job, job.file.parent / "said"
        self._zygote = subprocess.Popen(
            [sys.executable, str(ZYGOTE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = 0

    def start(self) -> None:
        assert self._zygote.stdin is not None
        words = ["nightly", str(self._job.file), "--store", str(self._job.store)]
        ask = {"words": words, "folder": str(self._job.file.parent), "out": str(self.said)}
        self._zygote.stdin.write(json.dumps(ask) + "\n")
        self._zygote.stdin.flush()
        self.pid = self._line()

    def _line(self) -> int:
        assert self._zygote.stdout is not None
        line = self._zygote.stdout.readline()
        assert line, self.said.read_text() if self.said.exists() else "the zygote died"
        return int(line)

    def ended(self, signal_: int | None = None) -> int:
        """What it ended with, as `subprocess` says it; a signal is sent to it and what it has started before."""
        if signal_ is not None:
            with suppress(ProcessLookupError):  # it may be over by itself
                os.killpg(self.pid, signal_)
        return os.waitstatus_to_exitcode(self._line())

    def until(self, there: Callable[[], bool]) -> None:
        """Wait for something that it does."""
        limit = time.monotonic() + 60
        while not there():
            assert time.monotonic() < limit, self.said.read_text()
            time.sleep(0.001)

    def close(self) -> None:
        assert self._zygote.stdin is not None and self._zygote.stdout is not None
        self._zygote.stdin.close()
        self._zygote.wait(timeout=60)
        self._zygote.stdout.close()


@pytest.fixture
def starts(job: Job) -> Iterator[Starts]:
    starts = Starts(job)
    yield starts
    starts.close()


def test_killed_in_step_after_step_a_night_ends_as_one_that_was_not(
    job: Job, more: Callable[[int], None], recorded: Any, starts: Starts
) -> None:
    """Each start is killed some moments after another step's file is there, or some calls of the study were made."""
    more(30)
    job.configure(("trials = 3", 'knobs = ["wording"]'))
    rng = random.Random(1)
    nights = job.home.root / "nights"
    for name in ("select", "calls", "calls", "gate", "move"):
        asked = len(recorded.requests) + rng.randrange(3, 20)
        step = "tune" if name == "calls" else name

        def there(name: str = name, step: str = step, asked: int = asked) -> bool:
            some = name == "calls" and len(recorded.requests) >= asked
            return some or any(nights.glob(f"*/steps/{step}.json"))

        starts.start()
        starts.until(there)
        time.sleep(rng.uniform(0, 0.02))
        over = (-9, 0) if name in ("gate", "move") else (-9,)  # from there to the end it takes some milliseconds only
        assert starts.ended(signal.SIGKILL) in over, starts.said.read_text()
    result = job.run("--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["verdict"]) == (0, "promote"), result.output
    (night,) = job.home.nights()
    history = History(job.home)
    assert [e.change for e in history.events()] == [Change.BEGUN, Change.PROMOTED]
    assert history.config == found["config"] == config_id(found["context"])
    assert night.finished and not list(job.home.root.rglob("*.new")) and not (job.home.root / "pending").exists()
    # What was asked by processes that were killed is counted: all but calls that were under way at those moments.
    assert 0 <= len(recorded.requests) - found["budget"]["used"]["fm_calls"] <= 4 * 5
    asked = len(recorded.requests)
    assert job.run().exit_code == 0 and len(recorded.requests) == asked


def test_of_two_at_a_time_the_second_refuses_and_names_the_first(job: Job, starts: Starts) -> None:
    with job.home.locked():
        starts.start()
        assert starts.ended() == 2
    said = starts.said.read_text()
    assert f"process {os.getpid()} on " in said and "Traceback" not in said
    assert job.home.nights() == []


def test_interrupted_it_ends_and_its_workers_with_it(job: Job, recorded: Any, starts: Starts) -> None:
    job.configure(("workers = 0", "workers = 1"))
    recorded.delay_s = 0.05
    starts.start()
    starts.until(lambda: len(recorded.requests) > 3)
    os.kill(starts.pid, signal.SIGTERM)
    assert starts.ended() == 130 and "interrupted" in starts.said.read_text()
    with pytest.raises(ProcessLookupError):  # nobody of its session is left
        os.killpg(starts.pid, 0)
    (night,) = job.home.nights()
    assert not night.finished and night.step("time")["seconds"] > 0
