"""The collector's process: ports, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import signal
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from redecode.tracer.clock import Clock
from redecode.tracer.collector import Listening, Options, Summary, http, rpc
from redecode.tracer.collector.intake import Intake
from redecode.tracer.errors import CollectorError, RedecodeError
from redecode.tracer.events import process_event
from redecode.tracer.export.forward import Forwarder
from redecode.tracer.foreign.privacy import SpanPrivacy
from redecode.tracer.records import JsonObject
from redecode.tracer.spool import JournalWriter, unique_name
from redecode.tracer.store import Store

_HURRY_S = 3.0
_GRACE_S = 5  # who runs containers waits ten before it kills
_KEEP_ALIVE_S = 75  # longer than exporters pause between batches, or each would find its connection just closed
_JOURNAL_BYTES = 64 << 20


def serve(options: Options, on_ready: Callable[[Listening], None], on_note: Callable[[str], None]) -> Summary:
    """As `collector.serve`."""
    if options.token is not None and not options.token.strip():
        raise CollectorError("the token is empty; give one, or leave it out to let every local process in")
    if options.token is None and not is_local(options.host):
        raise CollectorError(
            f"{options.host} can be reached by others, and anyone could write: "
            "give a --token (better $REDECODE_COLLECT_TOKEN), or listen on 127.0.0.1"
        )
    store = Store(options.store)
    _listen(options.host, options.rpc_port, "gRPC", "--grpc-port").close()  # gRPC itself would say it in its own way
    with (
        _listen(options.host, options.port, "HTTP", "--port") as listener,
        _draining(store, options.drain_every_s, on_note),
    ):
        return asyncio.run(_serve(options, store, listener, on_ready, on_note))


def is_local(host: str) -> bool:
    """Whether only processes of this machine reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def _serve(
    options: Options,
    store: Store,
    listener: socket.socket,
    on_ready: Callable[[Listening], None],
    on_note: Callable[[str], None],
) -> Summary:
    port = listener.getsockname()[1]
    forwarder = _forwarder(options, port)
    clock = Clock.start()
    rotate = min(_JOURNAL_BYTES, options.limits.backlog_bytes // 8)  # a reader deletes none that is still written
    journal = JournalWriter(store.spool, unique_name(clock.wall_ns), lambda: _preamble(clock), rotate)
    privacy = None if options.privacy is None else SpanPrivacy(options.privacy, journal.lose)
    intake = Intake(
        journal,
        store.spool,
        limits=options.limits,
        token=options.token,
        privacy=privacy,
        on_first=on_note,
        on_written=None if forwarder is None else forwarder.offer,
    )
    rpc_server = rpc.make_server(intake)
    host = options.host.strip("[]")
    address = f"[{host}]" if ":" in host else host
    try:
        rpc_port = rpc_server.add_insecure_port(f"{address}:{options.rpc_port}")
    except RuntimeError as error:
        raise CollectorError(f"cannot listen on {address}:{options.rpc_port} for gRPC: {error}") from None
    http_server = _HttpServer(
        uvicorn.Config(
            http.application(intake),
            loop="asyncio",
            http="h11",  # whatever else is installed, the same everywhere
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await rpc_server.start()
    serving = asyncio.create_task(http_server.serve(sockets=[listener]))
    while not http_server.started and not serving.done():
        await asyncio.sleep(0.005)
    on_ready(Listening(f"http://{address}:{port}", f"http://{address}:{rpc_port}"))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
    http_server.should_exit = True
    intake.hurry(_HURRY_S)
    await asyncio.gather(rpc_server.stop(_GRACE_S), serving)
    stopping.cancel()
    await intake.close()
    if forwarder is not None:
        forwarder.close()
    return Summary(intake.accepted, intake.rejected, intake.refused)


def _forwarder(options: Options, port: int) -> Forwarder | None:
    if options.forward is None:
        return None
    url = urllib.parse.urlsplit(options.forward.url)
    if url.port == port and (is_local(url.hostname or "") or url.hostname == options.host.strip("[]")):
        raise CollectorError(f"{options.forward.shown} is this collector itself: what it forwards would come for ever")
    return Forwarder(options.forward, options.store)


class _HttpServer(uvicorn.Server):
    """uvicorn without its own handling of signals: both servers stop by ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _preamble(clock: Clock) -> JsonObject:
    """Who writes the journal. Without the arguments: a token may be among them."""
    return process_event(clock, ["redecode", "collect"])


def _listen(host: str, port: int, protocol: str, option: str) -> socket.socket:
    """A socket that listens.

    Raises:
        CollectorError: it cannot.
    """
    bare = host.strip("[]")
    try:
        family, kind, number, _, address = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise CollectorError(f"{host} is no address of this machine: {error.strerror}") from None
    listener = socket.socket(family, kind, number)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        in_use = error.errno == errno.EADDRINUSE
        why, options = ("it is in use", option) if in_use else (error.strerror, f"--host or {option}")
        raise CollectorError(
            f"cannot listen on {host}:{port} for {protocol}: {why}; name another with {options}"
        ) from None
    listener.settimeout(0)
    return listener


@contextmanager
def _draining(store: Store, every_s: float | None, on_note: Callable[[str], None]) -> Iterator[None]:
    """Move the spool into the database now and then, beside the collecting."""
    if every_s is None:
        yield
        return
    ended = threading.Event()

    def stop_early(_done: int, _total: int) -> None:
        if ended.is_set():
            raise _Ended

    def drain() -> None:
        said = False
        while not ended.wait(every_s):
            try:
                with contextlib.suppress(_Ended):
                    store.drain(stop_early)
            except RedecodeError as error:  # say, a full disk: what was collected stays in the spool
                if not said:
                    on_note(f"cannot move what was collected into the database: {error}")
                said = True

    thread = threading.Thread(target=drain, name="redecode-drain")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _Ended(Exception):
    """The collector stops: leave the rest of the spool for the next reader."""
