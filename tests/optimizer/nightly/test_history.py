"""Which configuration is in use: kept, gone back from, mended after a kill, seen when somebody edits it."""

from __future__ import annotations

import json
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from redecode.optimizer.configuration import toml
from redecode.optimizer.nightly.errors import BadNight, Busy
from redecode.optimizer.nightly.history import Change, Event, History, config_id
from redecode.optimizer.nightly.home import Home

A, B, C = ({"wording": w, "temperature": 0.5, "few": 3, "careful": True} for w in ("a", 'b "quoted" \n', "ü"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "job").mkdir()
    return Home(tmp_path / "job")


def use(history: History, context: dict[str, Any], change: Change, at: int = 1, night: str | None = None) -> str:
    name = config_id(context)
    history.put(Event(at_ns=at, change=change, config=name, before=history.config, night=night), context)
    return name


class Kill(BaseException):
    """A `kill -9`: nobody catches it."""


class KilledIn(History):
    """A history whose process is killed just before one of its steps."""

    def __init__(self, home: Home, step: str) -> None:
        super().__init__(home)
        setattr(self, step, self._killed)

    def _killed(self, *_: Any) -> None:
        raise Kill


@pytest.fixture
def history(home: Home) -> History:
    """a, then b, then c was promoted."""
    history = History(home)
    use(history, A, Change.BEGUN)
    use(history, B, Change.PROMOTED, 2)
    use(history, C, Change.PROMOTED, 3)
    return history


def in_use(home: Home) -> Any:
    return tomllib.loads(home.current.read_text())["context"]


@pytest.mark.parametrize("context", [A, B, C, {"a": None, "b": 1.0, "c": 0.1 + 0.2}])
def test_a_configuration_is_the_same_one_when_it_is_read_back(history: History, context: dict[str, Any]) -> None:
    name = history.write_down(context, "why")
    assert config_id(history.context(name)) == name == config_id(dict(reversed(context.items())))


def test_rolling_back_steps_further_back_each_time_and_loses_nothing(history: History, home: Home) -> None:
    assert in_use(home) == C
    assert history.roll_back(None, now_ns=4).config == config_id(B) and in_use(home) == B
    assert history.roll_back(None, now_ns=5).config == config_id(A) and in_use(home) == A
    with pytest.raises(BadNight, match="no configuration before"):
        history.roll_back(None, now_ns=6)
    assert history.roll_back(config_id(C)[:5], now_ns=7).config == config_id(C) and in_use(home) == C
    assert [e.config for e in history.events()] == [config_id(x) for x in (A, B, C, B, A, C)]
    assert history.rejected() == {config_id(B): 5, config_id(A): 7}  # c is in use again


def test_a_night_names_what_was_in_use_when_it_ended(history: History, home: Home) -> None:
    night = home.new_night(10**18)
    night.keep("begin", {})
    with pytest.raises(BadNight, match="has not ended"):
        history.roll_back(night.id, now_ns=4)
    night.keep("done", {"config": config_id(B)})
    assert history.roll_back(night.id, now_ns=5).config == config_id(B)
    night.keep("done", {"config": None})
    with pytest.raises(BadNight, match="no configuration was in use yet"):
        history.roll_back(night.id, now_ns=6)


@pytest.mark.parametrize("step", ["_keep", "_append", None])
def test_a_file_that_is_there_before_the_history_begins_it(home: Home, step: str | None) -> None:
    home.current.write_text("# mine\n[context]\nwording = 'mine'\n")
    if step is not None:
        with pytest.raises(Kill):
            KilledIn(home, step).settle(8)
    history = History(home)
    history.settle(9)
    (event,) = history.events()
    assert event.change is Change.BEGUN and in_use(home) == history.context(event.config) == {"wording": "mine"}
    assert home.current.read_text() == "# mine\n[context]\nwording = 'mine'\n"
    assert history.settle(10) is None and not (home.root / "pending").exists()


@pytest.mark.parametrize(
    ("to", "said"), [("2020-01-01", "there are:"), ("", "3 configurations begin"), (config_id(C), "in use already")]
)
def test_where_one_cannot_go_back_to_is_said_with_where_one_can(history: History, to: str, said: str) -> None:
    before = history.events()
    with pytest.raises(BadNight, match=said) as raised:
        history.roll_back(to, now_ns=4)
    assert config_id(A) in str(raised.value) and history.events() == before


def test_a_torn_line_never_was(history: History, home: Home) -> None:
    path = home.root / "history.jsonl"
    path.write_bytes(path.read_bytes() + b'{"at_ns": 4, "change": "promo')
    assert [e.at_ns for e in history.events()] == [1, 2, 3]
    history.roll_back(None, now_ns=5)
    assert [json.loads(line)["at_ns"] for line in path.read_text().splitlines()] == [1, 2, 3, 5]


def test_a_kill_between_history_and_copy_is_mended_forwards(history: History, home: Home) -> None:
    """The file on the disk is still b, the history says c: `pending` tells that nobody had edited it."""
    history.roll_back(None, now_ns=4)
    with pytest.raises(Kill):
        use(KilledIn(home, "_copy"), C, Change.PROMOTED, 5)
    assert in_use(home) == B
    assert "as was decided before a kill" in (history.settle(9) or "") and in_use(home) == C
    assert len(history.events()) == 5 and history.settle(9) is None


def test_a_kill_before_the_history_has_changed_nothing(home: Home, history: History) -> None:
    (home.root / "pending").write_text("{}")
    history.settle(9)
    assert in_use(home) == C and len(history.events()) == 3 and not (home.root / "pending").exists()


def test_an_edit_that_was_being_taken_over_at_a_kill_is_taken_over(history: History, home: Home) -> None:
    for step in ("_keep", "_append", None):
        home.current.write_text(f"[context]\nwording = 'mine, {step}'\n")
        if step is not None:
            with pytest.raises(Kill):
                KilledIn(home, step).settle(9)
        history.settle(10)
        assert in_use(home) == {"wording": f"mine, {step}"} and history.events()[-1].change is Change.EDITED
        assert not (home.root / "pending").exists()
    assert len(history.events()) == 6


@pytest.mark.parametrize("mine", [{"wording": "mine"}, B, C], ids=["another", "the one before", "the same"])
@pytest.mark.parametrize("step", ["_append", "_done"])
def test_what_is_edited_after_a_kill_stays(history: History, home: Home, mine: dict[str, Any], step: str) -> None:
    """The kill came before anything was decided, or when all was done but for the mark of it."""
    if step == "_done":
        home.current.write_text(toml(C))
        (home.root / "pending").write_text(json.dumps(history.events()[-1].to_json()))
    else:
        with pytest.raises(Kill):
            use(KilledIn(home, step), A, Change.PROMOTED, 4)
    time.sleep(0.02)  # file systems tell times as exactly as the kernel ticks
    home.current.write_text(toml(mine))
    history.settle(9)
    assert in_use(home) == mine and history.config == config_id(mine) and not (home.root / "pending").exists()
    assert history.settle(10) is None


def test_a_file_edited_by_hand_is_a_configuration_and_can_be_gone_back_from(history: History, home: Home) -> None:
    home.current.write_text("# mine\n[context]\nwording = 'd'\n")
    assert "changed by hand" in (history.settle(9) or "")
    assert history.events()[-1].change is Change.EDITED and history.settle(10) is None
    assert home.current.read_text() == "# mine\n[context]\nwording = 'd'\n"
    assert history.roll_back(None, now_ns=11).config == config_id(C)


def test_the_old_configuration_copied_back_by_hand_stays(history: History, home: Home) -> None:
    home.current.write_text(toml(B))
    history.settle(9)
    assert in_use(home) == B and history.config == config_id(B)


def test_a_file_that_is_gone_comes_back_and_a_broken_one_is_named(history: History, home: Home) -> None:
    home.current.unlink()
    history.settle(9)
    assert in_use(home) == C
    home.current.write_text("[context")
    with pytest.raises(BadNight, match=r"current\.toml is no TOML.*remove it"):
        history.settle(9)


def test_a_damaged_history_is_named_with_its_line(history: History, home: Home) -> None:
    path = home.root / "history.jsonl"
    path.write_text(path.read_text().replace('"promoted"', '"sold"', 1))
    with pytest.raises(BadNight, match="line 2 is damaged"):
        history.events()


def test_one_process_at_a_time_runs_a_night_and_the_other_is_told_which(home: Home) -> None:
    import os

    with home.locked(), pytest.raises(Busy, match=f"process {os.getpid()} on "), home.locked():
        pass
    with home.locked():
        pass


def test_nights_of_a_day_are_numbered_and_stay_in_order(home: Home) -> None:
    ids = []
    for _ in range(11):
        night = home.new_night(1_790_000_000 * 10**9)
        night.keep("begin", {})
        ids.append(night.id)
    assert ids[:2] == ["2026-09-21", "2026-09-21-2"] and [n.id for n in home.nights()] == ids
    unfinished = home.unfinished()
    assert unfinished is not None and unfinished.id == ids[-1]


def test_a_damaged_step_is_named(home: Home) -> None:
    night = home.new_night(0)
    night.keep("begin", {"a": 1})
    (night.path / "steps" / "begin.json").write_text("{")
    with pytest.raises(BadNight, match=r"begin\.json is damaged"):
        night.step("begin")
