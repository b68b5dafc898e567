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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import duckdb

from redecode.tracer import conventions as c
from redecode.tracer.errors import (
    AmbiguousRun,
    StoreError,
    StoreUnwritable,
    StoreVersion,
    UnknownRun,
)
from redecode.tracer.records import (
    Choice,
    Decode,
    Edge,
    EdgeKind,
    Fidelity,
    JsonObject,
    Provenance,
    Run,
    Span,
    SpanKind,
    TimeSource,
    ToolStep,
)
from redecode.tracer.spool import SUFFIX, JournalBatch, make_private, read_journal, writer_is_gone
from redecode.tracer.store import foreign, ingest
from redecode.tracer.store.schema import CREATE_MIGRATIONS, MIGRATIONS, STORAGE_VERSION

_log = logging.getLogger("redecode")


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """One run with everything recorded below it; spans in order of their start."""

    run: Run
    spans: list[Span]
    edges: list[Edge]
    decodes: list[Decode]
    tools: list[ToolStep]


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
        if not create and not (self.path / "meta").exists() and not self.spool.is_dir():
            raise StoreError(f"no store at {self.path}; record into it first, or name another with --store")
        try:
            make_private(self.path)
            make_private(self.spool)
            meta = self.path / "meta"
            if not meta.exists():
                temporary = meta.with_suffix(f".{os.getpid()}")
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
        with self._lock_file() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX if write or not self.database.exists() else fcntl.LOCK_SH)
            try:
                connection = duckdb.connect(str(self.database), read_only=not write and self.database.exists())
            except duckdb.Error as error:
                raise StoreError(
                    f"cannot open {self.database}: {error} Move it aside to go on with what is still in the spool, "
                    "or name another store with --store"
                ) from error
            try:
                yield connection
            except duckdb.IOException as error:  # a full disk, a file taken away
                raise StoreError(f"cannot use {self.database}: {error}") from error
            finally:
                connection.close()

    def _lock_file(self) -> IO[str]:
        try:
            return (self.path / "LOCK").open("a")
        except OSError as error:
            raise StoreUnwritable(
                f"cannot lock {self.path}: {error.strerror}; a store must be writable even to read it, "
                "since reading moves what was recorded into it"
            ) from error

    def _migrate(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute(CREATE_MIGRATIONS)
        applied = {name for (name,) in connection.execute("SELECT name FROM migrations").fetchall()}
        unknown = applied - {name for name, _ in MIGRATIONS}
        if unknown:
            raise StoreVersion(f"{self.path} has migrations this redecode does not know: {sorted(unknown)}; upgrade")
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
        journals = sorted(self.spool.glob(f"*{SUFFIX}"))
        if not journals and self.database.exists():
            return 0
        moved = 0
        with self._connect(write=True) as connection:
            self._migrate(connection)
            schemas = ingest.table_schemas(connection)
            offsets = dict(
                connection.execute("SELECT journal, max(read_bytes) FROM journals GROUP BY journal").fetchall()
            )
            total, done = sum(_size(p) for p in journals), 0
            for path in journals:
                moved += self._drain_journal(connection, path, offsets.get(path.name, 0), schemas)
                done += _size(path)
                if on_progress is not None:
                    on_progress(done, total)
        return moved

    def _drain_journal(
        self, connection: duckdb.DuckDBPyConnection, path: Path, offset: int, schemas: dict[str, Any]
    ) -> int:
        moved = 0
        try:
            gone = writer_is_gone(path)  # asked before reading: what it wrote before leaving is read below
            for batch, rows in _ahead(_batches(path, offset, finished=gone)):
                rows.add("journals", self._journal_row(path, batch.end, "read", None))
                for damage in (*batch.damage, *rows.damage):
                    _log.warning("redecode: %s; what is whole has been read", damage)
                    rows.add("journals", self._journal_row(path, batch.end, "corrupt", str(damage)))
                connection.execute("BEGIN")
                ingest.insert(connection, rows, schemas)
                if rows.foreign:
                    foreign.refresh(connection, rows.foreign, schemas)
                connection.execute("COMMIT")
                moved += len(batch.payloads)
            if gone:
                self._finish(connection, path)
        except FileNotFoundError:
            pass  # another process finished it between our listing and our lock
        return moved

    @staticmethod
    def _finish(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        """Delete a journal that has been read and will not grow; a damaged one is kept, set aside."""
        query = "SELECT count(*) FROM journals WHERE journal = ? AND state = 'corrupt'"
        damaged = connection.execute(query, [path.name]).fetchone()
        if damaged is not None and damaged[0]:
            path.rename(path.with_suffix(".corrupt"))
        else:
            path.unlink(missing_ok=True)

    def _journal_row(self, path: Path, read_bytes: int, state: str, detail: str | None) -> ingest.Row:
        return {
            "journal": path.name, "read_bytes": read_bytes, "state": state, "detail": detail, "at_ns": self._now_ns(),
        }  # fmt: skip

    @contextmanager
    def _reading(self) -> Iterator[Callable[..., list[JsonObject]]]:
        """Queries on one connection, after draining."""
        self.drain()
        with self._connect(write=False) as connection:

            def read(query: str, parameters: list[Any] | None = None) -> list[JsonObject]:
                cursor = connection.execute(query, parameters or [])
                names = [d[0] for d in cursor.description or ()]
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

            yield read

    def _read(self, query: str, parameters: list[Any] | None = None) -> list[JsonObject]:
        with self._reading() as read:
            return read(query, parameters)

    # -- runs --

    def find(self, prefix: str) -> str:
        """The id of the run that starts with `prefix`.

        Raises:
            UnknownRun, AmbiguousRun: no run, or several, start with it.
        """
        wanted = prefix.strip().lower()
        if not wanted or not all(ch in "0123456789abcdef" for ch in wanted):
            raise UnknownRun(f"'{prefix}' is not a run id (hex digits); `redecode runs` lists them")
        rows = self._read(
            "SELECT DISTINCT run_id, started_ns FROM (SELECT run_id, started_ns FROM runs UNION ALL "
            "SELECT run_id, start_ns FROM span_starts WHERE kind = 'run') WHERE starts_with(run_id, ?) "
            "ORDER BY started_ns DESC LIMIT 20",
            [wanted],
        )
        if not rows:
            raise UnknownRun(f"no run starts with '{prefix}' in {self.path}; `redecode runs` lists them")
        if len(rows) > 1:
            some = ", ".join(r["run_id"][: len(wanted) + 6] for r in rows[:5])
            raise AmbiguousRun(f"'{prefix}' could be any of {len(rows)} runs ({some} …); give more digits")
        return str(rows[0]["run_id"])

    def runs(self, *, limit: int | None = None, run_ids: list[str] | None = None) -> list[Run]:
        """Runs, newest first; open ones too."""
        with self._reading() as read:
            return self._runs(read, limit, run_ids)

    @staticmethod
    def _runs(read: Callable[..., list[JsonObject]], limit: int | None, run_ids: list[str] | None) -> list[Run]:
        where, parameters = "", []
        if run_ids is not None:
            where, parameters = "WHERE r.run_id IN (SELECT unnest(?))", [run_ids]
        query = f"""
            WITH r AS (
                SELECT * FROM runs UNION ALL BY NAME
                SELECT run_id, attributes->>'$."{c.AGENT_NAME}"' AS agent, 'open' AS status,
                       start_ns AS started_ns, attributes->>'$."{c.RUN_INPUT}"' AS input, journal,
                       attributes->>'$."{c.SOURCE_RUN}"' AS source_run_id,
                       attributes->>'$."{c.REPLAY_MODE}"' AS replay_mode
                FROM span_starts ANTI JOIN spans USING (run_id, span_id) WHERE kind = 'run'
            ), picked AS (
                SELECT r.* FROM r {where} ORDER BY started_ns DESC {"LIMIT ?" if limit is not None else ""}
            ), d AS (
                SELECT run_id, count(*) AS decodes, sum(output_tokens) AS tokens, sum(input_tokens) AS prompt_tokens,
                       list(DISTINCT fidelity) AS fidelities
                FROM decodes SEMI JOIN picked USING (run_id) GROUP BY run_id
            ), t AS (
                SELECT run_id, count(*) AS tools FROM tool_steps SEMI JOIN picked USING (run_id) GROUP BY run_id
            ), l AS (
                SELECT run_id, sum(events)::BIGINT AS lost FROM losses SEMI JOIN picked USING (run_id) GROUP BY run_id
            )
            SELECT * FROM picked LEFT JOIN d USING (run_id) LEFT JOIN t USING (run_id) LEFT JOIN l USING (run_id)
            ORDER BY started_ns DESC
        """
        return [_run(row) for row in read(query, parameters + ([limit] if limit is not None else []))]

    def load(self, prefix: str) -> RecordedRun:
        """One run, whole.

        Raises:
            UnknownRun, AmbiguousRun: as `find`.
        """
        run_id = self.find(prefix)
        with self._reading() as read:
            (run,) = self._runs(read, None, [run_id])
            spans = read(
                """
                SELECT * FROM spans WHERE run_id = ? UNION ALL BY NAME
                SELECT * EXCLUDE (edges), edges AS open_edges, 'open' AS status
                FROM span_starts ANTI JOIN spans USING (run_id, span_id) WHERE run_id = ?
                ORDER BY start_ns, span_id
                """,
                [run_id, run_id],
            )
            edges = read("SELECT src, dst, kind, provenance FROM edges WHERE run_id = ?", [run_id])
            decodes = read(
                """
                SELECT d.*, s.token_gaps_us AS step_gaps, s.batch_rows AS step_rows,
                       (SELECT flatten(list(b.tokens ORDER BY u.at))
                        FROM (SELECT unnest(d.prompt_blocks) AS hash, generate_subscripts(d.prompt_blocks, 1) AS at) u
                        JOIN prompt_blocks b USING (hash)) AS prompt_body
                FROM decodes d LEFT JOIN decode_steps s USING (run_id, span_id)
                WHERE d.run_id = ? ORDER BY sent_ns, span_id
                """,
                [run_id],
            )
            choices = read("SELECT * FROM decode_choices WHERE run_id = ? ORDER BY span_id, index", [run_id])
            tools = read("SELECT * FROM tool_steps WHERE run_id = ? ORDER BY span_id", [run_id])
        for span in spans:  # an ended span's edges are in the table; an open one has only what its start knew
            for src, kind, provenance in c.from_json(span.get("open_edges")) or ():
                edges.append({"src": src, "dst": span["span_id"], "kind": kind, "provenance": provenance})
        return RecordedRun(
            run=run,
            spans=[_span(r) for r in spans],
            edges=[Edge(r["src"], r["dst"], EdgeKind(r["kind"]), Provenance(r["provenance"])) for r in edges],
            decodes=[_decode(r, [x for x in choices if x["span_id"] == r["span_id"]]) for r in decodes],
            tools=[_tool(r) for r in tools],
        )

    def engine(self, engine_id: str | None) -> JsonObject | None:
        """What an engine said of itself when it was recorded; `None` if unknown."""
        rows = self._read("SELECT info FROM engines WHERE engine_id = ? LIMIT 1", [engine_id])
        return c.from_json(rows[0]["info"]) if rows else None

    def health(self) -> Health:
        """Sizes, backlog and damage; reads only, drains first."""
        with self._reading() as ask:
            counts = ask(
                "SELECT (SELECT count(*) FROM runs) AS runs, (SELECT count(*) FROM spans) AS spans, "
                "(SELECT count(*) FROM decodes) AS decodes"
            )[0]
            corrupt = ask("SELECT DISTINCT journal, detail FROM journals WHERE state = 'corrupt'")
            dropped = ask(
                "SELECT journal, sum(events)::BIGINT AS lost, any_value(why) AS why FROM losses GROUP BY journal"
            )
            migrations = ask("SELECT name FROM migrations ORDER BY applied_ns")
            read = ask("SELECT journal, max(read_bytes) AS read_bytes FROM journals GROUP BY journal")
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


def _batches(path: Path, offset: int, *, finished: bool) -> Iterator[tuple[JournalBatch, ingest.Rows]]:
    for batch in read_journal(path, offset, finished=finished):
        rows = ingest.Rows(path.name)
        rows.take(batch.payloads)
        yield batch, rows


def _ahead(batches: Iterator[tuple[JournalBatch, ingest.Rows]]) -> Iterator[tuple[JournalBatch, ingest.Rows]]:
    """The same, one batch ahead: it is read while DuckDB takes the one before (both leave the interpreter's lock)."""
    with ThreadPoolExecutor(1, "redecode-drain") as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _run(row: JsonObject) -> Run:
    return Run(
        run_id=row["run_id"],
        agent=row["agent"] or "",
        status=row["status"],
        started_ns=row["started_ns"],
        ended_ns=row["ended_ns"],
        fidelity=Fidelity.least(row["fidelities"] or []),
        decodes=row["decodes"] or 0,
        tools=row["tools"] or 0,
        tokens=int(row["tokens"] or 0),
        prompt_tokens=int(row["prompt_tokens"] or 0),
        source_run_id=row["source_run_id"],
        replay_mode=row["replay_mode"],
        agent_version=row["agent_version"],
        conversation_id=row["conversation_id"],
        error=row["error"],
        input=c.from_json(row["input"]),
        output=c.from_json(row["output"]),
        slo_s=row["slo_s"],
        labels=c.from_json(row["labels"]) or {},
        lost=row["lost"] or 0,
    )


def _span(row: JsonObject) -> Span:
    keys = ("run_id", "span_id", "parent_span_id", "name", "step_key", "start_ns", "end_ns", "status", "error")
    return Span(
        **{k: row[k] for k in keys}, kind=SpanKind(row["kind"]), attributes=c.from_json(row["attributes"]) or {}
    )


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


_DECODE_PLAIN = (
    "run_id", "span_id", "step_key", "model", "sent_ns", "first_chunk_ns", "done_ns", "base_url", "request_id",
    "fingerprint", "engine_id", "seed", "seed_source", "finish_reason", "input_tokens", "output_tokens",
    "cached_tokens", "queue_ns", "prefill_ns", "decode_ns", "error", "digest",
)  # fmt: skip


def _times(gaps: list[int] | None) -> tuple[int, ...] | None:
    return None if gaps is None else c.times_ns(gaps)


def _decode(row: JsonObject, choices: list[JsonObject]) -> Decode:
    prompt = None
    if row["prompt_tail"] is not None:
        prompt = (*(row["prompt_body"] or ()), *row["prompt_tail"])
    steps, source = row["step_gaps"], row["token_time_source"]
    if steps is not None:
        source = TimeSource.ENGINE.value
    return Decode(
        **{k: row[k] for k in _DECODE_PLAIN},
        fidelity=Fidelity(row["fidelity"] or Fidelity.TEXT),
        sampling=c.from_json(row["sampling"]) or {},
        messages=c.from_json(row["messages"]),
        tool_definitions=c.from_json(row["tool_definitions"]),
        output=c.from_json(row["output"]),
        stream=bool(row["stream"]),
        prompt_ids=prompt,
        sampled_ids=_tuple(row["sampled_ids"]),
        logprobs=_tuple(row["logprobs"]),
        token_times_ns=_times(steps if steps is not None else row["token_gaps_us"]),
        token_time_source=TimeSource(source) if source else None,
        chunk_times_ns=_times(row["chunk_gaps_us"]),
        chunk_tokens=_tuple(row["chunk_tokens"]),
        batch_rows=_tuple(row["step_rows"] if steps is not None else row["batch_rows"]),
        more_choices=tuple(Choice(_tuple(x["sampled_ids"]), _tuple(x["logprobs"])) for x in choices),
    )


def _tool(row: JsonObject) -> ToolStep:
    return ToolStep(
        run_id=row["run_id"],
        span_id=row["span_id"],
        step_key=row["step_key"],
        tool=row["tool"],
        call_id=row["call_id"],
        arguments=c.from_json(row["arguments"]),
        result=c.from_json(row["result"]),
        error=row["error"],
        side_effect=row["side_effect"],
    )
