"""`redecode store publish`, and every reading command with `--store DEST`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from redecode.cli.main import app
from redecode.tracer import Store
from tests.tracer.export.recorded_runs import keep
from tests.tracer.export.test_mooncake import react
from tests.tracer.publish.support import files, some_run

ONE, TWO = "ab" * 16, "cd" * 16


def redecode(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def told(done: Result) -> str:
    """What a command says, without the progress it shows when it takes long."""
    return "\n".join(line for line in done.stderr.splitlines() if not line.endswith(" s)"))


@pytest.fixture
def dest(store: Path, tmp_path: Path) -> Path:
    """Two runs, published."""
    keep(store, [react(run_id=run_id).build() for run_id in (ONE, TWO)])
    done = redecode("store", "publish", str(tmp_path / "dest"), "--store", str(store))
    assert (done.exit_code, done.stdout) == (0, "")
    words = rf"redecode: published 2 runs to {tmp_path / 'dest'} \(\d files, \d\.\d MB\)"
    assert re.fullmatch(words, told(done)), done.stderr
    return tmp_path / "dest"


def test_again(dest: Path, store: Path) -> None:
    before = files(dest)
    done = redecode("store", "publish", str(dest), "--store", str(store), "--json")
    said = json.loads(done.stdout)
    assert (said["runs"], said["updated"], said["present"], said["waiting"], said["files"]) == (0, 0, 2, 0, 0)
    assert files(dest) == before
    keep(store, [some_run(7)])
    done = redecode("store", "publish", str(dest), "--store", str(store))
    assert "published 1 run to" in done.stderr
    assert "2 were there already" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["runs"],
        ["runs", "--json"],
        ["show", "ab"],
        ["show", "ab", "--json"],
        ["export", "ab", "--format", "perfetto"],
        ["export", "--all", "--format", "mooncake", "--block-tokens", "16"],
    ],
    ids=" ".join,
)
def test_commands_that_read_give_what_they_give_of_the_store(dest: Path, store: Path, command: list[str]) -> None:
    of_store, of_dataset = (redecode(*command, "--store", str(where)) for where in (store, dest))
    assert (of_store.exit_code, of_dataset.exit_code) == (0, 0), of_dataset.output
    assert of_store.stdout
    assert of_dataset.stdout.replace(str(dest), str(store)) == of_store.stdout


def test_out_of_the_dataset_and_into_another_store(dest: Path, store: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "runs.json", tmp_path / "other"
    assert redecode("export", "--all", "--format", "otlp", "-o", str(file), "--store", str(dest)).exit_code == 0
    assert redecode("import", str(file), "--store", str(other)).exit_code == 0
    for run in (ONE, TWO):
        loaded = [Store(path).load(run) for path in (store, other)]
        assert len({str(sorted(r.edges, key=str)) for r in loaded}) == 1
        assert loaded[0].decodes == loaded[1].decodes
        assert loaded[0].spans == loaded[1].spans
    done = redecode("export", "ab", "--format", "parquet", "-o", str(tmp_path / "x"), "--store", str(dest))
    assert done.exit_code == 2
    assert "is Parquet already" in done.stderr


def test_doctor(dest: Path) -> None:
    done = redecode("doctor", "--store", str(dest))
    (line,) = [line for line in done.stdout.splitlines() if "dataset" in line]
    assert line.startswith(f"ok   dataset: {dest}: 2 runs, ")
    assert line.endswith("published by 1 store")


_AGENT = """
import sys
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
model = ChatOpenAI(model="m", base_url=sys.argv[1], api_key="x", max_retries=0)
graph = StateGraph(dict)
graph.add_node("ask", lambda state: {"said": model.invoke(state["question"]).content})
graph.add_edge(START, "ask")
graph.add_edge("ask", END)
print(graph.compile(name="asker").invoke({"question": "how are you"})["said"])
"""


def test_a_published_run_is_played_back(store: Path, tmp_path: Path, serve: Callable[..., Any]) -> None:
    server, dest, into = serve(lambda _: "very well"), tmp_path / "dest", tmp_path / "into"
    agent = tmp_path / "agent.py"
    agent.write_text(_AGENT)
    cli = [sys.executable, "-m", "redecode.cli"]
    program = ["--", sys.executable, str(agent), server.base_url]
    subprocess.run([*cli, "record", "--store", str(store), *program], check=True, capture_output=True)
    assert redecode("store", "publish", str(dest), "--store", str(store)).exit_code == 0
    (run,) = Store(store).runs()
    asked, before = len(server.requests), files(dest)
    replay = [*cli, "replay", run.run_id[:10], "--mode", "playback", "--store", str(dest)]
    done = subprocess.run([*replay, *program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is a published dataset: name a store to record the replay in" in done.stderr
    done = subprocess.run([*replay, "--into", str(into), *program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "very well\n"), done.stderr
    assert "played back 1 of 1 recorded run" in done.stderr
    assert len(server.requests) == asked
    (played,) = Store(into).runs()
    assert (played.source_run_id, played.replay_mode) == (run.run_id, "playback")
    assert files(dest) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{dest}", "--since", "soon"], "--since soon: want an age as in 7d or 12h, or a time"),
        (["{dest}", "--store", "{tmp}/nowhere"], "no store at {tmp}/nowhere"),
        (["{dest}", "--store", "{dest}"], "is a published dataset, which can only be read"),
        (["{dest}", "--store", "s3://bucket/x"], "s3://bucket/x is elsewhere"),
        (["nosuch://x"], "nosuch://x: Protocol not known: nosuch"),
        (["s3://bucket/x"], "s3://bucket/x: Install s3fs to access S3"),
        (["{tmp}"], "{tmp} holds something else than a published dataset; name a new or empty place"),
        (["{tmp}/store/meta"], "cannot use {tmp}/store/meta: "),
        (["/proc/x/y"], "cannot use /proc/x/y: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line_and_exit_2(dest: Path, store: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    if "--store" not in arguments:
        arguments = [*arguments, "--store", str(store)]
    done = redecode("store", "publish", *(a.format(dest=dest, tmp=tmp_path) for a in arguments))
    assert (done.exit_code, done.stdout) == (2, "")
    assert words.format(tmp=tmp_path) in done.stderr
    assert len(told(done).splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "ffff"], "no run starts with 'ffff' in {dest}"),
        (["runs", "--store", "memory://nowhere"], "no dataset at memory://nowhere; `redecode store publish` makes one"),
        (["record", "--", "true"], "is a published dataset, which can only be read"),
        (["import", "x"], "is a published dataset, which can only be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_asked_of_a_dataset(dest: Path, arguments: list[str], words: str) -> None:
    if "--store" not in arguments:
        arguments = [arguments[0], "--store", str(dest), *arguments[1:]]
    done = redecode(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words.format(dest=dest) in done.stderr
    assert len(told(done).splitlines()) == 1
