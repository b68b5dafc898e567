"""Which night a start is of, and whose: by the time that went by, and by the spec that the job's last night was of."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from redecode.optimizer.nightly.config import NightlyConfig
from redecode.optimizer.nightly.home import Home
from redecode.optimizer.nightly.night import Nightly, taken
from redecode.tracer import Store
from tests.optimizer.conftest import tuning_of_docs
from tests.optimizer.nightly.conftest import Job


class Starts:
    """Starts of one job at given times; each night that is begun ends at once, if nothing else is said."""

    def __init__(self, store: Path) -> None:
        self.store, self.config = Store(store), NightlyConfig(spec="tuning:spec")
        self.home = Home(store / "nightly" / "tuning")

    def __call__(self, at: datetime, *, ends: bool = True, again: bool = False, anew: bool = False) -> tuple[str, bool]:
        """The night's name, and whether it is begun by this start."""
        now = int(at.timestamp() * 1e9)
        nightly = Nightly(
            config=self.config, store=self.store, now_ns=lambda: now, clock=lambda: 0.0, again=again, anew=anew
        )
        folder = nightly._folder(self.home)
        begins = folder.step("begin") is None
        if begins:
            folder.keep("begin", {"began_ns": now, "config": self.config.identity()})
        if begins and ends:
            folder.keep("done", {"verdict": "keep"})
        return folder.id, begins


@pytest.fixture
def starts(store: Path) -> Starts:
    return Starts(store)


def test_a_night_that_began_late_is_followed_by_the_next_on_time_wherever_that_is(starts: Starts) -> None:
    """In India half past two is on the day before in UTC: the machine was off on Monday, and on at nine."""
    india = ZoneInfo("Asia/Kolkata")
    assert starts(datetime(2026, 11, 23, 9, 0, tzinfo=india)) == ("2026-11-23", True)
    assert starts(datetime(2026, 11, 24, 2, 30, tzinfo=india)) == ("2026-11-23-2", True)
    assert starts(datetime(2026, 11, 25, 2, 30, tzinfo=india)) == ("2026-11-24", True)
    assert [n.id for n in starts.home.nights()] == ["2026-11-23", "2026-11-23-2", "2026-11-24"]


@pytest.mark.parametrize(
    ("zone", "day"),
    [("America/New_York", "2026-03-07"), ("America/New_York", "2026-10-31"), ("Pacific/Apia", "2026-11-22")],
)
def test_every_night_there_is_one_also_where_the_clocks_are_changed(starts: Starts, zone: str, day: str) -> None:
    first = datetime.fromisoformat(f"{day}T02:30").replace(tzinfo=ZoneInfo(zone))
    began = [starts(first + timedelta(days=n))[1] for n in range(3)]
    assert began == [True] * 3


def test_a_second_start_is_of_the_same_night_though_the_date_has_changed(starts: Starts) -> None:
    late = datetime(2026, 11, 22, 23, 59, 30, tzinfo=UTC)
    assert starts(late) == ("2026-11-22", True)
    assert starts(late + timedelta(minutes=1)) == ("2026-11-22", False)
    assert starts(late + timedelta(hours=11)) == ("2026-11-22", False)
    assert starts(late + timedelta(hours=11), again=True) == ("2026-11-23", True)
    assert starts(late + timedelta(hours=12), again=True) == ("2026-11-23-2", True)


def test_a_clock_that_was_far_ahead_once_is_no_trouble_later(starts: Starts) -> None:
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert starts(noon + timedelta(days=40)) == ("2027-01-01", True)
    assert starts(noon) == ("2026-11-22", True)
    assert starts(noon + timedelta(minutes=15)) == ("2026-11-22", False)
    assert starts(noon + timedelta(days=1), ends=False) == ("2026-11-23", True)
    assert starts(noon + timedelta(days=1, minutes=15)) == ("2026-11-23", False)


def test_one_that_is_given_up_is_followed_by_another_though_one_has_just_been(starts: Starts) -> None:
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    starts(noon)
    starts(noon + timedelta(hours=1), ends=False, again=True)
    assert starts(noon + timedelta(hours=2)) == ("2026-11-22-2", False)
    assert starts(noon + timedelta(hours=2), anew=True) == ("2026-11-22-3", True)
    assert starts(noon + timedelta(hours=3), anew=True) == ("2026-11-22-3", False)  # there is none to give up


def test_another_spec_does_not_get_the_jobs_night_nor_its_configuration(
    job: Job, more: Callable[[int], None], recorded: Any, folder: Path
) -> None:
    more(40)
    assert job.run().exit_code == 0
    before, asked = job.home.current.read_bytes(), len(recorded.requests)
    other = folder / "other" / "tuning.py"
    other.parent.mkdir()
    other.write_text(tuning_of_docs())
    job.configure(('"tuning:spec"', f'"{other}:spec"'))
    for refused in (job.run(), job.run("--again"), job("rollback", str(job.file))):
        assert refused.exit_code == 2 and "name tuning is taken by the job of tuning:spec" in refused.stderr
        assert "say another `name`" in refused.stderr and "begin a night with --anew" in refused.stderr
    assert "is taken by" in job("history", str(job.file)).stderr
    assert (job.home.current.read_bytes(), len(recorded.requests)) == (before, asked) and len(job.home.nights()) == 1
    assert job.run("--anew").exit_code in (0, 1) and len(job.home.nights()) == 2
    assert job("rollback", str(job.file)).exit_code == 0  # it is this one's now


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        ("tuning:spec", "tuning:other", True),
        ("tuning:spec", "agents.tuning:spec", False),
        ("{0}/a.py:spec", "{0}/./b/../a.py:spec", True),
        ("{0}/a.py:spec", "{0}/link.py:spec", True),
        ("{0}/a.py:spec", "{0}/b/a.py:spec", False),
    ],
)
def test_a_spec_is_the_same_by_its_module_or_by_the_place_of_its_file(
    tmp_path: Path, then: str, now: str, same: bool
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "link.py").symlink_to(tmp_path / "a.py")
    home = Home(tmp_path / "job")
    night = home.new_night(10**18)
    night.keep("begin", {"config": {"spec": then.format(tmp_path)}})
    home.new_night(2 * 10**18).keep("begin", {})
    found = taken(home, NightlyConfig(spec=now.format(tmp_path), name="job"))
    assert (found is None) is same
