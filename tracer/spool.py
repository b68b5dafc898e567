"""The spool: one journal per recording process, one checksummed record per event, written as it happens.

A record is `<u32 length> <u32 crc32> <payload>` and one `write()`, so a process killed with -9 loses
nothing that had finished and shows what was still open, and no recording process ever needs the database.
Rejected: SQLite per process (a transaction per event), OpenTelemetry's batch processor (drops silently).

A journal belongs to its writer as long as the writer's `flock` on it lasts; when the lock can be taken,
the writer is gone and the journal is finished. What a writer could not write is counted beside it (`losses`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from redecode.tracer import conventions as c
from redecode.tracer.errors import CorruptJournal, StoreUnwritable
from redecode.tracer.losses import Loss, Losses, out_of_the_way

SUFFIX = ".journal"
DATASET_MARKER = "_redecode.json"
"""The file that says that a folder is a published dataset: nobody would read a journal there."""
_HEADER = struct.Struct("<II")
_MAX_RECORD = 1 << 30
SYNC_S = 1.0
"""A power cut loses at most this much; a killed process loses nothing."""
_PATIENCE_S = 0.2
_log = logging.getLogger("redecode")


class JournalWriter:
    """Appends events of this process to a journal; never raises into the host once open.

    Args:
        spool: directory of journals; created if missing.
        name: stem of the journal's files; must be unique among all processes that ever wrote there.
        preamble: called for each new file; its event is written first (who writes here, on what clock).
        rotate_bytes: a journal larger than this is finished and a new one begun.
        patient: where none can be begun (no permission, no room), do not raise but count what is lost and try again,
            every `SYNC_S`.

    Raises:
        StoreUnwritable: none can be begun.
    """

    def __init__(
        self,
        spool: Path,
        name: str,
        preamble: Callable[[], dict[str, Any]],
        rotate_bytes: int = 64 << 20,
        *,
        patient: bool = False,
    ) -> None:
        self._spool, self._name, self._preamble, self._rotate = spool, name, preamble, rotate_bytes
        self._lock = threading.RLock()  # as in the recorder
        self._sequence = 0
        self._size = 0
        self._dirty = False
        self._fd = -1
        self._held: Counter[str | None] = Counter()  # events in this journal, by run
        self._losses = Losses()
        try:
            self._open()
        except OSError as error:
            if not patient:
                why = f"{error.strerror}; choose another store with --store or $REDECODE_STORE"
                raise StoreUnwritable(f"cannot record into {spool}: {why}") from error
            self._count(None, str(error))
        self._closed = threading.Event()
        self._syncing: threading.Thread | None = None
        self._start_syncing()

    @property
    def lost(self) -> int:
        """How many events could not be written down."""
        return self._losses.total

    def _start_syncing(self) -> None:
        self._pause = threading.Event()
        self._syncing = threading.Thread(
            target=self._sync_on_a_timer, args=(self._pause,), name="redecode-sync", daemon=True
        )
        with contextlib.suppress(RuntimeError):  # no thread can be started: the end of the process syncs
            self._syncing.start()

    def _sync_on_a_timer(self, pause: threading.Event) -> None:
        while not pause.wait(SYNC_S):
            with self._lock:
                if not pause.is_set():
                    self._mend()
            self.sync()

    def _open(self) -> None:
        if (self._spool.parent / DATASET_MARKER).exists():
            raise OSError(errno.EROFS, "it is a published dataset, which can only be read")
        make_private(self._spool.parent)
        make_private(self._spool)
        path = self._spool / f"{self._name}-{os.getpid()}-{self._sequence:04d}{SUFFIX}"
        self._sequence += 1
        preamble = frame(c.dumps(self._preamble()))
        while (fd := _begin(path, preamble)) is None:
            pass
        self._close_fd()
        self._fd, self._size, self._named, self._dirty = fd, len(preamble), False, True
        self._held.clear()
        self._losses.beside(path)

    def _append(self, payload: bytes) -> None:
        if self._fd < 0:
            raise FileNotFoundError(errno.ENOENT, "there is no journal")
        record = frame(payload)
        written = os.write(self._fd, record)
        if written != len(record):  # disk full mid-record: take the torn part back so later records stay readable
            os.ftruncate(self._fd, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written
        self._dirty = True

    def write(self, event: dict[str, Any]) -> None:
        """Append one event, as `append`."""
        self.append(c.dumps(event), event.get("run"))

    def append(self, payload: bytes, run: str | None = None) -> None:
        """Append one ready payload. A failing disk is counted (`lost`, by run) and said once in the log."""
        with self._lock:
            try:
                if self._size > self._rotate:
                    with contextlib.suppress(OSError):  # no room for a new one: this one goes on
                        self._open()
                self._append(payload)
                self._held[run] += 1
                if self._losses:  # there is room again: let the store know what is missing
                    self._tell()
            except Exception as error:  # the host's run matters more than its recording
                self._count(run, str(error))
            if self._syncing is None and not self._closed.is_set():
                self._start_syncing()

    def commit(self, payloads: Iterable[bytes]) -> None:
        """Append all and fsync; for those who have to answer for it.

        Raises:
            OSError: not all of it is surely on disk.
        """
        with self._lock:
            self._mend()
            if self._size > self._rotate:
                self._open()
            records = [frame(payload) for payload in payloads]
            self._append_all(records)
            self._held[None] += len(records)
            try:
                os.fsync(self._fd)
                if not self._named:
                    sync_path(self._spool)
                    self._named = True
            except OSError:  # what the disk holds of this file is unknown: nothing more goes behind it
                with contextlib.suppress(OSError):
                    self._open()
                raise
            self._dirty = False

    def _append_all(self, records: list[bytes]) -> None:
        data, written = memoryview(b"".join(records)), 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            # Only the torn one is taken back: a reader may have taken the whole ones already, and went on behind them.
            whole = max(end for end in accumulate(map(len, records), initial=0) if end <= written)
            os.ftruncate(self._fd, self._size + whole)
            self._size += whole
            raise
        self._size += written

    def lose(self, run: str | None, why: str) -> None:
        """Count an event that could not even be made, and tell the store."""
        with self._lock:
            self._count(run, why)
            with contextlib.suppress(Exception):
                self._tell()

    def _count(self, run: str | None, why: str, events: int = 1) -> None:
        if not self.lost:
            _log.warning("redecode: cannot record to %s: %s; counting what is lost", self._spool, why)
        self._losses.count(run, why, events)

    def _tell(self) -> None:
        def tell(loss: Loss) -> None:
            run, count, why = loss
            self._append(c.dumps({"t": "dropped", "run": run, "count": count, "why": why}))
            self._held[run] += count

        self._losses.tell(tell)

    def _mend(self) -> None:
        """Begin a journal where there is none, or none any more that anybody can find."""
        if self._closed.is_set():
            return
        if self._fd >= 0:
            try:
                deleted = not os.fstat(self._fd).st_nlink
            except OSError:  # a host that becomes a daemon closes every file: what is in this one stays
                self._fd, self._dirty = -1, False
            else:
                if not deleted:
                    return
                for run, events in self._held.items():
                    self._count(run, "the journal was deleted while it was being written", events)
                self._close_fd()
        with contextlib.suppress(Exception):
            self._open()
            self._tell()

    def sync(self) -> None:
        """Fsync what was written since the last call."""
        with self._lock:
            if not self._dirty or self._fd < 0:
                return
            self._dirty = False
            fd = os.dup(self._fd)
        try:  # outside the lock: an fsync may take many ms and writers must not wait for it
            with contextlib.suppress(OSError):
                os.fsync(fd)
        finally:
            os.close(fd)

    def before_fork(self) -> None:
        """End the thread that syncs, until something is written: from 3.12 on Python warns of forking beside one."""
        syncing, self._syncing = self._syncing, None
        if syncing is not None and syncing.is_alive():
            self._pause.set()
            syncing.join(_PATIENCE_S)

    def after_fork(self) -> None:
        """In a forked child: leave the parent's journal alone and begin one of our own."""
        self._lock = threading.RLock()  # as in the recorder
        self._syncing = None
        self._losses.after_fork()
        self._held.clear()
        self._close_fd()
        if not self._closed.is_set():
            with contextlib.suppress(OSError):
                self._open()

    def close(self) -> None:
        """Fsync and release the journal: readers may now finish it."""
        with self._lock:
            self._mend()
            self._closed.set()
            self._pause.set()
            if self._fd >= 0 and self._losses:
                with contextlib.suppress(Exception):
                    self._tell()
        self.sync()
        with self._lock:
            self._losses.forsake()
            self._close_fd()

    def _close_fd(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1


def frame(payload: bytes) -> bytes:
    """A payload as a journal record."""
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def _begin(path: Path, first: bytes) -> int | None:
    """A new file, locked, that begins with these bytes; `None` if a reader removed it before it was locked."""
    fd = out_of_the_way(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL, 0o600))
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not os.fstat(fd).st_nlink:
            os.close(fd)
            return None
        if os.write(fd, first) != len(first):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except BaseException:
        path.unlink(missing_ok=True)
        os.close(fd)
        raise
    return fd


