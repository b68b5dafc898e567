"""A night from end to end, on a foreign agent that was recorded."""

from __future__ import annotations

import json
import sys
import time
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from redecode import tracer
from redecode.optimizer.evaluation.session import Settings
from redecode.optimizer.nightly import night as night_module
from redecode.optimizer.nightly import tuning
from redecode.optimizer.nightly.history import Change, Event, History, config_id
from redecode.optimizer.nightly.spending import made_for
from redecode.optimizer.objectives import Goals
from redecode.tracer import Store
from redecode.tracer import conventions as c
from tests.optimizer.nightly.conftest import Job


def test_a_night_promotes_what_is_better_and_a_second_start_says_that_it_is_over(
    job: Job, more: Callable[[int], None], agent: Any, recorded: Any
) -> None:
    more(40)
    first = job.run("--json")
    found = json.loads(first.stdout)
    assert (first.exit_code, found["verdict"]) == (0, "promote"), first.output
    in_use = tomllib.loads(job.home.current.read_text())["context"]
    assert agent.Context(**in_use).wording == "Please name the capital of"
    assert (
        in_use == found["context"] == tomllib.loads((job.home.nights()[0].path / "tuned.toml").read_text())["context"]
    )
    (night,) = job.home.nights()
    assert {p.name for p in night.path.iterdir()} >= {"report.html", "report.md", "report.json", "tuned.toml"}
    assert json.loads((night.path / "report.json").read_text())["config"] == found["config"]
    assert "| wording | Capital of | Please name the capital of |" in (night.path / "report.md").read_text()
    asked, before = len(recorded.requests), (night.path / "report.json").read_bytes()
    assert asked == found["budget"]["used"]["fm_calls"]
    recorded_cost = made_for(Store(job.store), "tuning", night.id, 0, Goals()).cost  # of the record, not estimated
    assert found["budget"]["used"]["cost"] == pytest.approx(recorded_cost, rel=1e-9)
    second = job.run("--json")
    assert second.exit_code == 0 and json.loads(second.stdout)["already"] is True
    assert len(recorded.requests) == asked and (night.path / "report.json").read_bytes() == before
    assert len(job.home.nights()) == 1


def test_what_stays_in_use_is_exit_1_and_no_failure_for_a_scheduler(job: Job) -> None:
    """Seven cases held out of twelve: too few to be sure of anything. Nor is there a step clock, nor five full days."""
    job.configure(('source = "none"', 'source = "store"'), ("[trends]", "[worth]\ntrain_cost = 1\n\n[trends]"))
    first = job.run("--json")
    found = json.loads(first.stdout)
    assert (first.exit_code, found["verdict"]) == (1, "not enough evidence") and found["more_runs"] > 0
    again = job.run("--ok-if-kept")
    assert again.exit_code == 0 and "was over already" in again.stdout and "has changed" not in again.stderr
    assert found["config"] == found["config_before"] and job.home.current.exists()
    assert found["profile"]["made"] == [] and "step clock" in str(found["profile"]["refused"])
    assert "0 full days are recorded" in found["worth"]["words"]
    assert "change points were not looked for (switched off)" in (job.home.nights()[0].path / "report.md").read_text()
    job.configure(("held_out = 0.6", "held_out = 0.5"))
    told = "has changed since that night (tune.held_out: 0.6 → 0.5; ", "--again begins one with it"
    assert all(words in job.run().stderr for words in told)


def test_rolled_back_from_it_wants_new_runs_and_gets_them(
    job: Job, more: Callable[[int], None], agent: Any, recorded: Any
) -> None:
    job.configure(('runs = "all"', 'runs = "last-60"'), ("trials = 3", 'trials = 2\nknobs = ["wording"]'))
    more(40)  # one candidate besides the incumbent, so that it is the same each time
    promoted = job.json()
    assert promoted["promoted"] and job("rollback", str(job.file), "--why", "users wept").exit_code == 0
    assert tomllib.loads(job.home.current.read_text())["context"] == promoted["incumbent"]
    night = job.json("--again")
    assert not night["promoted"] and night["config"] == promoted["config_before"]
    assert "was rolled back from" in night["why"] and night["more_runs"] > 0 and night["held_out_before"] > 0
    shown = job("history", str(job.file)).stdout
    assert "users wept" in shown and "2026" in shown and shown.count(promoted["config"]) >= 2
    more(60)
    after = job.json("--again")
    assert after["promoted"] and "since it was rolled back from" in after["why"]
    history = json.loads(job("history", str(job.file), "--json").stdout)
    assert [e["change"] for e in history["configurations"]] == ["begun", "promoted", "rolled back", "promoted"]
    assert history["in_use"] == after["config"]


