"""A night that is killed, stopped or contended for: real processes, a token server for an engine."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from redecode.optimizer.nightly.history import Change, History, config_id
from tests.optimizer.nightly.conftest import Job

COMMAND = [sys.executable, "-m", "redecode.cli", "nightly"]


def started(job: Job, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, str(job.file), "--store", str(job.store), *options],
        cwd=job.file.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def until(there: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait for something that the process does."""
    while not there():
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.002)


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_killed_in_step_after_step_a_night_ends_as_one_that_was_not(
    job: Job, more: Callable[[int], None], recorded: Any
) -> None:
    """Each start is killed some moments after another step's file is there; the last one is left alone."""
    more(30)
    rng = random.Random(1)
    steps = job.home.root / "nights"
    for name in ("drift", "tune", "gate"):
        process = started(job)
        until(lambda name=name: any(steps.glob(f"*/steps/{name}.json")), process)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.03))
        kill(process)
        if name == "drift":  # in the middle of the study, after some of its calls
            process, asked = started(job), len(recorded.requests)
            until(lambda asked=asked: len(recorded.requests) > asked + rng.randrange(5, 60), process)  # type: ignore[misc]
            kill(process)
    result = job.run("--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["verdict"]) == (0, "promote"), result.output
    (night,) = job.home.nights()
    history = History(job.home)
    assert [e.change for e in history.events()] == [Change.BEGUN, Change.PROMOTED]
    assert history.config == found["config"] == config_id(found["context"])
    assert night.finished and not list(job.home.root.rglob("*.new")) and not (job.home.root / "pending").exists()
    # What was asked by processes that were killed is counted: all but calls that were under way at that moment.
    used = found["budget"]["used"]["fm_calls"]
    assert 0 <= len(recorded.requests) - used <= 4
    asked = len(recorded.requests)
    assert job.run().exit_code == 0 and len(recorded.requests) == asked


def test_of_two_at_a_time_the_second_refuses_and_names_the_first(job: Job) -> None:
    with job.home.locked():
        second = started(job)
        _, said = second.communicate()
    assert second.returncode == 2
    assert f"process {os.getpid()} on " in said.decode() and "Traceback" not in said.decode()
    assert job.home.nights() == []


def test_interrupted_it_ends_and_its_workers_with_it(job: Job, recorded: Any) -> None:
    job.configure(("workers = 0", "workers = 1"))
    recorded.delay_s = 0.05
    process = started(job)
    until(lambda: len(recorded.requests) > 3, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in said.decode()
    with pytest.raises(ProcessLookupError):  # nobody of its session is left
        os.killpg(process.pid, 0)
    (night,) = job.home.nights()
    assert not night.finished and night.step("time")["seconds"] > 0
