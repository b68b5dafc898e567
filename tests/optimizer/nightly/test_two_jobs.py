"""Two jobs in one store, whose nights are called the same: each pays for, and goes on with, what is its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from redecode.optimizer.nightly.home import Home
from redecode.optimizer.nightly.spending import is_for
from redecode.optimizer.study.alone import alone
from redecode.optimizer.study.storage import opened, place_of, studies
from redecode.tracer import Store
from tests.optimizer.nightly.conftest import Job
from tests.optimizer.nightly.test_night import stop_at

NAMED = 'spec = "tuning:spec"'


@pytest.fixture
def other(job: Job, folder: Path, store: Path) -> Job:
    """A job of the same agent, with another name and seed."""
    second = Job(folder, store)
    second.file, second.home = folder / "other.toml", Home(store / "nightly" / "other")
    return second


def named(job: Job, spec: str = NAMED, *changes: tuple[str, str]) -> None:
    job.configure((NAMED, f'{spec}\nname = "other"'), ("[tune]", "[tune]\nseed = 7"), *changes)


def test_each_is_charged_for_its_own_calls_though_their_nights_are_called_the_same(
    job: Job, other: Job, recorded: Any
) -> None:
    named(other)
    stop_at(recorded, 10, other.home.stop_file)
    assert other.run().exit_code == 1
    other.home.stop_file.unlink()
    mine = len(recorded.requests)
    job.configure(("trials = 3", "trials = 3\nmemo = false"))
    whole = job.json()
    assert whole["budget"]["used"]["fm_calls"] == len(recorded.requests) - mine
    between = len(recorded.requests)
    found = other.json()
    assert found["night"] == whole["night"] and found["budget"]["used"]["fm_calls_before"] == mine
    assert found["budget"]["used"]["fm_calls"] == mine + len(recorded.requests) - between


def test_one_that_has_evaluated_nothing_is_given_up_whatever_the_other_has(job: Job, other: Job) -> None:
    named(other, 'spec = "tuning:nothing"')
    assert other.run().exit_code == 2
    assert job.run().exit_code == 1
    named(other)
    result = other.run()
    assert result.exit_code == 1 and "it had evaluated nothing" in result.stderr, result.output
    assert [n.id for n in job.home.nights()] == [n.id for n in other.home.nights()][:1]


def test_a_run_of_before_there_were_labels_of_jobs_is_of_its_night(job: Job, store: Path) -> None:
    assert job.run().exit_code == 1
    (night,) = job.home.nights()
    began = night.step("begin")["began_ns"]
    run = next(r for r in Store(store).runs() if r.labels.get("tune"))
    assert run.labels["tune"]["job"] == "tuning" and is_for(run, "tuning", night.id, began)
    old = replace(run, labels={"tune": {"night": night.id}})
    for job_name, since, labelled, unlabelled in (("tuning", began, True, True), ("other", began, False, True),
                                                  ("tuning", run.started_ns + 1, False, False)):  # fmt: skip
        assert is_for(run, job_name, night.id, since) is labelled
        assert is_for(old, job_name, night.id, since) is unlabelled
    assert not is_for(replace(run, labels={"tune": "mine"}), "tuning", night.id, began)


def test_of_two_nights_at_the_same_study_the_second_waits_for_its_next_start(
    job: Job, store: Path, recorded: Any
) -> None:
    """As two jobs have it that differ in what a study is not called by: margins, budgets."""
    stop_at(recorded, 10, job.home.stop_file)
    assert job.run().exit_code == 1
    job.home.stop_file.unlink()
    place = place_of(Store(store))
    ((name, _),) = studies(opened(place))
    with alone(store, name):
        asked = len(recorded.requests)
        refused = job.run()
        assert refused.exit_code == 2 and f"study {name} is under way already (process " in refused.stderr
        assert len(recorded.requests) == asked and not job.home.nights()[0].finished
    assert job.run().exit_code == 1 and len(job.home.nights()) == 1
    assert not list(store.glob(".*.lock"))


def test_a_time_that_is_up_after_a_kill_ends_with_what_was_found(
    job: Job, more: Callable[[int], None], recorded: Any
) -> None:
    """That something was tried, and what that has cost, is told."""
    more(30)
    stop_at(recorded, 40, job.home.stop_file)
    assert job.run().exit_code == 1
    job.home.stop_file.unlink()
    job.configure(('time = "10m"', "time = 0.001"))
    asked = len(recorded.requests)
    result = job.run("--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["skipped"]) == (1, None) and "time is used up" in found["tuning"]["stopped"]
    assert found["budget"]["used"]["fm_calls"] == asked == len(recorded.requests)
