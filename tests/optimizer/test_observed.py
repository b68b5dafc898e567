"""The lane of the recorded runs: scored as live ones are, and what it says of an incumbent that is worse now."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from pydantic import BaseModel
from typing_extensions import TypedDict

from redecode.optimizer.objectives import Outcome
from redecode.optimizer.observed import observed, worse_again
from redecode.optimizer.spec import Case, Spec
from redecode.tracer.conventions import plain


class Answer(BaseModel):
    value: int


class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    answer: Answer


builder = StateGraph(State)
builder.add_node("one", lambda s: {"answer": Answer(value=1), "messages": [AIMessage("one")]})
builder.add_edge(START, "one")
builder.add_edge("one", END)
graph = builder.compile()


def right(output: Any, case: Case) -> bool:
    return bool(output["messages"][-1].content == "one" and output["answer"].value == 1)


def recorded(n: int, **more: Any) -> Case:
    return Case(id=f"c{n}", input={}, output=plain(graph.invoke({"messages": [HumanMessage("q")]})), **more)


def test_a_scorer_of_live_outputs_scores_what_was_recorded() -> None:
    spec = Spec(name="one", graph=graph, score=right)
    cases = [recorded(1, duration_s=1.0), recorded(2, error="ValueError: no"), recorded(3)]
    seen, note = observed(cases, spec, graph)
    assert [(o.case, o.loss) for o in seen] == [("c1", 0.0), ("c2", 1.0)] and note is None
    again, told = observed(cases, spec)  # without the graph nobody knows what was an object
    assert [o.loss for o in again] == [None, 1.0]
    assert told is not None and told.startswith("of 1 of 2 held-out runs") and "AttributeError" in told


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
