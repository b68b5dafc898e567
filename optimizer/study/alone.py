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
from urllib.parse import parse_qsl, unquote, urlsplit

from sqlalchemy import URL, make_url

from redecode.optimizer.errors import BadStudy
from redecode.optimizer.study.storage import FOLDER, JOURNAL


@contextmanager
def alone(folder: Path, study: str, place: Path | str = "") -> Iterator[None]:
    """The right to go on with a study: of two at it one takes the trials of the other for those of a killed one.

    Args:
        folder: where the lock is: the store.
        place: where studies are kept, if that is not the store: beside a file, SQLite's too, whatever it is called by
            and whichever store asks. Of another database only those of one store on one machine know of each other.

    Raises:
        BadStudy: another process has it; names it.
    """
    path = _lock_of(folder, study, str(place))
    if path is None:
        yield
        return
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


def _lock_of(folder: Path, study: str, place: str) -> Path | None:
    """Where the lock is; `None`: nobody else can have it."""
    what = ""
    if "://" not in place:
        file = Path(place).resolve() if place else None
    else:
        url = make_url(place)
        if url.get_backend_name() != "sqlite":
            file, what = None, f"{url.get_backend_name()} {url.host} {url.port} {url.database}"
        elif (file := _sqlite_file(url)) is None:
            return None
    if file is not None and file != (folder / FOLDER / JOURNAL).resolve():
        folder, what = file.parent, file.name
    return folder / f".{hashlib.blake2b(f'{study}{what}'.encode(), digest_size=8).hexdigest()}.lock"


def _sqlite_file(url: URL) -> Path | None:
    """The file of a database; `None`: it is in memory, of this process alone."""
    name, query = url.database or "", dict(url.query)
    if name.startswith("file:") and query.get("uri"):  # SQLite's own URLs
        inner = urlsplit(name)
        name, query = unquote(inner.path), {**query, **dict(parse_qsl(inner.query))}
    in_memory = name in ("", ":memory:") or query.get("mode") == "memory"
    return None if in_memory else Path(name).resolve()


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
