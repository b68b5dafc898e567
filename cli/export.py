"""`redecode export`: runs out of the store, as a file or to a backend."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any

import orjson
import typer

from redecode.cli.common import (
    JsonOption,
    StoreOption,
    errors_in_one_line,
    fail,
    header_pairs,
    print_json,
    progress,
    say,
    shown,
    store_to_read,
)
from redecode.tracer import Dataset, ReadableStore, RecordedRun, RedecodeError, Store
from redecode.tracer.export import mooncake, otlp, perfetto
from redecode.tracer.export.send import Sender, Target
from redecode.tracer.foreign import OtlpSpan
from redecode.tracer.store.parquet import write_parquet


class Format(StrEnum):
    """What a run can leave as."""

    OTLP = "otlp"
    PERFETTO = "perfetto"
    PARQUET = "parquet"
    MOONCAKE = "mooncake"


class Encoding(StrEnum):
    """How OTLP is written."""

    JSON = "json"
    PROTOBUF = "protobuf"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: redecode export 3f2a --format perfetto --output run.json")(export)


def export(
    runs: Annotated[list[str] | None, typer.Argument(help="Run ids, or enough of their beginnings.")] = None,
    *,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="otlp is complete and can be imported again; the others: docs/export.md."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File (parquet: folder) to write; text goes to stdout without.", dir_okay=True
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    last: Annotated[int | None, typer.Option(help="The last N runs.", min=1)] = None,
    every: Annotated[bool, typer.Option("--all", help="Every run of the store.")] = False,
    encoding: Annotated[Encoding | None, typer.Option(help="With otlp.", show_default="json")] = None,
    rows: Annotated[mooncake.Rows | None, typer.Option(help="With mooncake.", show_default="agentic")] = None,
    block_tokens: Annotated[
        int | None, typer.Option(help="With mooncake: tokens a hash id stands for.", min=1, show_default="512")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="Send to this OTLP/HTTP backend instead; `env` means $OTEL_EXPORTER_OTLP_ENDPOINT and its headers.",
            metavar="URL",
        ),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="With --to: KEY=VALUE sent with every request; repeatable.")
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(help="With --to: seconds to try while the backend is busy or away.", min=0, show_default="60"),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write runs for other tools, or send them to an OpenTelemetry backend.

    OTLP and Parquet hold all that was recorded, prompts and answers too; Perfetto and Mooncake files hold none of it.
    """
    form = form or (Format.OTLP if to is not None else None)
    if form is None:
        fail(f"say which form: --format {'|'.join(Format)}")
    only = {"encoding": Format.OTLP, "to": Format.OTLP, "rows": Format.MOONCAKE, "block_tokens": Format.MOONCAKE}
    given = {"encoding": encoding, "to": to, "rows": rows, "block_tokens": block_tokens}
    for name, value in given.items():
        if value is not None and form is not only[name]:
            fail(f"--{name.replace('_', '-')} goes with --format {only[name]}, not {form}")
    if to is None and (header or patience is not None):
        fail("--header and --patience go with --to")
    if to is not None and output is not None:
        fail("either --to or --output, not both")
    if to is None and output is None and (form is Format.PARQUET or encoding is Encoding.PROTOBUF or as_json):
        fail("name a --output" + (": --json needs stdout for itself" if as_json else f" for {encoding or form}"))
    target: Target | None = None
    with errors_in_one_line():
        opened = store_to_read(store)
        chosen = _chosen(opened, runs or [], last, every=every)
        if to is not None:
            target = Target.parse(to, header_pairs("--header", header))
            said = _send(opened, chosen, target, 60.0 if patience is None else patience)
        elif form is Format.PARQUET:
            assert output is not None
            if isinstance(opened, Dataset):
                fail(f"{opened.url} is Parquet already (docs/publish.md); the other forms can be exported from it")
            said = {"rows": write_parquet(opened, chosen, output, replace=force)}
        else:
            with _sink(output, force=force) as sink:
                said = _write(sink, opened, chosen, form, encoding, rows, block_tokens)
    for step_key, reason in said.get("left_out", ()):
        say(f"redecode: left out {step_key}: {reason}")
    place = str(output) if output is not None else None
    url = target.shown if target is not None else None
    if as_json:
        print_json({"runs": chosen, "format": form, "output": place, "to": url, **said})
    elif place is not None or url is not None:
        what = f"{len(chosen)} run{'s' * (len(chosen) != 1)}"
        say(f"redecode: sent {what} to {url}" if url is not None else f"redecode: wrote {what} to {place}")


