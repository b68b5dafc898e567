"""The directory of known people: a DuckDB table of the agent's own, in memory, only read once made."""

from __future__ import annotations

from collections.abc import Iterable

import duckdb

from redecode.agents.contacts_desk.policy import DeskCase
from redecode.agents.contacts_desk.service import Entry


class Directory:
    """Finds people by their full name."""

    def __init__(self, people: Iterable[tuple[str, Entry]] = ()) -> None:
        self._db = duckdb.connect(":memory:")
        self._db.execute("CREATE TABLE people (name VARCHAR, email VARCHAR, address VARCHAR)")
        rows = [(name, entry.email, entry.address) for name, entry in people]
        if rows:
            self._db.executemany("INSERT INTO people VALUES (?, ?, ?)", rows)

    @classmethod
    def of_cases(cls, cases: Iterable[DeskCase]) -> Directory:
        """Make the directory in which all of these cases hold."""
        return cls((c.article.contact.name, c.entry) for c in cases if c.entry is not None)

    def find(self, name: str) -> Entry | None:
        """Return what is known about a person; safe from several threads."""
        query = "SELECT email, address FROM people WHERE name = ? LIMIT 1"
        row = self._db.cursor().execute(query, [name]).fetchone()
        return None if row is None else Entry(*row)
