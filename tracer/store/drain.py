"""Moving the spool into the database: rows and the journals' new offsets in one transaction.

Journals are read one transaction ahead, in a thread: reading them and DuckDB's taking of the rows before both leave the
interpreter's lock. Small journals share a transaction, since a transaction costs as much as some thousand rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from redecode.tracer.losses import losses_path, read_losses
from redecode.tracer.spool import SUFFIX, read_journal, remove_if_empty, writer_is_gone
from redecode.tracer.store import foreign, ingest

_log = logging.getLogger("redecode")
BATCH_BYTES = 16 << 20


@dataclass(slots=True)
class _Transaction:
    """What goes in together.

    Attributes:
        bytes: how far it has moved on in the journals.
        finished: journals that end in it and will not grow.
    """

    rows: ingest.Rows
    events: int = 0
    bytes: int = 0
    finished: list[Path] = field(default_factory=list)


def drain_spool(
    connection: duckdb.DuckDBPyConnection,
    spool: Path,
    now_ns: Callable[[], int],
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Move every whole record of every journal; returns how many. The caller holds the store's exclusive lock."""
    schemas = ingest.table_schemas(connection)
    offsets = dict(connection.execute("SELECT journal, max(read_bytes) FROM journals GROUP BY journal").fetchall())
    journals = sorted(spool.glob(f"*{SUFFIX}"))
    total = sum(path.stat().st_size - offsets.get(path.name, 0) for path in journals)
    moved = done = 0
    for transaction in _ahead(_transactions(journals, offsets, now_ns)):
        connection.execute("BEGIN")
        ingest.insert(connection, transaction.rows, schemas)
        foreign.refresh(connection, transaction.rows, schemas)
        connection.execute("COMMIT")
        for path in transaction.finished:
            _finish(connection, path)
        moved, done = moved + transaction.events, done + transaction.bytes
        if on_progress is not None:
            on_progress(done, max(total, done))
    return moved


def _transactions(journals: list[Path], offsets: dict[str, int], now_ns: Callable[[], int]) -> Iterator[_Transaction]:
    current = _Transaction(ingest.Rows())
    for path in journals:
        offset = offsets.get(path.name, 0)
        if not path.stat().st_size:
            remove_if_empty(path)
            continue
        gone = writer_is_gone(path)  # asked before reading: what it wrote before leaving is read below
        for batch in read_journal(path, offset, finished=gone, batch_bytes=BATCH_BYTES):
            rows, known = current.rows, len(current.rows.damage)
            rows.take(batch.payloads, path.name)
            row = {"journal": path.name, "read_bytes": batch.end, "at_ns": now_ns()}
            rows.add("journals", {**row, "state": "read"})
            for damage in (*batch.damage, *rows.damage[known:]):
                _log.warning("redecode: %s; what is whole has been read", damage)
                rows.add("journals", {**row, "state": "corrupt", "detail": str(damage)})
            current.events += len(batch.payloads)
            current.bytes += batch.end - offset
            offset = batch.end
            if current.bytes >= BATCH_BYTES:
                yield current
                current = _Transaction(ingest.Rows())
        if gone:
            _take_losses(path, current.rows, offsets, now_ns)
            current.finished.append(path)
    if current.events or current.bytes or current.finished:
        yield current


def _take_losses(path: Path, rows: ingest.Rows, offsets: dict[str, int], now_ns: Callable[[], int]) -> None:
    """What the writer of a finished journal could not tell in it, once."""
    name = losses_path(path).name
    if name not in offsets and (losses := read_losses(path)):
        for run, events, why in losses:
            rows.add("losses", {"run_id": run, "events": events, "why": why, "journal": path.name})
        rows.add("journals", {"journal": name, "read_bytes": 0, "at_ns": now_ns(), "state": "read"})


def _ahead(transactions: Iterator[_Transaction]) -> Iterator[_Transaction]:
    with ThreadPoolExecutor(1, "redecode-drain") as reader:
        coming = reader.submit(next, transactions, None)
        while (transaction := coming.result()) is not None:
            coming = reader.submit(next, transactions, None)
            yield transaction


def _finish(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Delete a journal that has been read and will not grow; a damaged one is kept, set aside."""
    losses_path(path).unlink(missing_ok=True)
    query = "SELECT count(*) FROM journals WHERE journal = ? AND state = 'corrupt'"
    damaged = connection.execute(query, [path.name]).fetchone()
    if damaged is not None and damaged[0]:
        path.rename(path.with_suffix(".corrupt"))
    else:
        path.unlink(missing_ok=True)
