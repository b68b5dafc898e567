"""A run that stops to be resumed: two runs of one conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("langgraph")

from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from tests.tracer.langgraph.support import Program, Seen, State, says

Record = Callable[[Program], list[Seen]]
CONFIG: Any = {"configurable": {"thread_id": "t1"}}


def graph_of(ask: Any, **options: Any) -> Any:
    graph = StateGraph(State)
    graph.add_node("first", says("first"))
    graph.add_node("ask", ask)
    graph.add_node("last", says("last"))
    graph.add_edge(START, "first")
    graph.add_edge("first", "ask")
    graph.add_edge("ask", "last")
    return graph.compile(checkpointer=InMemorySaver(), **options)


def interrupted(found: Seen) -> Any:
    return found.span("run").attributes.get("redecode.interrupted")


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_an_interrupt_and_its_resumption_are_two_runs_of_one_conversation(record: Record, asynchronous: bool) -> None:
    graph = graph_of(lambda state: {"out": [interrupt("what?")]})

    def call(value: Any) -> Any:
        return asyncio.run(graph.ainvoke(value, CONFIG)) if asynchronous else graph.invoke(value, CONFIG)

    def program() -> None:
        call({"out": []})
        assert call(Command(resume="this"))["out"] == ["first", "this", "last"]

    before, after = record(program)
    assert {r.recorded.run.conversation_id for r in (before, after)} == {"t1"}
    assert {r.recorded.run.status for r in (before, after)} == {"ok"}
    asked = before.span("run/ask@2[pull:ask]")
    assert (asked.status, asked.attributes["redecode.left_by"]) == ("ok", "GraphInterrupt")
    assert (interrupted(before), interrupted(after)) == ("inside", None)
    assert after.keys == ["run", "run/ask@2[pull:ask]", "run/last@3[pull:last]"]
    assert after.into("run/ask@2[pull:ask]") == {("run", "call")}
    assert after.into("run/last@3[pull:last]") == {("run/ask@2[pull:ask]", k) for k in ("data", "barrier")}


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_graph_told_to_stop_at_a_node(record: Record, where: str) -> None:
    graph = graph_of(says("ask"), **{f"interrupt_{where}": ["ask"]})

    def program() -> None:
        graph.invoke({"out": []}, CONFIG)
        assert graph.invoke(None, CONFIG)["out"] == ["first", "ask", "last"]

    before, after = record(program)
    assert (interrupted(before), interrupted(after)) == (where, None)
    done, left = ["run", "run/first@1[pull:first]"], ["run/ask@2[pull:ask]", "run/last@3[pull:last]"]
    if where == "after":
        done.append(left.pop(0))
    assert (before.keys, after.keys) == (done, ["run", *left])


def test_the_branches_beside_an_interrupt_are_not_run_again(record: Record) -> None:
    graph = StateGraph(State)
    graph.add_node("work", says("work"))
    graph.add_node("ask", lambda state: {"out": [interrupt("what?")]})
    graph.add_node("join", says("join"))
    graph.add_edge(START, "work")
    graph.add_edge(START, "ask")
    graph.add_edge(["work", "ask"], "join")
    compiled = graph.compile(checkpointer=InMemorySaver())

    def program() -> None:
        compiled.invoke({"out": []}, CONFIG)
        compiled.invoke(Command(resume="this"), CONFIG)

    before, after = record(program)
    ask, join = "run/ask@1[pull:ask]", "run/join@2[pull:join]"
    assert set(before.keys) == {"run", "run/work@1[pull:work]", ask}
    assert after.keys == ["run", ask, join]
    assert after.into(join) == {(ask, "data"), (ask, "barrier")}  # what work wrote came from the run before


def test_an_interrupt_in_a_subgraph_and_in_a_tool(record: Record) -> None:
    @tool
    def approve(what: str) -> str:
        """Ask a person."""
        return str(interrupt(what))

    inner = StateGraph(State)
    inner.add_node("i", lambda state: {"out": [approve.invoke({"what": "sure?"})]})
    inner.add_edge(START, "i")
    graph = graph_of(inner.compile())

    def program() -> None:
        graph.invoke({"out": []}, CONFIG)
        assert graph.invoke(Command(resume="yes"), CONFIG)["out"][-2:] == ["yes", "last"]

    before, after = record(program)
    inside = "run/ask@2[pull:ask]/graph:LangGraph/i@1[pull:i]"
    assert interrupted(before) == "inside"
    for key in (inside, f"{inside}/tool:approve"):
        assert before.span(key).attributes["redecode.left_by"] == "GraphInterrupt"
        assert (before.span(key).status, after.span(key).status) == ("ok", "ok")
    assert after.recorded.tools[0].result == "yes"
