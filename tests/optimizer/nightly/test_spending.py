"""The caps of a night hold over all of its starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redecode.optimizer.cases import MODE
from redecode.optimizer.nightly.config import BudgetSection
from redecode.optimizer.nightly.errors import CapReached, Halted
from redecode.optimizer.nightly.home import NightFolder
from redecode.optimizer.nightly.spending import Meter, Spent
from redecode.tracer import Store
from tests.optimizer.conftest import tuning_of_docs
from tests.optimizer.nightly.conftest import Job
from tests.optimizer.test_judges import JUDGED, asked_of


def meter(folder: NightFolder, now: list[float], tmp_path: Path, **caps: float) -> Meter:
    return Meter(folder, BudgetSection.model_validate(caps), tmp_path / "stop", lambda: now[0])


def test_time_goes_on_where_the_last_start_left_it(tmp_path: Path) -> None:
    folder, now = NightFolder(tmp_path / "night"), [100.0]
    first = meter(folder, now, tmp_path, time=60)
    now[0] += 40
    first.mark()
    now[0] += 10_000  # the machine was off
    second = meter(folder, now, tmp_path, time=60)
    assert second.seconds == 40 and second.over() is None
    left = second.budget(Spent(calls=3, cost=0.5))
    assert (left.seconds, left.used, left.spent_calls) == (60, 40, 3)
    now[0] += 15
    assert left.over() is None and (left.over(0.7) or "").startswith("the search's time is used up (55 s, of the 54 s")
    now[0] += 6
    assert second.over() == left.over() == "the time is used up (61 s of 60 s)"
    with pytest.raises(CapReached):
        second.check()


def test_a_cap_of_half_a_second_is_not_told_as_none(tmp_path: Path) -> None:
    now = [0.0]
    capped = meter(NightFolder(tmp_path / "night"), now, tmp_path, time=0.5)
    now[0] = 7.24
    assert capped.over() == "the time is used up (7.2 s of 0.5 s)"


def test_what_is_spent_is_written_down_at_once(tmp_path: Path) -> None:
    folder, now = NightFolder(tmp_path / "night"), [0.0]
    budget = meter(folder, now, tmp_path, time=60).budget(Spent(calls=0, cost=0.0))
    now[0] = 7.0
    budget.spend(5, 0.1)
    assert folder.step("time") == {"seconds": 7.0} and budget.spent_calls == 5


def test_measuring_the_engine_counts_over_kills_to_within_eight_calls(tmp_path: Path) -> None:
    first = meter(NightFolder(tmp_path / "night"), [0.0], tmp_path, fm_calls=25)
    for _ in range(20):
        first.measures()
    found = meter(NightFolder(tmp_path / "night"), [0.0], tmp_path, fm_calls=25)  # the first was killed
    assert (found.calls, found.before) == (16, 16) and found.budget(Spent(calls=2, cost=0.0)).spent_calls == 18
    with pytest.raises(CapReached, match="25 FM calls were made, of at most 25"):
        for _ in range(20):
            found.measures()
    assert (found.calls, found.before) == (25, 16)


def test_the_time_of_a_step_that_is_killed_counts(tmp_path: Path) -> None:
    folder, now = NightFolder(tmp_path / "night"), [0.0]
    found = meter(folder, now, tmp_path, time=60)
    for now[0] in (0.5, 1.5, 2.0, 30.0):
        found.check()
    assert meter(folder, now, tmp_path, time=60).seconds == 30.0


def test_the_kill_switch_is_asked_for_with_every_cap(tmp_path: Path) -> None:
    found = meter(NightFolder(tmp_path / "night"), [0.0], tmp_path)
    (tmp_path / "stop").touch()
    with pytest.raises(Halted, match="remove it and start again"):
        found.check()
    assert "stop says stop" in (found.budget(Spent(calls=0, cost=0.0)).over() or "")


def test_a_night_counts_them_over_its_starts(job: Job, recorded: Any, store: Path) -> None:
    job.configure(('time = "10m"', 'time = "10m"\nfm_calls = 10'))
    (job.file.parent / "tuning.py").write_text(tuning_of_docs() + JUDGED)
    before = {run.run_id for run in Store(store).runs()}
    found = job.json()
    used = found["budget"]["used"]["fm_calls"]
    made = [run for run in Store(store).runs() if run.run_id not in before]
    judges = [run for run in made if run.labels.get(MODE, {}).get("scorer")]
    assert judges and all(run.labels[MODE].keys() == {"scorer", "job", "night", "study"} for run in judges)
    assert len(judges) == asked_of(recorded, "judge") < used
    assert 10 <= used == len(recorded.requests) < 10 + 8
    assert (
        "how good the held-out runs were is not told: the scorer asks an FM, and "
        in job.home.nights()[-1].path.joinpath("tuning", "report.md").read_text()
    )
