"""`redecode collect`: take spans from any OpenTelemetry exporter into the store."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import orjson
import typer

from redecode.cli.common import (
    ContentOption,
    ForwardHeaderOption,
    ForwardOption,
    JsonOption,
    RedactOption,
    StoreOption,
    errors_in_one_line,
    forward_headers,
    say,
    store_path,
)
from redecode.tracer import asked_privacy
from redecode.tracer.collector import HTTP_PORT, RPC_PORT, Limits, Listening, Options, serve
from redecode.tracer.export.send import Target

_MiB = 1 << 20
_DEFAULT = Limits()


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: REDECODE_COLLECT_TOKEN=… redecode collect --host 0.0.0.0 --drain-every 10")(collect)


def collect(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on; one others can reach needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of OTLP/HTTP; 0 takes a free one.", min=0, max=65535)] = HTTP_PORT,
    grpc_port: Annotated[int, typer.Option(help="Port of OTLP/gRPC; 0 takes a free one.", min=0, max=65535)] = RPC_PORT,
    token: Annotated[
        str | None,
        typer.Option(
            help="Bearer token clients must present. Other users of this machine can see it as an argument: "
            "better set the variable.",
            envvar="REDECODE_COLLECT_TOKEN",
            show_envvar=True,
        ),
    ] = None,
    drain_every: Annotated[
        float | None,
        typer.Option(help="Move what was collected into the database every so many seconds; else readers do.", min=0.1),
    ] = None,
    max_body_mib: Annotated[
        int, typer.Option(help="Largest request, as sent and decompressed; a quarter of it in JSON.", min=1, max=1024)
    ] = _DEFAULT.body_bytes // _MiB,
    max_spans: Annotated[int, typer.Option(help="Most spans of one request.", min=1)] = _DEFAULT.request_spans,
    max_backlog_mib: Annotated[
        int, typer.Option(help="Ask clients to wait while the spool is larger than this.", min=1)
    ] = _DEFAULT.backlog_bytes // _MiB,
    min_free_mib: Annotated[
        int, typer.Option(help="Ask clients to wait while less than this is free on the disk.", min=0)
    ] = _DEFAULT.free_bytes // _MiB,
    content: ContentOption = None,
    redact: RedactOption = None,
    forward: ForwardOption = None,
    forward_header: ForwardHeaderOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Collect spans sent by OpenTelemetry exporters, over HTTP and gRPC, until Ctrl-C.

    A request is acknowledged once its spans are on the disk.
    """
    path = store_path(store)
    limits = Limits(
        body_bytes=max_body_mib * _MiB,
        json_bytes=max_body_mib * _MiB // 4,
        stored_bytes=max(max_body_mib * 4, 16) * _MiB,
        in_flight_bytes=max(max_body_mib * 8, 32) * _MiB,
        request_spans=max_spans,
        backlog_bytes=max_backlog_mib * _MiB,
        free_bytes=min_free_mib * _MiB,
    )
    with errors_in_one_line():
        privacy = asked_privacy(content=content, redact=redact)
        headers = forward_headers(forward, forward_header)
        target = Target.parse(forward, headers) if forward is not None else None
    options = Options(
        store=path, host=host, port=port, rpc_port=grpc_port, token=token, drain_every_s=drain_every, limits=limits,
        privacy=privacy, forward=target,
    )  # fmt: skip

    def on_ready(listening: Listening) -> None:
        where = {"http": listening.http, "grpc": listening.grpc}
        if as_json:
            document = {**where, "traces": f"{listening.http}/v1/traces", "store": str(path), "pid": os.getpid()}
            sys.stdout.write(orjson.dumps(document).decode() + "\n")
        else:
            sys.stdout.write(f"OTLP/HTTP  {listening.http}  (traces: {listening.http}/v1/traces)\n")
            sys.stdout.write(f"OTLP/gRPC  {listening.grpc}\n")
            sys.stdout.write(f"into {path}; stop with Ctrl-C\n")
        sys.stdout.flush()

    with errors_in_one_line():
        summary = serve(options, on_ready=on_ready, on_note=lambda words: say(f"redecode: {words}"))
    refused = f", refused {summary.refused} request{'s' * (summary.refused != 1)}" if summary.refused else ""
    say(f"redecode: accepted {summary.accepted} spans, rejected {summary.rejected}{refused}; see: redecode runs")
