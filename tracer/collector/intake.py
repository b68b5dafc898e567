"""What happens to a request whichever way it came: let in, read, written down, answered for.

`Intake.receive` returns only after the spans are in the journal and on the disk. Requests that wait at the same
time share one fsync. Reading a body is done in threads, so that a large one does not hold up the rest.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from redecode.tracer.collector import bodies
from redecode.tracer.collector.limits import Limits
from redecode.tracer.collector.refusals import Busy, TooLarge, TooSlow, Unauthorized, Unwritable
from redecode.tracer.collector.signals import TRACES, Signal
from redecode.tracer.export.importing import resource_events
from redecode.tracer.foreign.otlp import OtlpSpan, read_request
from redecode.tracer.foreign.privacy import SpanPrivacy
from redecode.tracer.records import JsonObject
from redecode.tracer.spool import SUFFIX, JournalWriter

_log = logging.getLogger("redecode")
_LARGE = 4 << 20
_LOOK_EVERY_S = 0.1
_REASONS = 5
_TOLD = 10_000  # engines that are known to be written; beyond that, some are written again
_FAILED_S = 10.0
"""A failure is shown this long at least: who watches health may send nothing more that could succeed."""


class GroupCommit:
    """Writes to a journal and fsyncs it; those who come during one fsync share the next."""

    def __init__(self, journal: JournalWriter) -> None:
        self._journal = journal
        self._waiting: list[tuple[list[bytes], asyncio.Future[OSError | None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "redecode-commit")

    async def commit(self, payloads: list[bytes]) -> None:
        """Return once the payloads are on the disk.

        Raises:
            OSError: they may not be.
        """
        done: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((payloads, done))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        error = await asyncio.shield(done)
        if error is not None:
            raise error

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            payloads = [payload for wanted, _ in batch for payload in wanted]
            outcome: OSError | None = None
            try:
                await loop.run_in_executor(self._thread, self._journal.commit, payloads)
            except OSError as error:
                outcome = error
            except Exception as error:  # nobody may wait for ever, nor be told that it is safe
                outcome = OSError(f"{type(error).__name__}: {error}")
            for _, done in batch:
                if not done.done():
                    done.set_result(outcome)
        self._task = None

    async def close(self) -> None:
        """Wait for what is being written."""
        while self._task is not None:
            await asyncio.sleep(0.005)
        self._thread.shutdown()


class Intake:
    """Takes requests of OTLP into a journal.

    Args:
        journal: of this process, in the store's spool.
        spool: that directory; watched for how much waits in it, and how much room is left.
        token: what a client must present; `None` lets everyone in.
        privacy: what may be written of the spans; `None` for all of it.
        on_first: told once of each kind of thing that is worth a line on the terminal.
        on_written: given the spans that were written, to forward them; must return at once.

    Attributes:
        accepted: spans written and answered for, since the start.
        rejected: spans that could not be used, and metrics and logs, likewise.
        refused: requests of which nothing was taken.
    """

    def __init__(
        self,
        journal: JournalWriter,
        spool: Path,
        *,
        limits: Limits,
        token: str | None = None,
        privacy: SpanPrivacy | None = None,
        on_first: Callable[[str], None] = _log.warning,
        on_written: Callable[[list[OtlpSpan]], None] | None = None,
    ) -> None:
        self.limits = limits
        self.accepted = self.rejected = self.refused = 0
        self._journal, self._spool, self._on_first = journal, spool, on_first
        self._token = None if token is None else token.encode()
        self._privacy, self._on_written = privacy, on_written
        self._told: set[str] = set()
        self._group = GroupCommit(journal)
        self._readers = ThreadPoolExecutor(2, "redecode-read")
        self._one_large = asyncio.Lock()
        self._requests = self._bytes = 0
        self._arriving: set[asyncio.Timeout] = set()
        self._looked_s = -1.0
        self._full: str | None = None
        self._backlog = 0
        self._failed: tuple[float, str] | None = None
        self._said: set[str] = set()

    def authorize(self, header: str | bytes | None) -> None:
        """Check an `authorization` header.

        Raises:
            Unauthorized: the token is missing or another one.
        """
        if self._token is None:
            return
        given = (header or b"") if not isinstance(header, str) else header.encode()
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            raise Unauthorized("want the collector's token, as: Authorization: Bearer TOKEN")

    @contextmanager
    def admit(self) -> Iterator[Ticket]:
        """Let a request in while there is room for one more.

        Raises:
            Busy: there is none.
        """
        if self._requests >= self.limits.requests:
            raise self.busy(f"{self._requests} requests are being worked on")
        if (full := self._look()) is not None:
            raise self.busy(full)
        self._requests += 1
        ticket = Ticket(self)
        try:
            yield ticket
        finally:
            self._requests -= 1
            self._bytes -= ticket.held

    @asynccontextmanager
    async def arriving(self) -> AsyncIterator[None]:
        """While the bytes of a request arrive.

        Raises:
            TooSlow: they take too long.
        """
        try:
            async with asyncio.timeout(self.limits.body_s) as deadline:
                self._arriving.add(deadline)
                try:
                    yield
                finally:
                    self._arriving.discard(deadline)
        except TimeoutError:
            raise TooSlow("the request took too long to arrive") from None

    def hurry(self, within_s: float) -> None:
        """The collector is to stop: what arrives may take this much longer."""
        latest = asyncio.get_running_loop().time() + within_s
        for deadline in self._arriving:
            deadline.reschedule(min(deadline.when() or latest, latest))

    def busy(self, why: str) -> Busy:
        """The refusal of a request that may come again."""
        return Busy(f"{why}; come again", retry_after_s=self.limits.retry_after_s)

    def _look(self) -> str | None:
        """Why nothing more may be written just now; looked up ten times a second at most."""
        now = time.monotonic()
        if now - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = now
            self._backlog = _backlog(self._spool)
            self._full = None
            if self._backlog >= self.limits.backlog_bytes:
                self._full = f"{self._backlog} bytes wait in the spool for a reader"
            elif _free(self._spool) < self.limits.free_bytes:
                self._full = f"less than {self.limits.free_bytes} bytes are free on the disk"
            if self._full is not None:
                self._first(f"asking clients to wait: {self._full}", "wait")
        return self._full

    async def receive(self, ticket: Ticket, signal: Signal, body: bytes, encoding: str, *, is_json: bool) -> Message:
        """Take one request that was let in; when this returns, its spans are on the disk.

        Raises:
            Refusal: nothing of it was taken.
        """
        loop = asyncio.get_running_loop()
        reading = partial(self._read, signal, body, encoding, is_json=is_json)
        if len(body) > _LARGE or (encoding and encoding != bodies.IDENTITY and len(body) > _LARGE // 64):
            async with self._one_large:  # several at once would need that many times the memory
                read = await loop.run_in_executor(self._readers, reading)
        else:
            read = await loop.run_in_executor(self._readers, reading)
        payloads, names, spans, rejected, why = read
        if payloads:
            ticket.hold(sum(map(len, payloads)))
            try:
                await self._group.commit(payloads)
            except OSError as error:
                why = error.strerror or str(error)
                self._failed = time.monotonic(), why
                self._first(f"cannot write to {self._spool}: {why}; clients are asked to wait", "write")
                raise Unwritable(
                    f"the collector cannot write: {why}", retry_after_s=self.limits.retry_after_s
                ) from error
            self._failed = None
            self._told |= names
            if len(self._told) > _TOLD:
                self._told.clear()
        self.accepted += len(spans)
        self.rejected += rejected
        if spans and self._on_written is not None:
            self._on_written(spans)
        if signal is not TRACES and rejected:
            self._first(f"{signal.name} came and were rejected: only traces are kept here", signal.name)
        return signal.answer(rejected, why)

    def _read(
        self, signal: Signal, body: bytes, encoding: str, *, is_json: bool
    ) -> tuple[list[bytes], set[str], list[OtlpSpan], int, str]:
        """Journal payloads, what they tell besides spans, the spans, how many items were rejected, and why."""
        limits = self.limits
        body = bodies.decompressed(body, encoding, limits.json_bytes if is_json else limits.body_bytes)
        request: Any = (bodies.from_json if is_json else bodies.from_protobuf)(signal, body)
        count = signal.count(request)
        if signal is not TRACES:
            setting = f"OTEL_{signal.name.upper()}_EXPORTER=none"
            return [], set(), [], count, f"this collector keeps traces only; switch this exporter off ({setting})"
        if count > limits.request_spans:
            raise TooLarge(f"{count} spans in one request, at most {limits.request_spans}; send smaller batches")
        spans, rejected = read_request(request)
        if self._privacy is not None:
            spans = self._privacy.spans(spans)
        whole = list(map(copy, spans))
        payloads, names = resource_events(spans, self._told)
        size = sum(map(len, payloads))
        for span in spans:
            payloads.append(span.payload())
            size += len(payloads[-1])
            if size > limits.stored_bytes:  # each span repeats its resource: a short body can be very long
                raise TooLarge(f"its spans come to more than {limits.stored_bytes} bytes; send smaller batches")
        more = f"; and {len(rejected) - _REASONS} more" if len(rejected) > _REASONS else ""
        return payloads, names, whole, len(rejected), "; ".join(rejected[:_REASONS]) + more

    def _first(self, words: str, kind: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._on_first(words)

    def health(self) -> JsonObject:
        """For `/healthz`: whether spans are being taken, and how many were."""
        why = self._look()
        if self._failed is not None and time.monotonic() - self._failed[0] < _FAILED_S:
            why = self._failed[1]
        return {
            "ok": why is None,
            "why": why,
            "accepted": self.accepted,
            "rejected": self.rejected,
            "refused": self.refused,
            "backlog_bytes": self._backlog,
            "in_flight": self._requests,
        }

    async def close(self) -> None:
        """Finish what was let in and release the journal."""
        await self._group.close()
        self._readers.shutdown()
        self._journal.close()


class Ticket:
    """A request that was let in, and the bytes of it that are held."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.held = 0

    def hold(self, count: int) -> None:
        """Count more bytes: of its body, of what it is to become in the journal.

        Raises:
            Busy: all requests together hold too much.
        """
        limits = self._intake.limits
        self.held += count
        self._intake._bytes += count
        if self._intake._bytes > limits.in_flight_bytes:
            raise self._intake.busy(f"requests hold {limits.in_flight_bytes} bytes")


def _backlog(spool: Path) -> int:
    """Bytes of journals on the disk: at most this much waits to be moved into the database."""
    size = 0
    for path in spool.glob(f"*{SUFFIX}"):
        try:
            size += path.stat().st_size
        except FileNotFoundError:  # moved meanwhile
            continue
    return size


def _free(spool: Path) -> int:
    return shutil.disk_usage(spool).free
