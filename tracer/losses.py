"""What could not be written down, counted where a full disk cannot stop it.

Who writes a journal counts what it loses and tells the store in the journal itself, once there is room again. There
may never be: so a small file beside the journal is filled with spaces when the journal is begun, and the counts are
written over them, which takes no more room.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import orjson

SUFFIX = ".lost"
_BYTES = 4096
_LONGEST_WHY = 500
_HIGH_FD = 512

Loss = tuple[str | None, int, str]
"""A run (`None`: it is not known which), how many of its events, and why."""


class Losses:
    """Of one process. Not for several threads at once."""

    def __init__(self) -> None:
        self.total = 0
        self._untold: dict[str | None, tuple[int, str]] = {}
        self._path: Path | None = None
        self._fd = -1

    def __bool__(self) -> bool:
        """Whether there are some that the store does not know of."""
        return bool(self._untold)

    def beside(self, journal: Path) -> None:
        """From now on keep them beside this journal; without room for that, in memory alone."""
        before, self._path = self._path, None
        self._close()
        with suppress(OSError):
            path = losses_path(journal)
            self._fd = out_of_the_way(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            self._path = path
            self._keep()
        if before is not None:
            before.unlink(missing_ok=True)

    def count(self, run: str | None, why: str, events: int = 1) -> None:
        """Some more."""
        self.total += events
        known, _ = self._untold.get(run, (0, ""))
        self._untold[run] = known + events, why[:_LONGEST_WHY]
        self._keep()

    def tell(self, how: Callable[[Loss], None]) -> None:
        """Hand each on, and forget those for which `how` did not raise."""
        try:
            for run, (events, why) in list(self._untold.items()):
                how((run, events, why))
                del self._untold[run]
        finally:
            self._keep()

    def forsake(self) -> None:
        """Leave the file: for good if the store knows all, else for its reader."""
        self._close()
        if self._path is not None and not self._untold:
            self._path.unlink(missing_ok=True)

    def after_fork(self) -> None:
        """In a forked child: they are the parent's."""
        self._close()
        self._path, self._untold, self.total = None, {}, 0

    def _close(self) -> None:
        if self._fd >= 0:
            with suppress(OSError):  # a host that becomes a daemon closes every file
                os.close(self._fd)
            self._fd = -1

    def _keep(self) -> None:
        if self._fd < 0:
            return
        document = _document([(run, events, why) for run, (events, why) in self._untold.items()])
        if len(document) > _BYTES:  # too many runs to name each
            why = next(reversed(self._untold.values()))[1]
            document = _document([(None, sum(events for events, _ in self._untold.values()), why)])
        with suppress(OSError):
            os.pwrite(self._fd, document.ljust(_BYTES), 0)


def out_of_the_way(fd: int) -> int:
    """The same file under a number that a host which closes all files does not give to one of its own next."""
    with suppress(OSError):
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)
        os.close(fd)
        return high
    return fd


def _document(losses: list[Loss]) -> bytes:
    return orjson.dumps([[run, events, why.encode("utf-8", "replace").decode()] for run, events, why in losses])


def losses_path(journal: Path) -> Path:
    """The file beside a journal."""
    return journal.with_suffix(SUFFIX)


def read_losses(journal: Path) -> list[Loss]:
    """What the writer of a finished journal could not tell in it."""
    try:
        return [(run, events, why) for run, events, why in orjson.loads(losses_path(journal).read_bytes())]
    except (OSError, ValueError):  # none, or cut off when it was made
        return []
