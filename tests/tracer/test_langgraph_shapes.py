"""Shapes of LangGraph graphs: each recorded with distinct step keys, true edges and an exactly tiled path."""

from __future__ import annotations

import asyncio
import operator
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("langgraph")

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send, interrupt

from redecode.replay import build_run_graph, find_critical_path
from redecode.tracer import Fidelity, Provenance, RecordedRun, SpanKind, Store, instrument, uninstrument


class State(TypedDict):
    out: Annotated[list[str], operator.add]


def says(name: str) -> Any:
    """A node that writes its name."""
    return lambda state: {"out": [name]}


def recorded(store: Path, run: Callable[[], Any]) -> list[RecordedRun]:
    """Record what `run` does; every run is checked for what must hold of any run."""
    instrument(store)
    try:
        run()
    finally:
        uninstrument()
    opened = Store(store)
    runs = [opened.load(r.run_id) for r in reversed(opened.runs())]
    for r in runs:
        keys = Counter(s.step_key for s in r.spans)
        assert max(keys.values()) == 1
        assert not [e for e in r.edges if e.provenance is Provenance.TIME]
        assert r.run.ended_ns is not None
        path = find_critical_path(build_run_graph(r))
        assert sum(s.duration_ns for s in path) == r.run.ended_ns - r.run.started_ns
        started = {e.dst for e in r.edges} | {s.span_id for s in r.spans if s.parent_span_id is None}
        assert started == {s.span_id for s in r.spans}
    return runs


def keys(r: RecordedRun) -> list[str]:
    return [s.step_key for s in r.spans]


def edges(r: RecordedRun) -> set[tuple[str, str, str]]:
    key = {s.span_id: s.step_key for s in r.spans}
    return {(key[e.src], key[e.dst], e.kind.value) for e in r.edges}


def both_ways(graph: Any, value: Any) -> Callable[[], None]:
    def run() -> None:
        graph.invoke(value)
        asyncio.run(graph.ainvoke(value))

    return run


def test_goto_conditional_edges_and_a_loop(store: Path) -> None:
    graph = StateGraph(State)
    graph.add_node("a", lambda state: Command(goto="b", update={"out": ["a"]}), destinations=("b",))
    graph.add_node("b", says("b"))
    graph.add_edge(START, "a")
    graph.add_conditional_edges("b", lambda state: "a" if len(state["out"]) < 4 else END, ["a", END])
    one, two = recorded(store, both_ways(graph.compile(), {"out": []}))
    assert sorted(keys(one)) == sorted(keys(two))
    assert keys(one) == ["run", "run/a@1[pull:a]", "run/b@2[pull:b]", "run/a@3[pull:a]", "run/b@4[pull:b]"]
    assert {("run/a@1[pull:a]", "run/b@2[pull:b]", "data"), ("run/b@2[pull:b]", "run/a@3[pull:a]", "data")} <= edges(
        one
    )


def test_every_way_to_stream_a_run(store: Path) -> None:
    graph = StateGraph(State)
    graph.add_node("a", says("a"))
    graph.add_edge(START, "a")
    compiled: Any = graph.compile()

    async def stream() -> None:
        async for _ in compiled.astream({"out": []}, stream_mode="updates"):
            pass
        async for _ in compiled.astream_events({"out": []}, version="v2"):
            pass

    def run() -> None:
        for mode in ("values", "updates", "messages", "debug", "tasks"):
            list(compiled.stream({"out": []}, stream_mode=mode))
        asyncio.run(stream())

    runs = recorded(store, run)
    assert [keys(r) for r in runs] == [["run", "run/a@1[pull:a]"]] * 7
    assert {r.run.status for r in runs} == {"ok"}


def test_interrupt_and_resume_are_two_runs_of_one_conversation(store: Path) -> None:
    graph = StateGraph(State)
    graph.add_node("first", says("first"))
    graph.add_node("ask", lambda state: {"out": [interrupt("what?")]})
    graph.add_edge(START, "first")
    graph.add_edge("first", "ask")
    compiled: Any = graph.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t1"}}

    def run() -> None:
        compiled.invoke({"out": []}, config)
        assert compiled.invoke(Command(resume="this"), config)["out"] == ["first", "this"]

    before, after = recorded(store, run)
    assert {before.run.conversation_id, after.run.conversation_id} == {"t1"}
    assert {before.run.status, after.run.status} == {"ok"}
    asked = next(s for s in before.spans if s.step_key == "run/ask@2[pull:ask]")
    assert asked.attributes["redecode.left_by"] == "GraphInterrupt"
    assert keys(after) == ["run", "run/ask@2[pull:ask]"]


