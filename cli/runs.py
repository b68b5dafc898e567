"""`redecode runs`: what is in the store; where the time of the slowest went; how far SLOs are attained."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from redecode.cli.common import (
    JsonOption,
    StoreOption,
    duration_s,
    errors_in_one_line,
    print_json,
    say,
    seconds,
    shown,
    store_to_read,
)
from redecode.cli.runs_slo import print_slo, slo_times
from redecode.cli.runs_slow import LISTED, print_slow, slow_runs
from redecode.cli.screen import clean, screen
from redecode.replay.analysis.slo import Slo, load_slos
from redecode.tracer import Clock, Dataset, Run, Store


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: redecode runs --agent parallel --limit 10")(runs)


def runs(
    *,
    agent: Annotated[str | None, typer.Option(help="Only runs of this agent.")] = None,
    mode: Annotated[
        str | None, typer.Option(help="recorded, a replay mode (force, resample, simulate, playback, fork), or tune.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only what began within this time: 90s, 15m, 24h, 7d.", metavar="TIME")
    ] = None,
    slow: Annotated[
        bool,
        typer.Option(
            "--slow", help="The slowest runs and where their time went; over all: which steps, what would help."
        ),
    ] = False,
    slo: Annotated[
        Path | None,
        typer.Option(
            help="How far the SLOs in this file are attained, over time; exit 1 if one is not.", metavar="FILE"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="List at most so many (50; with --slow 10 of each agent).", min=1)
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List runs, newest first; with --slow or --slo what they tell together, replays left out unless --mode asks."""
    with errors_in_one_line():
        opened = store_to_read(store)
        earliest = 0 if since is None else Clock.start().now_ns() - round(duration_s(since) * 1e9)
        together = slow or slo is not None
        only = "recorded" if together and mode is None else mode
        found = [r for r in opened.runs() if _wanted(r, agent, only) and r.started_ns >= earliest]
        slos = () if slo is None else load_slos(slo)
        if together and (found or as_json):
            _together(opened, found, slos, limit or LISTED, slow=slow, as_json=as_json)
            return
    if as_json:
        print_json([run_json(r) for r in found[: limit or _LISTED]])
        return
    if not found:
        say(f"redecode: no runs in {shown(opened)}; record some with: redecode record -- python your_agent.py")
        return
    listed = limit or _LISTED
    table = Table(box=None, pad_edge=False)
    for column, right in _COLUMNS:
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    for run in found[:listed]:
        table.add_row(*(Text(clean(cell)) for cell in _row(run)))
    Console(width=None if Console().is_terminal else 160).print(table)
    if len(found) > listed:
        say(f"… and {len(found) - listed} more; --limit shows more")


def _together(
    opened: Store | Dataset, found: list[Run], slos: tuple[Slo, ...], listed: int, *, slow: bool, as_json: bool
) -> None:
    times = slo_times(opened, found, slos)
    agents = slow_runs(opened, found, listed=listed, slos=slos) if slow else []
    if as_json:
        print_json({"slow": [a.to_json() for a in agents] if slow else None, "slos": [t.to_json() for t in times]})
    else:
        console = screen()
        lines = [line for a in agents for line in print_slow(a, console.width)]
        for line in (*lines, *(line for t in times for line in print_slo(t, console.width))):
            console.print(line, crop=False)
    raise typer.Exit(1 if any(t.all.met is False for t in times) else 0)


_LISTED = 50
_COLUMNS = (
    ("run", False), ("agent", False), ("status", False), ("started (UTC)", False), ("duration", True),
    ("fidelity", False), ("decodes", True), ("tools", True), ("tokens", True), ("replay of", False),
)  # fmt: skip


def _wanted(run: Run, agent: str | None, mode: str | None) -> bool:
    if agent is not None and run.agent != agent:
        return False
    return mode is None or (run.replay_mode or "recorded") == mode


def _row(run: Run) -> tuple[str, ...]:
    started = datetime.fromtimestamp(run.started_ns / 1e9, UTC).strftime("%m-%d %H:%M:%S")
    source = f"{run.source_run_id[:12]} ({run.replay_mode})" if run.source_run_id else ""
    status = run.status + (f" ({run.lost} lost)" if run.lost else "")
    return (
        run.run_id[:12], run.agent, status, started, seconds(run.duration_s), run.fidelity or "-",
        str(run.decodes), str(run.tools), str(run.tokens), source,
    )  # fmt: skip


def run_json(run: Run) -> dict[str, object]:
    """A run as `redecode runs --json` gives it."""
    return {
        "run_id": run.run_id,
        "agent": run.agent,
        "agent_version": run.agent_version,
        "status": run.status,
        "error": run.error,
        "started_ns": run.started_ns,
        "duration_s": run.duration_s,
        "fidelity": run.fidelity,
        "decodes": run.decodes,
        "tools": run.tools,
        "tokens": run.tokens,
        "prompt_tokens": run.prompt_tokens,
        "source_run_id": run.source_run_id,
        "replay_mode": run.replay_mode,
        "conversation_id": run.conversation_id,
        "slo_s": run.slo_s,
        "labels": run.labels,
        "lost": run.lost,
    }
