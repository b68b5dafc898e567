"""Bad input: one clear line that names the thing and the way out, and exit 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.tracer import Recorder, Store


def redecode(*arguments: str) -> subprocess.CompletedProcess[str]:
    if arguments[0] in ("runs", "show"):  # most of it, and what only reads needs no process of its own
        result = CliRunner().invoke(app, list(arguments), env={"REDECODE_STORE": None})
        return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)
    env = {k: v for k, v in os.environ.items() if k != "REDECODE_STORE"}
    command = [sys.executable, "-m", "redecode.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.fixture
def one_run(store: Path) -> Path:
    recorder = Recorder(store)
    recorder.end(recorder.start_run("agent"))
    recorder.close()
    return store


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "ffff"], "no run starts with 'ffff'"),
        (["show", "nonsense"], "'nonsense' is not a run id"),
        (["replay"], "name the runs to replay"),
        (["replay", "ffff"], "no run starts with 'ffff'"),
        (["replay", "--last", "1"], "no recorded run with FM calls"),
        (["record", "--", "no-such-program-here"], "no such program: no-such-program-here"),
        (["record", "--label", "nonsense", "--", "true"], "want KEY=VALUE"),
        (["engine", "start", "--model", "/no/such/model"], "/no/such/model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line_and_exit_2(one_run: Path, arguments: list[str], words: str) -> None:
    place = 2 if arguments[0] == "engine" else 1
    done = redecode(*arguments[:place], "--store", str(one_run), *arguments[place:])
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize("verb", [["runs"], ["show", "f"], ["replay", "f"]], ids=lambda v: v[0])
def test_a_store_that_is_not_there_or_not_usable(tmp_path: Path, verb: list[str]) -> None:
    done = redecode(*verb, "--store", str(tmp_path / "none"))
    assert done.returncode == 2
    assert "no store at" in done.stderr
    (tmp_path / "file").write_text("")
    done = redecode(*verb, "--store", str(tmp_path / "file"))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


def _foreign(store: Path) -> None:
    (store / "runs.duckdb").unlink()
    with duckdb.connect(str(store / "runs.duckdb")) as db:
        db.execute("CREATE TABLE invoices (amount INTEGER)")


def _newer(store: Path) -> None:
    with duckdb.connect(str(store / "runs.duckdb")) as db:
        db.execute("INSERT INTO migrations VALUES ('999_future', 1)")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_foreign, "is a DuckDB database of something else (it has invoices); move it aside"),
        (_newer, "has migrations this redecode does not know: ['999_future']; upgrade"),
        (lambda store: (store / "runs.duckdb").write_bytes(b"junk"), "Move it aside to go on"),
        (lambda store: (store / "meta").write_text('{"storage_version": 9}'), "has storage version 9"),
        (lambda store: (store / "meta").write_text("{}"), "is not a redecode store marker"),
    ],
    ids=["foreign database", "newer schema", "junk", "newer storage", "no store"],
)
@pytest.mark.parametrize("verb", [["runs"], ["show", "f"], ["doctor"]], ids=lambda v: v[0])
def test_a_store_of_something_else(
    one_run: Path, verb: list[str], damage: Callable[[Path], object], words: str
) -> None:
    Store(one_run).drain()
    damage(one_run)
    done = redecode(*verb, "--store", str(one_run))
    if verb == ["doctor"]:  # reports it among its other findings
        assert done.returncode == 1
        assert words in done.stdout
    else:
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_store_of_another_user(one_run: Path) -> None:
    one_run.chmod(0)
    done = redecode("runs", "--store", str(one_run))
    one_run.chmod(0o700)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_ambiguous_run(store: Path) -> None:
    recorder = Recorder(store)
    for _ in range(40):
        recorder.end(recorder.start_run("agent"))
    recorder.close()
    ids = [run.run_id for run in Store(store).runs()]
    prefix = next(p for p in "0123456789abcdef" if sum(i.startswith(p) for i in ids) > 1)
    done = redecode("show", prefix, "--store", str(store))
    assert done.returncode == 2
    assert "could be any of" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_recording_into_an_unwritable_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = redecode("record", "--store", str(tmp_path / "file" / "store"), "--", "true")
    assert done.returncode == 2
    assert "choose another with --store" in done.stderr


def with_a_decode(store: Path, serve: Callable[..., Any], *, vllm: bool) -> str:
    """Record one call of a small server in a process of its own; returns the run's id."""
    code = (
        "import sys, openai; from redecode.tracer import instrument; instrument(sys.argv[1]); "
        "openai.OpenAI(base_url=sys.argv[2], api_key='x').chat.completions.create(model='m', messages=[])"
    )
    subprocess.run([sys.executable, "-c", code, str(store), serve(vllm=vllm).base_url], check=True)
    return Store(store).runs()[0].run_id


def test_no_engine_at_the_url(store: Path, serve: Callable[..., Any]) -> None:
    pytest.importorskip("openai")
    run_id = with_a_decode(store, serve, vllm=True)
    dead = serve()
    dead.close()
    done = redecode("replay", run_id, "--store", str(store), "--engine", dead.base_url)
    assert done.returncode == 2
    assert dead.base_url.removesuffix("/v1") in done.stderr
    done = redecode("replay", run_id, "--store", str(store))
    assert done.returncode == 2
    assert "redecode engine start" in done.stderr


def test_an_engine_without_the_plug_in(store: Path, serve: Callable[..., Any]) -> None:
    pytest.importorskip("openai")
    server = serve(vllm=True)
    run_id = with_a_decode(store, serve, vllm=True)
    done = redecode("replay", run_id, "--store", str(store), "--engine", server.base_url)
    assert done.returncode == 2
    assert "plug-in" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_recording_without_tokens_cannot_be_forced(store: Path, serve: Callable[..., Any]) -> None:
    pytest.importorskip("openai")
    run_id = with_a_decode(store, serve, vllm=False)
    done = redecode("replay", run_id, "--store", str(store), "--engine", serve().base_url)
    assert done.returncode == 2
    assert "run/chat has no prompt token ids (fidelity text)" in done.stderr


def test_doctor(one_run: Path) -> None:
    done = redecode("doctor", "--store", str(one_run), "--json")
    document = json.loads(done.stdout)
    assert document["ok"] is (done.returncode == 0) is True
    assert {c["name"] for c in document["checks"]} >= {"python", "vllm", "store", "spool", "engine"}


def test_json_is_alone_on_stdout(one_run: Path) -> None:
    (run,) = json.loads(redecode("runs", "--store", str(one_run), "--json").stdout)
    shown = json.loads(redecode("show", run["run_id"][:8], "--store", str(one_run), "--json").stdout)
    assert shown["run"]["run_id"] == run["run_id"]
