"""`redecode replay RUN`: repeat recorded runs on an engine and compare."""

from __future__ import annotations

import asyncio
import os
import sys
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from redecode.cli.common import (
    JsonOption,
    StoreOption,
    errors_in_one_line,
    fail,
    print_json,
    progress,
    seconds,
    shown,
    store_path,
    store_to_read,
)
from redecode.cli.replay_program import play
from redecode.replay import Changed, Playback, ReplayMode, ReplayReport, replay_on_engine
from redecode.replay.engine import status
from redecode.tracer import Dataset, RecordedRun, Store


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: redecode replay 3f2a --mode force")(replay)


class Mode(StrEnum):
    """How a replay treats FM calls and tools."""

    FORCE = "force"
    RESAMPLE = "resample"
    PLAYBACK = "playback"


def replay(
    run: Annotated[
        list[str] | None, typer.Argument(help="Run ids, or enough of their beginnings.", metavar="[RUN]... [-- CMD]")
    ] = None,
    *,
    mode: Annotated[
        Mode,
        typer.Option(
            help="force: the recorded tokens through the engine; resample: the recorded seeds, and see; "
            "playback: run CMD, answered from the recording, no engine."
        ),
    ] = Mode.FORCE,
    last: Annotated[int | None, typer.Option(help="Replay the last N recorded runs together.", min=1)] = None,
    agent: Annotated[str | None, typer.Option(help="With --last: only runs of this agent.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="URL of the engine; by default the one started in this store.", metavar="URL")
    ] = None,
    speed: Annotated[
        float, typer.Option(help="Runs arrive so many times faster (playback: answers; 0 is at once).", min=0)
    ] = 1.0,
    pin: Annotated[
        list[str] | None,
        typer.Option(
            help="Playback: hold this as it was in the recorded run: clock, random, uuid or all; repeatable.",
            metavar="WHAT",
        ),
    ] = None,
    changed: Annotated[
        Changed,
        typer.Option(help="Playback: what a call gets that asks something else than was recorded at its step."),
    ] = Changed.REFUSE,
    warm: Annotated[bool, typer.Option("--warm", help="Keep the engine's prefix cache as it is.")] = False,
    into: Annotated[
        str | None,
        typer.Option(
            help="Store to record the replay in; by default the one the runs are in. A published dataset takes none.",
            metavar="PATH",
        ),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay runs on a real engine, closed loop, with tool waits as recorded.

    The replay is recorded as a run too. Exit 1 when any decode came out with other tokens.
    With --mode playback it runs CMD instead, whose FM calls and tools are answered from the recording;
    the exit code is then CMD's, or 1 if CMD went on after asking for something that was not recorded.
    """
    command = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    ids = (run or [])[: len(run or []) - len(command)]
    if bool(command) != (mode is Mode.PLAYBACK):
        fail("--mode playback, and only it, runs a program: redecode replay RUN --mode playback -- python app.py")
    with errors_in_one_line():
        source = store_to_read(store)
        if into is None and isinstance(source, Dataset):
            fail(f"{source.url} is a published dataset: name a store to record the replay in, say --into .redecode")
        path = store_path(store if into is None else into)
        chosen = _choose(source, ids, last, agent)
        if mode is Mode.PLAYBACK:
            pace = 1 / speed if speed else 0.0
            Playback(chosen, pin=pin or ()).close()  # what cannot be played back is refused before CMD runs without it
            settings = {"store": str(path), "source": shown(source), "runs": [r.run.run_id for r in chosen]}
            play(path, {**settings, "pace": pace, "pin": pin or [], "changed": changed.value}, command)
        url = engine or _engine_of(path)
        with progress(f"replaying {len(chosen)} run{'s' * (len(chosen) != 1)} by {mode}") as report:
            reports = asyncio.run(
                replay_on_engine(
                    path,
                    chosen,
                    ReplayMode(mode),
                    url,
                    api_key=os.environ.get("OPENAI_API_KEY"),
                    speed=speed or 1.0,
                    cold=not warm,
                    on_progress=lambda done, total: report(f"{done} of {total} decodes"),
                    source=source,
                )
            )
    if as_json:
        print_json(reports[0].to_json() if ids and len(reports) == 1 else _batch_json(reports))
    else:
        _print(reports)
    raise typer.Exit(0 if all(r.tokens_equal for r in reports) else 1)


def _choose(store: Store | Dataset, ids: list[str], last: int | None, agent: str | None) -> list[RecordedRun]:
    if bool(ids) == (last is not None):
        fail("name the runs to replay, or say --last N; `redecode runs` lists them")
    if last is not None:
        recorded = [
            r for r in store.runs() if r.source_run_id is None and r.decodes and (agent is None or r.agent == agent)
        ]
        ids = [r.run_id for r in recorded[:last]]
        if not ids:
            fail(f"no recorded run{f' of agent {agent}' if agent else ''} with FM calls in {shown(store)}")
    return [store.load(i) for i in ids]


def _engine_of(store: Path) -> str:
    state = status(store / "engine").state
    if state is None:
        fail(f"no engine runs in {store}; start one with `redecode engine start`, or name one with --engine URL")
    return state.base_url


def _batch_json(reports: list[ReplayReport]) -> dict[str, Any]:
    return {
        "replays": [r.to_json() for r in reports],
        "tokens_recorded": sum(r.tokens_recorded for r in reports),
        "tokens_replayed": sum(r.tokens_replayed for r in reports),
        "tokens_equal": all(r.tokens_equal for r in reports),
        "decodes": sum(len(r.decodes) for r in reports),
        "divergences": [d for r in reports for d in r.to_json()["divergences"]],
    }


def _print(reports: list[ReplayReport]) -> None:
    console = Console(width=None if Console().is_terminal else 170, highlight=False)
    if len(reports) == 1:
        _print_decodes(console, reports[0])
    else:
        _print_runs(console, reports)
    for report in reports:
        for d in report.divergences:
            if d.error is not None:
                what = d.error
            else:
                gap = "" if d.logprob_gap is None else f", logprob gap {d.logprob_gap:+.4f}"
                what = f"token {d.index}: recorded {d.recorded_token}, replayed {d.replayed_token}{gap}"
            console.print(f"DIVERGED {report.run_id[:12]} {d.step_key}: {what}", markup=False)
        for key in report.skipped:
            console.print(f"{report.run_id[:12]} {key}: failed when recorded, replayed as a wait", markup=False)
    for name, (then, now) in reports[0].engine_differences.items():
        console.print(f"engine differs: {name} was {then}, is {now}", markup=False)
    decodes = [d for r in reports for d in r.decodes]
    equal = sum(d.tokens_equal for d in decodes)
    tokens = sum(d.tokens_recorded for d in decodes)
    gaps = [d.logprob_gap for d in decodes if d.logprob_gap is not None]
    late = max(r.lateness_p99_s for r in reports)
    console.print(
        f"{equal} of {len(decodes)} decodes equal token for token ({tokens} tokens recorded); "
        f"largest logprob gap {max(gaps):.2g}; replay lateness p99 {seconds(late)}"
        if gaps
        else f"{equal} of {len(decodes)} decodes equal token for token ({tokens} tokens recorded)"
    )


def _print_decodes(console: Console, report: ReplayReport) -> None:
    table = Table(box=None, pad_edge=False)
    columns = (
        "decode",
        "tokens",
        "equal",
        "TTFT rec.",
        "TTFT repl.",
        "TPOT rec.",
        "TPOT repl.",
        "E2E rec.",
        "E2E repl.",
    )
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place in (0, 2) else "right", no_wrap=True)
    for d in report.decodes:
        count = str(d.tokens_recorded) if d.tokens_equal else f"{d.tokens_recorded}/{d.tokens_replayed}"
        times = (
            d.ttft_recorded_s, d.ttft_replayed_s, d.tpot_recorded_s, d.tpot_replayed_s, d.e2e_recorded_s,
            d.e2e_replayed_s,
        )  # fmt: skip
        table.add_row(_plain(d.step_key), count, "yes" if d.tokens_equal else "NO", *(seconds(t) for t in times))
    console.print(table)
    console.print(
        f"run {report.run_id[:12]} → {report.mode} replay {report.replay_run_id[:12]}: "
        f"E2E {seconds(report.e2e_recorded_s)} recorded, {seconds(report.e2e_replayed_s)} replayed"
    )


def _print_runs(console: Console, reports: list[ReplayReport]) -> None:
    table = Table(box=None, pad_edge=False)
    columns = ("run", "replay", "decodes", "equal", "tokens", "TTFT rec.", "TTFT repl.", "TPOT rec.", "TPOT repl.",
               "E2E rec.", "E2E repl.")  # fmt: skip
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < 2 else "right", no_wrap=True)
    for r in reports:
        medians = [
            _median([getattr(d, name) for d in r.decodes])
            for name in ("ttft_recorded_s", "ttft_replayed_s", "tpot_recorded_s", "tpot_replayed_s")
        ]
        times = (*medians, r.e2e_recorded_s, r.e2e_replayed_s)
        equal = sum(d.tokens_equal for d in r.decodes)
        table.add_row(
            r.run_id[:12], r.replay_run_id[:12], str(len(r.decodes)), str(equal), str(r.tokens_recorded),
            *(seconds(t) for t in times),
        )  # fmt: skip
    console.print(table)
    console.print("TTFT and TPOT are medians over the run's decodes")


def _median(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return median(known) if known else None


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
