"""`redecode whatif`: predictions, what it refuses, and a measurement against a server that speaks as vLLM does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from redecode.cli.main import app
from redecode.tracer import Recorder, SpanKind, Store
from tests.cli.test_show import MS, beside, write
from tests.replay.closed_loop.test_engine_replay import record, run_of, served


def whatif(store: Path, *arguments: str) -> Result:
    run = Store(store).runs()[-1]
    return CliRunner().invoke(app, ["whatif", run.run_id, "--store", str(store), *arguments], env={"COLUMNS": "90"})


@pytest.mark.parametrize(
    ("arguments", "predicted_ms"),
    [
        (["--step", "long=0.5"], 75),
        (["--step", "long=0"], 70),  # the other branch then holds it up
        (["--step", "short=0.5"], 100),
        (["--step", "short=3"], 110),
        (["--cached", "last"], 80),
        (["--without", "last", "--step", "run/long=0.5"], 55),
        (["--step", "long=0.5", "--step", "short=0.5"], 75),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_predictions_of_the_graph(store: Path, arguments: list[str], predicted_ms: int) -> None:
    write(store, beside)  # 10 code; short 20 beside long 50; 20 code; last 20
    done = whatif(store, *arguments, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["predicted"]["tier"] == "algebraic (ms)"
    assert told["measured"] is None
    if "--without" not in arguments:  # which also takes the code before it
        assert told["predicted"]["predicted_ns"] == predicted_ms * MS
    assert told["predicted"]["gain_ns"] == 100 * MS - told["predicted"]["predicted_ns"]
    assert sum(told["predicted"]["relied_on"].values()) == len(told["predicted"]["path"]) - 1


def test_it_says_its_tier_and_where_the_path_would_go(store: Path) -> None:
    write(store, beside)
    text = whatif(store, "--step", "long=0").stdout
    assert re.search(r"tier +algebraic \(ms\)", text)
    assert re.search(r"predicted +70\.0 ms, -30\.0 \(-30\.0%\)", text)
    assert "the critical path would go through short" in text
    assert "nothing gained" in whatif(store, "--step", "short=0").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what would change"),
        (["--step", "lung=0.5"], "the nearest: long"),
        (["--step", "long"], "--step wants STEP=FACTOR"),
        (["--step", "long=-1"], "the factor is a number from 0 on"),
        (["--shorter", "long=2.5"], "--shorter wants STEP=TOKENS"),
        (["--shorter", "long=5"], "its time per output token is not known"),
        (["--data-only", "long"], "waits at no barrier"),
        (["--without", "long", "--measure"], "cannot be measured yet"),
        (["--step", "long=0.5", "--measure"], "there is nothing to replay"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_means_nothing_is_refused_in_one_line(store: Path, arguments: list[str], words: str) -> None:
    write(store, beside)
    done = whatif(store, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_names_are_drawn_as_they_are(store: Path) -> None:
    recorder = Recorder(store)
    run = recorder.start_run("[bold]a\x1b[31m")
    recorder.end(recorder.start(SpanKind.TOOL, "[red]t\x07", run, "[red]t\x07"))
    recorder.end(run)
    recorder.close()
    done = whatif(store, "--step", "[red]t\x07=0.5")
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout
    assert "[red]t\\x07 × 0.5" in done.stdout


def test_measured_on_an_engine(store: Path) -> None:
    record(store, [run_of(wait_ms=40)])
    engine, url = served(0.0)
    try:
        done = whatif(store, "--step", "wait=0.5", "--measure", "--repeat", "2", "--engine", url)
        assert done.exit_code in (0, 1), done.output
        verdict = "THE PREDICTION IS OUTSIDE" if done.exit_code else "within the noise of the measurement"
        for words in (
            "tier ",
            f"measured on {url}",
            "unchanged ",
            "(95 % of one more; 2 replays)",
            "wait itself:",
            verdict,
        ):
            assert words in done.stdout
        assert [r.replay_mode for r in Store(store).runs()] == ["force"] * 5 + [None]
    finally:
        engine.kill()
        engine.communicate()
