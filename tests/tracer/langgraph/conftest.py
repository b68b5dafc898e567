"""Record what a program does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("langgraph")

from redecode.tracer import Store, instrument, uninstrument
from tests.tracer.langgraph.support import Program, Seen, check

Record = Callable[[Program], list[Seen]]


@pytest.fixture
def record(store: Path) -> Record:
    """Runs a program under the tracer and returns its runs, oldest first."""

    def run(program: Program) -> list[Seen]:
        instrument(store)
        try:
            program()
        finally:
            uninstrument()
        opened = Store(store)
        runs = [opened.load(r.run_id) for r in reversed(opened.runs())]
        for r in runs:
            check(r)
        return [Seen(r) for r in runs]

    return run
