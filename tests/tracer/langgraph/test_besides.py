"""What a graph is given besides its input is recorded: its context, and what is configurable."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import date
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, TypedDict

import pytest

pytest.importorskip("langgraph")

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, SecretStr

from redecode.tracer import Store, instrument, uninstrument
from redecode.tracer import conventions as c
from tests.tracer.langgraph.support import State, says


class Plan(Enum):
    PRO = "pro"


@dataclass
class Connection:
    place: str = "here"
    opened: object = field(default_factory=object)


class Context(BaseModel, arbitrary_types_allowed=True):
    user: str = "ann"
    plan: Plan = Plan.PRO
    since: date = date(2026, 1, 2)
    tags: tuple[str, ...] = ("a",)
    connection: Connection = Connection()
    token: str = "sk-1234567890abcdefghijklmnop"
    password: SecretStr = SecretStr("hunter22")


@dataclass
class Small:
    tenant: int
    place: PurePath = field(default_factory=lambda: PurePath("a/b"))
    slug: str = field(init=False, default="")
    opened: Connection = field(default_factory=Connection)


class Loose(TypedDict):
    region: str


PLAIN = {"user": "ann", "plan": "pro", "since": "2026-01-02", "tags": ["a"]}


def graph(schema: Any = None, **options: Any) -> Any:
    builder = StateGraph(State, context_schema=schema)
    builder.add_node("one", says("one"))
    builder.add_edge(START, "one")
    return builder.compile(**options)


@pytest.mark.parametrize(
    ("schema", "context", "told"),
    [
        (Context, Context(), {"context": PLAIN}),
        (Context, Context(token="sk-0987654321abcdefghijklmnop"), {"context": PLAIN, "left_out": ["token"]}),
        (Small, Small(7), {"context": {"tenant": 7, "place": "a/b"}}),
        (Loose, {"region": "eu"}, {"context": {"region": "eu"}}),
    ],
    ids=["pydantic", "a key", "dataclass", "TypedDict"],
)
def test_a_context_is_recorded_as_far_as_it_is_plain_and_no_secret(
    recording: Path, schema: Any, context: Any, told: dict[str, Any]
) -> None:
    graph(schema).invoke({"out": []}, context=context)
    asyncio.run(graph(schema).ainvoke({"out": []}, context=context))
    runs = Store(recording).runs(besides=True)
    assert [r.besides for r in runs] == [told] * 2
    assert all(r.besides is None for r in Store(recording).runs())
    assert b"hunter22" not in b"".join(p.read_bytes() for p in recording.rglob("*") if p.is_file())


def test_what_is_configurable_is_recorded_but_not_whose_conversation_it_is(recording: Path) -> None:
    own = {"region": "eu", "limits": {"a": 1}, "client": object(), "thread_id": "t1", "checkpoint_ns": ""}
    graph(checkpointer=InMemorySaver()).invoke({"out": []}, {"configurable": own})
    (run,) = Store(recording).runs(besides=True)
    assert run.besides == {"configurable": {"region": "eu", "limits": {"a": 1}}} and run.conversation_id == "t1"


@pytest.mark.parametrize("how", ["invoke", "stream", "ainvoke"])
def test_what_a_thread_knew_before_is_told_by_its_digest(recording: Path, how: str) -> None:
    remembers = graph(checkpointer=InMemorySaver())
    where: Any = {"configurable": {"thread_id": "t1"}}
    for _ in range(3):
        if how == "ainvoke":
            asyncio.run(remembers.ainvoke({"out": ["in"]}, where))
        elif how == "stream":
            list(remembers.stream({"out": ["in"]}, where, stream_mode="values"))
        else:
            remembers.invoke({"out": ["in"]}, where)
    remembers.invoke({"out": []}, {"configurable": {"thread_id": "t2"}})
    other, third, second, first = Store(recording).runs(besides=True)
    assert other.besides == {} == first.besides
    assert [third.besides, second.besides] == [{"history": {"digest": c.digest(r.output)}} for r in (second, first)]
    assert second.output["out"] == ["in", "one", "in", "one"]


def test_what_a_function_knew_before_is_not_told(recording: Path) -> None:
    @entrypoint(checkpointer=InMemorySaver())
    def whole(given: int, *, previous: int = 0) -> Any:
        return entrypoint.final(value=given, save=previous)

    called: Any = whole
    for _ in range(2):
        called.invoke(1, {"configurable": {"thread_id": "t1"}})
    assert [r.besides for r in Store(recording).runs(besides=True)] == [{"history": True}, {}]


def test_of_graphs_in_graphs_and_of_functions_the_outermost_tells(recording: Path) -> None:
    inner = graph(Small)

    def ask(state: State, runtime: Runtime[Small]) -> Any:
        inner.invoke({"out": []}, context=Small(runtime.context.tenant + 1))
        return {}

    builder = StateGraph(State, context_schema=Small)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    builder.compile().invoke({"out": []}, context=Small(1))

    @entrypoint(context_schema=Small)
    def whole(given: int) -> int:
        return given

    called: Any = whole
    called.invoke(1, context=Small(5))
    runs = Store(recording).runs(besides=True)
    assert [r.besides for r in runs] == [{"context": {"tenant": n, "place": "a/b"}} for n in (5, 1)]


def test_without_one_nothing_is_recorded(recording: Path) -> None:
    graph().invoke({"out": []})
    assert [r.besides for r in Store(recording).runs(besides=True)] == [{}]


def test_without_content_it_is_left_out_and_rules_look_at_it(store: Path, tmp_path: Path) -> None:
    instrument(store, content=False)
    graph(Small).invoke({"out": []}, context=Small(7))
    uninstrument()
    assert [r.besides for r in Store(store).runs(besides=True)] == [{}]
    other = tmp_path / "redacted"
    instrument(other, redact="patterns")
    graph(Loose).invoke({"out": []}, context={"region": "ann@example.com"})
    uninstrument()
    (run,) = Store(other).runs(besides=True)
    assert "ann@example.com" not in str(run.besides) and (run.besides or {})["context"]["region"]
