"""What a night says is in use is what is in use when it ends."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redecode.optimizer.nightly import night as night_module
from redecode.optimizer.nightly import profiling, tuning
from redecode.optimizer.nightly.history import Change, History
from tests.optimizer.nightly.conftest import Job
from tests.optimizer.nightly.test_history import Kill

MINE = '[context]\nwording = "Capital of"\ntemperature = 0.75\n'


def back(job: Job) -> None:
    history = History(job.home)
    with job.home.moving():
        history.roll_back(None, now_ns=2, why="users wept")


def edit(job: Job) -> None:
    job.home.current.write_text(MINE)


@pytest.mark.parametrize(("change", "then"), [(back, "rolled back"), (edit, "edited by hand")])
@pytest.mark.parametrize("killed", [False, True])
def test_changed_after_the_move_the_night_ends_with_what_is_in_use(
    job: Job,
    more: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Job], None],
    then: str,
    killed: bool,
) -> None:
    """As Otava is asked, which may take its time; or between two starts."""
    more(40)
    real = night_module._Steps._told

    def meanwhile(steps: Any) -> None:
        change(job)
        if killed:
            raise Kill
        real(steps)

    monkeypatch.setattr(night_module._Steps, "_told", meanwhile)
    if killed:
        with pytest.raises(Kill):
            job.run()
        monkeypatch.undo()
    result = job.run("--json")
    found = json.loads(result.stdout)
    history, (night,) = History(job.home), job.home.nights()
    begun, promoted, last = history.events()
    assert (begun.change, promoted.change, last.change.value) == (Change.BEGUN, Change.PROMOTED, then.split(" by")[0])
    assert result.exit_code == 1 and not found["promoted"] and found["config"] == history.config == last.config
    assert found["verdict_words"].startswith("promoted trial-") and found["verdict_words"].endswith(f", then {then}")
    assert f"configuration {promoted.config} was promoted (" in found["why"] and f"since: {then}" in found["why"]
    in_use = tomllib.loads(job.home.current.read_text())["context"]
    assert in_use == found["context"] == tomllib.loads((night.path / "tuned.toml").read_text())["context"]
    assert in_use["wording"] == "Capital of"
    told = (night.path / "report.md").read_text()
    assert f"Configuration {last.config} {'stays' if last.config == begun.config else 'is'} in use." in told
    assert "in place of" not in told.partition("## Runs")[0]
    assert f"promoted, then {then}" in job("history", str(job.file)).stdout
    assert job("rollback", str(job.file), promoted.config).exit_code == 0
    assert job("rollback", str(job.file), night.id).exit_code == 0 and history.config == last.config


def test_edited_in_a_night_that_promotes_nothing_its_report_is_of_the_edit(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = night_module._Steps._told

    def meanwhile(steps: Any) -> None:
        edit(job)
        real(steps)

    monkeypatch.setattr(night_module._Steps, "_told", meanwhile)
    found = job.json()
    assert found["context"] == tomllib.loads(MINE)["context"] != found["incumbent"]
    assert found["config"] == History(job.home).config and "has come into use since: edited by hand" in found["why"]


def test_a_file_that_was_there_before_the_first_night_is_the_incumbent_before_the_one_that_is_named(
    job: Job, folder: Path
) -> None:
    (folder / "named.toml").write_text('[context]\nwording = "Please name the capital of"\n')
    job.configure(("[tune]", '[tune]\nincumbent = "named.toml"'))
    job.home.root.mkdir(parents=True)
    edit(job)
    result = job.run()
    assert "current.toml was there before the first night: it is configuration " in result.stderr, result.output
    assert "tune.incumbent (named.toml) is left aside: current.toml says what is in use" in result.stderr
    begun = History(job.home).events()[0]
    assert begun.change is Change.BEGUN and History(job.home).context(begun.config) == tomllib.loads(MINE)["context"]
    found = json.loads((job.home.nights()[0].path / "report.json").read_text())
    assert found["config_before"] == begun.config and found["incumbent"]["temperature"] == 0.75
    assert "left aside" not in job.run("--again").stderr


@pytest.mark.parametrize(("text", "said"), [("[context", "is no TOML"), (MINE.replace("Capital", "City"), "City of")])
def test_one_that_is_none_or_that_no_knob_takes_is_refused_and_stays(job: Job, text: str, said: str) -> None:
    job.home.root.mkdir(parents=True)
    job.home.current.write_text(text)
    refused = job.run()
    assert refused.exit_code == 2 and said in refused.stderr, refused.output
    assert job.home.current.read_text() == text and History(job.home).events() == []
    edit(job)
    assert job.run().exit_code == 1 and job.home.nights()[0].finished
    job.home.current.write_text(text)
    assert job.run("--again").exit_code == 2 and len(History(job.home).events()) == 1


def test_one_that_comes_as_the_first_night_begins_is_the_incumbent_too(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = tuning.ready, list[Any]()

    def meanwhile(*args: Any, **options: Any) -> Any:
        if not asked:
            edit(job)
        asked.append(options["incumbent"])
        return real(*args, **options)

    monkeypatch.setattr(tuning, "ready", meanwhile)
    found = job.json()
    assert [a.get("temperature") for a in asked] == [None, 0.75]
    assert [e.config for e in History(job.home).events()] == [found["config_before"]]
    assert found["incumbent"]["temperature"] == 0.75


def test_what_a_killed_start_has_left_half_written_goes(job: Job) -> None:
    night = job.home.root / "nights" / "2026-11-20"
    names = [job.home.root / ".current.toml.7", job.home.root / ".pending.123", night / "steps" / ".begin.json.9"]
    left = [path.with_name(f"{path.name}.redecode-tmp") for path in names]
    mine = [job.home.root / name for name in (".keep", ".v1.2.d", ".current.toml.20261120", ".notes.1")]
    for path in (*left, *mine):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert job.run().exit_code == 1
    assert not any(p.exists() for p in left) and all(p.exists() for p in mine)


def test_a_goal_that_nothing_can_meet_is_said_at_the_head_with_what_comes_nearest(job: Job) -> None:
    job.configure(("[goals]", "[goals]\nslo = 0.000001"))
    result = job.run()
    lines = result.stdout.splitlines()
    assert result.exit_code == 1 and lines[0].endswith(": keep: no candidate keeps what it must"), result.output
    assert lines[1].startswith("no candidate keeps what it must (80 of 100 runs within 1e-06 s). The nearest is trial ")
    assert (job.home.nights()[0].path / "report.md").read_text().splitlines()[2] == lines[1]


def test_calls_that_measure_the_engine_count_also_those_of_a_start_that_was_killed(
    job: Job, recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.configure(('source = "none"', 'source = "engine"'))
    asked: list[int] = []

    def measured(*_: Any, on_call: Callable[[], None], **__: Any) -> dict[str, Any]:
        for number in range(20):
            on_call()
            asked.append(number)
            if len(asked) == 12:
                raise Kill
        return {"source": "engine", "made": [], "refused": {}}

    monkeypatch.setattr(profiling, "from_engine", measured)
    with pytest.raises(Kill):
        job.run()
    used = job.json()["budget"]["used"]
    assert used["fm_calls"] == 32 + len(recorded.requests) and used["fm_calls_to_profile"] == 32 == len(asked)
    assert used["fm_calls_before"] == 12
    told = (job.home.nights()[0].path / "report.md").read_text()
    assert "of these 32 measured the engine; the cost is without theirs" in told


@pytest.mark.parametrize("where", ["spec", "nightly.toml", "nowhere"])
def test_whether_fine_tuning_pays_is_asked_at_the_prices_of_the_study(
    job: Job, more: Callable[[int], None], folder: Path, where: str
) -> None:
    more(30)
    asked = "[worth]\ntrain_cost = 1\ncalls_per_day = 1000\n"
    if where == "spec":
        text = (folder / "tuning.py").read_text()
        (folder / "tuning.py").write_text(text.replace("Spec(", 'Spec(prices={"m": {"input": 1.0, "output": 4.0}}, '))
    if where == "nightly.toml":
        asked += "[prices.m]\ninput = 1\noutput = 4\n"
    job.configure(("[trends]", f"{asked}[trends]"))
    found = job.json()["worth"]
    if where == "nowhere":
        assert "model m has no price; say it in [prices.m], in the spec, or" in found["words"]
        assert "--price" not in found["words"]
    else:
        assert found["worth"]["assumptions"]["prices"]["m"]["output"] == 4.0 and found["worth"]["volume_said"]