def _chosen(store: Store | Dataset, ids: list[str], last: int | None, *, every: bool) -> list[str]:
    """Ids of the runs that were asked for, oldest first where the user named none."""
    if bool(ids) + (last is not None) + every != 1:
        fail("name the runs to export, or say --last N or --all; `redecode runs` lists them")
    if ids:
        return list(dict.fromkeys(store.find(prefix) for prefix in ids))
    found = [run.run_id for run in reversed(store.runs(limit=last))]
    if not found:
        fail(f"no runs in {shown(store)}; record some with: redecode record -- python your_agent.py")
    return found


def _loaded(store: ReadableStore, ids: list[str], what: str) -> Iterator[RecordedRun]:
    with progress(what) as tell:
        for number, run_id in enumerate(ids):
            tell(f"{number} of {len(ids)} runs")
            yield store.load(run_id)


def _spans(store: ReadableStore, run: RecordedRun) -> list[OtlpSpan]:
    engines = {decode.engine_id: store.engine(decode.engine_id) for decode in run.decodes if decode.engine_id}
    return otlp.otlp_spans(run, {name: info for name, info in engines.items() if info is not None})


def _write(
    sink: IO[bytes],
    store: ReadableStore,
    ids: list[str],
    form: Format,
    encoding: Encoding | None,
    rows: mooncake.Rows | None,
    block_tokens: int | None,
) -> dict[str, Any]:
    runs = _loaded(store, ids, "exporting")
    if form is Format.PERFETTO:
        sink.write(orjson.dumps(perfetto.trace(runs)) + b"\n")
        return {}
    if form is Format.MOONCAKE:
        tokens = mooncake.BLOCK_TOKENS if block_tokens is None else block_tokens
        trace = mooncake.load_trace(runs, rows or mooncake.Rows.AGENTIC, tokens)
        if not trace.rows:
            why = f"; {trace.left_out[0][0]}: {trace.left_out[0][1]}" if trace.left_out else ""
            fail(f"none of these runs has an FM call that can be a row{why}")
        for row in trace.rows:
            sink.write(orjson.dumps(row) + b"\n")
        return {"rows": len(trace.rows), "block_tokens": tokens, "left_out": trace.left_out}
    count = 0
    for run in runs:  # a line each in JSON; in protobuf messages that follow each other are one
        spans = _spans(store, run)
        request = otlp.request(spans)
        if encoding is Encoding.PROTOBUF:
            sink.write(request.SerializeToString())
        else:
            sink.write(orjson.dumps(otlp.to_json(request)) + b"\n")
        count += len(spans)
    return {"spans": count}


def _send(store: ReadableStore, ids: list[str], target: Target, patience_s: float) -> dict[str, Any]:
    done = count = 0
    with Sender(target, patience_s=patience_s) as sender:
        for run in _loaded(store, ids, f"sending to {target.shown}"):
            spans = _spans(store, run)
            try:
                for request in otlp.requests(spans):
                    sender.send(request)
            except RedecodeError as error:
                fail(f"{error} ({done} of {len(ids)} runs were sent before)")
            done, count = done + 1, count + len(spans)
    return {"spans": count}


@contextmanager
def _sink(output: Path | None, *, force: bool) -> Iterator[IO[bytes]]:
    """Stdout, or a file that is there whole or not at all; only its owner can read it."""
    if output is None:
        try:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # whoever read it has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        return
    if output.exists() and not force:
        fail(f"{output} is there already; --force replaces it")
    if output.is_dir():
        fail(f"{output} is a folder; name a file")
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as sink:
            yield sink
        unfinished.replace(output)
    except OSError as error:
        fail(f"cannot write {output}: {error.strerror}; choose another --output")
    finally:
        unfinished.unlink(missing_ok=True)