def remove_if_empty(path: Path) -> None:
    """Remove a journal whose writer died before its first record; one whose writer goes on is then begun anew."""
    with contextlib.suppress(OSError):  # its writer has locked it
        fd = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(fd).st_size:
                path.unlink()
        finally:
            os.close(fd)


def sync_path(path: Path) -> None:
    """Put a file, or the names in a folder, on the disk; a new file's own fsync does not put its name there."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_private(directory: Path) -> None:
    """Make a directory that only its owner can read, unless it is there: what is recorded is content."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)


def unique_name(started_ns: int) -> str:
    """A journal stem no other process has: host and start time (the pid is added per file)."""
    return f"{socket.gethostname()}-{started_ns:x}"


@dataclass(frozen=True, slots=True)
class JournalBatch:
    """Some records of one journal.

    Attributes:
        payloads: of the whole records in it.
        end: the byte offset to go on from.
        damage: what stood between them and is no record, one `CorruptJournal` each.
    """

    payloads: list[bytes]
    end: int
    damage: list[CorruptJournal]


def read_journal(
    path: Path, offset: int = 0, *, finished: bool = False, batch_bytes: int = 16 << 20
) -> Iterator[JournalBatch]:
    """Whole records of a journal from a byte offset on, in batches.

    A torn last record is normal (the writer is in the middle of it, or died there) and is left for later. A record
    whose checksum is wrong is damage: it is skipped to the next whole record.

    Args:
        finished: the writer is gone: what looks torn will not become whole, and may hide whole records.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        wanted = batch_bytes
        while offset < size:
            file.seek(offset)
            data = file.read(min(wanted, size - offset))
            last = offset + len(data) >= size
            payloads, used, damage = _records(data, path, offset, last=last, finished=finished and last)
            if not used and not last:
                wanted *= 4  # one record larger than the batch
                continue
            if payloads or damage:
                yield JournalBatch(payloads, offset + used, damage)
            offset += used
            wanted = batch_bytes
            if last:
                return


def _records(
    data: bytes, path: Path, offset: int, *, last: bool, finished: bool
) -> tuple[list[bytes], int, list[CorruptJournal]]:
    """Payloads of whole records in `data`, the bytes taken, and the damage between them."""
    payloads, damage = [], []
    at, size, header, unpack, crc32 = 0, len(data), _HEADER.size, _HEADER.unpack_from, zlib.crc32
    while size - at >= header:
        length, crc = unpack(data, at)
        end = at + header + length
        if end <= size:
            payload = data[at + header : end]
            if crc32(payload) == crc:
                payloads.append(payload)
                at = end
                continue
        elif length <= _MAX_RECORD and not finished:
            break  # torn, or cut by the batch
        found = _next_record(data, at + 1)
        if found is None and end > size and length <= _MAX_RECORD:
            break  # torn for good: its writer died in the middle of it
        if found is None and not last:
            break  # what is whole may begin behind this batch
        until = size if found is None else found
        damage.append(CorruptJournal(f"{path.name}: {until - at} bytes at byte {offset + at} are no whole record"))
        at = until
    return payloads, at, damage


def _next_record(data: bytes, at: int) -> int | None:
    """Where the next whole record begins."""
    while (found := data.find(b'{"t":"', at + _HEADER.size)) >= 0:
        begin = found - _HEADER.size
        length, crc = _HEADER.unpack_from(data, begin)
        if found + length <= len(data) and zlib.crc32(data[found : found + length]) == crc:
            return begin
        at = begin + 1
    return None


def writer_is_gone(path: Path) -> bool:
    """Whether the journal's writer has released it (closed, died, or rotated on); not if it has only just made it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        if not os.fstat(fd).st_size:  # the lock comes before the first byte
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
