"""Answers in a file that processes share (SQLite), and LangGraph's node cache on it.

LangGraph asks its node cache for a key that `CachePolicy(key_func=…)` makes of the node's input, and `redecode`
records a hit as a cache step. What LangGraph leaves to its user: its own key is the pickled input, which never hits on
messages (they have random ids), and knows nothing of the model or prompt that the context sets, so that after a change
of these it answers with the other's answers. `exact_key` (keys.py) makes a key of what counts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redecode.optimizer.caching.errors import CacheUnusable
from redecode.optimizer.caching.kept import Serializer, keepable, renewed

_log = logging.getLogger("redecode")
_WAIT_S = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, space TEXT NOT NULL, key TEXT NOT NULL, kind TEXT NOT
    NULL, value BLOB NOT NULL, vector BLOB, made_ns INTEGER NOT NULL, expires_ns INTEGER, used_ns INTEGER NOT NULL,
    UNIQUE (tenant, space, key)
)
"""


class AnswerFile:
    """A file of answers. Any number of processes and threads; a connection lives for one operation.

    Args:
        path: of the file; made, readable for its owner alone, if it is missing.
        most: answers to keep in each tenant's space; those unused for longest go first.
        now_ns: UTC clock.

    Raises:
        CacheUnusable: it cannot be made, or is something else.
    """

    def __init__(self, path: Path | str, *, most: int = 10_000, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.path, self._most, self.now_ns = Path(path), most, now_ns
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            self._write_ahead()
            with self.opened() as connection:
                connection.execute(_SCHEMA)
        except OSError as error:
            raise CacheUnusable(f"cannot use {path} as a cache: {error.strerror}") from error
        except sqlite3.Error as error:
            raise CacheUnusable(f"cannot use {path} as a cache: {error}; name another file, or delete it") from error

    def _write_ahead(self) -> None:
        """Let readers and a writer not wait for each other; outside of a transaction, or it cannot be."""
        connection = sqlite3.connect(self.path, timeout=_WAIT_S, isolation_level=None)
        try:
            if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """A connection, in one transaction."""
        connection = sqlite3.connect(self.path, timeout=_WAIT_S, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        finally:
            connection.close()

    def get(self, tenant: str, space: str, keys: Sequence[str]) -> dict[str, tuple[str, bytes]]:
        """The answers there are, still fresh."""
        out, now = {}, self.now_ns()
        with self.opened() as connection:
            for key in keys:
                row = connection.execute(
                    "SELECT id, kind, value FROM answers WHERE tenant = ? AND space = ? AND key = ? "
                    "AND (expires_ns IS NULL OR expires_ns > ?)",
                    [tenant, space, key, now],
                ).fetchone()
                if row is not None:
                    connection.execute("UPDATE answers SET used_ns = ? WHERE id = ?", [now, row[0]])
                    out[key] = (row[1], row[2])
        return out

    def put(
        self,
        tenant: str,
        space: str,
        key: str,
        value: tuple[str, bytes],
        ttl_s: float | None,
        vector: bytes | None = None,
    ) -> None:
        """Keep an answer, in place of an older one to the same."""
        now = self.now_ns()
        expires = None if ttl_s is None else now + round(ttl_s * 1e9)
        with self.opened() as connection:
            # Not an update: whoever remembers an id must not find another answer under it.
            connection.execute("DELETE FROM answers WHERE tenant = ? AND space = ? AND key = ?", [tenant, space, key])
            connection.execute("DELETE FROM answers WHERE expires_ns <= ?", [now])
            connection.execute(
                "INSERT INTO answers (tenant, space, key, kind, value, vector, made_ns, expires_ns, used_ns) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [tenant, space, key, *value, vector, now, expires, now],
            )
            connection.execute(
                "DELETE FROM answers WHERE id IN (SELECT id FROM answers WHERE tenant = ? AND space = ? "
                "ORDER BY used_ns DESC, id DESC LIMIT -1 OFFSET ?)",
                [tenant, space, self._most],
            )

    def clear(self, tenant: str, space: str | None = None) -> None:
        """Forget a tenant's answers, of one space or of all."""
        with self.opened() as connection:
            if space is None:
                connection.execute("DELETE FROM answers WHERE tenant = ?", [tenant])
            else:
                connection.execute("DELETE FROM answers WHERE tenant = ? AND space = ?", [tenant, space])


FullKey = tuple[tuple[str, ...], str]


class FileCache:
    """LangGraph's node cache, in a file: `graph.compile(cache=FileCache(path, serde=JsonPlusSerializer()))`.

    It has the methods of LangGraph's `BaseCache`. One that breaks later is one that misses, and says so in the log.

    Args:
        path: as `AnswerFile`.
        serde: how node results become bytes, LangGraph's `JsonPlusSerializer()`.
        tenant: whose run this is, or a function that says so when asked (say, from a context variable).
        most: as `AnswerFile`.

    Raises:
        CacheUnusable: as `AnswerFile`.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        serde: Serializer,
        tenant: str | Callable[[], str] = "",
        most: int = 10_000,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._file = AnswerFile(path, most=most, now_ns=now_ns)
        self.serde, self._tenant = serde, tenant

    def _whose(self) -> str:
        return self._tenant() if callable(self._tenant) else self._tenant

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """The results there are."""
        return self._get(keys, self._whose())

    def _get(self, keys: Sequence[FullKey], tenant: str) -> dict[FullKey, Any]:
        out: dict[FullKey, Any] = {}
        try:
            for space, key in keys:
                found = self._file.get(tenant, json.dumps(space), [key])
                if key in found:
                    out[space, key] = renewed(self.serde.loads_typed(found[key]))
        except Exception as error:  # a cache never stops its host
            _log.warning("redecode: %s cannot be read, so nothing comes from it: %s", self._file.path, error)
        return out

    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """As `get`, without holding the loop."""
        return await asyncio.to_thread(self._get, keys, self._whose())

    def set(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        """Keep results, each with its time to live in seconds."""
        self._set(pairs, self._whose())

    def _set(self, pairs: Mapping[FullKey, tuple[Any, int | None]], tenant: str) -> None:
        try:
            for (space, key), (value, ttl_s) in pairs.items():
                self._file.put(tenant, json.dumps(space), key, self.serde.dumps_typed(keepable(value)), ttl_s)
        except Exception as error:  # a cache never stops its host
            _log.warning("redecode: %s cannot be written, so nothing goes into it: %s", self._file.path, error)

    async def aset(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        """As `set`, without holding the loop."""
        await asyncio.to_thread(self._set, pairs, self._whose())

    def clear(self, namespaces: Sequence[tuple[str, ...]] | None = None) -> None:
        """Forget this tenant's results, of these nodes or of all."""
        for space in [None] if namespaces is None else [json.dumps(n) for n in namespaces]:
            self._file.clear(self._whose(), space)

    async def aclear(self, namespaces: Sequence[tuple[str, ...]] | None = None) -> None:
        """As `clear`."""
        await asyncio.to_thread(self.clear, namespaces)
