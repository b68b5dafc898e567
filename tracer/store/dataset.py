"""Reading a published dataset as a store is read.

The list of runs comes from `runs` alone; a run comes from the files of its part, found there. DuckDB reads them where
they lie, as views of the store's own names, so that what is asked of them is what is asked of a store. Of a run that
several stores have published, the copy of the highest fidelity counts, then the one with the most spans.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeVar

import duckdb

from redecode.tracer import conventions as c
from redecode.tracer.blocks import BLOCK_TOKENS
from redecode.tracer.errors import StoreError
from redecode.tracer.records import Fidelity, JsonObject, Run
from redecode.tracer.store import layout, queries
from redecode.tracer.store.manifest import publishers
from redecode.tracer.store.overview import RunColumns, columns_of
from redecode.tracer.store.places import is_dataset, local_path
from redecode.tracer.store.places import place as place_at
from redecode.tracer.store.queries import RecordedRun
from redecode.tracer.store.schema import MIGRATIONS
from redecode.tracer.store.store import Reader, Store
from redecode.tracer.store.structures import RunStructure, structures

T = TypeVar("T")
W = TypeVar("W", RecordedRun, RunStructure)
_PAUSES_S = (0.0, 0.05, 0.2)
_AT_ONCE = 100


class ReadableStore(Protocol):
    """What runs can be read from: a `Store`, or a `Dataset`."""

    def find(self, prefix: str) -> str:
        """The id of the run that starts with `prefix`."""

    def runs(self, *, limit: int | None = None, run_ids: list[str] | None = None) -> list[Run]:
        """Runs, newest first."""

    def load(self, prefix: str) -> RecordedRun:
        """One run, whole."""

    def load_many(self, run_ids: Sequence[str]) -> list[RecordedRun]:
        """Runs, whole, newest first; of ids that are not there, nothing."""

    def structures(self, *, limit: int | None = None, run_ids: list[str] | None = None) -> list[RunStructure]:
        """As `runs`, each with its structure and times, without what was said."""

    def engine(self, engine_id: str | None) -> JsonObject | None:
        """What an engine said of itself when it was recorded; `None` if unknown."""


def open_store(location: str | Path) -> Store | Dataset:
    """The store at a path, or the dataset at a path or URL, to be read.

    Raises:
        StoreError: there is none, or it cannot be used.
    """
    path = local_path(location)
    if path is not None and not is_dataset(path):
        return Store(path, create=False)
    return Dataset(location)


@dataclass(frozen=True, slots=True)
class DatasetHealth:
    """What `redecode doctor` says about a dataset.

    Attributes:
        lost: events that could not be written down when they happened.
        bytes: of all files.
        stores: ids of those that have published into it.
    """

    runs: int
    spans: int
    decodes: int
    lost: int
    bytes: int
    stores: list[str]


class Dataset:
    """A published dataset; what others publish into it meanwhile is seen by the next question.

    Args:
        location: a folder, or a URL that fsspec knows.

    Raises:
        StoreError: there is no dataset, or its place cannot be reached.
        StoreVersion: a newer redecode has made it.
    """

    def __init__(self, location: str | Path) -> None:
        self._place = place_at(location)
        self.url = self._place.url
        with self._place.speaking():
            if not layout.check(self._place):
                raise StoreError(f"no dataset at {self.url}; `redecode store publish` makes one")
        self._db = duckdb.connect()
        for _, statements in MIGRATIONS:
            self._db.execute(statements)
        self._db.execute(_CATALOGUE)
        self._place.register(self._db)
        self._lock = Lock()
        self._last_part: str | None = None  # of the run that was loaded last
        self._files, self._folders = dict[str, str](), dict[str, dict[str, str]]()  # what this question reads

    # -- which runs there are --

    def find(self, prefix: str) -> str:
        """As `Store.find`."""
        return self._ask(lambda read: self._find(read, prefix))

    def runs(self, *, limit: int | None = None, run_ids: list[str] | None = None) -> list[Run]:
        """As `Store.runs`."""
        return self._ask(lambda read: self._runs(read, limit, run_ids))

    def _runs(self, read: queries.Read, limit: int | None, run_ids: list[str] | None) -> list[Run]:
        self._list_runs(read)
        picked, parameters = "SELECT * FROM catalogue ORDER BY started_ns DESC", list[Any]()
        if run_ids is not None:
            picked, parameters = f"SELECT * FROM ({picked}) WHERE run_id IN (SELECT unnest(?))", [run_ids]
        if limit is not None:
            picked, parameters = f"{picked} LIMIT ?", [*parameters, limit]
        files = [row["file"] for row in read(f"SELECT DISTINCT file FROM ({picked})", parameters)]
        if not files:
            return []
        rows = (
            f"SELECT *, agent_name AS agent, [fidelity] AS fidelities FROM {_parquet(files)} "
            f"SEMI JOIN ({picked}) USING (run_id, part)"
        )
        return [queries.run_of(row) for row in read(f"{rows} ORDER BY started_ns DESC", parameters)]

    def run_columns(self) -> RunColumns:
        """As `Store.run_columns`."""
        return columns_of(self.runs())

    def health(self) -> DatasetHealth:
        """Sizes, and who has published."""

        def ask(read: queries.Read) -> DatasetHealth:
            self._list_runs(read)
            sums = ", ".join(f"coalesce(sum({name}), 0)::BIGINT AS {name}" for name in ("spans", "decodes", "lost"))
            (totals,) = read(f"SELECT count(*) AS runs, {sums} FROM catalogue", [])
            return DatasetHealth(**totals, bytes=self._place.size(""), stores=publishers(self._place))

        return self._ask(ask)

    def _list_runs(self, read: queries.Read) -> None:
        """Fill `catalogue`: every run, the best of its copies, and the file of `runs` it is in."""
        files = [self._place.uri(name) for name in self._listed("runs") if name.endswith(".parquet")]
        read("DELETE FROM catalogue", [])
        if files:
            read(
                f"INSERT INTO catalogue SELECT run_id, part, file, started_ns, spans, decodes, lost "
                f"FROM {_parquet(files)} QUALIFY row_number() OVER (PARTITION BY run_id "
                f"ORDER BY list_position({_RANKS}, fidelity) DESC NULLS LAST, spans DESC, part) = 1",
                [],
            )

    def _find(self, read: queries.Read, prefix: str) -> str:
        self._list_runs(read)
        read("CREATE TEMP VIEW runs AS SELECT run_id, started_ns FROM catalogue", [])
        return queries.find(read, prefix, self.url)

    # -- one run --

    def load(self, prefix: str) -> RecordedRun:
        """As `Store.load`."""
        return self._ask(lambda read: self._load(read, prefix))

    def _load(self, read: queries.Read, prefix: str) -> RecordedRun:
        return queries.load(read, self._show_run(read, prefix))

    def _show_run(self, read: queries.Read, prefix: str) -> str:
        """Let the rows of the run that starts with this stand where the queries look for them; returns its id."""
        run_id, part = prefix, self._part(read, prefix)
        if part is None or not self._place.has(f"runs/{part}"):
            run_id = self._find(read, prefix)
            part = self._part(read, run_id)
        assert part is not None
        self._show_part(read, part, [run_id])
        return run_id

    def _show_part(self, read: queries.Read, part: str, run_ids: Sequence[str]) -> None:
        """Let the rows of a part stand where the queries look for them; prompts of these runs alone."""
        for table in layout.TABLES:
            self._show(read, table, part, run_ids)
        self._last_part = part

    @staticmethod
    def _part(read: queries.Read, run_id: str) -> str | None:
        """Partition and part of a run, if it has been listed."""
        rows = read("SELECT file FROM catalogue WHERE run_id = ?", [run_id])
        return _part_of(rows[0]["file"]) if rows else None

    def _show(self, read: queries.Read, table: str, part: str, run_ids: Sequence[str]) -> None:
        """Let a part's rows stand for those of the store's tables, which are empty here."""
        name = f"{table}/{part}"
        if not self._has(name):
            return
        file, picked = _parquet([self._place.uri(name)]), ", ".join(f"'{run_id}'" for run_id in run_ids)
        for view, rows in _VIEWS.get(table, {table: "SELECT * FROM {file}"}).items():
            columns = "SELECT column_name FROM duckdb_columns() WHERE database_name = 'memory' AND table_name = ?"
            wanted = ", ".join(row["column_name"] for row in read(columns, [view]))
            both = f"SELECT * FROM memory.main.{view} UNION ALL BY NAME {rows.format(file=file, runs=picked)}"
            read(f"CREATE OR REPLACE TEMP VIEW {view} AS SELECT {wanted} FROM ({both})", [])

    def load_many(self, run_ids: Sequence[str]) -> list[RecordedRun]:
        """As `Store.load_many`."""
        return self._together(run_ids, queries.load_many)

    def structures(self, *, limit: int | None = None, run_ids: list[str] | None = None) -> list[RunStructure]:
        """As `Store.structures`."""
        found = [run.run_id for run in self.runs(limit=limit, run_ids=run_ids)]
        return self._together(found, lambda read, ids: structures(read, run_ids=ids))

    def _together(self, run_ids: Sequence[str], of: Callable[[queries.Read, list[str]], list[W]]) -> list[W]:
        """What is asked of runs, newest first: of those of one part together."""
        found = list[W]()
        for part, ids in self._ask(partial(self._parts, run_ids=list(run_ids))).items():
            for place in range(0, len(ids), _AT_ONCE):
                some: list[str] = ids[place : place + _AT_ONCE]
                told = self._ask(partial(self._of_part, of=of, part=part, run_ids=some))
                gone = {*some} - {one.run.run_id for one in told}  # into another part, meanwhile
                found += told
                for run_id in gone:
                    found += self._ask(partial(self._of_run, of=of, run_id=run_id))
        return sorted(found, key=lambda one: one.run.started_ns, reverse=True)

    def _parts(self, read: queries.Read, run_ids: list[str]) -> dict[str, list[str]]:
        """Partition and part → which of these runs are there."""
        self._list_runs(read)
        out: dict[str, list[str]] = {}
        for row in read("SELECT run_id, file FROM catalogue WHERE run_id IN (SELECT unnest(?))", [run_ids]):
            out.setdefault(_part_of(row["file"]), []).append(row["run_id"])
        return out

    def _of_part(
        self, read: queries.Read, of: Callable[[queries.Read, list[str]], list[W]], part: str, run_ids: list[str]
    ) -> list[W]:
        self._show_part(read, part, run_ids)
        return of(read, run_ids)

    def _of_run(self, read: queries.Read, of: Callable[[queries.Read, list[str]], list[W]], run_id: str) -> list[W]:
        return of(read, [self._show_run(read, run_id)])

    def engine(self, engine_id: str | None) -> JsonObject | None:
        """As `Store.engine`."""

        def ask(read: queries.Read) -> JsonObject | None:
            near = f"engines/{self._last_part}"
            found = self._engine(read, [near], engine_id) if self._last_part and self._has(near) else None
            return found or self._engine(read, self._listed("engines"), engine_id)

        return self._ask(ask)

    def _engine(self, read: queries.Read, names: list[str], engine_id: str | None) -> JsonObject | None:
        files = [self._place.uri(name) for name in names if name.endswith(".parquet")]
        query = f"SELECT info FROM {_parquet(files)} WHERE engine_id = ? LIMIT 1"
        rows = read(query, [engine_id]) if files else []
        return c.from_json(rows[0]["info"]) if rows else None

    def _has(self, name: str) -> bool:
        """Whether there is such a file, which the question then reads."""
        stamp = self._place.stamp(name)
        if stamp is not None:
            self._files[name] = stamp
        return stamp is not None

    def _listed(self, folder: str) -> list[str]:
        """The files below a folder, which the question then reads."""
        self._folders[folder] = self._place.stamps(folder)
        return sorted(self._folders[folder])

    def _replaced(self) -> bool:
        """Whether a publisher has replaced a file since the question began to read it."""
        return any(self._place.stamp(name) != stamp for name, stamp in self._files.items()) or any(
            not was.items() <= self._place.stamps(folder).items() for folder, was in self._folders.items()
        )

    def _ask(self, question: Callable[[queries.Read], T]) -> T:
        """The answer to a question; it is asked again if a publisher has replaced a file while it was read.

        DuckDB opens a file twice, for its columns and for its rows: what it then finds are not the pages it expects.
        It says so, or finds the column of run ids where it was, in it fewer ids than there are, and no row of the run.
        The last answer counts: where there is always someone who publishes, no listing could be had.
        """
        for pause_s in _PAUSES_S:
            try:
                answered = self._attempt(question)
            except StoreError as error:
                if not isinstance(error.__cause__, duckdb.Error | FileNotFoundError):
                    raise
            else:
                if answered is not None:
                    return answered[0]
            time.sleep(pause_s)
        with self._asking() as read:
            return question(read)

    def _attempt(self, question: Callable[[queries.Read], T]) -> tuple[T] | None:
        """The answer; none if a file was replaced meanwhile, whatever came of it."""
        with self._asking() as read:
            try:
                answer = question(read)
            except Exception:
                if not self._replaced():
                    raise
                return None
            return None if self._replaced() else (answer,)

    @contextmanager
    def _asking(self) -> Iterator[queries.Read]:
        """Queries, one question at a time, each on a connection of its own: the views it makes go with it."""
        with self._lock, self._place.speaking():
            cursor = self._db.cursor()
            self._files, self._folders = {}, {}
            try:
                yield Reader(cursor)
            except duckdb.Error as error:
                raise StoreError(f"cannot read {self.url}: {error}") from error
            finally:
                cursor.close()


_CATALOGUE = """
    CREATE TABLE catalogue (
        run_id VARCHAR, part VARCHAR, file VARCHAR, started_ns BIGINT, spans BIGINT, decodes BIGINT, lost BIGINT
    )
