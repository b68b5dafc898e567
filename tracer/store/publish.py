"""Publishing: whole runs of a store into a dataset, each once, and again when more of it has come.

For each day: the manifest says what is going to be in which part; the parts' files are written, each replacing the
one before as a whole, `runs` last; the manifest says that it is so. A publishing that was killed is finished by the
next one: the same parts, the same names, the same rows.

A part that is still small takes in the next runs, so that publishing every minute does not make a file a minute.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import orjson

from redecode.tracer.errors import StoreUnwritable
from redecode.tracer.spool import SUFFIX
from redecode.tracer.store import layout, queries
from redecode.tracer.store.ingest import FOREIGN
from redecode.tracer.store.layout import Place
from redecode.tracer.store.manifest import REMOVED, Manifest, Part, read_manifests
from redecode.tracer.store.modes import private_files
from redecode.tracer.store.places import MARKER, STAGED
from redecode.tracer.store.places import place as place_at
from redecode.tracer.store.store import Store

PART_RUNS, PART_SPANS, PART_TOKENS = 1000, 100_000, 20_000_000
"""A part takes no more than these; a larger run has one of its own."""
GROW_BYTES = 4 << 20
"""A part takes in more runs until it is this large."""
_ROW_GROUP = {"decodes": 2048}  # few wide rows in memory at once


@dataclass(frozen=True, slots=True)
class Published:
    """What a publishing did.

    Attributes:
        runs: published for the first time.
        updated: published before, and again now, since more of them had come.
        present: were there as they are.
        waiting: still open.
        files, bytes: written.
    """

    dest: str
    runs: int
    updated: int
    present: int
    waiting: int
    files: int
    bytes: int


def publish_runs(
    store: Store,
    dest: str | Path,
    *,
    since_ns: int | None = None,
    agent: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_wait: Callable[[], None] | None = None,
) -> Published:
    """Put the ended runs of a store into the dataset at `dest` that are not there yet as they are.

    A run that cannot end any more, since its process is gone, is published too, and is open there.

    Args:
        dest: a folder, or a URL that fsspec knows; made if missing.
        since_ns: only runs that started then or later.
        agent: only runs of this agent.
        on_progress: called with (runs written, runs to write).
        on_wait: called before waiting for another process that publishes this store.

    Raises:
        StoreUnwritable: `dest` cannot be written, or holds something else.
        StoreVersion: a newer redecode has made the dataset.
    """
    place = place_at(dest)
    with _one_at_a_time(store, on_wait), place.speaking():
        _make(place)
        me = _identity(store)
        with place.staging(me, store.path) as staging:
            publishing = _Publishing(store, place, me, staging)
            publishing.plan(since_ns, agent)
            return publishing.write(on_progress or (lambda _done, _total: None))


@contextmanager
def _one_at_a_time(store: Store, on_wait: Callable[[], None] | None) -> Iterator[None]:
    with private_files():
        lock = (store.path / "PUBLISH").open("a")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is not None:
                on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove_staged(store: Path) -> None:
    """Remove what a killed publishing left in a store; nothing if one goes on."""
    folder = store / STAGED
    if folder.exists():
        with (store / "PUBLISH").open("a") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _make(place: Place) -> None:
    """Make the dataset, unless it is there; several may do so at once."""
    if layout.check(place):
        return
    if not place.is_empty() and not layout.check(place):
        raise StoreUnwritable(f"{place.url} holds something else than a published dataset; name a new or empty place")
    place.make()
    place.write(MARKER, orjson.dumps({"redecode_dataset": layout.VERSION}))


def _identity(store: Store) -> str:
    """What tells this store from others, given to it when it first publishes."""
    meta = store.path / "meta"
    document = orjson.loads(meta.read_bytes())
    if "id" not in document:
        document["id"] = os.urandom(6).hex()
        coming = meta.with_suffix(f".{os.getpid()}")
        with private_files():
            coming.write_bytes(orjson.dumps(document) + b"\n")
        coming.rename(meta)
    return str(document["id"])


class _Publishing:
    """One publishing: what is to be written, and what has been."""

    def __init__(self, store: Store, place: Place, me: str, staging: Path) -> None:
        self._store, self._place, self._me, self._staging = store, place, me, staging
        self._manifests = read_manifests(place, me)
        self._interrupted = {part.name for part in self._parts() if part.pending}
        self._plan = {part.name: set(part.pending) for part in self._parts() if part.pending}  # run ids by part
        self._runs = self._updated = self._present = self._waiting = self._files = self._bytes = 0

    def _parts(self) -> list[Part]:
        return [part for manifest in self._manifests.values() for part in manifest.parts]

    def plan(self, since_ns: int | None, agent: str | None) -> None:
        """Which runs go into which parts."""
        placed = {run: part for part in self._parts() for run in (*part.runs, *part.pending)}
        new: dict[tuple[str, str], list[_Candidate]] = {}
        with self._store._reading() as read:
            candidates = _candidates(read, since_ns, agent)
        for run in candidates:
            part = placed.get(run.run_id)
            if not run.ended and _may_end(run.journal, self._store.spool):
                self._waiting += 1
            elif part is None:
                new.setdefault((run.day, layout.folder_of(run.day, run.agent)), []).append(run)
            elif run.run_id in part.pending or part.runs[run.run_id] not in {run.rows, REMOVED}:
                self._plan.setdefault(part.name, set()).add(run.run_id)
            else:
                self._present += 1
        for (day, folder), runs in new.items():
            manifest = self._manifests.setdefault(day, Manifest(self._me, day))
            self._assign(manifest, folder, runs)

    def _assign(self, manifest: Manifest, folder: str, runs: list[_Candidate]) -> None:
        """New runs of one partition to parts: to the last one as long as it is small, then to new ones."""
        part = next((p for p in reversed(manifest.parts) if p.folder == folder), None)
        if part is not None and part.bytes >= GROW_BYTES:
            part = None
        spans = tokens = 0
        for run in runs:
            spans, tokens = spans + run.spans, tokens + run.tokens
            if part is not None:
                held = len(self._plan.get(part.name, set()) | part.runs.keys())
                if held >= PART_RUNS or spans > PART_SPANS or tokens > PART_TOKENS:
                    part = None
            if part is None:
                part, spans, tokens = manifest.new_part(folder), run.spans, run.tokens
            self._plan.setdefault(part.name, set()).add(run.run_id)

    def write(self, on_progress: Callable[[int, int], None]) -> Published:
        """Day by day: say what will be, write it, say that it is."""
        done, total = 0, sum(map(len, self._plan.values()))
        for manifest in sorted(self._manifests.values(), key=lambda m: m.day):
            parts = [part for part in manifest.parts if part.name in self._plan]
            if not parts:
                continue
            for part in parts:
                part.pending = sorted(self._plan[part.name])
            manifest.write(self._place)
            for part in parts:
                self._write_part(part)
                done += len(part.pending)
                part.pending = []
                on_progress(done, total)
            manifest.write(self._place)
        return Published(
            self._place.url, self._runs, self._updated, self._present, self._waiting, self._files, self._bytes
        )

    def _write_part(self, part: Part) -> None:
        wanted, old = set(part.pending), {}
        if part.runs and not self._place.has(layout.file_of("runs", part.folder, part.name)):
            wanted -= part.runs.keys()
            part.runs = dict.fromkeys(part.runs, REMOVED)
        elif part.runs:
            old = self._fetch(part)
        if not wanted:
            return
        rows, counts = self._stage(part, wanted, old)
        part.bytes = 0
        for table in layout.TABLES:
            name = layout.file_of(table, part.folder, part.name)
            if counts[table]:
                staged = self._staging / f"{table}.parquet"
                part.bytes += staged.stat().st_size
                self._place.put(staged, name)
            elif table in old or part.name in self._interrupted:
                self._place.remove(name)
        self._files += sum(map(bool, counts.values()))
        self._bytes += part.bytes
        self._updated += len(rows.keys() & part.runs.keys())
        self._runs += len(rows.keys() - part.runs.keys())
        part.runs |= rows

    def _fetch(self, part: Part) -> dict[str, Path]:
        """The part's files as they are."""
        found = {}
        for table in layout.TABLES:
            name = layout.file_of(table, part.folder, part.name)
            copy = self._place.fetch(name, self._staging / f"old-{table}.parquet")
            if copy is not None:
                found[table] = copy
        return found

    def _stage(self, part: Part, wanted: set[str], old: dict[str, Path]) -> tuple[dict[str, str], dict[str, int]]:
        """Write the part's new files here; returns the digests of the runs put in, and rows by table.

        What the part had of other runs is kept, though the store may have forgotten them; what a killed publishing
        left of runs that the store has forgotten since is not.
        """
        with self._store._reading() as read:
            read("CREATE TEMP TABLE asked AS SELECT unnest(?::VARCHAR[]) AS run_id", [sorted(wanted)])
            found = f"SELECT DISTINCT run_id FROM ({queries.RUNS}) SEMI JOIN asked USING (run_id)"
            read(f"CREATE TEMP TABLE picked_runs AS {found}", [])
            digests = _digests(read, "SEMI JOIN picked_runs USING (run_id)")
            rows = {row["run_id"]: row["rows"] for row in read(digests, [])}
            gone = [*rows, *(wanted - rows.keys() - part.runs.keys())]
            read("CREATE TEMP TABLE gone AS SELECT unnest(?::VARCHAR[]) AS run_id", [gone])
            try:
                counts = {table: self._copy(read, table, part.name, old.get(table)) for table in layout.TABLES}
            except duckdb.Error as error:
                raise StoreUnwritable(f"cannot write files for {self._place.url}: {error}") from error
        return rows, counts

    def _copy(self, read: queries.Read, table: str, part: str, old: Path | None) -> int:
        query, order = layout.TABLES[table]
        if old is not None:
            kept = f"SELECT * EXCLUDE (part) FROM read_parquet({_quoted(old)}, hive_partitioning = false)"
            if table not in layout.SHARED:
                kept += " ANTI JOIN gone USING (run_id)"
            query = f"({query}) UNION ALL BY NAME ({kept})"
        distinct = "DISTINCT" if table in layout.SHARED else ""
        staged = self._staging / f"{table}.parquet"
        options = f"FORMAT parquet, COMPRESSION zstd, KV_METADATA {{redecode_dataset: '{layout.VERSION}'}}"
        if table in _ROW_GROUP:
            options += f", ROW_GROUP_SIZE {_ROW_GROUP[table]}"
        (written,) = read(
            f"COPY (SELECT {distinct} *, '{part}' AS part FROM ({query}) ORDER BY {order}) "
            f"TO {_quoted(staged)} ({options})",
            [],
        )
        return int(written["Count"])


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A run of the store; `rows` is a digest of how many rows there are of it."""

    run_id: str
    agent: str | None
    started_ns: int
    ended: bool
    journal: str
    tokens: int
    spans: int
    rows: str

    @property
    def day(self) -> str:
        return layout.day_of(self.started_ns)


def _candidates(read: queries.Read, since_ns: int | None, agent: str | None) -> list[_Candidate]:
    conditions, parameters = ["true"], list[Any]()
    for condition, value in (("started_ns >= ?", since_ns), ("coalesce(agent, '') = ?", agent)):
        if value is not None:
            conditions.append(condition)
            parameters.append(value)
    picked = f"SELECT r.* FROM r WHERE {' AND '.join(conditions)}"
    found = read(
        "SELECT run_id, agent, started_ns, ended_ns IS NOT NULL AS ended, journal, "
        "coalesce(tokens, 0) + coalesce(prompt_tokens, 0) AS tokens, spans, rows "
        f"FROM ({queries.summaries(picked)}) JOIN ({_digests(read)}) USING (run_id) ORDER BY started_ns, run_id",
        parameters,
    )
    return [_Candidate(**row) for row in found]


def _digests(read: queries.Read, of: str = "") -> str:
    """How many rows there are of each run, table by table, as a digest; and its spans.

    Nothing updates a row of a run: with as many rows as before, it is as it was.
    """
    tables = read(
        "SELECT table_name FROM duckdb_columns() WHERE column_name = 'run_id' AND NOT internal "
        "AND database_name = current_database() ORDER BY table_name",
        [],
    )
    counts = " UNION ALL ".join(
        f"SELECT run_id, '{name}' AS what, count(*) AS n FROM {name} {of} GROUP BY run_id"
        for name in (row["table_name"] for row in tables)
    )
    return (
        "SELECT run_id, left(md5(string_agg(what || n, ' ' ORDER BY what)), 12) AS rows, "
        f"coalesce(max(n) FILTER (what = 'spans'), 0) AS spans FROM ({counts}) GROUP BY run_id"
    )


def _may_end(journal: str, spool: Path) -> bool:
    """Whether an open run's process, which wrote this journal, may still be there."""
    return journal == FOREIGN or any(spool.glob(f"{journal.rpartition('-')[0]}-*{SUFFIX}"))


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
