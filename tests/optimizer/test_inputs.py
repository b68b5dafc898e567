"""What a graph is given where a trace tells it in another form, by its schema; nothing where that does not follow."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired

import pytest
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel
from typing_extensions import TypedDict

from redecode.optimizer.cases import of_runs, past_of, select
from redecode.optimizer.errors import BadSpec
from redecode.optimizer.inputs import UNTOLD, Inputs
from redecode.optimizer.spec import Spec
from redecode.tracer import Run


class Loose(TypedDict, total=False):
    country: str
    capital: str


class Marked(TypedDict):
    country: str
    capital: NotRequired[str]


class Full(TypedDict):
    country: str
    capital: str


class Model(BaseModel):
    country: str
    capital: str | None = None


class Strict(BaseModel):
    country: str
    capital: str


@dataclass
class Data:
    country: str
    capital: str = ""


class One(TypedDict):
    country: str


class Number(TypedDict):
    input: int


class Flag(TypedDict):
    input: bool


class Either(TypedDict):
    input: int | str


class Thing:
    """Which pydantic does not know."""


class Strange(TypedDict):
    input: Thing


class Talk(MessagesState):
    user: str


class TalkModel(BaseModel):
    messages: list[Any]
    user: str


def graph(schema: Any, **options: Any) -> Any:
    builder = StateGraph(schema, **options)
    builder.add_node("does", lambda state: None)
    builder.add_edge(START, "does")
    builder.add_edge("does", END)
    return builder.compile(name="a")


def run(given: Any, output: Any = None, *, foreign: bool = True, number: int = 1) -> Run:
    return Run(
        run_id=f"{number:032x}", agent="a", status="ok", started_ns=number, ended_ns=number + 1, fidelity=None,
        decodes=1, tools=0, tokens=1, prompt_tokens=1, input=given, output=output,
        labels={"traced_by": "somebody 1"} if foreign else {},
    )  # fmt: skip


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def called(**changes: Any) -> list[dict[str, Any]]:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"n": 1}'}, **changes}
    return [user("hi"), {"role": "assistant", "content": "", "tool_calls": [call]}]


TOOL = {"role": "tool", "content": "5", "tool_call_id": "c1"}
LEFT_OUT: Any = object()
STATES: dict[str, tuple[Any, Any, Any]] = {
    "the only field": (One, "Peru", {"country": "Peru"}),
    "the only field of an input schema": ((Loose, One), "Peru", {"country": "Peru"}),
    "the only required field of a model": (Model, "Peru", {"country": "Peru"}),
    "of a dataclass": (Data, "Peru", {"country": "Peru"}),
    "of a TypedDict": (Marked, "Peru", {"country": "Peru"}),
    "several optional": (Loose, "Peru", LEFT_OUT),
    "several required": (Full, "Peru", LEFT_OUT),
    "several required by a model": (Strict, "Peru", LEFT_OUT),
    "a number": (Number, "5", {"input": 5}),
    "a truth value": (Flag, "true", {"input": True}),
    "no number": (Number, "five", {"input": "five"}),
    "a text that may be a number": (Either, "5", {"input": "5"}),
    "a text that is a number": (One, "5", {"country": "5"}),
    "a number itself": (Number, 5, {"input": 5}),
    "a number for a text": (One, 5, LEFT_OUT),
    "a type of somebody's": (Strange, "x", {"input": "x"}),
    "the text of messages": (MessagesState, "hello", {"messages": "hello"}),
    "messages": (MessagesState, [user("hi")], {"messages": [user("hi")]}),
    "a speaker": (MessagesState, [user("hi", name="Ann")], {"messages": [user("hi", name="Ann")]}),
    "tool calls": (MessagesState, [*called(), TOOL], {"messages": [*called(), TOOL]}),
    "arguments cut off": (MessagesState, called(function={"name": "look", "arguments": '{"n": '}), LEFT_OUT),
    "a call without id": (MessagesState, called(id=None), LEFT_OUT),
    "an answer without id": (MessagesState, [*called(), {**TOOL, "tool_call_id": None}], LEFT_OUT),
    "a part that no FM takes": (MessagesState, [user([{"type": "blob", "content": "…"}])], LEFT_OUT),
    "a speaker nobody knows": (MessagesState, [{"role": "critic", "content": "hi"}], LEFT_OUT),
    "a field that the model wants besides": (TalkModel, [user("hi")], LEFT_OUT),
    "messages, and no field for them": (Loose, [user("hi")], LEFT_OUT),
    "no messages": (MessagesState, ["a", "b"], LEFT_OUT),
    "JSON in a message": (Loose, [user('{"country": "Peru"}')], {"country": "Peru"}),
    "JSON of a field beside messages": (Talk, [user('{"user": "Ann"}')], {"user": "Ann"}),
    "JSON that somebody said": (MessagesState, [user('{"a": 1}')], {"messages": [user('{"a": 1}')]}),
    "JSON that was not written so": (Loose, [user('{"country":"Peru"}')], LEFT_OUT),
    "JSON of other fields": (Loose, [user('{"city": "Lima"}')], LEFT_OUT),
    "JSON without what the model wants": (Strict, [user('{"country": "Peru"}')], LEFT_OUT),
    "JSON too deep": (MessagesState, [user("[" * 9999)], {"messages": [user("[" * 9999)]}),
    "a state": (Loose, {"country": "Peru", "x": 1}, {"country": "Peru", "x": 1}),
    "an empty state": (Loose, {}, {}),
    "a value that is a mapping": (Number, {"a": 1}, {"input": {"a": 1}}),
    "a mapping of other fields": (Loose, {"a": 1}, LEFT_OUT),
    "a list": (Annotated[list[str], operator.add], ["a"], ["a"]),
    "a text": (str, "a", "a"),
}


@pytest.mark.parametrize("name", STATES)
def test_an_input_is_made_the_state_that_it_was(name: str) -> None:
    schema, told, given = STATES[name]
    state, options = (schema[0], {"input_schema": schema[1]}) if isinstance(schema, tuple) else (schema, {})
    found = Inputs(Spec(graph=graph(state, **options))).of(run(told))
    assert (found.known, found.input) == ((False, told) if given is LEFT_OUT else (True, given))


def test_what_an_answer_contradicts_is_not_said() -> None:
    of = Inputs(Spec(graph=graph(Marked))).of
    assert of(run("Peru", {"country": "PERU", "capital": "Lima"})).input == {"country": "Peru"}
    assert not of(run("Peru", {"country": "PERU", "capital": "Peru"})).known


def test_runs_that_we_record_stay_as_they_are() -> None:
    of = Inputs(Spec(graph=graph(Loose))).of
    assert of(run({"a": 1}, "text", foreign=False)).input == {"a": 1}
    assert of(run({"country": "Peru"}, "text", foreign=False)).output == "text"
    assert not of(run("Peru", foreign=False)).known  # which no graph of this schema ever took


class Elsewhere:
    """A graph that runs elsewhere says nothing of its schema."""

    name, nodes = "a", ()

    async def ainvoke(self, state: Any, config: Any) -> Any:
        return state


def test_a_graph_that_says_nothing_of_its_state_takes_what_was_recorded() -> None:
    for given in ("Peru", [user("hi")], 5):
        assert Inputs(Spec(graph=Elsewhere())).of(run(given)).input == given


class Answer(TypedDict):
    answer: str


class Asked(Answer):
    question: str


@pytest.mark.parametrize(
    ("told", "output", "whole"),
    [
        ("yes", {"answer": "yes"}, True),
        ({"answer": "yes"}, {"answer": "yes"}, True),
        ({"a": 1}, {"a": 1}, False),
        (None, None, False),
    ],
)
def test_an_output_is_made_what_comes_out(told: Any, output: Any, whole: bool) -> None:
    found = Inputs(Spec(graph=graph(Asked, output_schema=Answer))).of(run({"question": "?"}, told))
    assert (found.output, found.scored) == (output, whole)


def test_a_part_of_an_output_is_kept_from_the_default_scorer_alone() -> None:
    runs = [run([user(f"{n}")], [{"role": "assistant", "content": "yes"}], number=n) for n in range(4)]
    agent = graph(MessagesState)
    default = select(runs, Spec(graph=agent, name="a"), "all", now_ns=0)
    assert {str(c.output) for c in default.search} == {"None"}
    assert ["of 4 of 4 runs the trace does not tell the whole output" in note for note in default.notes] == [True]
    own = select(runs, Spec(graph=agent, name="a", score=lambda o, c: 1), "all", now_ns=0)
    assert own.search[0].output == {"messages": [{"role": "assistant", "content": "yes"}]} and own.notes == ()


def test_runs_that_are_left_out_are_counted_and_leave_nothing_in_caches() -> None:
    runs = [run("Peru" if n % 2 else {"country": "Peru", "n": n}, number=n) for n in range(6)]
    spec = Spec(graph=graph(Loose), name="a", score=lambda o, c: 1)
    found = select(runs, spec, "all", now_ns=0)
    assert found.left_out == {UNTOLD: 3} and len(found.search) + len(found.decide) == 3 == len(past_of(runs, spec))


def test_equal_inputs_are_one_case_however_they_are_told() -> None:
    runs = [run("Peru", number=3), run([user('{"country": "Peru"}')], number=2), run({"country": "Peru"}, number=1)]
    found = select(runs, Spec(graph=graph(One), name="a", score=lambda o, c: 1), "all", now_ns=0)
    assert [c.id for c in found.search] == [runs[2].run_id]
    assert found.left_out == {"with the input of another one": 2}


def test_the_graph_is_built_as_it_is_in_use_and_only_where_it_is_asked() -> None:
    built: list[Mapping[str, Any]] = []

    def build(values: Mapping[str, Any]) -> Any:
        built.append(dict(values))
        return graph(One if values["small"] else Loose)

    spec = Spec(build=build, name="a", incumbent={"small": True})
    assert of_runs([run({"country": "x"}, foreign=False)], spec=spec)[0].input == {"country": "x"} and built == []
    assert of_runs([run("Peru"), run("Chad")], spec=spec)[1].input == {"country": "Chad"}
    assert built == [{"small": True}]
    assert not Inputs(spec, {"small": False}).of(run("Peru")).known
    unsaid = Spec(build=build, name="a")
    with pytest.raises(BadSpec, match="build"):
        Inputs(unsaid, {}).of(run("Peru"))
    assert Inputs(unsaid).of(run("Peru")).input == "Peru"  # what is in use is said elsewhere


def test_a_state_is_what_json_says_of_it() -> None:
    deep = {"country": "ü", "capital": json.dumps({"a": [1, None]})}
    found = Inputs(Spec(graph=graph(Loose))).of(run([user(json.dumps(deep, ensure_ascii=False))]))
    assert found.input == deep