"""
_RANKS = str([fidelity.value for fidelity in Fidelity])
_TAIL = f"prompt_ids[{BLOCK_TOKENS} * len(prompt_blocks) + 1:] AS prompt_tail"
_BLOCK = f"prompt_ids[{BLOCK_TOKENS} * (n - 1) + 1 : {BLOCK_TOKENS} * n]"
_VIEWS = {
    # An open one is known by its span.
    "runs": {"runs": "SELECT *, agent_name AS agent FROM {file} WHERE ended_ns IS NOT NULL"},
    "spans": {
        "spans": "SELECT * FROM {file} WHERE end_ns IS NOT NULL",
        "span_starts": "SELECT * FROM {file} WHERE end_ns IS NULL",
    },
    "decodes": {
        "decodes": f"SELECT *, {_TAIL} FROM {{file}}",
        "prompt_blocks": f"""
            SELECT hash, any_value(tokens) AS tokens FROM (
                SELECT prompt_blocks[n] AS hash, {_BLOCK} AS tokens
                FROM {{file}}, LATERAL (SELECT unnest(range(1, len(prompt_blocks) + 1)) AS n)
                WHERE run_id IN ({{runs}}) AND prompt_ids IS NOT NULL
            ) GROUP BY hash
        """,
    },
}
"""How the store's tables come out of a published one that is not just its namesake."""


def _part_of(file: str) -> str:
    """Partition and part, of a file of `runs`."""
    return "/".join(file.split("/")[-3:])


def _parquet(files: list[str]) -> str:
    """What a query takes rows of these files from."""
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    return f"read_parquet([{listed}], hive_partitioning = false, union_by_name = true, filename = 'file')"
