"""`redecode runs`: what is in the store, newest first."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from redecode.cli.common import (
    JsonOption,
    StoreOption,
    errors_in_one_line,
    print_json,
    say,
    seconds,
    shown,
    store_to_read,
)
from redecode.tracer import Run


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: redecode runs --agent parallel --limit 10")(runs)


def runs(
    *,
    agent: Annotated[str | None, typer.Option(help="Only runs of this agent.")] = None,
    mode: Annotated[
        str | None, typer.Option(help="recorded, or a replay mode: force, resample, playback, fork.")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 50,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List runs, newest first."""
    with errors_in_one_line():
        opened = store_to_read(store)
        found = [r for r in opened.runs() if _wanted(r, agent, mode)]
    if as_json:
        print_json([run_json(r) for r in found[:limit]])
        return
    if not found:
        say(f"redecode: no runs in {shown(opened)}; record some with: redecode record -- python your_agent.py")
        return
    table = Table(box=None, pad_edge=False)
    for column, right in _COLUMNS:
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    for run in found[:limit]:
        table.add_row(*_row(run))
    Console(width=None if Console().is_terminal else 160).print(table)
    if len(found) > limit:
        say(f"… and {len(found) - limit} more; --limit shows more")


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
