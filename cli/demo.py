"""`redecode demo`: the whole slice in a few minutes, by the commands a user would type."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from redecode.agents import BUNDLED_MODELS, DEFAULT_MODEL
from redecode.cli.common import StoreOption, errors_in_one_line, say, store_path
from redecode.replay.engine import status
from redecode.tracer import Store

RECORDINGS = Path(str(files("redecode.agents"))) / "recordings"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: redecode demo --runs 20")(demo)


def demo(
    *,
    runs: Annotated[int, typer.Option(help="Agent runs to record.", min=1)] = 20,
    concurrency: Annotated[int, typer.Option(help="Runs at the same time.", min=1)] = 4,
    model: Annotated[str, typer.Option(help=f"One of {', '.join(BUNDLED_MODELS)}, or a model folder.")] = DEFAULT_MODEL,
    seed: Annotated[int | None, typer.Option(help="Of the articles; by default new ones each time.")] = None,
    no_engine: Annotated[
        bool, typer.Option("--no-engine", help="Play back the shipped recording, as where vLLM cannot be installed.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Start an engine, record agents on it, look at a run, replay the batch token for token, stop the engine."""
    path = store_path(store)
    begin = time.monotonic()
    with errors_in_one_line():
        Store(path)  # an unusable store is said before anything is started
    if no_engine or importlib.util.find_spec("vllm") is None:
        _without_engine(path)
    else:
        _with_engine(path, runs, concurrency, model, seed)
    say(f"\nThe demo took {time.monotonic() - begin:.0f} s. Next, try:")
    for command, what in (
        ("redecode runs", "everything recorded, replays too"),
        ("redecode show RUN --decodes", "one run, with what each FM call was asked and answered"),
        ("redecode engine start", "an engine that stays up; then:"),
        ("redecode replay RUN --mode force", "one run again, decode by decode"),
        ("redecode record -- python your_agent.py", "your own LangGraph agent, unchanged"),
    ):
        say(f"  {command:42} {what}")


def _with_engine(path: Path, runs: int, concurrency: int, model: str, seed: int | None) -> None:
    _chapter("1. An inference engine: vLLM with the small bundled FM, and our plug-in in it")
    ours = status(path / "engine").state is None
    if ours:
        _redecode(path, "engine", "start", "--model", model)
    state = status(path / "engine").state
    if state is None:
        raise typer.Exit(2)
    seed = seed if seed is not None else time.time_ns() % 1_000_000
    try:
        _chapter(f"2. Recording {runs} runs of six LangGraph agents, {concurrency} at a time, on new articles")
        program = [
            "python", "-m", "redecode.agents", "--agent", "all", "--runs", str(runs), "--concurrency",
            str(concurrency), "--base-url", f"{state.base_url.removesuffix('/v1')}/v1", "--model", state.served_name,
            "--seed", str(seed), "--temperature", "0.3",
        ]  # fmt: skip
        _redecode(path, "record", "--", *program)
        newest = [r for r in Store(path).runs(limit=runs * 3) if r.source_run_id is None][:runs]
        if not newest:
            raise typer.Exit(1)
        _chapter("3. What is in the store now")
        _redecode(path, "runs", "--limit", str(runs))
        pick = max(newest, key=lambda r: (r.tools > 0, r.decodes))
        _chapter("4. One of them: its steps on a time axis, and the critical path (●)")
        _redecode(path, "show", pick.run_id[:12])
        _chapter("5. All of them again, the recorded tokens forced through the real engine, tool waits as recorded")
        forced = _redecode(path, "replay", "--last", str(len(newest)), "--mode", "force", ok=(0, 1))
        _chapter("6. And once more, sampling anew from the recorded seeds: is this engine reproducible?")
        sampled = _redecode(path, "replay", "--last", str(len(newest)), "--mode", "resample", ok=(0, 1))
        say("")
        say("force:    " + ("every token came out as recorded" if forced == 0 else "DIVERGED, see above"))
        say(
            "resample: "
            + ("every token was sampled again" if sampled == 0 else "some decodes left the recording, see above: ")
            + ("" if sampled == 0 else "seeds alone do not reproduce a run under another batch")
        )
    finally:
        if ours:
            _chapter("7. Stopping the engine")
            _redecode(path, "engine", "stop", ok=(0, 1, 2))
    if forced:
        raise typer.Exit(1)


def _without_engine(path: Path) -> None:
    """Everything that needs no engine, on the recording that comes with the package."""
    if importlib.util.find_spec("vllm") is None:
        say("vLLM is not installed here, so nothing can be replayed on an engine (see docs/installation.md).")
    say("The demo goes on with a recording that comes with redecode, in playback.")
    about = json.loads((RECORDINGS / "demo.json").read_text())
    _chapter(f"1. A recording of {about['runs']} agent runs, made on {about['engine']}")
    shutil.copy(RECORDINGS / "demo.journal", Store(path).spool / about["journal"])
    _redecode(path, "runs", "--mode", "recorded", "--limit", str(about["runs"]))
    ids = set(about["run_ids"])
    shipped = [r for r in Store(path).runs() if r.run_id in ids]
    pick = max(shipped, key=lambda r: (r.tools > 0, r.decodes))
    _chapter("2. One of them: its steps on a time axis, and the critical path (●)")
    _redecode(path, "show", pick.run_id[:12])
    _chapter("3. The same program again: FM calls and tools answered from the recording, as slowly as recorded")
    names = [r.run_id[:12] for r in shipped]
    _redecode(path, "replay", *names, "--mode", "playback", "--", *about["program"])


def _chapter(title: str) -> None:
    say(f"\n── {title}")


def _redecode(store: Path, *arguments: str, ok: tuple[int, ...] = (0,)) -> int:
    """Run one of our own commands as a user would, shown before it runs."""
    say(f"$ redecode {' '.join(arguments)}")
    command = [sys.executable if a == "python" else a for a in arguments]
    environment = {**os.environ, "REDECODE_STORE": str(store)}
    code = subprocess.run([sys.executable, "-m", "redecode.cli", *command], env=environment, check=False).returncode
    if code not in ok:
        say(f"redecode: that command ended with exit code {code}; the demo stops here")
        raise typer.Exit(code)
    return code
