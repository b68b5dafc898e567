"""A file that somebody has written: kept word for word, and what it says besides a configuration goes along."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redecode.optimizer.nightly.carrying import carried
from redecode.optimizer.nightly.config import load_config
from redecode.optimizer.nightly.errors import BadNight
from redecode.optimizer.nightly.history import Change, Event, History, config_id
from redecode.optimizer.nightly.home import Home
from redecode.optimizer.report import read_context
from tests.optimizer.nightly.conftest import Job

MINE = """# ask Ann before you change this
version = 2

# how it is asked
[context]
wording = 'Capital of'  # short
temperature = 0.75

# the gateway
[serving]
port = 8080 # behind nginx
[serving.limits]
text = '''
[context]
# no comment'''
"""
REST = {"version": 2, "serving": {"port": 8080, "limits": {"text": "[context]\n# no comment"}}}
OTHER = {"wording": "other"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "job").mkdir()
    return Home(tmp_path / "job")


def promoted(history: History, context: dict[str, Any]) -> str:
    name = config_id(context)
    history.put(Event(at_ns=2, change=Change.PROMOTED, config=name, before=history.config), context)
    return name


def test_a_file_that_is_taken_over_is_kept_word_for_word_and_left_alone(home: Home) -> None:
    home.current.write_text(MINE)
    before = home.current.stat()
    history = History(home)
    history.settle(1)
    assert home.current.stat().st_mtime_ns == before.st_mtime_ns and home.current.stat().st_ino == before.st_ino
    assert (home.root / "configurations" / f"{history.config}.toml").read_text() == MINE
    assert history.config == config_id({"temperature": 0.75, "wording": "Capital of"})


def test_what_else_it_says_goes_along_and_comes_back(home: Home) -> None:
    told: list[str] = []
    home.current.write_text(MINE.replace("8080", "1"))
    history = History(home, told.append)
    history.settle(1)
    home.current.write_text(MINE)  # the same configuration: nothing is taken over, and nothing may be lost
    assert history.settle(2) is None
    name, mine = promoted(history, OTHER), history.events()[0].config
    now = tomllib.loads(home.current.read_text())
    assert now == {"context": OTHER, **REST} and "port = 8080 # behind nginx" in home.current.read_text()
    assert told == [f"current.toml has version, serving of configuration {mine} still"]
    assert {p.name for p in (home.root / "configurations").iterdir()} == {
        f"{x}.toml" for x in (mine, f"{mine}.1", name)
    }
    history.roll_back(None, now_ns=3)
    assert home.current.read_text() == MINE
    home.current.write_text(MINE.replace("8080", "2"))
    history.roll_back(name, now_ns=4)
    assert tomllib.loads(home.current.read_text())["serving"]["port"] == 8080
    kept = home.root / "configurations" / f"{mine}.toml"
    assert (
        told[-1] == f"current.toml lost serving of configuration {mine}: see {kept}" and "port = 2" in kept.read_text()
    )


@pytest.mark.parametrize("root", ["context.wording = 'a'\nport = 1\n", "context = {wording = 'a'}\nport = 1\n"])
def test_what_cannot_be_told_apart_is_left_and_told(root: str) -> None:
    new = b"[context]\nwording = 'b'\n"
    found = carried(root.encode(), new)
    assert (found.data, found.left, found.along) == (new, ("port",), ())


def test_the_mark_that_windows_puts_at_the_head_of_a_file_is_no_bad_toml(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "nightly.toml"
    path.write_text('spec = "tuning:spec"\n', encoding="utf-8-sig")
    assert load_config(path).name == "tuning"
    home.current.write_text(MINE, encoding="utf-8-sig")
    assert read_context(home.current)["temperature"] == 0.75
    with pytest.raises(BadNight, match="begins with a byte order mark"):
        History(home).settle(1)


def gone(job: Job) -> None:
    job.home.current.unlink()


def edited(job: Job) -> None:
    job.home.current.write_text("[context]\nwording = 'Capital of'\ntemperature = 0.75\n")


def broken(job: Job) -> None:
    job.home.current.write_text("[context")


@pytest.mark.parametrize(
    ("change", "said"),
    [(gone, "is gone"), (edited, "was changed by hand since: configuration "), (broken, "is broken")],
)
def test_the_history_says_what_is_in_use_now(job: Job, change: Callable[[Job], None], said: str) -> None:
    assert job.run().exit_code == 1
    assert json.loads(job("history", str(job.file), "--json").stdout)["note"] is None
    change(job)
    before = sorted((p, p.stat().st_mtime_ns) for p in job.home.root.rglob("*") if p.is_file())
    found = json.loads(job("history", str(job.file), "--json").stdout)
    assert f"current.toml {said}" in found["note"] and found["note"] in job("history", str(job.file)).stdout
    last = History(job.home).config
    assert found["in_use"] == History(job.home).loaded().config != last
    assert before == sorted((p, p.stat().st_mtime_ns) for p in job.home.root.rglob("*") if p.is_file())


def test_a_night_that_is_over_tells_what_is_in_use_now(job: Job, more: Callable[[int], None]) -> None:
    more(40)
    first = job.json()
    assert first["promoted"] and job("rollback", str(job.file), "--why", "users wept").exit_code == 0
    second = job.run("--json")
    found = json.loads(second.stdout)
    assert second.exit_code == 1 and found["already"] and not found["promoted"]
    assert found["config"] == first["config_before"] and found["context"] == first["incumbent"]
    assert found["verdict_words"] == f"{first['verdict_words']}, then rolled back" and "(users wept)" in found["why"]
    edited(job)
    found = job.json()
    assert found["verdict_words"].endswith(", then edited by hand") and found["context"]["temperature"] == 0.75
    assert "was changed by hand since" in found["why"] and job.run("--ok-if-kept").exit_code == 0
