"""What tools answered in recorded runs: read before the runs that are measured begin, and no more than is needed."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redecode.optimizer.cases import of_runs
from redecode.optimizer.evaluation.memo import Sources
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.tracer import RecordedRun, Run, Store, instrument, uninstrument

SLOW_S = 0.4
LOOKS = """
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from redecode.optimizer import Spec
from typing_extensions import TypedDict

@tool
def look(city: str) -> int:
    "How many live there."
    return len(city)

class State(TypedDict, total=False):
    city: str
    people: int

builder = StateGraph(State)
builder.add_node("one", lambda s: {"people": look.invoke({"city": s["city"]}) if s["city"] != "Nowhere" else 0})
builder.add_edge(START, "one")
builder.add_edge("one", END)
graph = builder.compile(name="looks")
spec = Spec(graph=graph, score=lambda output, case: output["people"] == case.output["people"])
"""


@pytest.fixture
def runs(folder: Path, store: Path) -> list[Run]:
    """Recorded: four that asked the tool and one that did not, the last."""
    (folder / "tuning.py").write_text(LOOKS)
    module = importlib.import_module("tuning")
    instrument(store)
    try:
        for city in ("Rome", "Paris", "Madrid", "Lisbon", "Nowhere"):
            module.graph.invoke({"city": city})
    finally:
        uninstrument()
    return list(reversed(Store(store).runs()))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A store that takes its time; what was asked of it."""
    asked: list[str] = []

    def slowed(name: str) -> Callable[..., Any]:
        reads = getattr(Store, name)

        def read(self: Store, *args: Any, **options: Any) -> Any:
            asked.append(name)
            time.sleep(SLOW_S)
            return reads(self, *args, **options)

        return read

    for name in ("load", "load_many", "runs", "rows", "ask"):
        monkeypatch.setattr(Store, name, slowed(name))
    yield asked


def test_reading_what_tools_answered_is_a_part_of_no_runs_latency(
    runs: list[Run], store: Path, slow: list[str]
) -> None:
    """Else it is the incumbent's, who comes first."""
    here = InProcess(Settings(spec="tuning:spec", store=store, source=store, concurrency=2))
    try:
        first, again = (here.evaluate(Block(values={}, cases=of_runs(runs), first=n == 0)) for n in range(2))
        asked = len(slow)
        here.evaluate(Block(values={}, cases=of_runs(runs), first=False))
    finally:
        here.close()
    assert [o.quality for o in (*first, *again)] == [1.0] * 10
    assert max(o.latency_s for o in (*first, *again)) < SLOW_S
    assert asked and len(slow) == asked  # what was read once is known


class Counting:
    """A store that says which runs were read whole."""

    def __init__(self, store: Store) -> None:
        self._store, self.whole = store, list[str]()

    def runs(self, **options: Any) -> list[Run]:
        return self._store.runs(**options)

    def load_many(self, run_ids: list[str]) -> list[RecordedRun]:
        self.whole += run_ids
        return self._store.load_many(run_ids)


def test_only_runs_that_asked_a_tool_are_read_whole_and_so_many_are_kept(runs: list[Run], store: Path) -> None:
    ids = [run.run_id for run in runs]
    counting: Any = Counting(Store(store))
    sources = Sources(counting, cases=False, keeps=3)
    sources.read(ids)
    assert sorted(counting.whole) == sorted(ids[:4])  # a block is had whole, however large
    found = sources.of(ids[0])
    assert found is not None and [t.result for t, _ in found.tools] == [4] and found.case is None
    sources.read(ids[:3])
    sources.read(ids[1:3])
    assert len(counting.whole) == 4
    sources.read(ids[3:4])  # which had been let go of, and now the first is
    assert counting.whole[4:] == [ids[3]]
    assert sources.of(ids[1]) is not None and len(counting.whole) == 5
    assert sources.of(ids[0]) is not None and counting.whole[5:] == [ids[0]]
    assert sources.of("0" * 32) is None
    with_cases = Sources(Store(store)).of(ids[4])
    assert with_cases is not None and with_cases.tools == [] and with_cases.case == of_runs(runs[4:])[0]
