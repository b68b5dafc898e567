"""Forwarding beside the store: what has been written down also goes to an OTLP backend, behind the host's back.

The store is the record; forwarding may fall behind or fail without any of it being lost. So it never waits in the
host's thread, holds a bounded number of bytes, tries until the backend takes them, and counts what it had to give up.
The count is in a small file in the store, which `redecode doctor` reads; the file goes when all was delivered.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import orjson

from redecode.tracer.errors import BackendUnreachable, ExportRejected
from redecode.tracer.events import SpanEvent
from redecode.tracer.export.otlp import MAX_REQUEST_BYTES, SCOPE, otlp_span, requests
from redecode.tracer.export.send import Sender, Target
from redecode.tracer.foreign.otlp import OtlpSpan
from redecode.tracer.records import JsonObject
from redecode.tracer.spool import make_private

FOLDER = "forward"
HOLD_BYTES = 64 << 20
_GATHER_S = 0.5  # spans that come within this go together
_FIRST_WAIT_S, _LONGEST_WAIT_S, _LONGEST_ASKED_S = 0.5, 30.0, 300.0
_TELL_S = 1.0
_log = logging.getLogger("redecode")


class Forwarder:
    """Sends spans to a backend from a thread of its own. Called with each ended span (`Recorder.listeners`).

    Args:
        target: where to.
        store: the store directory; how it went is told in a file there.
        service: `service.name` of our own spans.
        hold_bytes: what may wait; beyond that, spans are counted and given up.
        linger_s: how long `close` waits for what is waiting.
        now_ns: UTC clock of the report.

    Attributes:
        delivered: spans the backend has.
    """

    def __init__(
        self,
        target: Target,
        store: Path,
        *,
        service: str = SCOPE,
        hold_bytes: int = HOLD_BYTES,
        linger_s: float = 5.0,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.delivered = self._undeliverable = self._too_many = 0  # the latter two by thread: ours, the host's
        self._target, self._resource = target, {"service.name": service}
        self._hold_bytes, self._linger_s = hold_bytes, linger_s
        self._report = _Report(store / FOLDER, target, now_ns)
        self._begin()
        os.register_at_fork(after_in_child=self._after_fork)

    def _begin(self) -> None:
        self._lock = threading.RLock()  # as in the recorder
        self._waiting: deque[tuple[int, SpanEvent | OtlpSpan]] = deque()
        self._bytes = self._offered = 0
        self._wake, self._closing = threading.Event(), threading.Event()
        # Started here and not at the first span: inside a step it would pass for the host's own thread.
        self._thread = threading.Thread(target=self._run, name="redecode-forward", daemon=True)
        self._thread.start()

    def _after_fork(self) -> None:
        if self._closing.is_set():
            return
        self.delivered = self._undeliverable = self._too_many = 0  # what waits is the parent's to send
        self._report = self._report.of_child()
        with suppress(RuntimeError):  # no thread can be started: what comes is counted as waiting
            self._begin()

    @property
    def lost(self) -> int:
        """Spans that were given up."""
        return self._undeliverable + self._too_many

    def __call__(self, event: SpanEvent) -> None:
        """Take a span of ours; at once, and without raising."""
        try:
            kept = copy(event)
            kept.attributes = dict(event.attributes)  # the host's objects may change after the end
            self._take([kept])
        except Exception as error:
            with self._lock:
                self._offered += 1
                self._too_many += self._say(1, f"a span cannot be taken: {error!r}")

    def offer(self, spans: Iterable[OtlpSpan]) -> None:
        """Take spans that came over OTLP; at once, and without raising."""
        self._take(spans)

    def _take(self, spans: Iterable[SpanEvent | OtlpSpan]) -> None:
        with self._lock:
            for span in spans:
                size = _about(span)
                self._offered += 1
                if self._bytes + size > self._hold_bytes or self._closing.is_set():
                    self._too_many += self._say(1, f"{self._hold_bytes} bytes are waiting already")
                    continue
                self._bytes += size
                self._waiting.append((size, span))
        self._wake.set()

    def _say(self, count: int, why: str) -> int:
        """Once, that something is given up; returns `count`."""
        if not self.lost:
            _log.warning(
                "redecode: not everything is forwarded to %s: %s; the store has all of it", self._target.shown, why
            )
        return count

    def close(self) -> None:
        """Send what is waiting, for `linger_s` at most, and count the rest. Safe to call twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._wake.set()
        self._thread.join(self._linger_s)
        with self._lock:
            rest = self._offered - self.delivered - self.lost
            if rest > 0:
                self._too_many += self._say(rest, f"{rest} spans were still waiting at the end")
            self._report.end(self._numbers())

    # -- the thread --

    def _run(self) -> None:
        until, error = 0.0, None
        with Sender(self._target, patience_s=0.0) as sender:
            while True:
                self._wake.wait(_TELL_S)
                if not self._waiting and self._closing.is_set():
                    return
                self._wake.clear()
                if self._waiting:
                    self._closing.wait(_GATHER_S)
                    error = self._send_waiting(sender)
                if time.monotonic() >= until or error:
                    until = time.monotonic() + _TELL_S
                    self._report.write(self._numbers())

    def _numbers(self) -> JsonObject:
        waiting = max(0, self._offered - self.delivered - self.lost)
        return {"delivered": self.delivered, "lost": self.lost, "waiting": waiting}

    def _send_waiting(self, sender: Sender) -> str | None:
        """Send all that waits, a request at a time; returns the last complaint."""
        said = None
        while self._waiting:
            batch: list[SpanEvent | OtlpSpan] = []
            size = 0
            with self._lock:
                while self._waiting and (not batch or size + self._waiting[0][0] <= MAX_REQUEST_BYTES):
                    bytes_of_it, span = self._waiting.popleft()
                    batch.append(span)
                    size += bytes_of_it
            before = self._dealt_with()
            try:
                said = self._send(sender, batch) or said
            except Exception as error:  # a span that cannot be encoded: those behind it go on
                said = f"{type(error).__name__}: {error}"
                self._undeliverable += self._say(len(batch) - (self._dealt_with() - before), said)
            with self._lock:
                self._bytes -= size
            if said is not None:
                self._report.error = said
        return said

    def _dealt_with(self) -> int:
        return self.delivered + self._undeliverable

    def _send(self, sender: Sender, batch: list[SpanEvent | OtlpSpan]) -> str | None:
        spans = [otlp_span(s, self._resource) if isinstance(s, SpanEvent) else s for s in batch]
        said = None
        for request in requests(spans):
            count = sum(len(scope.spans) for group in request.resource_spans for scope in group.scope_spans)
            wait_s = _FIRST_WAIT_S
            while True:
                try:
                    sender.send(request)
                    self.delivered += count
                    break
                except ExportRejected as error:
                    said, rejected = str(error), min(count, error.spans or count)
                    self._undeliverable += self._say(rejected, said)
                    self.delivered += count - rejected
                    break
                except BackendUnreachable as error:
                    said = self._report.error = str(error)
                    self._report.write(self._numbers())
                    if self._closing.wait(min(error.retry_after_s or wait_s, _LONGEST_ASKED_S)):
                        if self._last_try(sender, request):
                            self.delivered += count
                            break
                        return said  # `close` counts what is left
                    wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
        return said

    @staticmethod
    def _last_try(sender: Sender, request: object) -> bool:
        try:
            sender.send(request)  # type: ignore[arg-type]
        except (BackendUnreachable, ExportRejected):
            return False
        return True


