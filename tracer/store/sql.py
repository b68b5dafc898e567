"""Questions of one's own: one SQL statement, which can only read, and read nothing but the store."""

from __future__ import annotations

import csv
import io
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow
import pyarrow.parquet

from redecode.tracer.errors import StoreError


class BadQuery(StoreError):
    """The statement means nothing, wants to change something, or takes too long; says which."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of a query.

    Attributes:
        table: an Arrow table.
        cut: whether there are more rows than were asked for.
    """

    table: Any
    cut: bool

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        return list(self.table.column_names)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def rows(self) -> list[dict[str, Any]]:
        """As dictionaries; of columns of the same name the last counts."""
        return list(self.table.to_pylist())

    def csv(self) -> bytes:
        """With a line of names, UTF-8; lists and structs as Python writes them."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(self.names)
        writer.writerows(zip(*(column.to_pylist() for column in self.table.columns), strict=True))
        return out.getvalue().encode("utf-8", "surrogatepass")

    def parquet(self) -> bytes:
        """As one Parquet file."""
        out = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(self.table, out)
        return bytes(out.getvalue().to_pybytes())


def ask(database: Path, sql: str, *, limit: int, timeout_s: float) -> Answer:
    """Run one statement on a database file that nobody writes meanwhile.

    It runs in an instance of its own, with the file attached for reading, and without files, network or settings.

    Raises:
        BadQuery: as its docstring says.
    """
    with duckdb.connect(":memory:", config={"memory_limit": "2GB"}) as connection:
        path = str(database).replace("'", "''")
        connection.execute(f"ATTACH '{path}' AS store (READ_ONLY); USE store")
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")
        over = threading.Event()

        def stop() -> None:
            over.set()
            connection.interrupt()

        timer = threading.Timer(timeout_s, stop)
        timer.start()
        try:
            return _answer(connection, sql, limit)
        except duckdb.Error as error:
            if over.is_set():
                raise BadQuery(f"stopped after {timeout_s:g} s; ask for less (LIMIT, or a WHERE on run_id)") from error
            raise BadQuery(str(error)) from error
        finally:
            timer.cancel()


def _answer(connection: duckdb.DuckDBPyConnection, sql: str, limit: int) -> Answer:
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise BadQuery(f"one statement at a time; here are {len(statements)}")
    if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        name = str(statements[0].type).rpartition(".")[2]
        raise BadQuery(f"{name}: the store can only be read here; begin with SELECT, FROM, WITH, DESCRIBE or SHOW")
    found = connection.sql(statements[0].query)
    if found is None:
        raise BadQuery("that returns no rows")
    table = found.limit(limit + 1).to_arrow_table()
    return Answer(table.slice(0, limit), table.num_rows > limit)
