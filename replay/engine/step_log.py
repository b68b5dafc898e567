"""The step clock's file: one line per decode step, written in the engine, read beside it.

Why a file: the engine core is a process of its own, its loop is the thing being measured, and it
must not wait for anybody. One `write()` to an append-only file costs a few microseconds, survives
kill -9, and needs no protocol between processes. Rejected: a pipe or socket (back-pressure on the
engine), shared memory (a layout to version), spans per step (exporters drop bursts).

A line is one JSON array, and this module is the only place that knows its order:

    [t_ns, start_ns, rows, context_tokens, prefill_tokens, [[rid, k], ...]]

t_ns            CLOCK_MONOTONIC when the step's logits were ready, just before sampling
start_ns        CLOCK_MONOTONIC when the step's batch was laid out, just before the forward pass
rows            requests in the step, recorded or not
context_tokens  prompt + output tokens of all rows: what attention reads in this step
prefill_tokens  prompt tokens of the rows whose first token this is; tokens found in the prefix
                cache are included, so it is an upper bound of the tokens computed
rid, k          recorded row: its id, and the number of output tokens it had before this step

The file is rotated by size (`PATH` -> `PATH.1`, one old file kept), so an engine that runs for
weeks does not fill the disk. There is one writer (`keeps_clock`).
"""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

logger = logging.getLogger(__name__)

#: Where the engine writes; unset means no step clock.
STEP_LOG_ENV = "REDECODE_STEP_LOG"
ROTATE_BYTES = 64 * 2**20
_CHUNK_BYTES = 1 << 20


def keeps_clock(parallel_config: Any) -> bool:
    """Whether this engine process writes the log: one replica only, and one of its tensor ranks."""
    first_rank = parallel_config.rank % parallel_config.tensor_parallel_size == 0
    return bool(parallel_config.data_parallel_size == 1 and first_rank)


@dataclass(frozen=True, slots=True)
class Step:
    """One decode step, as on a line of the log."""

    t_ns: int
    start_ns: int
    rows: int
    context_tokens: int
    prefill_tokens: int
    recorded: Sequence[tuple[str, int]]

    def encode(self) -> bytes:
        """Write the step as one line, newline included."""
        fields = (
            self.t_ns,
            self.start_ns,
            self.rows,
            self.context_tokens,
            self.prefill_tokens,
            self.recorded,
        )
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def decode(cls, line: bytes) -> Step | None:
        """Read the step on this line; None when the line is not one (torn by a crash)."""
        try:
            t_ns, start_ns, rows, context, prefill, recorded = orjson.loads(line)
            return cls(t_ns, start_ns, rows, context, prefill, [(str(rid), int(k)) for rid, k in recorded])
        except (ValueError, TypeError):
            return None


class StepLogWriter:
    """Appends steps; never raises into the engine: a full disk ends the clock, not the server."""

    def __init__(self, path: Path, *, rotate_bytes: int = ROTATE_BYTES) -> None:
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._fd: int | None = self._open()
        self._written = os.fstat(self._fd).st_size

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, step: Step) -> None:
        """Append one step with a single `write()`."""
        if self._fd is None:
            return
        try:
            if self._written >= self._rotate_bytes:
                self._rotate()
            self._written += os.write(self._fd, step.encode())
        except OSError as error:
            logger.error("redecode: the step clock stops, %s cannot be written: %s", self._path, error)
            self.close()

    def _rotate(self) -> None:
        self._path.replace(self._path.with_name(self._path.name + ".1"))
        fresh = self._open()
        self.close()
        self._fd, self._written = fresh, 0

    def close(self) -> None:
        """Stop writing; later steps are ignored."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class StepLogTail:
    """Reads what was appended since the last poll; a torn last line waits for its rest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._rest = b""
        #: Lines that were no step: a writer died in the middle of one.
        self.bad_lines = 0

    def poll(self) -> Iterator[Step]:
        """Every whole line that is new, oldest first, across a rotation."""
        while self._open():
            yield from self._drain()
            if not self._rotated_away():
                return
            yield from self._drain()  # what was written between the last read and the rotation
            self.close()

    def close(self) -> None:
        """Let go of the file; the next poll opens the current one from its beginning."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self.bad_lines += bool(self._rest)
        self._rest = b""

    def _open(self) -> bool:
        if self._fd is None:
            try:
                self._fd = os.open(self._path, os.O_RDONLY)
            except FileNotFoundError:
                return False
        return True

    def _drain(self) -> Iterator[Step]:
        assert self._fd is not None
        while chunk := os.read(self._fd, _CHUNK_BYTES):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                step = Step.decode(line)
                if step is None:
                    self.bad_lines += 1
                else:
                    yield step

    def _rotated_away(self) -> bool:
        assert self._fd is not None
        try:
            return self._path.stat().st_ino != os.fstat(self._fd).st_ino
        except FileNotFoundError:
            return False


def _column() -> array[int]:
    return array("q")


@dataclass(slots=True)
class Track:
    """The steps of one recorded request, one column per field, in order of k."""

    t_ns: array[int] = field(default_factory=_column)
    start_ns: array[int] = field(default_factory=_column)
    rows: array[int] = field(default_factory=_column)
    k: array[int] = field(default_factory=_column)
    context_tokens: array[int] = field(default_factory=_column)
    prefill_tokens: array[int] = field(default_factory=_column)

    def add(self, step: Step, k: int) -> int:
        """Append the step that yields token k; returns by how many steps the track grew.

        The same k again (a prefill cut in chunks) replaces it: the last one made the token. A
        smaller k is a new request under an old id: the track starts again.
        """
        before = len(self.k)
        while self.k and self.k[-1] >= k:
            self._pop()
        self.t_ns.append(step.t_ns)
        self.start_ns.append(step.start_ns)
        self.rows.append(step.rows)
        self.k.append(k)
        self.context_tokens.append(step.context_tokens)
        self.prefill_tokens.append(step.prefill_tokens)
        return len(self.k) - before

    def _pop(self) -> None:
        for name in self.__slots__:
            getattr(self, name).pop()

    def as_dict(self) -> dict[str, list[int]]:
        """Return the columns as lists, for the wire."""
        return {name: list(getattr(self, name)) for name in self.__slots__}


class StepIndex:
    """The steps by request id, bounded: the oldest requests are forgotten first."""

    def __init__(self, *, max_requests: int = 100_000, max_steps: int = 1_000_000) -> None:
        self.max_requests = max_requests
        self.max_steps = max_steps  # 48 bytes each
        self._tracks: dict[str, Track] = {}
        self._steps = 0

    def add(self, steps: Iterable[Step]) -> None:
        """Take in steps in the order they were written."""
        for step in steps:
            for rid, k in step.recorded:
                track = self._tracks.setdefault(rid, Track())
                self._steps += track.add(step, k)
            self._forget()

    def _forget(self) -> None:
        while len(self._tracks) > self.max_requests or (self._steps > self.max_steps and len(self._tracks) > 1):
            oldest = next(iter(self._tracks))
            self._steps -= len(self._tracks.pop(oldest).k)

    def get(self, rid: str) -> Track | None:
        """Return the steps of one request; None when it is unknown here (or forgotten)."""
        return self._tracks.get(rid)

    def __len__(self) -> int:
        return len(self._tracks)
