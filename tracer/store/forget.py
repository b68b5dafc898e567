"""Forgetting runs: their rows, the prompt blocks only they used, and their records in journals still being written.

DuckDB leaves the bytes of deleted rows in its file, so what is kept is copied into a new file that then takes the old
one's place: whoever is killed in between leaves the old store or the new one. A journal that a process still writes
cannot be replaced; the records in it that have been read are overwritten where they stand, by empty ones of the same
length, so that its writer need not know and a reader finds a whole journal.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from redecode.tracer import conventions as c
from redecode.tracer.blocks import BLOCK_TOKENS
from redecode.tracer.errors import StoreError
from redecode.tracer.events import parse
from redecode.tracer.spool import SUFFIX, frame, sync_path, writer_is_gone
from redecode.tracer.store import queries
from redecode.tracer.store.publish import remove_staged
from redecode.tracer.store.store import Reader, Store

CORRUPT_SUFFIX = ".corrupt"
_FRESH = "runs.forgetting"
_EMPTY = b'{"t":"forgotten"'
_HEADER_BYTES = len(frame(b""))
_COUNTED = {"spans": "spans", "decodes": "decodes", "tools": "tool_steps"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What forgetting did, or (`dry`) would do.

    Attributes:
        runs: ids of the runs, replays of them included.
        replays: how many of them went because what they replay did.
        still_open: ids of runs that are being recorded just now, and so stayed.
        tokens: sampled tokens; `prompt_tokens` likewise.
        blocks: prompt blocks that no other run used.
        scrubbed: records overwritten in journals that are still being written, or are damaged.
        bytes_before, bytes_after: of the database and the spool.
        corrupt: damaged journals in the spool, which may hold parts of any run; `corrupt_deleted` of them are gone.
    """

    dry: bool
    runs: tuple[str, ...]
    replays: int
    still_open: tuple[str, ...]
    spans: int
    decodes: int
    tools: int
    tokens: int
    prompt_tokens: int
    blocks: int
    scrubbed: int
    bytes_before: int
    bytes_after: int
    corrupt: tuple[str, ...]
    corrupt_deleted: int

    @property
    def freed_bytes(self) -> int:
        """By how much the store is smaller now; not below 0, others may have recorded meanwhile."""
        return max(0, self.bytes_before - self.bytes_after)


@dataclass(slots=True)
class _Known:
    """What is known of one run before it is decided on."""

    agent: str | None = None
    source: str | None = None
    last_ns: int = 0
    journal: str | None = None
    open: bool = False


