"""Opening a store, draining its spool, and reading runs.

DuckDB allows one writing process and no reader beside it, so a connection lives for one operation and a
file lock decides whose turn it is: exclusive to drain, shared to read. Recording processes never wait.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import duckdb

from redecode.tracer import conventions as c
from redecode.tracer.bulk import uncollected
from redecode.tracer.errors import StoreError, StoreUnwritable, StoreVersion
from redecode.tracer.records import Decode, JsonObject, Run
from redecode.tracer.spool import SUFFIX, make_private
from redecode.tracer.store import queries
from redecode.tracer.store.attached import reading
from redecode.tracer.store.drain import drain_spool
from redecode.tracer.store.modes import private_files
from redecode.tracer.store.overview import RunColumns, labelled, run_columns
from redecode.tracer.store.places import is_dataset
from redecode.tracer.store.queries import RecordedRun
from redecode.tracer.store.schema import CREATE_MIGRATIONS, MIGRATIONS, STORAGE_VERSION
from redecode.tracer.store.sql import Answer, ask
from redecode.tracer.store.structures import CallTimes, RunStructure, call_times, structures

_log = logging.getLogger("redecode")
_AT_ONCE = 200  # runs, read whole
_held = set[IO[str]]()
"""Locks that this process has, or waits for."""


def _after_fork() -> None:
    while _held:  # whoever has them is no thread of the child's; it would keep them for as long as it lives
        _held.pop().close()


os.register_at_fork(after_in_child=_after_fork)
_TABLES = "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()"


@dataclass(frozen=True, slots=True)
class Health:
    """What `redecode doctor` says about a store.

    Attributes:
        backlog_bytes: written to the spool and not yet in the database.
        corrupt: journals set aside, with the reason.
        dropped: journals whose writer could not write (say, a full disk), the number of events lost, and why.
    """

    runs: int
    spans: int
    decodes: int
    database_bytes: int
    backlog_bytes: int
    corrupt: list[tuple[str, str]]
    dropped: list[tuple[str, int, str]]
    migrations: list[str]


class Store:
    """A store directory.

    Args:
        path: the directory.
        create: make it if it is missing; otherwise a missing store is an error.
        now_ns: UTC clock for bookkeeping.

    Raises:
        StoreUnwritable: it cannot be made or written.
        StoreError: there is no store at `path` (and `create` is false).
        StoreVersion: it was written in a newer format.
    """

    def __init__(self, path: Path, *, create: bool = True, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.path, self._now_ns = Path(path).absolute(), now_ns
        self.database, self.spool = self.path / "runs.duckdb", self.path / "spool"
        if is_dataset(self.path):
            raise StoreError(f"{self.path} is a published dataset, which can only be read; name a store with --store")
        if not create and not (self.path / "meta").exists() and not self.spool.is_dir():
            raise StoreError(f"no store at {self.path}; record into it first, or name another with --store")
        try:
            make_private(self.path)
            make_private(self.spool)
            meta = self.path / "meta"
            if not meta.exists():
                temporary = meta.with_suffix(f".{os.getpid()}")
                with private_files():
                    temporary.write_text(json.dumps({"storage_version": STORAGE_VERSION}) + "\n")
                temporary.rename(meta)
            self._check(meta)
        except OSError as error:
            raise StoreUnwritable(
                f"cannot use {self.path} as a store: {error.strerror}; choose another with --store or $REDECODE_STORE"
            ) from error

    @staticmethod
    def _check(meta: Path) -> None:
        try:
            version = json.loads(meta.read_text())["storage_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreVersion(f"{meta} is not a redecode store marker; is this the right directory?") from error
        if version != STORAGE_VERSION:
            raise StoreVersion(
                f"{meta.parent} has storage version {version}, this redecode reads {STORAGE_VERSION}; upgrade redecode"
            )

    # -- the database, one operation at a time --

    @contextmanager
    def _connect(self, *, write: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        with self.held(exclusively=write or not self.database.exists()), self.opened(write=write) as connection:
            yield connection

    @contextmanager
    def held(self, *, exclusively: bool) -> Iterator[None]:
        """Be the only one in the database, or one of its readers; waits for its turn. Not to be nested."""
        with private_files(), self._lock_file() as lock:
            _held.add(lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if exclusively else fcntl.LOCK_SH)
                yield
            finally:
                _held.discard(lock)

    @contextmanager
    def opened(self, *, write: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection to the database, while it is `held`."""
        with private_files(), ExitStack() as stack:
            try:
                connection = stack.enter_context(
                    self._alone() if write or not self.database.exists() else reading(self.database)
                )
            except duckdb.Error as error:
                raise StoreError(
                    f"cannot open {self.database}: {error} Move it aside to go on with what is still in the spool, "
                    "or name another store with --store"
                ) from error
            try:
                yield connection
            except duckdb.Error as error:
                if type(error) is duckdb.Error:  # so a block that is damaged is told
                    raise StoreError(f"{self.database} is damaged: {error}; move it aside, or restore it") from error
                if not isinstance(error, duckdb.IOException | duckdb.TransactionException):
                    raise  # else a full disk, a file taken away
                raise StoreError(
                    f"cannot use {self.database}: {error}. What is still in the spool stays there: where the disk is "
                    "full, make room, and start again"
                ) from error

    def _alone(self) -> duckdb.DuckDBPyConnection:
        """The database in a DuckDB of its own, to write: one that fails is none that others read by."""
        # The threshold: a long drain checkpoints every few batches instead of after each.
        return duckdb.connect(str(self.database), config={"checkpoint_threshold": "64MB"})

    def _lock_file(self) -> IO[str]:
        try:
            return (self.path / "LOCK").open("a")
        except OSError as error:
            raise StoreUnwritable(
                f"cannot lock {self.path}: {error.strerror}; a store must be writable even to read it, "
                "since reading moves what was recorded into it"
            ) from error

    def _applied(self, connection: duckdb.DuckDBPyConnection) -> set[str]:
        """The migrations the database has had.

        Raises:
            StoreError: it is a database of something else.
            StoreVersion: a newer redecode has changed it.
        """
        try:
            applied = {name for (name,) in connection.execute("SELECT name FROM migrations").fetchall()}
        except (duckdb.CatalogException, duckdb.BinderException):  # to look for it first takes ten times as long
            tables = sorted(name for (name,) in connection.execute(_TABLES).fetchall())
            if tables:
                raise StoreError(
                    f"{self.database} is a DuckDB database of something else (it has {', '.join(tables[:3])}); "
                    "move it aside, or name another store with --store"
                ) from None
            return set()
        unknown = applied - {name for name, _ in MIGRATIONS}
        if unknown:
            raise StoreVersion(f"{self.path} has migrations this redecode does not know: {sorted(unknown)}; upgrade")
        return applied

    def _migrate(self, connection: duckdb.DuckDBPyConnection) -> None:
        applied = self._applied(connection)
        connection.execute(CREATE_MIGRATIONS)
        for name, statements in MIGRATIONS:
            if name not in applied:
                connection.execute("BEGIN")
                connection.execute(statements)
                connection.execute("INSERT INTO migrations VALUES (?, ?)", [name, self._now_ns()])
                connection.execute("COMMIT")

    # -- the spool --

    def drain(self, on_progress: Callable[[int, int], None] | None = None) -> int:
        """Move what is in the spool into the database; returns the number of events moved.

        Args:
            on_progress: called with (bytes done, bytes in all).
        """
        if self.database.exists() and not any(self.spool.glob(f"*{SUFFIX}")):
            return 0
        with self._connect(write=True) as connection:
            return self.drain_into(connection, on_progress)

    def drain_into(
        self, connection: duckdb.DuckDBPyConnection, on_progress: Callable[[int, int], None] | None = None
    ) -> int:
        """As `drain`, on a connection that may write."""
        self._migrate(connection)
        return drain_spool(connection, self.spool, self._now_ns, on_progress)

    @contextmanager
    def _drained(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """One connection to read by, after draining."""
        self.drain()
        with self._connect(write=False) as connection:
            outdated = len(self._applied(connection)) < len(MIGRATIONS)
            if not outdated:
                yield connection
        if outdated:
            with self._connect(write=True) as connection:
                self._migrate(connection)
                yield connection

    @contextmanager
    def _reading(self) -> Iterator[queries.Read]:
        """Queries on one connection, after draining."""
        with self._drained() as connection:
            yield Reader(connection)

    # -- runs --

    def find(self, prefix: str) -> str:
        """The id of the run that starts with `prefix`.

        Raises:
            UnknownRun, AmbiguousRun: no run, or several, start with it.
        """
        with self._reading() as read:
            return queries.find(read, prefix, str(self.path))

    def runs(self, *, limit: int | None = None, run_ids: list[str] | None = None, besides: bool = False) -> list[Run]:
        """Runs, newest first; open ones too.

        Args:
            besides: whether to read what they were given besides their input.
        """
        with self._reading() as read:
            found = queries.runs(read, limit=limit, run_ids=run_ids)
            return queries.with_besides(read, found) if besides else found

    def load(self, prefix: str) -> RecordedRun:
        """One run, whole.

        Raises:
            UnknownRun, AmbiguousRun: as `find`.
        """
        with self._reading() as read:
            return queries.load(read, queries.find(read, prefix, str(self.path)))

    def load_many(self, run_ids: Sequence[str]) -> list[RecordedRun]:
        """Runs, whole, newest first; of ids that are not there, nothing."""
        found: list[RecordedRun] = []
        with self._reading() as read, uncollected():
            for place in range(0, len(run_ids), _AT_ONCE):
                found += queries.load_many(read, list(run_ids[place : place + _AT_ONCE]))
        return sorted(found, key=lambda r: r.run.started_ns, reverse=True)

    def structures(self, *, limit: int | None = None, run_ids: list[str] | None = None) -> list[RunStructure]:
        """As `runs`, each with its spans, its edges and the times of its FM calls, but not with what was said."""
        with self._reading() as read:
            return structures(read, limit=limit, run_ids=run_ids)

    def call_times(self, run_ids: list[str]) -> list[CallTimes]:
        """Times and counts of the FM calls of these runs."""
        with self._reading() as read:
            return call_times(read, run_ids)

    def timed_decodes(self, run_ids: list[str]) -> list[Decode]:
        """FM calls of these runs with all their times, and without what was said: `input_tokens` counts the prompt."""
        with self._reading() as read:
            return queries.timed_decodes(read, run_ids)

    def run_columns(self) -> RunColumns:
        """Every run, as columns, newest first; open ones too."""
        with self._drained() as connection:
            return run_columns(connection)

    def labelled(self, name: str, value: str) -> set[str]:
        """Ids of the runs with a label: `labelled("tune.trial", "7")`."""
        with self._drained() as connection:
            return labelled(connection, name, value)

    def rows(self, sql: str) -> list[JsonObject]:
        """What a query of ours gives: unlike `ask` without a sandbox around it, which takes 50 ms to make."""
        with self._reading() as read:
            return read(sql, [])

    def ask(self, sql: str, *, limit: int = 10_000, timeout_s: float = 10.0) -> Answer:
        """The answer to one SQL statement, which can only read; others who read wait for nothing.

        Raises:
            BadQuery: it means nothing, wants to change something, or takes too long.
        """
        with self._drained():
            pass  # its tables are up to date
        with self.held(exclusively=False):
            return ask(self.database, sql, limit=limit, timeout_s=timeout_s)

    def engine(self, engine_id: str | None) -> JsonObject | None:
        """What an engine said of itself when it was recorded; `None` if unknown."""
        with self._reading() as read:
            rows = read("SELECT info FROM engines WHERE engine_id = ? LIMIT 1", [engine_id])
        return c.from_json(rows[0]["info"]) if rows else None

    def health(self) -> Health:
        """Sizes, backlog and damage; reads only, drains first."""
        with self._reading() as ask:
            counts = ask(
                "SELECT (SELECT count(*) FROM runs) AS runs, (SELECT count(*) FROM spans) AS spans, "
                "(SELECT count(*) FROM decodes) AS decodes",
                [],
            )[0]
            corrupt = ask("SELECT DISTINCT journal, detail FROM journals WHERE state = 'corrupt'", [])
            dropped = ask(
                "SELECT journal, sum(events)::BIGINT AS lost, any_value(why) AS why FROM losses GROUP BY journal", []
            )
            migrations = ask("SELECT name FROM migrations ORDER BY applied_ns", [])
            read = ask("SELECT journal, max(read_bytes) AS read_bytes FROM journals GROUP BY journal", [])
        journals = {p: _size(p) for p in self.spool.glob(f"*{SUFFIX}")}
        done = {r["journal"]: r["read_bytes"] for r in read}
        return Health(
            **counts,
            database_bytes=_size(self.database),
            backlog_bytes=sum(max(size - done.get(p.name, 0), 0) for p, size in journals.items()),
            corrupt=[(r["journal"], r["detail"]) for r in corrupt],
            dropped=[(r["journal"], r["lost"], r["why"]) for r in dropped],
            migrations=[r["name"] for r in migrations],
        )


class Reader:
    """Queries on a connection (`queries.Read`)."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def __call__(self, query: str, parameters: list[Any]) -> list[JsonObject]:
        """Rows as dictionaries."""
        cursor = self._connection.execute(query, parameters)
        names = [d[0] for d in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def rows(self, query: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
        """Rows as tuples."""
        return self._connection.execute(query, parameters).fetchall()


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
