"""The collector: OTLP over HTTP and gRPC into a store's spool, acknowledged once it is on the disk.

`serve` runs one until it is told to stop. A request passes `http` or `rpc` (what the protocol says), `intake` (who may,
how much, and the journal), `bodies` (bytes to messages). Spans are written as they came; what they mean in our terms
is derived when the store reads them (`foreign`). What it listens with is the extra `collector`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from redecode.tracer.collector.limits import Limits
from redecode.tracer.errors import CollectorError
from redecode.tracer.export.send import Target
from redecode.tracer.privacy.redaction import Privacy

__all__ = ["HTTP_PORT", "RPC_PORT", "Limits", "Listening", "Options", "Summary", "serve"]

HTTP_PORT, RPC_PORT = 4318, 4317
"""Where exporters look for a collector unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a collector is to run.

    Attributes:
        store: directory whose spool is written.
        host: address to listen on; one that others can reach needs a token.
        port, rpc_port: of HTTP and gRPC; 0 takes a free one.
        token: what clients must present.
        drain_every_s: move the spool into the database this often; `None` leaves that to whoever reads.
        privacy: what may be written of the spans; `None` for all of it.
        forward: a backend that also gets what was written.
    """

    store: Path
    host: str = "127.0.0.1"
    port: int = HTTP_PORT
    rpc_port: int = RPC_PORT
    token: str | None = field(default=None, repr=False)
    drain_every_s: float | None = None
    privacy: Privacy | None = None
    forward: Target | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a collector listens.

    Attributes:
        http: base URL; traces go to `/v1/traces` below it.
        grpc: URL of the gRPC endpoint.
    """

    http: str
    grpc: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What a collector took while it ran, as `/healthz` counts it."""

    accepted: int
    rejected: int
    refused: int


def serve(options: Options, *, on_ready: Callable[[Listening], None], on_note: Callable[[str], None]) -> Summary:
    """Collect until SIGTERM or SIGINT, then finish what was accepted.

    Args:
        on_ready: called once both ports are open.
        on_note: told, once each, of what an operator should know (a full disk, rejected metrics).

    Raises:
        CollectorError: it cannot listen there, or not without a token, or the extra is not installed.
        StoreError: the store cannot be used.
    """
    try:
        from redecode.tracer.collector import server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"grpc", "uvicorn", "google"}:
            raise
        raise CollectorError(
            f"collecting needs {error.name}, which is not installed: pip install 'redecode[collector]'"
        ) from None
    return server.serve(options, on_ready, on_note)