def test_rolled_back_while_a_night_runs_the_rollback_stays(
    job: Job, more: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody changes the configuration between the decision and the move."""
    more(40)
    real = night_module._Steps._move

    def meanwhile(steps: Any, gated: Any) -> Any:
        with steps.home.moving():
            other = {"wording": "Capital of", "temperature": 0.75}
            name = config_id(other)
            steps.history.put(Event(at_ns=1, change=Change.EDITED, config=name, before=steps.history.config), other)
        return real(steps, gated)

    monkeypatch.setattr(night_module._Steps, "_move", meanwhile)
    result = job.run("--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1 and found["verdict_words"] == "not promoted" and "has come into use" in found["why"]
    assert tomllib.loads(job.home.current.read_text())["context"]["temperature"] == 0.75


def test_the_kill_switch_stops_a_night_and_the_next_start_goes_on(job: Job, recorded: Any) -> None:
    job.home.root.mkdir(parents=True)
    job.home.stop_file.touch()
    stopped = job.run()
    assert stopped.exit_code == 1 and "says stop" in stopped.stderr and recorded.requests == []
    assert job.run("--ok-if-kept").exit_code == 0
    told = job.json()
    assert (told["verdict"], told["promoted"], told["folder"]) == ("stopped", False, None) and "says stop" in told[
        "why"
    ]
    job.home.stop_file.unlink()
    at_request(recorded, 10, job.home.stop_file.touch)
    middle = job.run()
    assert middle.exit_code == 1 and 10 <= len(recorded.requests) < 10 + 8
    assert not job.home.nights()[0].finished
    assert (
        "stop says stop" in job("history", str(job.file)).stdout or "says stop" in job("history", str(job.file)).stdout
    )
    job.home.stop_file.unlink()
    assert job.json()["already"] is False and len(job.home.nights()) == 1


def at_request(recorded: Any, count: int, do: Callable[[], Any]) -> None:
    """Do it once, when so many requests have come; several come at once."""
    answer, done = recorded.answer, list[bool]()

    def both(body: Any) -> Any:
        if len(recorded.requests) >= count and not done:
            done.append(True)
            do()
        return answer(body)

    recorded.answer = both


def stop_at(recorded: Any, count: int, stop_file: Path) -> None:
    """Set a kill switch when so many requests have come."""
    stop_file.parent.mkdir(parents=True, exist_ok=True)
    at_request(recorded, count, stop_file.touch)


@pytest.mark.parametrize(
    ("cap", "said"), [("fm_calls = 40", "FM calls were made"), ("cost = 0.02", "were spent"), ("time = 0.001", "time")]
)
def test_a_cap_ends_the_night_to_within_a_block(
    job: Job, more: Callable[[int], None], recorded: Any, cap: str, said: str
) -> None:
    more(30)
    job.configure(('time = "10m"', cap), ("trials = 3", "trials = 10"))
    found = job.json()
    assert len(recorded.requests) <= 40 + 16  # two lanes are in a block of the decision
    assert found["budget"]["used"]["fm_calls"] == len(recorded.requests)
    ended = found["skipped"] or found["tuning"]["stopped"]
    assert said in ended and not found["promoted"]
    assert job.json()["already"] is True


def test_a_night_that_tried_nothing_has_its_cost_in_the_same_unit(job: Job, more: Callable[[int], None]) -> None:
    prices = ("[tune]", "[prices.m]\ninput = 1\noutput = 4\n\n[tune]")
    job.configure(prices)
    one = job.json()
    job.configure(prices, ('time = "10m"', "time = 0.001"))
    other = job.json("--again")
    assert other["skipped"] and one["trends"]["cost_unit"] == other["trends"]["cost_unit"] == "USD"
    assert other["trends"]["measures"]["cost"] == pytest.approx(one["trends"]["measures"]["cost"])
    report = (job.home.nights()[-1].path / "report.md").read_text()
    assert f"|  | {one['night']} | tonight | change |" in report and "| cost of a run (USD) |" in report
    job.configure(("[tune]", "[prices.another]\ninput = 1\noutput = 4\n\n[tune]"), ('time = "10m"', "time = 0.001"))
    none = job.json("--again")
    assert none["trends"]["measures"]["cost"] is None
    assert "cost cannot be told: there is no price of m" in (job.home.nights()[-1].path / "report.md").read_text()


def test_what_a_killed_start_has_spent_counts(job: Job, recorded: Any) -> None:
    job.configure(('time = "10m"', "fm_calls = 30"))
    at_request(recorded, 20, job.home.stop_file.touch)
    job.run()
    job.home.stop_file.unlink()
    made = len(recorded.requests)
    found = job.json()
    assert found["budget"]["used"]["fm_calls"] == len(recorded.requests) <= 30 + 16
    assert found["budget"]["used"]["fm_calls_before"] == made
    told = (job.home.nights()[0].path / "report.md").read_text()
    assert f"of these {made} were made before the last start" in told


def test_a_changed_file_is_refused_in_the_middle_of_a_night(job: Job, recorded: Any, folder: Path) -> None:
    at_request(recorded, 10, job.home.stop_file.touch)
    assert job.run().exit_code == 1
    job.home.stop_file.unlink()
    job.configure(("trials = 3", "trials = 2"))
    refused = job.run()
    assert refused.exit_code == 2 and "tune.trials: 3 → 2" in refused.stderr and "--anew" in refused.stderr
    assert job.run("--anew").exit_code == 1
    nights = json.loads(job("history", str(job.file), "--json").stdout)["nights"]
    assert [n["verdict"] == "given up" for n in nights] == [True, False]


def test_a_file_that_is_mended_before_anything_was_evaluated_begins_a_night_of_its_own(job: Job, recorded: Any) -> None:
    job.configure(('spec = "tuning:spec"', 'spec = "tuning:nothing"\nname = "tuning"'))
    assert job.run().exit_code == 2
    job.configure(('spec = "tuning:spec"', 'spec = "tuning:spec"\nname = "tuning"'))
    result = job.run()
    assert result.exit_code == 1 and "it had evaluated nothing" in result.stderr, result.output
    nights = json.loads(job("history", str(job.file), "--json").stdout)["nights"]
    assert [n["verdict"] for n in nights] == ["given up", "not enough evidence"]


def test_an_engine_that_is_down_is_exit_2_and_the_night_stays_open(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setattr(tuning, "Settings", partial(Settings, again_s=(0.01,)))
    result = job.run()
    assert result.exit_code == 2 and "does not answer" in result.stderr
    assert "start the night again" in result.stderr and "Traceback" not in result.output
    assert not job.home.nights()[0].finished
    assert "does not answer" in job("history", str(job.file)).stdout


def test_a_selection_without_runs_says_why(job: Job, tmp_path: Path) -> None:
    job.store = tmp_path / "nothing"
    Store(job.store)
    result = job.run()
    assert result.exit_code == 2 and "no recorded run of capitals to tune on (all)" in result.stderr
    assert "no recorded run" in job("history", str(job.file)).stdout


def test_a_night_without_runs_takes_what_is_recorded_until_its_next_start(
    job: Job, more: Callable[[int], None]
) -> None:
    job.configure(('runs = "all"', 'runs = "since-last"'), ("trials = 3", "trials = 1"))
    assert job.run().exit_code == 1
    nothing = job.run("--again")
    assert nothing.exit_code == 2 and "no recorded run of capitals" in nothing.stderr
    more(12)
    found = job.json()
    assert len(found["runs"]["run_ids"]) == 12 and found["night"] == job.home.nights()[-1].id
    assert len(job.home.nights()) == 2


def test_another_mix_is_told_and_may_hold_a_promotion_back(
    job: Job, more: Callable[[int], None], agent: Any, store: Path, recorded: Any
) -> None:
    """The last forty runs ask about countries with long names; those before do not."""
    more(12)
    before = len(Store(store).runs())
    record_long(agent, store, 40)
    job.configure(('runs = "all"', 'runs = "last-40"'), ("[profile]", '[drift]\naction = "hold"\n\n[profile]'))
    found = job.json()
    assert before >= 20 and found["drift"]["verdict"] == "drifted"
    drifted = {f["name"] for f in found["drift"]["features"] if f["drifted"]}
    assert "characters of input" in drifted and "agent capitals" not in drifted
    assert not found["promoted"] and "is held back: the mix of runs has changed" in found["why"]
    assert "**changed**" in (job.home.nights()[0].path / "report.md").read_text()


def test_what_the_job_itself_has_promoted_is_no_drift(job: Job, agent: Any, store: Path, recorded: Any) -> None:
    """The same is asked as ever; answers are shorter since an earlier night, of a configuration that is now worse."""
    long, short = ({"wording": w, "temperature": 0.0} for w in ("Please name the capital of", "Capital of"))
    history = History(job.home)
    with job.home.moving():
        history.put(Event(at_ns=time.time_ns(), change=Change.BEGUN, config=config_id(long)), long)
    record_of(agent, store, 40, "Country", **long)
    with job.home.moving():
        history.put(
            Event(at_ns=time.time_ns(), change=Change.PROMOTED, config=config_id(short), before=config_id(long)), short
        )
    record_of(agent, store, 40, "Country", **short)
    job.configure(('runs = "all"', 'runs = "last-40"'), ("[profile]", '[drift]\naction = "hold"\n\n[profile]'))
    found = job.json()
    assert found["drift"]["verdict"] == "same" and "mix of runs" not in found["why"]
    assert [f["name"] for f in found["drift"]["features"] if f["follows"]] == ["output tokens"]
    report = (job.home.nights()[0].path / "report.md").read_text()
    assert "also follows from the configuration, which changed at 20" in report
    assert "| changed, as did the configuration |" in report and "**changed**" not in report


def record_long(agent: Any, store: Path, runs: int) -> None:
    record_of(agent, store, runs, "TheUnitedKingdomsOfSomewhereFarAway")


def record_of(agent: Any, store: Path, runs: int, countries: str, **context: Any) -> None:
    tracer.instrument(store)
    try:
        for number in range(runs):
            name = f"{countries}{number}"
            config = {"metadata": {c.GIVEN_LABELS: {"expected": f"{name} City"}}}
            agent.graph.invoke({"country": name}, config, context=agent.Context(**context))
    finally:
        tracer.uninstrument()


def test_since_the_last_night_each_run_is_looked_at_once(job: Job, more: Callable[[int], None]) -> None:
    job.configure(('runs = "all"', 'runs = "since-last"'))
    first = job.json()
    assert len(first["runs"]["run_ids"]) == 12
    more(15)
    second = job.json("--again")
    assert len(second["runs"]["run_ids"]) == 15 and second["held_out_before"] == 0
    assert not set(first["runs"]["run_ids"]) & set(second["runs"]["run_ids"])


def test_a_module_of_the_same_name_with_another_agent_does_not_get_this_ones_nights(job: Job, folder: Path) -> None:
    assert job.run().exit_code == 1
    text = (folder / "tuning.py").read_text()
    (folder / "tuning.py").write_text(text.replace("Spec(", 'Spec(name="billing", agents=["capitals"], '))
    sys.modules.pop("tuning", None)
    refused = job.run("--again")
    assert refused.exit_code == 2 and "is taken by the job of agent capitals" in refused.stderr, refused.output
    assert job.run("--anew").exit_code == 1 and job.run("--again").exit_code == 1


def test_what_in_use_names_no_knob_any_more_is_told_and_goes(job: Job) -> None:
    assert job.run().exit_code == 1
    text = job.home.current.read_text()
    job.home.current.write_text(text.replace("[context]\n", '[context]\ntone = "loud"\n'))
    result = job.run("--again")
    assert result.exit_code in (0, 1) and "tone: in the configuration in use, and no field of" in result.stderr
    found = json.loads((job.home.nights()[-1].path / "report.json").read_text())
    assert "tone" not in found["incumbent"]  # nor in what is promoted; what is in use stays as it was edited
