"""The lane of the recorded runs: scored as live ones are, and what it says of an incumbent that is worse now."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from redecode.optimizer.errors import OptimizerError
from redecode.optimizer.evaluation.process import Workers
from redecode.optimizer.evaluation.session import Evaluates, InProcess, Settings
from redecode.optimizer.objectives import Outcome
from redecode.optimizer.observed import observed, worse_again
from redecode.optimizer.spec import Case
from redecode.tracer import Store
from redecode.tracer.conventions import plain

PROGRAM = """
import asyncio
from dataclasses import dataclass
from typing import Annotated

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from pydantic import BaseModel
from typing_extensions import TypedDict

from redecode.optimizer import Spec

class Answer(BaseModel):
    value: int

class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    answer: Answer

@dataclass
class Context:
    heat: int = 0

builder = StateGraph(State, context_schema=Context)
builder.add_node("one", lambda s: {"answer": Answer(value=1), "messages": [AIMessage("one")]})
builder.add_edge(START, "one")
builder.add_edge("one", END)
graph = builder.compile()
loops = set()

async def right(output, case):
    loops.add(id(asyncio.get_running_loop()))
    if len(loops) > 1:
        raise RuntimeError("a client of another event loop")
    if case.labels.get("tier") != "gold" or case.conversation != "talk":
        raise LookupError(f"labels {dict(case.labels)}, conversation {case.conversation}")
    return output["messages"][-1].content == "one" and output["answer"].value == 1

def broken(values):
    return graph if values["heat"] == 0 else 1 / 0

def ends(output, case):
    import os
    os._exit(3)

spec = Spec(name="one", graph=graph, score=right, knobs={"heat": [0, 1]})
built = Spec(name="one", build=broken, context=Context, score=right, knobs={"heat": [0, 1]})
ending = Spec(name="one", graph=graph, score=ends, knobs={"heat": [0, 1]})
"""


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "scored_as_recorded.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("scored_as_recorded")
    sys.modules.pop("scored_as_recorded")


@pytest.fixture(params=["here", "process"])
def evaluates(one: ModuleType, store: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Evaluates]]:
    Store(store)
    opened: list[InProcess | Workers] = []

    def start(spec: str) -> Evaluates:
        settings = Settings(spec=f"scored_as_recorded:{spec}", store=store, source=store)
        opened.append(InProcess(settings) if request.param == "here" else Workers(settings))
        return opened[-1]

    yield start
    for made in opened:
        made.close()


def recorded(one: ModuleType, n: int, **more: Any) -> Case:
    output = plain(asyncio.run(one.graph.ainvoke({"messages": ["q"]}, context=one.Context())))
    return Case(id=f"c{n}", input={}, output=output, labels={"tier": "gold"}, conversation="talk", **more)


def test_a_scorer_of_live_outputs_scores_what_was_recorded(
    one: ModuleType, evaluates: Callable[[str], Evaluates]
) -> None:
    cases = [recorded(one, 1, duration_s=1.0), recorded(one, 2, error="ValueError: no"), recorded(one, 3)]
    cases.append(recorded(one, 4, duration_s=2.0))
    seen, note = observed(cases, evaluates("spec"), {"heat": 0}, {})
    assert [(o.case, o.loss, o.latency_s) for o in seen] == [("c1", 0.0, 1.0), ("c2", 1.0, 0.0), ("c4", 0.0, 2.0)]
    assert note is None


def test_without_a_graph_nobody_knows_what_was_an_object(
    one: ModuleType, evaluates: Callable[[str], Evaluates]
) -> None:
    cases = [recorded(one, 1, duration_s=1.0), recorded(one, 2, error="ValueError: no")]
    again, told = observed(cases, evaluates("built"), {"heat": 1}, {})
    assert [o.loss for o in again] == [None, 1.0]
    assert told is not None and told.startswith("of 1 of 2 held-out runs") and "AttributeError" in told


def test_a_scorer_that_ends_its_process_costs_the_lane_and_no_more(one: ModuleType, store: Path) -> None:
    workers = Workers(Settings(spec="scored_as_recorded:ending", store=store, source=store))
    try:
        seen, told = observed([recorded(one, 1, duration_s=1.0)], workers, {"heat": 0}, {})
        assert seen == []
        assert told is not None and "could not be scored as recorded: a worker died 3 times" in told
    finally:
        workers.close()


def test_one_that_asks_an_fm_is_asked_no_more_when_a_budget_is_used_up() -> None:
    class Nobody:
        workers = 1

        def evaluate(self, block: object) -> list[Outcome]:
            raise OptimizerError("asked")

        def close(self) -> None:
            raise AssertionError

    seen, told = observed([Case(id="a", input=0, duration_s=1.0)], Nobody(), {}, {}, "40 calls were made")
    assert (seen, told) == (
        [],
        "how good the held-out runs were is not told: the scorer asks an FM, and 40 calls were made",
    )


def lane(*losses: float) -> list[Outcome]:
    return [Outcome(case=f"c{n}", run_id=None, quality=1 - x, latency_s=1.0) for n, x in enumerate(losses)]


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        ([0.0] * 40, [1.0] * 20 + [0.0] * 20, "0.500, where it was 0.000 as recorded"),
        ([0.0] * 40, [1.0] * 3 + [0.0] * 37, None),
        ([0.5] * 40, [0.5] * 40, None),
        ([1.0] * 40, [0.0] * 40, None),
        ([0.0], [1.0], None),
        ([], [], None),
    ],
    ids=["worse", "a few", "equal", "better", "one", "none"],
)
def test_an_incumbent_that_is_surely_worse_than_it_was_is_told(
    then: list[float], now: list[float], said: str | None
) -> None:
    found = worse_again(lane(*then), lane(*now))
    assert found is None if said is None else (found is not None and said in found)
