"""`redecode runs --slow` and `--slo`: which runs, what adds up, how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from redecode.cli.main import app
from redecode.tracer import EdgeKind, LiveSpan, Provenance, Recorder, Store
from tests.cli.test_show import MS, beside, step, write

SLO = """
[[slo]]
agent = "agent"
metric = "e2e"
threshold_s = 0.15
percentile = 90
window = "1h"
"""


def redecode(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "120"})


@pytest.fixture
def three(store: Path) -> Path:
    """Runs of 100, 200 and 300 ms, and a replay of the newest that is slower than all."""
    for ms in (100, 200, 300):
        write(store, beside, ms=ms)
    recorder = Recorder(store)
    source = Store(store).runs()[0]
    replay = recorder.start_replay(source, mode="force", start_ns=recorder.clock.now_ns())
    step(recorder, replay, "long", 0, 900)
    recorder.end(replay, end_ns=replay.start_ns + 900 * MS)
    recorder.close()
    return store


def test_the_slowest_first_and_replays_left_out(three: Path) -> None:
    done = redecode("runs", "--slow", "--limit", 2, "--store", three, "--json")
    assert done.exit_code == 0, done.output
    (agent,) = json.loads(done.stdout)["slow"]
    assert [round(r["makespan_ns"] / MS) for r in agent["slowest"]] == [300, 200]
    assert all(sum(r["split"].values()) == r["makespan_ns"] for r in agent["slowest"])
    assert agent["aggregate"]["runs"] == 3
    assert sum(agent["aggregate"]["split"].values()) == agent["aggregate"]["total_ns"] == 600 * MS
    steps = {s["step_key"]: s for s in agent["aggregate"]["steps"]}
    assert (steps["run/long"]["on_path"], steps["run/long"]["runs"]) == (3, 3)
    assert steps["run/short"]["on_path"] == 0
    replays = json.loads(redecode("runs", "--slow", "--mode", "force", "--store", three, "--json").stdout)["slow"]
    assert [r["makespan_ns"] for r in replays[0]["slowest"]] == [900 * MS]


def test_on_a_screen(three: Path) -> None:
    done = redecode("runs", "--slow", "--store", three)
    assert done.exit_code == 0, done.output
    assert "agent: 3 runs" in done.stdout
    assert "latency p50 200.0, p95 300.0, p99 300.0 ms" in done.stdout
    assert "= 600.0 ms" in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if line.endswith("tool      long")]
    assert row.split()[:2] == ["3/3", "25%"]
    assert all(len(line) <= 120 for line in done.stdout.splitlines())


def test_advice_with_its_evidence(store: Path) -> None:
    write(store, beside)
    done = redecode("runs", "--slow", "--store", store)
    assert "one tool is 50% of the run (up to 30.0 ms)" in done.stdout
    assert "at long: on_path 50.0 ms; makespan 100.0 ms" in done.stdout


def test_attainment_over_time(three: Path, tmp_path: Path) -> None:
    file = tmp_path / "slo.toml"
    file.write_text(SLO)
    done = redecode("runs", "--slo", file, "--store", three)
    assert done.exit_code == 1
    assert "MISSED: 1 of 3 within 150.0 ms (33.3%, wanted 90 %)" in done.stdout
    assert "burn rate 6.67" in done.stdout
    (slo,) = json.loads(redecode("runs", "--slo", file, "--store", three, "--json").stdout)["slos"]
    assert (slo["all"]["n"], slo["all"]["good"]) == (3, 1)
    assert sum(w["n"] for w in slo["windows"]) == 3
    file.write_text(SLO.replace("0.15", "5"))
    met = redecode("runs", "--slo", file, "--store", three)
    assert met.exit_code == 0
    assert "met: 3 of 3" in met.stdout


def test_an_slo_is_the_deadline_that_burn_is_counted_against(three: Path, tmp_path: Path) -> None:
    file = tmp_path / "slo.toml"
    file.write_text(SLO)
    done = redecode("runs", "--slow", "--slo", file, "--store", three)
    assert "2 of 3 missed their SLO" in done.stdout
    assert "burn p50" in done.stdout
    assert "burn" not in redecode("runs", "--slow", "--store", three).stdout


def test_an_slo_of_nothing_measured_is_no_failure(three: Path, tmp_path: Path) -> None:
    file = tmp_path / "slo.toml"
    file.write_text(SLO.replace('"agent"', '"nobody"'))
    done = redecode("runs", "--slo", file, "--store", three)
    assert done.exit_code == 0
    assert "nothing that it is about was measured" in done.stdout


@pytest.mark.parametrize(
    ("text", "words"), [(None, "cannot read"), ("[[slo]", "is no TOML"), ('[[slo]]\nmetric = "speed"', "metric")]
)
def test_a_file_that_holds_no_slos(three: Path, tmp_path: Path, text: str | None, words: str) -> None:
    file = tmp_path / "slo.toml"
    if text is not None:
        file.write_text(text)
    done = redecode("runs", "--slo", file, "--store", three)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_since_leaves_out_what_is_older(three: Path) -> None:
    assert len(json.loads(redecode("runs", "--since", "1h", "--store", three, "--json").stdout)) == 4
    assert redecode("runs", "--since", "soon", "--store", three).exit_code == 2


def test_a_run_that_makes_no_sense_is_left_out_and_counted(three: Path) -> None:
    def circle(recorder: Recorder, run: LiveSpan) -> list[LiveSpan]:
        first = step(recorder, run, "a", 0, 20)
        second = step(recorder, run, "b", 30, 60, after=(first,))
        recorder.edge(run.run_id, second.span_id, first.span_id, EdgeKind.RETURN, Provenance.RECORDED)
        return [second]

    write(three, circle, ms=5000)
    done = redecode("runs", "--slow", "--store", three)
    assert done.exit_code == 0, repr(done.exception)
    assert "agent: 3 runs, 1 left out" in done.stdout


def test_names_of_agents_are_no_markup(store: Path) -> None:
    recorder = Recorder(store)
    recorder.end(recorder.start_run("[/red]a\x1b[2J"))
    recorder.close()
    for arguments in ((), ("--slow",)):
        done = redecode("runs", *arguments, "--store", store)
        assert done.exit_code == 0, repr(done.exception)
        assert "[/red]a\\x1b[2J" in done.stdout
