"""`redecode store`: what is done to a store as a whole."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import asdict
from typing import Annotated

import typer

from redecode.cli import publish
from redecode.cli.common import JsonOption, StoreOption, errors_in_one_line, fail, print_json, progress, say, store_path
from redecode.tracer import Store
from redecode.tracer.store.forget import Forgotten
from redecode.tracer.store.forget import forget as forget_runs

app = typer.Typer(add_completion=False, no_args_is_help=True, help="What is done to a store as a whole.")
publish.register(app)
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@app.command(epilog="Example: redecode store forget --older-than 30d --yes")
def forget(
    *,
    run: Annotated[list[str] | None, typer.Option(help="A run id, or enough of its beginning; repeatable.")] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Runs that ended longer ago: 30d, 12h, 2w, 90m.", metavar="AGE")
    ] = None,
    agent: Annotated[str | None, typer.Option(help="With --older-than: only runs of this agent.")] = None,
    corrupt: Annotated[
        bool, typer.Option("--corrupt", help="Also delete damaged journals: they may hold parts of any run.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove runs, and the replays of them, for good.

    The database is written anew without them, so their bytes are in none of the store's files afterwards; what was
    exported or published is elsewhere, and stays. A run that is being recorded just now is not removed.
    """
    path = store_path(store)
    if bool(run) + (older_than is not None) + corrupt == 0 or (run and older_than is not None):
        fail("say which runs: --run ID, or --older-than AGE (and --corrupt for damaged journals)")
    if agent is not None and older_than is None:
        fail("--agent narrows --older-than: give an age too, 0m for every run")
    before_ns = None if older_than is None else time.time_ns() - _age_ns(older_than)
    with errors_in_one_line():
        opened = Store(path, create=False)
        which = {"runs": run or (), "before_ns": before_ns, "agent": agent, "corrupt": corrupt}
        if not (dry_run or yes):
            _ask(forget_runs(opened, **which, dry=True), corrupt=corrupt)  # type: ignore[arg-type]
        with progress("forgetting") as report:
            done = forget_runs(opened, **which, dry=dry_run, on_progress=report)  # type: ignore[arg-type]
    if as_json:
        print_json({"store": str(path), **asdict(done), "runs": list(done.runs), "freed_bytes": done.freed_bytes})
    else:
        _say(done, corrupt=corrupt)


def _age_ns(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text.strip())
    if match is None:
        fail(f"--older-than {text}: want a number and m, h, d or w, as in 30d")
    return round(float(match[1]) * _SECONDS[match[2]] * 1e9)


def _ask(would: Forgotten, *, corrupt: bool) -> None:
    if not would.runs and not (corrupt and would.corrupt):
        return
    if not sys.stdin.isatty():
        fail(f"this would remove {_what(would, corrupt=corrupt)} for good; say --yes, or look with --dry-run")
    if not typer.confirm(f"Remove {_what(would, corrupt=corrupt)}? This cannot be undone.", err=True):
        say("redecode: nothing was removed")
        raise typer.Exit(1)


def _what(done: Forgotten, *, corrupt: bool) -> str:
    replays = f" ({done.replays} of them replays)" if done.replays else ""
    tokens = f"{done.tokens} sampled and {done.prompt_tokens} prompt tokens"
    words = f"{len(done.runs)} run{'s' * (len(done.runs) != 1)}{replays}: {done.spans} spans, {done.decodes} decodes"
    return f"{words}, {tokens}" + (f", and {len(done.corrupt)} damaged journals" if corrupt and done.corrupt else "")


def _say(done: Forgotten, *, corrupt: bool) -> None:
    would = "would remove" if done.dry else "removed"
    sys.stdout.write(f"{would} {_what(done, corrupt=corrupt)}\n")
    if not done.dry and done.runs:
        sys.stdout.write(
            f"{done.blocks} prompt blocks that nothing else used; the store had {done.bytes_before} bytes and has "
            f"{done.bytes_after} ({done.freed_bytes} freed)\n"
        )
    if done.scrubbed:
        sys.stdout.write(f"{done.scrubbed} records overwritten in journals that stay in the spool\n")
    for run in done.still_open:
        say(f"redecode: run {run[:12]} is being recorded just now and stays")
    if done.corrupt and not corrupt:
        say(
            f"redecode: {len(done.corrupt)} damaged journals are set aside in the spool; what is damaged in them may "
            "belong to any run: delete them with --corrupt"
        )
