"""`redecode import`: runs from OTLP files, our own exports or those of any other tool, into the store."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redecode.cli.common import JsonOption, StoreOption, errors_in_one_line, fail, print_json, say, store_path
from redecode.tracer import Store
from redecode.tracer.export.importing import read_requests, write_down

if TYPE_CHECKING:
    from redecode.tracer.export.importing import ExportTraceServiceRequest


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="import", epilog="Example: redecode import run.json --store elsewhere")(import_)


def import_(
    files: Annotated[list[Path], typer.Argument(help="OTLP files: JSON (lines) or protobuf, gzip or not; - is stdin.")],
    *,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take runs from OTLP files into the store; a run that is there already is left as it is."""
    path = store_path(store)
    with errors_in_one_line():
        opened = Store(path)
        before = {run.run_id for run in opened.runs()}
        done = write_down(path, _requests(files), before)
        found = {run.run_id for run in opened.runs(run_ids=done.runs)}
    for reason in done.rejected[:5]:
        say(f"redecode: left out {reason}")
    if len(done.rejected) > 5:
        say(f"redecode: left out {len(done.rejected) - 5} more spans")
    without = [run_id for run_id in done.runs if run_id not in found]
    if as_json:
        document = {"runs": [run_id for run_id in done.runs if run_id in found], "spans": done.spans}
        print_json({**document, "present": done.present, "no_run": without, "rejected": done.rejected})
        return
    say(f"redecode: imported {len(found)} run{'s' * (len(found) != 1)} ({done.spans} spans) into {path}")
    if done.present:
        say(f"redecode: {len(done.present)} that are there already were left as they are")
    if without:
        say(f"redecode: {len(without)} traces hold no run of an agent (yet): their spans are kept")


def _requests(files: list[Path]) -> Iterator[ExportTraceServiceRequest]:
    for file in files:
        if str(file) == "-":
            yield from read_requests(sys.stdin.buffer.read(), "stdin")
            continue
        try:
            data = file.read_bytes()
        except OSError as error:
            fail(f"cannot read {file}: {error.strerror}")
        yield from list(read_requests(data, str(file)))  # a file is read whole before any of it is written