def forget(
    store: Store,
    *,
    runs: Sequence[str] = (),
    before_ns: int | None = None,
    agent: str | None = None,
    corrupt: bool = False,
    dry: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> Forgotten:
    """Remove runs, and every replay of them, from the store for good.

    Args:
        runs: ids, or enough of their beginnings.
        before_ns: every run whose last event is older than this.
        agent: of those, only this agent's.
        corrupt: delete damaged journals too; they may hold parts of any run.
        dry: only say what would go.
        on_progress: told what is being done.

    Raises:
        UnknownRun, AmbiguousRun: no run, or several, start with one of `runs`.
        StoreError: one of `runs` is being recorded just now; or there is no room for a copy of what stays.
    """
    say = on_progress or (lambda _: None)
    with store.held(exclusively=True):
        _clean_up(store)
        before = _size_of(store)
        with store.opened(write=True) as connection:
            say("reading the spool")
            store.drain_into(connection)
            known = _known(connection)
            wanted = {queries.find(Reader(connection), prefix, str(store.path)) for prefix in runs}
            live = _live(store.spool)
            open_now = {run for run, k in known.items() if k.open and _stem(k.journal) in live}
            if busy := sorted(wanted & open_now):
                raise StoreError(f"run {busy[0][:12]} is being recorded just now; end its program first")
            if before_ns is not None:
                wanted |= {r for r, k in known.items() if k.last_ns < before_ns and agent in {None, k.agent}}
            chosen = wanted | _replays(known, wanted)
            gone = chosen - open_now
            counts = _counts(connection, gone)
            damaged = sorted(store.spool.glob(f"*{CORRUPT_SUFFIX}"))
            scrubbed = deleted = 0
            if not dry:
                say("overwriting journals")
                scrubbed = sum(_scrub(p, gone, upto) for p, upto in _read_parts(store, connection, damaged))
                deleted = _delete(connection, damaged) if corrupt else 0
                if gone:
                    say("copying what stays")
                    counts["blocks"] = _copy_kept(store, connection, gone, idle=not live)
        if not dry and gone:
            _take_its_place(store)
        return Forgotten(
            dry=dry,
            runs=tuple(sorted(gone)),
            replays=len(gone - wanted),
            still_open=tuple(sorted(chosen & open_now)),
            scrubbed=scrubbed,
            bytes_before=before,
            bytes_after=_size_of(store),
            corrupt=tuple(p.name for p in damaged),
            corrupt_deleted=deleted,
            **counts,
        )


def _clean_up(store: Store) -> None:
    """Remove what a killed process left: an unfinished copy, DuckDB's temporary files, those of a publishing."""
    for path in (*store.path.glob(f"{_FRESH}*"), *store.path.glob(f"{store.database.name}.tmp/*")):
        with suppress(OSError):
            path.unlink() if not path.is_dir() else path.rmdir()
    for path in store.path.glob("*.tmp"):
        with suppress(OSError):
            path.rmdir()
    remove_staged(store.path)


def _known(connection: duckdb.DuckDBPyConnection) -> dict[str, _Known]:
    """Every run of which anything is there, whether `redecode runs` lists it or not."""
    known: dict[str, _Known] = {}
    last = """
        SELECT run_id, max(seen_ns) FROM (
            SELECT run_id, coalesce(end_ns, start_ns) AS seen_ns FROM spans UNION ALL
            SELECT run_id, start_ns FROM span_starts UNION ALL
            SELECT run_id, coalesce((document->>'$.end_ns')::BIGINT, (document->>'$.start_ns')::BIGINT) FROM otlp_spans
        ) GROUP BY run_id
    """
    for run, at in connection.execute(last).fetchall():
        known[run] = _Known(last_ns=at or 0)
    begun = f"""
        SELECT run_id, agent, source_run_id, journal, false FROM runs UNION ALL
        SELECT run_id, attributes->>'$."{c.AGENT_NAME}"', attributes->>'$."{c.SOURCE_RUN}"', journal, true
        FROM span_starts ANTI JOIN spans USING (run_id, span_id) WHERE kind = 'run'
    """
    for run, agent, source, journal, is_open in connection.execute(begun).fetchall():
        k = known.setdefault(run, _Known())
        k.agent, k.source, k.journal, k.open = agent, source, journal, is_open
    return known


def _replays(known: dict[str, _Known], of: set[str]) -> set[str]:
    """The replays of runs, and the replays of those: they hold the same content."""
    found: set[str] = set()
    while more := {r for r, k in known.items() if k.source in of | found} - found - of:
        found |= more
    return found


def _stem(journal: str | None) -> str:
    """What the journals of one process have in common: all but the sequence number."""
    return (journal or "").rpartition("-")[0]


def _live(spool: Path) -> set[str]:
    """Stems of the journals that are being written."""
    live = set()
    for path in spool.glob(f"*{SUFFIX}"):
        with suppress(FileNotFoundError):
            if not writer_is_gone(path):
                live.add(_stem(path.name))
    return live


def _counts(connection: duckdb.DuckDBPyConnection, gone: set[str]) -> dict[str, int]:
    connection.execute("CREATE OR REPLACE TEMP TABLE gone AS SELECT unnest(?::VARCHAR[]) AS run_id", [sorted(gone)])
    counts = {name: _one(connection, f"SELECT count(*) FROM {table} SEMI JOIN gone USING (run_id)")
              for name, table in _COUNTED.items()}  # fmt: skip
    sampled = "coalesce(output_tokens, len(sampled_ids))"
    asked = f"coalesce(input_tokens, {BLOCK_TOKENS} * len(prompt_blocks) + coalesce(len(prompt_tail), 0))"
    for name, column in (("tokens", sampled), ("prompt_tokens", asked)):
        counts[name] = _one(connection, f"SELECT sum({column}) FROM decodes SEMI JOIN gone USING (run_id)")
    counts["blocks"] = _one(
        connection,
        "SELECT count(*) FROM prompt_blocks ANTI JOIN (SELECT unnest(prompt_blocks) AS hash FROM decodes "
        "ANTI JOIN gone USING (run_id)) USING (hash)",
    )
    return counts


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0] or 0) if row is not None else 0


# -- journals --


def _read_parts(store: Store, connection: duckdb.DuckDBPyConnection, damaged: list[Path]) -> Iterator[tuple[Path, int]]:
    """Journals that stay, each with the bytes of it that are in the database."""
    read = dict(connection.execute("SELECT journal, max(read_bytes) FROM journals GROUP BY journal").fetchall())
    for path in store.spool.glob(f"*{SUFFIX}"):
        yield path, read.get(path.name, 0)
    for path in damaged:
        yield path, _size(path)


def _scrub(path: Path, gone: set[str], upto: int) -> int:
    """Overwrite the records of these runs among the first `upto` bytes of a journal; returns how many."""
    with suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDWR)
        try:
            upto = min(upto, os.fstat(fd).st_size)
            found = _records(fd, gone, upto) if upto else []
            for at, length in found:
                os.pwrite(fd, frame(_EMPTY.ljust(length - 1) + b"}"), at)
            if found:
                os.fsync(fd)
            return len(found)
        finally:
            os.close(fd)
    return 0


