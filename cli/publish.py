"""`redecode store publish`: a store's runs into a dataset that others read, and other stores publish into."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from redecode.cli.common import JsonOption, StoreOption, errors_in_one_line, fail, print_json, progress, say, store_path
from redecode.tracer import Store, publish_runs

_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def register(app: typer.Typer) -> None:
    """Add the verb to the group `store`."""
    app.command(epilog="Example: redecode store publish s3://traces/agents --since 7d")(publish)


def publish(
    dest: Annotated[str, typer.Argument(help="A folder, or a URL that fsspec knows; made if missing.")],
    *,
    since: Annotated[
        str | None,
        typer.Option(help="Only runs that began since then: 7d, 12h, 2026-11-20 or 2026-11-20T15:00 (UTC)."),
    ] = None,
    agent: Annotated[str | None, typer.Option(help="Only runs of this agent.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish runs as Parquet files by day and agent, for DuckDB, Spark, Ray Data and `--store DEST`.

    Only what is not there yet is written, so it can be called again and again, by many stores at once. Prompts and
    answers are in it. A run that is still open waits for the next time.
    """
    path, since_ns = store_path(store), None if since is None else _since_ns(since)
    with errors_in_one_line(), progress(f"publishing to {dest}") as report:
        done = publish_runs(
            Store(path, create=False),
            dest,
            since_ns=since_ns,
            agent=agent,
            on_progress=lambda done, total: report(f"{done} of {total} runs"),
            on_wait=lambda: say(f"redecode: another process is publishing {path}; waiting for it"),
        )
    if as_json:
        print_json({"store": str(path), **asdict(done)})
        return
    updated = f", {done.updated} again with what has come of them since" if done.updated else ""
    say(
        f"redecode: published {done.runs} run{'s' * (done.runs != 1)} to {done.dest}{updated} "
        f"({done.files} files, {done.bytes / 1e6:.1f} MB)"
    )
    others = [f"{done.present} were there already"] * bool(done.present)
    others += [f"{done.waiting} are still open and wait"] * bool(done.waiting)
    if others:
        say(f"redecode: {', '.join(others)}")


def _since_ns(text: str) -> int:
    age = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text.strip())
    if age is not None:
        return time.time_ns() - round(float(age[1]) * _SECONDS[age[2]] * 1e9)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        fail(f"--since {text}: want an age as in 7d or 12h, or a time as in 2026-11-20 or 2026-11-20T15:00")
    return round((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * 1e9)
