"""Record what a program does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("langgraph")

from redecode.tracer import RecordedRun, Store, instrument, uninstrument
from redecode.tracer.store import queries
from tests.tracer.langgraph.support import Program, Seen, check

Record = Callable[[Program], list[Seen]]


class Kept(Store):
    """One store for all the tests: to make a database takes longer than most of them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._known: set[str] = set()

    def new(self) -> list[RecordedRun]:
        """The runs that came since the last call, oldest first, read on one connection."""
        with self._reading() as read:
            ids = [r.run_id for r in reversed(queries.runs(read)) if r.run_id not in self._known]
            self._known.update(ids)
            return [queries.load(read, run_id) for run_id in ids]


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("langgraph") / "store")


@pytest.fixture
def record(kept: Kept) -> Record:
    """Runs a program under the tracer and returns its runs, oldest first; each is checked for what holds of any."""

    def run(program: Program) -> list[Seen]:
        instrument(kept.path)
        try:
            program()
        finally:
            uninstrument()
            runs = kept.new()
        for r in runs:
            check(r)
        return [Seen(r) for r in runs]

    return run