def _records(fd: int, gone: set[str], upto: int) -> list[tuple[int, int]]:
    """(where it begins, bytes of its payload) of the records of these runs; passes over damage."""
    found, at = [], 0
    with mmap.mmap(fd, upto, prot=mmap.PROT_READ) as data:
        while at + _HEADER_BYTES <= upto:
            length = int.from_bytes(data[at : at + 4], "little")
            begin, end = at + _HEADER_BYTES, at + _HEADER_BYTES + length
            if end <= upto and frame(payload := data[begin:end]) == data[at:end]:
                if _run_of(payload) in gone:
                    found.append((at, length))
                at = end
            elif (begin := data.find(b'{"t":"', begin + 1)) >= 0:
                at = begin - _HEADER_BYTES
            else:
                break
    return found


def _run_of(payload: bytes) -> str | None:
    try:
        run = parse(payload).get("run")
    except ValueError:
        return None
    return run if isinstance(run, str) else None


def _delete(connection: duckdb.DuckDBPyConnection, damaged: list[Path]) -> int:
    for path in damaged:
        path.unlink(missing_ok=True)
        name = path.with_suffix(SUFFIX).name
        connection.execute("DELETE FROM journals WHERE journal = ?", [name])
    return len(damaged)


# -- the database --


def _copy_kept(store: Store, connection: duckdb.DuckDBPyConnection, gone: set[str], *, idle: bool) -> int:
    """Copy what stays into a new database beside the old one; returns the prompt blocks left behind.

    Args:
        idle: nobody records: an engine no decode refers to is one no decode will refer to.
    """
    fresh = store.path / f"{_FRESH}.duckdb"
    main = _name(connection)
    live = [path.name for path in store.spool.glob(f"*{SUFFIX}")]
    connection.execute("CREATE OR REPLACE TEMP TABLE live AS SELECT unnest(?::VARCHAR[]) AS journal", [live])
    connection.execute(f"ATTACH '{str(fresh).replace(chr(39), chr(39) * 2)}' AS fresh")
    try:
        connection.execute(f"COPY FROM DATABASE {main} TO fresh (SCHEMA)")
        columns = "SELECT table_name, list(column_name) FROM duckdb_columns() WHERE database_name = ? AND NOT internal"
        tables = dict(connection.execute(f"{columns} GROUP BY table_name", [main]).fetchall())
        of_runs = [table for table, names in tables.items() if "run_id" in names]
        by_journal = [table for table in of_runs if "journal" in tables[table]]
        last = {
            "prompt_blocks": "SEMI JOIN (SELECT unnest(prompt_blocks) AS hash FROM fresh.decodes) USING (hash)",
            "engines": "SEMI JOIN fresh.decodes USING (engine_id)" if idle else "",
            # A process's command line may be content too: it goes with the last that came from it.
            "processes": "SEMI JOIN (" + " UNION ALL ".join(
                ["SELECT journal FROM live", *(f"SELECT journal FROM fresh.{t}" for t in by_journal)]
            ) + ") USING (journal)",
        }  # fmt: skip
        for table in sorted(tables, key=lambda name: (name in last, name)):
            where = last.get(table, "ANTI JOIN gone USING (run_id)" if table in of_runs else "")
            connection.execute(f"INSERT INTO fresh.{table} SELECT * FROM {main}.{table} {where}")
        left = _one(connection, f"SELECT count(*) FROM {main}.prompt_blocks")
        left -= _one(connection, "SELECT count(*) FROM fresh.prompt_blocks")
        connection.execute("CHECKPOINT fresh")
        connection.execute("DETACH fresh")
        connection.execute("CHECKPOINT")
    except duckdb.Error as error:
        _remove(fresh)
        raise StoreError(f"nothing was forgotten: {store.database} could not be copied: {error}") from error
    return left


def _name(connection: duckdb.DuckDBPyConnection) -> str:
    row: Any = connection.execute("SELECT current_database()").fetchone()
    return str(row[0])


def _take_its_place(store: Store) -> None:
    """The new database becomes the database; the old one's bytes are in no file any more."""
    fresh = store.path / f"{_FRESH}.duckdb"
    for database in (store.database, fresh):
        log = database.with_name(database.name + ".wal")
        if log.exists():
            _remove(fresh)
            raise StoreError(f"nothing was forgotten: {log} could not be written into its database; is the disk full?")
    fresh.chmod(store.database.stat().st_mode & 0o777)
    sync_path(fresh)
    fresh.replace(store.database)
    sync_path(store.path)


def _remove(fresh: Path) -> None:
    for path in (fresh, fresh.with_name(fresh.name + ".wal")):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _size_of(store: Store) -> int:
    files = (store.database, store.database.with_name(store.database.name + ".wal"), *store.spool.iterdir())
    return sum(map(_size, files))


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