def _about(span: SpanEvent | OtlpSpan) -> int:
    """About how many bytes a span holds."""
    return 512 + sum(len(value) for value in span.attributes.values() if isinstance(value, str | bytes))


class _Report:
    """The file that says how it goes; its lock says that the one who writes it lives."""

    def __init__(self, folder: Path, target: Target, now_ns: Callable[[], int]) -> None:
        self.error: str | None = None
        self._said: JsonObject = {}
        self._folder, self._target, self._now_ns = folder, target, now_ns
        self._path = folder / f"{socket.gethostname()}-{os.getpid()}-{now_ns():x}.json"
        self._fd = -1
        with suppress(OSError):
            make_private(folder)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            self.write({"delivered": 0, "lost": 0, "waiting": 0})

    def of_child(self) -> _Report:
        """A report of its own for a forked child; the parent's lock is left to the parent."""
        with suppress(OSError):
            os.close(self._fd)
        return _Report(self._folder, self._target, self._now_ns)

    def write(self, numbers: JsonObject) -> None:
        """Say how it stands now; a full disk is none of the host's business."""
        document = {"url": self._target.shown, **numbers, "error": self.error}
        if document == self._said:
            return
        self._said = document
        data = orjson.dumps({**document, "at_ns": self._now_ns()})
        with suppress(OSError):
            os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))

    def end(self, numbers: JsonObject) -> None:
        """The last word: nothing, when all was delivered."""
        self.write(numbers)
        with suppress(OSError):
            if not numbers["lost"]:
                self._path.unlink()
            os.close(self._fd)
        self._fd = -1


@dataclass(frozen=True, slots=True)
class Forwarded:
    """How one process's forwarding went.

    Attributes:
        lost: spans that the backend does not have, and will not get.
        waiting: spans it is still to get.
        error: the last complaint.
        path: where this is written.
    """

    url: str
    delivered: int
    lost: int
    waiting: int
    error: str | None
    path: Path


def reports(store: Path) -> list[Forwarded]:
    """How forwarding goes in the processes that record into a store, and how it went where something was lost."""
    out = []
    for path in sorted((store / FOLDER).glob("*.json")):
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            document = orjson.loads(os.pread(fd, 1 << 16, 0))
            alive = True
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alive = False
        except (OSError, ValueError):
            continue
        finally:
            os.close(fd)
        lost, waiting = document["lost"], document["waiting"]
        if not alive:
            lost, waiting = lost + waiting, 0  # its writer died with what was waiting
            if not lost:
                path.unlink(missing_ok=True)
                continue
        out.append(Forwarded(document["url"], document["delivered"], lost, waiting, document["error"], path))
    return out
