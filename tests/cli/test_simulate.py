"""`redecode profile`, `simulate`, `replay --mode simulate` and `whatif --simulate`: what they say, keep and refuse."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from redecode.cli.main import app
from redecode.replay.simulator.catalogue import keep, profiles_in
from redecode.tracer import Recorder, Store
from tests.replay.closed_loop.test_engine_replay import record, run_of
from tests.replay.simulator.made import call_s, made_profile
from tests.replay.simulator.test_recorded_fit import SAID, some
from tests.replay.simulator.test_recorded_fit import record as record_timed
from tests.tracer.export.recorded_runs import keep as keep_runs

CALL_S = call_s(3, 4)


def redecode(store: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--store", str(store)], env={"COLUMNS": "150"})


@pytest.fixture
def recorded(store: Path) -> Path:
    """Two runs of three calls with tools between them, and a profile of their FM."""
    record(store, [run_of(n, calls=3, wait_ms=40) for n in range(2)])
    keep(store, made_profile(cold_start_s=11.0))
    return store


def first_run(store: Path) -> str:
    return next(r.run_id for r in Store(store).runs() if r.source_run_id is None)


def test_a_broken_profile_stops_no_verb_that_does_not_need_it(recorded: Path) -> None:
    broken = recorded / "profiles" / "broken.json"
    broken.write_text("{")
    assert redecode(recorded, "simulate", "--load", "1rps", "--runs", "5").exit_code == 0
    assert len(json.loads(redecode(recorded, "profile", "--json").stdout)) == 1
    asked = redecode(recorded, "profile", "--show", "broken")
    assert (asked.exit_code, str(broken) in asked.stderr) == (2, True)
    checked = redecode(recorded, "doctor")
    assert (checked.exit_code, f"BAD  profile: {broken} is no engine profile" in checked.stdout) == (1, True)


def test_what_cannot_be_simulated_is_counted_with_its_reason(recorded: Path) -> None:
    unlike = [replace(run_of(n), run=replace(run_of(n).run, agent="another")) for n in (7, 8)]
    silent = replace(run_of(3), decodes=[], spans=run_of(3).spans[:1], edges=[])
    lost, half = run_of(5, sampled_ids=None, output_tokens=None), run_of(6)
    failed = replace(half.decodes[0], sampled_ids=None, output_tokens=None, error="ReadTimeout")
    spans = [replace(s, status="error", error="ReadTimeout") if s.span_id == failed.span_id else s for s in half.spans]
    half = replace(half, spans=spans, decodes=[replace(failed, digest=failed.content_digest()), *half.decodes[1:]])
    keep_runs(recorded, [silent, lost, half, *unlike])
    recorder = Recorder(recorded, agent=silent.run.agent)
    going = recorder.start_run("chain", start_ns=10**18)
    recorder.close()
    kind = ("--agent", run_of(0).run.agent)
    done = redecode(recorded, "simulate", "--load", "1rps", "--runs", "5", *kind)
    assert done.exit_code == 0, done.output
    words = " ".join(done.stdout.split())
    assert "5 runs drawn from 3 recorded" in words, words
    assert "left out: 1 run, each has no FM call" in words
    assert "left out: 1 run, each has not ended" in words
    assert "left out: 1 run, each cannot be replayed by simulate: decode" in words
    assert "1 FM call that failed when recorded is a wait as long as recorded" in words
    data = json.loads(redecode(recorded, "simulate", "--load", "1rps", "--runs", "5", *kind, "--json").stdout)
    assert set(data["left_out"]) == {silent.run.run_id, going.run_id, lost.run.run_id}
    assert data["as_waits"] == {"failed when recorded": 1}
    newest = json.loads(redecode(recorded, "simulate", "--load", "1rps", "--last", "2", "--json").stdout)
    assert newest["left_out"] == {}, "what is older than those asked for is not left out"
    replayed = json.loads(redecode(recorded, "replay", "--mode", "simulate", "--last", "9", *kind, "--json").stdout)
    assert {r["run_id"] for r in replayed["left_out"]} == set(data["left_out"])


def test_profiles_are_fitted_listed_and_shown(store: Path) -> None:
    record_timed(store, some(60, "e1", "m", random.Random(1)), {"e1": SAID})
    done = redecode(store, "profile", "--from-store", "--json")
    assert done.exit_code == 0, done.output
    (made,) = json.loads(done.stdout)["profiles"]
    assert (made["model"], made["source"], made["cold_start_s"], made["kv_tokens"]) == ("m", "store", None, 90 * 16)
    (listed,) = json.loads(redecode(store, "profile", "--json").stdout)
    assert listed == {k: v for k, v in made.items() if k != "carried"}
    table = redecode(store, "profile").stdout
    assert made["key"] in table
    assert "a processor 1 thread" in " ".join(table.split())
    shown = redecode(store, "profile", "--show", "m")
    assert "cold start not measured, taken as 0; memory not measured; KV 1440 tokens" in shown.stdout
    assert "decode, 1 call" in shown.stdout
    whole = json.loads(redecode(store, "profile", "--show", made["key"][:5], "--json").stdout)
    assert whole["key"] == made["key"]
    assert whole["sample"]
    again = redecode(store, "profile", "--from-store")
    assert "it takes the place of the profile of" in again.stderr
    assert len(profiles_in(store)) == 1


def test_a_simulated_replay_is_kept_shown_and_compared(recorded: Path) -> None:
    run = first_run(recorded)
    done = redecode(recorded, "replay", run, "--mode", "simulate", "--no-noise", "--tool-speed", "2")
    assert done.exit_code == 0, done.output
    assert "TTFT sim." in done.stdout
    assert "those recorded; nothing was run" in done.stdout
    assert "equal token for token" not in done.stdout
    (replay,) = [r for r in Store(recorded).runs() if r.replay_mode == "simulate"]
    assert replay.duration_s == pytest.approx(3 * (0.02 + CALL_S), abs=1e-6)
    assert redecode(recorded, "compare", run, replay.run_id).exit_code == 0
    assert "simulate replay of" in redecode(recorded, "show", replay.run_id).stdout
    many = redecode(recorded, "replay", "--last", "2", "--mode", "simulate", "--repeat", "2", "--json")
    told = json.loads(many.stdout)
    assert [len(r["replays"]) for r in told["repeats"]] == [2, 2]
    times = [[x["e2e_replayed_s"] for x in r["replays"]] for r in told["repeats"]]
    assert times[0] != times[1], "each repeat draws other step times"
    again = json.loads(
        redecode(recorded, "replay", "--last", "2", "--mode", "simulate", "--repeat", "2", "--json").stdout
    )
    assert [[x["e2e_replayed_s"] for x in r["replays"]] for r in again["repeats"]] == times


def test_a_load_is_simulated_and_its_slo_decides_the_exit_code(recorded: Path) -> None:
    before = len(Store(recorded).runs())
    light = redecode(
        recorded, "simulate", "--load", "0.01rps", "--runs", "50", "--slo", "2s@p95", "--no-noise", "--json"
    )
    told = json.loads(light.stdout)
    assert light.exit_code == 0
    assert told["run"]["p99"] == pytest.approx(3 * (0.04 + CALL_S), abs=1e-6)
    assert (told["attained"], told["met"], told["runs"], told["calls"]) == (1.0, True, 50, 150)
    heavy = redecode(recorded, "simulate", "--load", "300rps", "--runs", "600", "--slo", "0.5s@p95", "--replicas", "2")
    assert heavy.exit_code == 1, heavy.output
    for words in ("2 replicas of m on a machine", "NOT ATTAINED", "pile up", "TTFT", "preemptions"):
        assert words in heavy.stdout
    assert len(Store(recorded).runs()) == before, "nothing is recorded"


def test_the_tiers_of_a_what_if_are_side_by_side(recorded: Path) -> None:
    run = first_run(recorded)
    done = redecode(recorded, "whatif", run, "--step", "wait=0.5", "--simulate")
    assert done.exit_code == 0, done.output
    assert "simulated (engine model)" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("algebraic ", "simulated  "))]
    assert [row[3] for row in rows if row[0] == "algebraic"] == ["60.0"]
    loaded = redecode(recorded, "whatif", run, "--step", "wait=0.5", "--simulate", "--load", "0.01rps", "--json")
    told = json.loads(loaded.stdout)
    assert told["simulated"]["gain_s"] == pytest.approx(0.06, abs=0.02)
    assert (told["simulated"]["load_per_s"], told["measured"]) == (0.01, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["profile", "--from-store", "--measure"], "one at a time"),
        (["profile", "--from-store"], "no engine can be fitted from 2 runs"),
        (["profile", "--measure"], "no engine runs in"),
        (["profile", "--engine", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["profile", "--show", "nope"], "no engine profile 'nope'"),
        (["simulate", "--load", "fast"], "a load is runs a second"),
        (["simulate", "--load", "1rps", "--slo", "soon"], "an SLO is a time"),
        (["simulate", "--load", "1rps", "--profile", "nope"], "no engine profile 'nope'"),
        (["simulate", "--load", "1rps", "--agent", "nobody"], "no recorded run of agent nobody"),
        (["simulate", "--load", "1rps", "--step", "nowhere=2"], "no step 'nowhere'"),
        (["replay", "RUN", "--mode", "simulate", "--engine", "http://x"], "not on an engine"),
        (["replay", "RUN", "--mode", "simulate", "--warm"], "begins empty"),
        (["replay", "RUN", "--replicas", "2"], "are of --mode simulate"),
        (["whatif", "RUN", "--step", "wait=0.5", "--load", "1rps"], "are of --simulate"),
        (["whatif", "RUN", "--without", "wait", "--simulate"], "cannot be simulated yet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_refused_in_one_line(recorded: Path, arguments: list[str], words: str) -> None:
    run = first_run(recorded)
    done = redecode(recorded, *(run if a == "RUN" else a for a in arguments))
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_a_profile_the_command_that_makes_one_is_named(store: Path) -> None:
    record(store, [run_of()])
    for arguments in (["simulate", "--load", "1rps"], ["replay", first_run(store), "--mode", "simulate"]):
        done = redecode(store, *arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "no engine profile of m" in done.stderr
        assert "`redecode profile --engine URL`" in done.stderr
    keep(store, made_profile("n"))
    done = redecode(store, "simulate", "--load", "1rps", "--profile", "n")
    assert "these runs call m, and the profile is of n; --other-fm" in done.stderr
    done = redecode(store, "whatif", first_run(store), "--step", "m=0.5", "--simulate", "--profile", "n")
    assert done.stderr.strip().endswith("these runs call m, and the profile is of n")  # it has no --other-fm
    done = redecode(store, "simulate", "--load", "1rps", "--profile", "n", "--other-fm", "--runs", "5")
    assert done.exit_code == 0, done.output
    assert "1 replica of n on a machine" in done.stdout
    assert "no engine profiles in" in redecode(store.parent / "none", "profile").stderr
