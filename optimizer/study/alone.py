"""One process at a time goes on with a study, by a lock that ends with it, however that ends."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from redecode.optimizer.errors import BadStudy


@contextmanager
def alone(folder: Path, study: str, place: Path | str = "") -> Iterator[None]:
    """The right to go on with a study: of two at it one takes the trials of the other for those of a killed one.

    Args:
        folder: where the lock is: the store.
        place: where studies are kept, if that is not the store.

    Raises:
        BadStudy: another process has it; names it.
    """
    if place and "://" not in str(place):  # a file, which another store may have as well
        folder, place = Path(place).absolute().parent, ""
    path = folder / f".{hashlib.blake2b(f'{study}{place}'.encode(), digest_size=8).hexdigest()}.lock"
    while True:
        with path.open("a+", encoding="utf-8") as file:
            if not held(file):
                raise BadStudy(
                    f"study {study} is under way already ({holder(path)}); start this again when that is over"
                )
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                continue  # whoever had it has removed it since it was opened
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def held(file: IO[str]) -> bool:
    """Lock a file and write down who has it; false if somebody has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return True


def holder(path: Path) -> str:
    """Who has a lock, as far as it says."""
    try:
        return path.read_text(encoding="utf-8").strip() or "another process"
    except OSError:
        return "another process"
