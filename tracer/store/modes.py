"""Files that only their owner can read, also those which DuckDB makes: its database, log and temporary files.

DuckDB makes files as the process's umask lets it, so the umask is narrowed while a database is open. That is the whole
process's: files that other threads make meanwhile become private too. Rejected: a chmod afterwards (a killed process
leaves its log as it was made), making the log beforehand (DuckDB replaces it).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PRIVATE = 0o077
_lock = threading.Lock()
_users = 0
_before = 0


@contextmanager
def private_files() -> Iterator[None]:
    """What is made inside is its owner's alone; several threads may be inside at once."""
    global _users, _before
    with _lock:
        if _users == 0:
            _before = os.umask(_PRIVATE)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                os.umask(_before)
