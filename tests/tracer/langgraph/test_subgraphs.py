"""Graphs in graphs: supersteps start again, keys nest, commands leave to the graph above."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("langgraph")

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command

from redecode.tracer import SpanKind
from redecode.tracer.instrument import run, step
from tests.tracer.langgraph.support import Program, Seen, State, both_ways, same, says

Record = Callable[[Program], list[Seen]]


def small(name: str = "i", **options: Any) -> Any:
    graph = StateGraph(State)
    graph.add_node(name, says(name))
    graph.add_edge(START, name)
    return graph.compile(**options)


def around(node: Any, **options: Any) -> Any:
    graph = StateGraph(State)
    graph.add_node("before", says("before"))
    graph.add_node("sub", node, **options)
    graph.add_edge(START, "before")
    graph.add_edge("before", "sub")
    return graph


def test_a_subgraph_as_a_node_starts_its_supersteps_again(record: Record) -> None:
    one, two = record(both_ways(around(small()).compile(), {"out": []}))
    same(one, two)
    sub = "run/sub@2[pull:sub]"
    inner = f"{sub}/graph:LangGraph"
    assert one.keys == ["run", "run/before@1[pull:before]", sub, inner, f"{inner}/i@1[pull:i]"]
    assert one.span(inner).kind is SpanKind.GRAPH
    assert one.into(f"{inner}/i@1[pull:i]") == {(inner, "call")}
    assert one.into(inner) == {(sub, "call"), (f"{inner}/i@1[pull:i]", "return")}


@pytest.mark.parametrize("checkpointer", [None, InMemorySaver()], ids=["plain", "checkpointed"])
def test_two_graphs_deep(record: Record, checkpointer: Any) -> None:
    graph = around(around(small()).compile()).compile(checkpointer=checkpointer)
    config = {"configurable": {"thread_id": "t"}} if checkpointer else None
    one, two = record(both_ways(graph, {"out": []}, config))
    deepest = "run/sub@2[pull:sub]/graph:LangGraph/sub@2[pull:sub]/graph:LangGraph/i@1[pull:i]"
    if checkpointer is None:
        same(one, two)
    else:  # the second run goes on from the thread's last checkpoint, whose supersteps are counted on
        assert len(one.keys) == len(two.keys)
        assert one.recorded.run.conversation_id == two.recorded.run.conversation_id == "t"
    assert deepest in one.keys


def test_a_subgraph_called_twice_in_a_node(record: Record) -> None:
    inner = small()

    def twice(state: State) -> dict[str, list[str]]:
        inner.invoke({"out": []})
        inner.invoke({"out": []})
        return {"out": []}

    async def twice_async(state: State) -> dict[str, list[str]]:
        await inner.ainvoke({"out": []})
        await inner.ainvoke({"out": []})
        return {"out": []}

    runs = record(lambda: both_ways(around(twice).compile(), {"out": []})())
    runs += record(lambda: asyncio.run(around(twice_async).compile().ainvoke({"out": []})))[-1:]
    for other in runs[1:]:
        same(runs[0], other)
    base = "run/sub@2[pull:sub]/graph:LangGraph"
    assert {base, f"{base}/i@1[pull:i]", f"{base}#1", f"{base}#1/i@1[pull:i]"} <= set(runs[0].keys)
    assert (base, f"{base}#1", "return") in runs[0].edges


def test_subgraphs_side_by_side_in_a_node(record: Record) -> None:
    inner = small()

    async def many(state: State) -> dict[str, list[str]]:
        await asyncio.gather(*(inner.ainvoke({"out": []}) for _ in range(3)))
        return {"out": []}

    def pool(state: State) -> dict[str, list[str]]:
        with ThreadPoolExecutor(3) as executor:
            list(executor.map(inner.invoke, [{"out": []}] * 3))
        return {"out": []}

    def program() -> None:
        for _ in range(2):
            asyncio.run(around(many).compile().ainvoke({"out": []}))
        for _ in range(2):
            around(pool).compile().invoke({"out": []})

    by_task, by_task_again, by_thread, by_thread_again = record(program)
    same(by_task, by_task_again)
    same(by_thread, by_thread_again)
    sub = "run/sub@2[pull:sub]"
    graphs = [f"{sub}/~{n}/graph:LangGraph" for n in range(3)]
    for found in (by_task, by_thread):
        assert found.of(SpanKind.GRAPH) == graphs
        assert found.into(sub) >= {(g, "join") for g in graphs}
        assert all((sub, "call") in found.into(g) for g in graphs)


def test_a_command_to_the_graph_above(record: Record) -> None:
    inner = StateGraph(State)
    inner.add_node("i", lambda s: Command(goto="after", graph=Command.PARENT, update={"out": ["i"]}))
    inner.add_edge(START, "i")
    graph = around(inner.compile(), destinations=("after",))
    graph.add_node("after", says("after"))
    one, two = record(both_ways(graph.compile(), {"out": []}))
    same(one, two)
    sub = "run/sub@2[pull:sub]"
    for key in (sub, f"{sub}/graph:LangGraph", f"{sub}/graph:LangGraph/i@1[pull:i]"):
        assert (one.span(key).status, one.span(key).attributes["redecode.left_by"]) == ("ok", "ParentCommand")
        assert "redecode.interrupted" not in one.span(key).attributes
    assert one.into("run/after@3[pull:after]") == {(sub, "data"), (sub, "barrier")}
    assert one.recorded.run.output == {"out": ["before", "i", "after"]}


def test_a_graph_inside_a_tool(record: Record) -> None:
    inner = small()

    @tool
    def ask(question: str) -> str:
        """Ask another graph."""
        inner.invoke({"out": []})
        inner.invoke({"out": []})
        return question

    def node(state: State) -> dict[str, list[str]]:
        return {"out": [ask.invoke({"question": "q"})]}

    one, two = record(both_ways(around(node).compile(), {"out": []}))
    same(one, two)
    base = "run/sub@2[pull:sub]/tool:ask"
    inside = f"{base}/graph:LangGraph"
    assert {inside, f"{inside}/i@1[pull:i]", f"{inside}#1"} <= set(one.keys)
    assert one.into(f"{inside}#1") >= {(inside, "return")}
    assert one.into(base) >= {(f"{inside}#1", "return")}


def test_a_batch_of_graphs_is_a_run_each(record: Record) -> None:
    graph = small()

    def program() -> None:
        graph.batch([{"out": [str(n)]} for n in range(3)])
        asyncio.run(graph.abatch([{"out": [str(n)]} for n in range(3)]))

    runs = record(program)
    assert sorted(r.recorded.run.input["out"][0] for r in runs) == ["0", "0", "1", "1", "2", "2"]
    for found in runs:
        assert found.keys == ["run", "run/i@1[pull:i]"]


def test_two_graphs_at_once_keep_apart(record: Record) -> None:
    names = [f"n{k}" for k in range(6)]
    graphs = [small(name) for name in names]

    def program() -> None:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda graph: [graph.invoke({"out": []}) for _ in range(5)], graphs))

    runs = record(program)
    assert len(runs) == 30
    assert sorted(k for r in runs for k in r.keys[1:]) == sorted(
        f"run/{n}@1[pull:{n}]" for n in names for _ in range(5)
    )


def test_one_graph_in_many_threads_and_event_loops_at_once(record: Record) -> None:
    together = threading.Barrier(4)

    def first(state: State) -> dict[str, list[str]]:
        together.wait(10)
        return {"out": ["first"]}

    graph = around(first).compile()

    def program() -> None:
        calls = [lambda: graph.invoke({"out": []}), lambda: asyncio.run(graph.ainvoke({"out": []}))]
        threads = [threading.Thread(target=calls[n % 2]) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    one, *others = record(program)
    assert len(others) == 3
    for other in others:
        same(one, other)
    assert one.keys == ["run", "run/before@1[pull:before]", "run/sub@2[pull:sub]"]


def test_a_tool_that_hands_over_to_the_graph_above(record: Record) -> None:
    @tool
    def hand_over(why: str) -> Command[Any]:
        """Let another agent do it."""
        return Command(goto="other", graph=Command.PARENT, update={"messages": [ToolMessage(why, tool_call_id="c0")]})

    call = {"name": "hand_over", "args": {"why": "tired"}, "id": "c0", "type": "tool_call"}
    agent = StateGraph(MessagesState)
    agent.add_node("ask", lambda s: {"messages": [AIMessage("", tool_calls=[call])]})
    agent.add_node("tools", ToolNode([hand_over]))
    agent.add_edge(START, "ask")
    agent.add_edge("ask", "tools")
    team = StateGraph(MessagesState)
    team.add_node("agent", agent.compile(), destinations=("other",))
    team.add_node("other", lambda s: {"messages": [AIMessage("done")]})
    team.add_edge(START, "agent")
    one, two = record(both_ways(team.compile(), {"messages": [HumanMessage("x")]}))
    same(one, two)
    agent_key = "run/agent@1[pull:agent]"
    tools = f"{agent_key}/graph:LangGraph/tools@2[pull:tools]"
    assert one.span(tools).attributes["redecode.left_by"] == "ParentCommand"
    assert one.into("run/other@2[pull:other]") == {(agent_key, "data"), (agent_key, "barrier")}
    (call_made,) = one.recorded.tools
    assert (call_made.tool, call_made.step_key) == ("hand_over", f"{tools}/~0/tool:hand_over")
    assert one.recorded.run.output["messages"][-1]["content"] == "done"


def test_a_graph_in_a_run_opened_by_hand(record: Record) -> None:
    graph = small()

    def program() -> None:
        with run("by hand"):
            with step("first"):
                graph.invoke({"out": []})
            with step("second"):
                asyncio.run(graph.ainvoke({"out": []}))

    (found,) = record(program)
    first, second = "run/first", "run/second"
    assert {f"{s}/graph:LangGraph/i@1[pull:i]" for s in (first, second)} <= set(found.keys)
    assert found.into(second) == {(first, "return"), (f"{second}/graph:LangGraph", "return")}
