"""`redecode engine`: exit codes, one JSON document on stdout, one clear line on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from redecode.cli.engine import app
from redecode.replay.engine import logs, server
from redecode.replay.engine.launch import Device, EngineOptions
from redecode.replay.engine.state import EngineState

FAKE = Path(__file__).with_name("fake_server.py")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def engine(tmp_path: Path, store: Path) -> Iterator[EngineState]:
    """A running engine of this store, a small server in vLLM's place."""

    def command(_model: Path, port: int, _options: EngineOptions, _device: Device) -> list[str]:
        return [sys.executable, str(FAKE), str(port)]

    model = tmp_path / "tiny"
    model.mkdir()
    (model / "config.json").write_text("{}")
    yield server.start(model, home=store / "engine", command=command)
    if server.status(store / "engine").state is not None:
        server.stop(store / "engine")


def redecode_engine(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_without_an_engine_the_answer_is_no(store: Path) -> None:
    result = redecode_engine("status", "--store", store)
    assert result.exit_code == 1
    assert "not running" in result.stdout
    result = redecode_engine("status", "--store", store, "--json")
    assert result.exit_code == 1
    assert orjson.loads(result.stdout) == {
        "running": False,
        "healthy": False,
        "note": "no engine was started here",
    }


def test_there_is_nothing_to_stop(store: Path) -> None:
    result = redecode_engine("stop", "--store", store, "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert str(store) in result.stderr


def test_status_and_stop_of_a_running_one(engine: EngineState, store: Path) -> None:
    result = redecode_engine("status", "--store", store, "--json")
    assert result.exit_code == 0
    answer = orjson.loads(result.stdout)
    assert (answer["running"], answer["healthy"], answer["base_url"]) == (True, True, engine.base_url)
    result = redecode_engine("stop", "--store", store, "--json")
    assert result.exit_code == 0
    assert orjson.loads(result.stdout)["stopped"] is True
    assert redecode_engine("status", "--store", store).exit_code == 1


def test_a_second_start_names_the_first(engine: EngineState, tmp_path: Path, store: Path) -> None:
    result = redecode_engine("start", "--model", tmp_path / "tiny", "--store", store)
    assert result.exit_code == 2
    assert engine.base_url in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--model", "/nowhere"), "bundled models, usable by name: redecode-fm-xs, redecode-fm-s"),
        (("--port", "0"), "port"),
    ],
    ids=["model", "port"],
)
def test_bad_input_exits_2(store: Path, args: tuple[str, ...], words: str) -> None:
    result = redecode_engine("start", "--store", store, *args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert not store.exists()


def test_a_store_below_a_file_exits_2(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    result = redecode_engine("start", "--model", tmp_path, "--store", tmp_path / "config.json" / "x")
    assert result.exit_code == 2
    assert "--store" in result.stderr


@pytest.mark.parametrize("verb", ["start", "status", "stop"])
def test_help_has_an_example(verb: str) -> None:
    assert f"redecode engine {verb}" in redecode_engine(verb, "--help").stdout


def test_without_an_engine_there_is_no_log(store: Path) -> None:
    result = redecode_engine("logs", "--store", store)
    assert result.exit_code == 2
    assert "redecode engine start" in result.stderr


def test_the_log_is_there_while_it_runs_and_after(engine: EngineState, store: Path) -> None:
    log = Path(engine.log)
    with log.open("a") as file:
        file.write("".join(f"line {n}\n" for n in range(50)) + "RuntimeError: out of luck\n")
    last = redecode_engine("logs", "--store", store, "-n", 2)
    assert (last.exit_code, last.stdout) == (0, "line 49\nRuntimeError: out of luck\n")
    assert redecode_engine("logs", "--store", store, "-n", 0).stdout == log.read_text()
    assert redecode_engine("logs", "--store", store, "--errors").stdout == "RuntimeError: out of luck\n"
    server.stop(store / "engine")
    told = orjson.loads(redecode_engine("logs", "--store", store, "--json", "-n", 1).stdout)
    assert told == {"log": engine.log, "lines": [log.read_text().splitlines()[-1]]}
    both = redecode_engine("logs", "--store", store, "--json", "--follow")
    assert both.exit_code == 2


def test_a_followed_log_ends_with_the_engine(engine: EngineState, store: Path) -> None:
    log = Path(engine.log)
    alive = iter([True, False])

    def write_and_die() -> bool:
        with log.open("a") as file:
            file.write("still here\nno end")
        return next(alive)

    assert list(logs.follow(log, write_and_die)) == ["still here", "no endstill here", "no end"]
