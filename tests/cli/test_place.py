"""`redecode place`: the plan it prints, and what it says when there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from redecode.cli.main import app
from redecode.replay.simulator.catalogue import keep
from redecode.tracer import Store
from tests.replay.closed_loop.test_engine_replay import record, run_of
from tests.replay.simulator.made import made_profile

QUICK = ("--seeds", "2", "--runs", "50")


def place(store: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["place", *arguments, "--store", str(store)], env={"COLUMNS": "200"})


@pytest.fixture
def recorded(store: Path) -> Path:
    """Two runs of three calls with tools of 40 ms between them, and a profile of their FM."""
    record(store, [run_of(n, calls=3, wait_ms=40) for n in range(2)])
    keep(store, made_profile())
    return store


def test_a_plan_says_how_many_how_surely_at_what_cost_and_what_would_break_it(recorded: Path) -> None:
    done = place(
        recorded, "--slo", "1s@p90", "--load", "20rps", "--from-store", "--cost", "machine=3", *QUICK, "--json"
    )
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    (row,) = plan["replicas"]
    assert (row["model"], row["usd_per_hour"]) == ("m", 3.0)
    assert row["hardware"].startswith("a machine (")
    assert plan["usd_per_hour"] == 3.0 * row["replicas"]
    (found,) = plan["classes"]
    assert found["met"]
    assert found["low"] <= found["attained"] <= found["high"]
    assert found["attained"] >= 0.9
    assert plan["breaks"]["holds_per_s"] >= 20
    (alone,) = plan["alone"]
    assert 0 < alone["seconds"] < 1
    assert len(plan["drawn_from"]) == 2


def test_more_load_takes_more_replicas(recorded: Path) -> None:
    counts = []
    for load in ("5rps", "40rps"):
        done = place(recorded, "--slo", "600ms@p90", "--load", load, "--most", "9", *QUICK, "--json")
        assert done.exit_code == 0, done.output
        counts.append(json.loads(done.stdout)["replicas"][0]["replicas"])
    assert counts[0] < counts[1]


def test_the_plan_on_a_screen(recorded: Path) -> None:
    done = place(recorded, "--slo", "1s@p90", "--load", "20rps", *QUICK)
    assert done.exit_code == 0, done.output
    words = " ".join(done.stdout.split())
    for said in ("a plan for 20 runs a second like 2 recorded ones", "USD an hour", "attained,", "alone,"):
        assert said in words
    assert "breaks at about" in words or "still attained at" in words


def test_an_slo_below_what_runs_take_alone_names_the_way(recorded: Path) -> None:
    done = place(recorded, "--slo", "100ms@p95", "--load", "1rps", *QUICK, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["met"] is False
    assert "cannot be met by any number of replicas" in done.stderr
    assert "2 of 2 recorded runs take longer" in done.stderr
    assert "/chat" in done.stderr


def test_a_load_beyond_all_replicas_says_the_most_they_serve(recorded: Path) -> None:
    done = place(recorded, "--slo", "1s@p90", "--load", "500rps", "--most", "1", *QUICK, "--json")
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert 0 < said["most_per_s"] < 500
    assert f"at most about {said['most_per_s']:.3g}" in done.stderr
    served = place(recorded, "--slo", "1s@p90", "--load", f"{said['most_per_s'] * 0.7:.2f}rps", "--most", "1", *QUICK)
    assert served.exit_code == 0, served.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--slo", "soon", "--load", "1rps"), "an SLO is a time within which so many of 100 runs end"),
        (("--slo", "1s", "--load", "much"), "a load is runs a second above 0"),
        (
            ("--slo", "1s", "--load", "1rps", "--hardware", "H100"),
            "unknown hardware; there are engine profiles on a ma",
        ),
        (("--slo", "1s", "--load", "1rps", "--cost", "H100=3"), "--cost H100: unknown hardware"),
        (("--slo", "1s", "--load", "1rps", "--cost", "machine=-3"), "--cost is HARDWARE=USD an hour"),
        (("--slo", "1s", "--load", "1rps", "--most", "none"), "--most is a number of replicas from 1 on"),
        (("--slo", "nobody=1s", "--load", "1rps"), "no recorded run of that agent; there are"),
        (("--slo", "1s", "--slo", "2s", "--load", "1rps"), "there is one already"),
        (("--slo", "1s", "--load", "1rps", "--profile", "nothing"), "no engine profile 'nothing'"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(recorded: Path, arguments: tuple[str, ...], said: str) -> None:
    done = place(recorded, *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_a_profile_it_says_how_to_make_one(store: Path) -> None:
    record(store, [run_of(0, calls=1, wait_ms=0)])
    done = place(store, "--slo", "1s", "--load", "1rps")
    assert done.exit_code == 2
    assert "no engine profile of m" in done.stderr
    assert "redecode profile" in done.stderr


def test_without_a_run_it_says_so(store: Path) -> None:
    Store(store)
    done = place(store, "--slo", "1s", "--load", "1rps")
    assert done.exit_code == 2
    assert "no recorded run with FM calls" in done.stderr
