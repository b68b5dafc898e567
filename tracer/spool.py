"""The spool: one journal per recording process, one checksummed record per event, written as it happens.

A record is `<u32 length> <u32 crc32> <payload>` and one `write()`, so a process killed with -9 loses
nothing that had finished and shows what was still open, and no recording process ever needs the database.
Rejected: SQLite per process (a transaction per event), OpenTelemetry's batch processor (drops silently).

A journal belongs to its writer as long as the writer's `flock` on it lasts; when the lock can be taken,
the writer is gone and the journal is finished.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from redecode.tracer.errors import CorruptJournal, StoreUnwritable

SUFFIX = ".journal"
_HEADER = struct.Struct("<II")
_MAX_RECORD = 1 << 30
_log = logging.getLogger("redecode")


class JournalWriter:
    """Appends events of this process to a journal; never raises into the host once open.

    Args:
        spool: directory of journals; created if missing.
        name: stem of the journal's files; must be unique among all processes that ever wrote there.
        preamble: called for each new file; its event is written first (who writes here, on what clock).
        rotate_bytes: a journal larger than this is finished and a new one begun.
    """

    def __init__(
        self, spool: Path, name: str, preamble: Callable[[], dict[str, Any]], rotate_bytes: int = 64 << 20
    ) -> None:
        self._spool, self._name, self._preamble, self._rotate = spool, name, preamble, rotate_bytes
        self._lock = threading.Lock()
        self._sequence = 0
        self._dirty = False
        self._fd = -1
        self.dropped = 0
        self._told = 0
        try:
            make_private(spool.parent)
            make_private(spool)
            self._open()
        except OSError as error:
            raise StoreUnwritable(
                f"cannot record into {spool}: {error.strerror}; choose another store with --store or $REDECODE_STORE"
            ) from error

    def _open(self) -> None:
        path = self._spool / f"{self._name}-{os.getpid()}-{self._sequence:04d}{SUFFIX}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        self._close_fd()
        self._fd, self._size = fd, 0
        self._sequence += 1
        self._append(self._preamble())

    def _append(self, event: dict[str, Any]) -> None:
        record = encode(event)
        written = os.write(self._fd, record)
        if written != len(record):  # disk full mid-record: take the torn part back so later records stay readable
            os.ftruncate(self._fd, self._size)
            raise OSError(28, "No space left on device")
        self._size += written
        self._dirty = True

    def write(self, event: dict[str, Any]) -> None:
        """Append one event. A failing disk is counted in `dropped` and said once in the log."""
        with self._lock:
            try:
                if self._size > self._rotate:
                    self._open()
                self._append(event)
                if self.dropped > self._told:  # there is room again: let the store know what is missing
                    self._append({"t": "dropped", "count": self.dropped - self._told})
                    self._told = self.dropped
            except Exception as error:  # the host's run matters more than its recording
                self.dropped += 1
                if self.dropped == 1:
                    _log.warning("redecode: cannot record to %s: %s; counting what is lost", self._spool, error)

    def sync(self) -> None:
        """Fsync what was written since the last call."""
        with self._lock:
            if not self._dirty:
                return
            self._dirty = False
            fd = os.dup(self._fd)
        try:  # outside the lock: an fsync may take many ms and writers must not wait for it
            with contextlib.suppress(OSError):
                os.fsync(fd)
        finally:
            os.close(fd)

    def after_fork(self) -> None:
        """In a forked child: leave the parent's journal alone and begin one of our own."""
        self._lock = threading.Lock()
        with contextlib.suppress(OSError):
            self._open()

    def close(self) -> None:
        """Fsync and release the journal: readers may now finish it."""
        self.sync()
        with self._lock:
            self._close_fd()

    def _close_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def encode(event: dict[str, Any]) -> bytes:
    """One event as a journal record."""
    payload = orjson.dumps(event)
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def make_private(directory: Path) -> None:
    """Make a directory that only its owner can read, unless it is there: what is recorded is content."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)


def unique_name(started_ns: int) -> str:
    """A journal stem no other process has: host and start time (the pid is added per file)."""
    return f"{socket.gethostname()}-{started_ns:x}"


@dataclass(frozen=True, slots=True)
class JournalBatch:
    """Some events of one journal.

    Attributes:
        start, end: byte offsets [start, end) the events were read from.
        exhausted: nothing whole is left after `end` (a torn record may be).
    """

    events: list[dict[str, Any]]
    start: int
    end: int
    exhausted: bool


def read_journal(path: Path, offset: int = 0, batch_bytes: int = 32 << 20) -> Iterator[JournalBatch]:
    """Whole records of a journal from a byte offset on, in batches.

    A torn last record is normal (the writer is in the middle of it, or died there) and is left for later.

    Raises:
        CorruptJournal: a record's checksum is wrong; the batches before it have been yielded.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while True:
            file.seek(offset)
            data = file.read(min(batch_bytes, size - offset))
            events, used, intact = _decode(data, path, offset)
            at_end = offset + len(data) >= size
            if not used and not at_end:
                batch_bytes *= 4  # one record larger than the batch
                continue
            exhausted = at_end and intact
            yield JournalBatch(events, offset, offset + used, exhausted)
            offset += used
            if exhausted:
                return


def _decode(data: bytes, path: Path, offset: int) -> tuple[list[dict[str, Any]], int, bool]:
    """Whole records at the start of `data`, the bytes they took, and whether no bad record stopped it."""
    events: list[dict[str, Any]] = []
    at = 0
    while len(data) - at >= _HEADER.size:
        length, crc = _HEADER.unpack_from(data, at)
        end = at + _HEADER.size + length
        bad = f"a record of {length} bytes cannot be" if length > _MAX_RECORD else ""
        if not bad and end > len(data):
            break  # torn, or cut by the batch
        payload = data[at + _HEADER.size : end]
        if not bad and zlib.crc32(payload) != crc:
            bad = f"checksum of a {length}-byte record is wrong"
        if bad and events:
            return events, at, False  # hand out what is whole first; the next round starts at the bad record
        if bad:
            raise CorruptJournal(f"{path.name} at byte {offset + at}: {bad}")
        events.append(orjson.loads(payload))
        at = end
    return events, at, True


def writer_is_gone(path: Path) -> bool:
    """Whether the journal's writer has released it (closed, died, or rotated on)."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