def test_a_subgraph_called_twice_in_a_node_and_one_as_a_node(store: Path) -> None:
    inner = StateGraph(State)
    inner.add_node("i", says("i"))
    inner.add_edge(START, "i")
    small = inner.compile()

    def twice(state: State) -> dict[str, list[str]]:
        small.invoke({"out": []})
        small.invoke({"out": []})
        return {"out": []}

    outer = StateGraph(State)
    outer.add_node("twice", twice)
    outer.add_node("node", small)
    outer.add_edge(START, "twice")
    outer.add_edge("twice", "node")
    one, two = recorded(store, both_ways(outer.compile(), {"out": []}))
    assert sorted(keys(one)) == sorted(keys(two))
    base = "run/twice@1[pull:twice]/graph:LangGraph"
    assert {base, f"{base}/i@1[pull:i]", f"{base}#1", f"{base}#1/i@1[pull:i]"} <= set(keys(one))
    assert (base, f"{base}#1", "return") in edges(one)
    assert [k for k in keys(one) if k.startswith("run/node@2") and k.endswith("/i@1[pull:i]")]


class Messages(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@tool
def fails(a: int) -> int:
    """Fail."""
    raise ValueError(f"cannot {a}")


def test_a_model_without_the_openai_client_and_parallel_tools(store: Path) -> None:
    calls = [{"name": "add", "args": {"a": 1, "b": n}, "id": f"c{n}", "type": "tool_call"} for n in range(4)]
    calls.append({"name": "fails", "args": {"a": 1}, "id": "c4", "type": "tool_call"})

    def answers() -> Iterator[AIMessage]:
        while True:
            yield AIMessage("", tool_calls=calls)
            yield AIMessage("done")

    model = GenericFakeChatModel(messages=answers())
    graph = StateGraph(Messages)
    graph.add_node("agent", lambda s: {"messages": [model.invoke(s["messages"])]})
    graph.add_node("tools", ToolNode([add, fails], handle_tool_errors=True))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", lambda s: "tools" if s["messages"][-1].tool_calls else END, ["tools", END])
    graph.add_edge("tools", "agent")
    one, two = recorded(store, both_ways(graph.compile(), {"messages": [HumanMessage("x")]}))
    assert sorted(keys(one)) == sorted(keys(two))
    assert one.run.fidelity is Fidelity.TEXT
    assert [d.fidelity for d in one.decodes] == [Fidelity.TEXT] * 2
    results = {t.call_id: (t.result, t.error) for t in one.tools}
    assert results["c4"] == (None, "ValueError: cannot 1")
    assert len(results) == 5
    again = {t.call_id: t.step_key for t in two.tools}
    assert {t.call_id: t.step_key for t in one.tools} == again  # by place in the message, not by who came first


def test_what_a_node_raises_is_raised_and_recorded(store: Path) -> None:
    graph = StateGraph(State)
    graph.add_node("bad", lambda state: [][1])
    graph.add_edge(START, "bad")
    compiled: Any = graph.compile()

    def run() -> None:
        with pytest.raises(IndexError):
            compiled.invoke({"out": []})

    (r,) = recorded(store, run)
    assert r.run.status == "error"
    assert {s.status for s in r.spans if s.kind is SpanKind.NODE} == {"error"}


@st.composite
def random_graphs(draw: st.DrawFn) -> Any:
    """A graph of layers with random edges, some layers fanned out by `Send`."""
    graph = StateGraph(State)
    layer = [START]
    for level in range(draw(st.integers(1, 3))):
        names = [f"n{level}{i}" for i in range(draw(st.integers(1, 3)))]
        for name in names:
            graph.add_node(name, says(name))
        if layer != [START] and draw(st.booleans()):
            width = draw(st.integers(1, 4))
            target = names[0]
            graph.add_conditional_edges(
                layer[0], lambda s, t=target, w=width: [Send(t, s) for _ in range(w)], [target]
            )  # fmt: skip
            names = [target] if len(names) == 1 else names
        for name in names:
            for source in draw(st.lists(st.sampled_from(layer), min_size=1, unique=True)):
                graph.add_edge(source, name)
        layer = names
    return graph.compile()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graph=random_graphs())
def test_step_keys_are_distinct_and_the_same_on_every_run(graph: Any, tmp_path: Path) -> None:
    store = tmp_path / f"{random.Random().getrandbits(64):x}"

    def run() -> None:
        for _ in range(2):
            graph.invoke({"out": []})
        asyncio.run(graph.ainvoke({"out": []}))

    first, *others = recorded(store, run)
    for other in others:
        assert sorted(keys(other)) == sorted(keys(first))
        assert edges(other) == edges(first)
