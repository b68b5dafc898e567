"""A file that somebody has written: kept word for word, and what it says besides a configuration goes along."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redecode.optimizer.configuration import read_context
from redecode.optimizer.nightly.carrying import carried
from redecode.optimizer.nightly.config import load_config
from redecode.optimizer.nightly.errors import BadNight
from redecode.optimizer.nightly.history import Change, Event, History, config_id
from redecode.optimizer.nightly.home import Home
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


@pytest.mark.parametrize(
    "old",
    [
        "context = {wording = 'a'}\nport = 1\n",
        'notes = """\n# a\n\nb"""\n[context]\nwording = "A"\n[server]\nport = 1\n',
        'name = "a\u2028b" # c\u0085d\n[context]\nwording = "A"\n[server]\nport = 1\n',
        '[context]\nwording = "A"\n[server]\nx = nan\nwhen = 2020-01-01\n',
        'name = "n"\r\n[context]\r\nwording = "A"\r\n\r\n[server]\r\nport = 1 # p\r\n',
        '[context]\nwording = """\n[server]\n"""\n[server]\nport = 1',
    ],
)
@pytest.mark.parametrize("new", ["", "\n[context.deep]\nx = 1\n\n[placement]\nreplicas = 2\n"])
def test_however_it_is_written_all_else_goes_along(old: str, new: str) -> None:
    text = f'# configuration 01234567\n# promoted by x\n[context]\nwording = "b"\n{new}'
    found = carried(old.encode(), text.encode())
    was, now, made = (tomllib.loads(x) for x in (old, text, found.data.decode()))
    ours = ("context", "placement")
    assert {n: made[n] for n in made if n in ours} == {n: now[n] for n in now if n in ours}
    assert repr({n: made[n] for n in made if n not in ours}) == repr({n: was[n] for n in was if n not in ours})
    assert found.left == () and set(found.along) == {*was} - {*ours}
    lines = [x for x in old.split("\n") if x.startswith(("port", "name", "when", "[server]"))]
    assert all(line in found.data.decode() for line in lines)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("context.wording = 'a'\nport = 1\n", "wording = 'b'\ndeep.x = 1\n"),
        ("context.temperature = 1\nport = 1\n", "wording = 'b'\n"),
        ("[context.notes]\nowner = 'ops'\n\n[port]\nx = 1\n\n[context]\nwording = 'a'\n", "wording = 'b'\n"),
        ("[context.model]\nname = 'm'\n[context]\nwording = 'a'\nt = 0.5\n[port]\n", "style = 'x'\n"),
    ],
)
def test_what_cannot_be_edited_is_written_anew_with_all_it_says(old: str, new: str) -> None:
    text = f"# configuration 01234567\n# promoted\n[context]\n{new}"
    found = carried(old.encode(), text.encode())
    made = tomllib.loads(found.data.decode())
    assert made == {**tomllib.loads(text), "port": tomllib.loads(old)["port"]}
    assert (found.left, found.along) == ((), ("port",)) and found.data.startswith(b"# configuration 01234567\n")


def test_comments_of_a_nested_table_and_below_it_stay() -> None:
    old = "[context]\na = 1\n\n[context.limits]\n# low\ntokens = 5  # each\n\n# who to page\n[oncall]\nname = 'Ann'\n"
    found = carried(old.encode(), b"[context]\na = 1\n\n[context.limits]\ntokens = 7\n")
    assert found.data.decode() == old.replace("= 5", "= 7")


def test_only_a_rollback_brings_back_what_else_was_said(home: Home) -> None:
    told: list[str] = []
    home.current.write_text('[context]\nwording = "a"\n\n[oncall]\nname = "Ann"\n')
    history = History(home, told.append)
    history.settle(1)
    first, second = history.config, promoted(history, {"wording": "b"})
    history.roll_back(None, now_ns=3)
    home.current.write_text(home.current.read_text().replace("Ann", "Bob"))
    assert history.settle(4) is None and promoted(history, {"wording": "b"}) == second
    assert tomllib.loads(home.current.read_text()) == {"context": {"wording": "b"}, "oncall": {"name": "Bob"}}
    assert not [words for words in told if "lost" in words]
    home.current.write_text('[context]\nwording = "b"\n')
    history.roll_back(first, now_ns=5)
    assert tomllib.loads(home.current.read_text())["oncall"] == {"name": "Bob"}
    assert told[-1] == f"current.toml has oncall again, as when configuration {first} was in use"
    home.current.write_text('[context]\nwording = "a"\n')
    promoted(history, {"wording": "b"})
    assert tomllib.loads(home.current.read_text()) == {"context": {"wording": "b"}}


@pytest.mark.parametrize("to", ["/nowhere/at/all.toml", "current.toml"])
def test_a_link_that_leads_nowhere_is_told_before_anything_is_changed(home: Home, to: str) -> None:
    history = History(home)
    home.current.write_text('[context]\nwording = "a"\n')
    history.settle(1)
    before = history.events()
    home.current.unlink()
    home.current.symlink_to(to)
    with pytest.raises(BadNight, match=r"current\.toml (names a file in /nowhere/at|cannot be followed)"):
        promoted(history, {"wording": "b"})
    assert history.events() == before


def test_comments_stay_where_nothing_else_is_said(home: Home) -> None:
    home.current.write_text('# mine\n\n[context]\nwording = "a"  # as Bob wants it\n# not too warm\ntemperature = 1\n')
    history = History(home)
    history.settle(1)
    mine = home.current.read_text()
    first = promoted(history, {"wording": "b", "temperature": 2})
    assert home.current.read_text() == (
        f"# configuration {first}\n# promoted\n\n# mine\n\n"
        '[context]\nwording = "b"  # as Bob wants it\n# not too warm\ntemperature = 2\n'
    )
    second = promoted(history, {"wording": "c", "temperature": 2})
    assert home.current.read_text().startswith(f"# configuration {second}\n# promoted\n\n# mine\n\n[context]")
    assert first not in home.current.read_text()
    history.roll_back(config_id({"wording": "a", "temperature": 1}), now_ns=3)
    assert home.current.read_text() == mine


def test_a_link_stays_one_and_what_it_names_is_replaced(home: Home, tmp_path: Path) -> None:
    agents = tmp_path / "app" / "agent.toml"
    agents.parent.mkdir()
    agents.write_text('[context]\nwording = "a"\n[server]\nport = 1\n')
    home.current.symlink_to(agents)
    history = History(home)
    history.settle(1)
    promoted(history, {"wording": "b"})
    assert home.current.is_symlink()
    assert tomllib.loads(agents.read_text()) == {"context": {"wording": "b"}, "server": {"port": 1}}
    history.roll_back(None, now_ns=3)
    assert tomllib.loads(agents.read_text())["context"] == {"wording": "a"}
    assert [p.name for p in agents.parent.iterdir()] == ["agent.toml"]


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


def test_a_rollback_to_what_the_agent_no_longer_takes_is_done_and_told(job: Job, more: Callable[[int], None]) -> None:
    more(40)
    assert job.json()["promoted"]
    agent = job.file.parent / "capitals.py"
    agent.write_text(agent.read_text().replace('"Capital of"', '"The capital of"'))
    for name in ("tuning", "capitals"):
        sys.modules.pop(name, None)
    found = job("rollback", str(job.file))
    assert found.exit_code == 0 and "is in use again" in found.stdout
    assert "WARNING: the agent may not take configuration" in found.stderr and "wording" in found.stderr
