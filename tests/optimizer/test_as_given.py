"""What was an object in a recorded input is one again for a candidate, as the schema's hints say."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from redecode.optimizer.inputs import as_given
from redecode.tracer.conventions import plain


class Tone(Enum):
    WARM = "warm"


class Person(BaseModel):
    name: str
    age: int = 3


class Loose(TypedDict, total=False):
    given: str
    extra: int


@dataclass
class Place:
    city: str


MESSAGES = [
    HumanMessage("q", id="1", name="bob"),
    AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c1"}]),
    ToolMessage("r", tool_call_id="c1", status="error"),
]
CASES: list[tuple[Any, Any]] = [
    (list[BaseMessage], MESSAGES),
    (Annotated[list[BaseMessage], operator.add], MESSAGES),
    (list[AnyMessage], MESSAGES),
    (Sequence[BaseMessage], MESSAGES),
    (BaseMessage, MESSAGES[1]),
    (HumanMessage | None, MESSAGES[0]),
    (list[Document], [Document("text", metadata={"at": 1})]),
    (Person, Person(name="Ann")),
    (dict[str, Person], {"a": Person(name="Ann", age=4)}),
    (list[Person] | None, [Person(name="Ann")]),
    (Tone, Tone.WARM),
    (Place, Place("Rome")),
]


make_typed_dict: Any = TypedDict


def graph_of(kind: Any, *, as_dataclass: bool = False) -> Any:
    hints = {"x": kind}
    state: Any = type("State", (), {"__annotations__": hints, "x": None})
    state = dataclass(state) if as_dataclass else make_typed_dict("State", hints)
    builder = StateGraph(state)
    builder.add_node("look", lambda s: None)
    builder.add_edge(START, "look")
    builder.add_edge("look", END)
    return builder.compile()


@pytest.mark.parametrize("as_dataclass", [False, True])
@pytest.mark.parametrize(("kind", "value"), CASES, ids=range(len(CASES)))
def test_an_object_is_one_again(kind: Any, value: Any, as_dataclass: bool) -> None:
    recorded = plain({"x": value})
    assert recorded["x"] != value
    made = as_given(graph_of(kind, as_dataclass=as_dataclass), recorded)
    assert made["x"] == value and type(made["x"]) is type(value)
    assert plain(made) == recorded
    if isinstance(value, list):
        assert [type(one) for one in made["x"]] == [type(one) for one in value]


class Said(TypedDict):
    a: int
    z: int


class Numbered(BaseModel):
    name: str
    share: float


def test_the_order_of_keys_makes_no_difference() -> None:
    """Each tracer writes them in its own."""
    said = [dict(reversed(list(one.items()))) for one in plain(MESSAGES)]
    assert as_given(graph_of(list[AnyMessage]), {"x": said})["x"] == MESSAGES
    assert as_given(graph_of(Numbered), {"x": {"share": 1.0, "name": "n"}})["x"] == Numbered(name="n", share=1.0)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (int, "5"),
        (float, 1),
        (list[float], [1, 2.5]),
        (dict, {"z": 1, "a": {"y": 2, "b": 3}}),
        (list[Said], [{"z": 1, "a": 2}]),
        (Numbered, {"share": 1, "name": "n"}),
        (Numbered, {"name": "n", "share": True}),
        (str, "text"),
        (Any, {"a": [1, None]}),
        (Loose, {"given": "g", "extra": 1, "more": [1]}),
        (Person, {"name": "Ann", "age": 3, "and": "more"}),
        (Person, {"name": "Ann"}),
        (dict[str, list[BaseMessage]], {"a": plain([MESSAGES[0]])}),
        (list[BaseMessage], [{"role": "user", "content": "q"}]),
        (list[BaseMessage], "a text that was given as it is"),
        (datetime, "yesterday"),
        (dict, {"a": 1}),
    ],
)
def test_what_was_plain_stays_so(kind: Any, told: Any) -> None:
    made = as_given(graph_of(kind), {"x": told, "other": 1})
    assert repr(made) == repr({"x": told, "other": 1})
    assert as_given(object(), told) is told


class Plain(TypedDict, total=False):
    messages: list[BaseMessage]
    answer: str


def test_a_node_reads_the_messages_that_it_was_given() -> None:
    builder = StateGraph(Plain)
    builder.add_node("ask", lambda s: {"answer": s["messages"][-1].content})
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    graph = builder.compile()
    assert graph.invoke(as_given(graph, plain({"messages": [HumanMessage("q7")]})))["answer"] == "q7"
