"""Tools, in a `ToolNode` and without: arguments, results, errors, and a place in the message that asked for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest

pytest.importorskip("langgraph")

from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool, tool
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.prebuilt import InjectedState, InjectedStore, ToolNode, ToolRuntime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command

from redecode.tracer import Fidelity, SpanKind
from tests.tracer.langgraph.support import Program, Seen, State, both_ways, same, says

Record = Callable[[Program], list[Seen]]


class Messages(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@tool
async def add_async(a: int, b: int) -> int:
    """Add."""
    await asyncio.sleep(0)
    return a + b


@tool
def fails(a: int) -> int:
    """Fail."""
    raise ValueError(f"cannot {a}")


@tool
def long_text(length: int) -> str:
    """Return so many characters."""
    return "ä" * length


@tool
def knows_state(a: int, state: Annotated[dict[str, Any], InjectedState]) -> int:
    """Read the state."""
    return a + len(state["messages"])


@tool
def leave(a: int) -> Command[Any]:
    """Go elsewhere."""
    return Command(goto="elsewhere", update={"messages": [ToolMessage("left", tool_call_id="c0")]})


def asks(*calls: tuple[str, dict[str, Any]]) -> AIMessage:
    made = [{"name": n, "args": a, "id": f"c{k}", "type": "tool_call"} for k, (n, a) in enumerate(calls)]
    return AIMessage("", tool_calls=made)


def agent(message: AIMessage, tools: list[BaseTool], *, store: Any = None, **options: Any) -> Any:
    """A model that asks for tools once and is content with what comes."""

    def ask(state: Messages) -> dict[str, Any]:
        answer = message if isinstance(state["messages"][-1], HumanMessage) else AIMessage("done")
        model = GenericFakeChatModel(messages=iter([answer.model_copy(update={"id": None})]))
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(Messages)
    graph.add_node("agent", ask)
    graph.add_node("tools", ToolNode(tools, **options))
    graph.add_node("elsewhere", lambda s: {"messages": []})
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", lambda s: "tools" if s["messages"][-1].tool_calls else END, ["tools", END])
    if leave not in tools:
        graph.add_edge("tools", "agent")
    return graph.compile(store=store)


ASKED: dict[str, Any] = {"messages": [HumanMessage("x")]}
TOOLS = "run/tools@2[pull:tools]"


def test_several_at_once_have_the_place_they_were_asked_for_at(record: Record) -> None:
    message = asks(*(("add", {"a": 1, "b": n}) for n in range(4)), ("fails", {"a": 1}))
    one, two = record(both_ways(agent(message, [add, fails], handle_tool_errors=True), ASKED))
    same(one, two)
    steps = [f"{TOOLS}/tool:{n}:add" for n in range(4)] + [f"{TOOLS}/tool:4:fails"]
    for found in (one, two):
        results = {t.step_key: (t.call_id, t.arguments, t.result, t.error) for t in found.recorded.tools}
        assert sorted(results) == steps
        for n in range(4):
            assert results[steps[n]] == (f"c{n}", {"a": 1, "b": n}, str(1 + n), None)
        assert results[steps[4]] == ("c4", {"a": 1}, None, "ValueError: cannot 1")
    assert one.into(TOOLS) >= {(s, "join") for s in steps}
    assert all((TOOLS, "call") in one.into(s) for s in steps)
    assert [d.fidelity for d in one.recorded.decodes] == [Fidelity.TEXT] * 2
    assert one.recorded.decodes[0].messages[0]["content"] == "x"


def test_an_error_that_is_not_handled_ends_the_run(record: Record) -> None:
    graph = agent(asks(("fails", {"a": 1})), [fails], handle_tool_errors=False)

    def program() -> None:
        with pytest.raises(ValueError, match="cannot 1"):
            graph.invoke(ASKED)
        with pytest.raises(ValueError, match="cannot 1"):
            asyncio.run(graph.ainvoke(ASKED))

    for found in record(program):
        assert {found.span(k).status for k in ("run", TOOLS, f"{TOOLS}/tool:0:fails")} == {"error"}


def test_async_tools(record: Record) -> None:
    graph = agent(asks(("add_async", {"a": 1, "b": 2}), ("add_async", {"a": 3, "b": 4})), [add_async])

    async def program() -> None:
        for _ in range(2):
            await graph.ainvoke(ASKED)

    one, two = record(lambda: asyncio.run(program()))
    same(one, two)
    assert sorted((t.step_key, t.result) for t in one.recorded.tools) == [
        (f"{TOOLS}/tool:0:add_async", "3"),
        (f"{TOOLS}/tool:1:add_async", "7"),
    ]


def test_a_large_result_is_kept_whole(record: Record) -> None:
    length = 1 << 20
    (found,) = record(lambda: agent(asks(("long_text", {"length": length})), [long_text]).invoke(ASKED))
    (result,) = found.recorded.tools
    assert result.result == "ä" * length


def test_what_langgraph_injects_is_no_argument(record: Record) -> None:
    (found,) = record(lambda: agent(asks(("knows_state", {"a": 1})), [knows_state]).invoke(ASKED))
    (call,) = found.recorded.tools
    assert (call.arguments, call.result) == ({"a": 1}, "3")


def test_a_store_and_a_runtime_are_no_arguments_either(record: Record) -> None:
    @tool
    def remembers(a: int, store: Annotated[Any, InjectedStore()]) -> str:
        """Look something up."""
        return str(store.get(("notes",), "k").value["note"])

    @tool
    def sees_all(a: int, runtime: ToolRuntime) -> str:
        """Look around."""
        return f"{len(runtime.state['messages'])} {runtime.tool_call_id}"

    notes = InMemoryStore()
    notes.put(("notes",), "k", {"note": "kept"})
    graph = agent(asks(("remembers", {"a": 1}), ("sees_all", {"a": 2})), [remembers, sees_all], store=notes)
    one, two = record(both_ways(graph, ASKED))
    same(one, two)
    assert sorted((t.tool, str(t.arguments), t.result) for t in one.recorded.tools) == [
        ("remembers", "{'a': 1}", "kept"),
        ("sees_all", "{'a': 2}", "2 c1"),
    ]


def test_an_argument_that_is_only_called_like_what_is_injected(record: Record) -> None:
    @tool
    def capital(state: str, config: str = "long") -> str:
        """Name the capital of a state."""
        return f"{config} {state}"

    (found,) = record(lambda: agent(asks(("capital", {"state": "Texas"})), [capital]).invoke(ASKED))
    (call,) = found.recorded.tools
    assert (call.arguments, call.result) == ({"state": "Texas"}, "long Texas")


def test_a_tool_that_returns_a_command(record: Record) -> None:
    one, two = record(both_ways(agent(asks(("leave", {"a": 1})), [leave]), ASKED))
    same(one, two)
    assert one.into("run/elsewhere@3[pull:elsewhere]") == {(TOOLS, "data"), (TOOLS, "barrier")}
    (call,) = one.recorded.tools
    assert call.result["goto"] == "elsewhere"
    assert call.result["update"]["messages"][0]["content"] == "left"


def test_tools_called_by_a_node_itself(record: Record) -> None:
    def node(state: State) -> dict[str, list[str]]:
        found = add.invoke({"a": 1, "b": 2})
        with pytest.raises(ValueError, match="cannot 2"):
            fails.invoke({"a": 2})
        return {"out": [str(found)]}

    graph = StateGraph(State)
    graph.add_node("n", node)
    graph.add_edge(START, "n")
    one, two = record(both_ways(graph.compile(), {"out": []}))
    same(one, two)
    base = "run/n@1[pull:n]"
    assert [(t.tool, t.result, t.error) for t in sorted(one.recorded.tools, key=lambda t: t.tool)] == [
        ("add", 3, None),
        ("fails", None, "ValueError: cannot 2"),
    ]
    assert one.into(f"{base}/tool:fails") == {(f"{base}/tool:add", "return")}


def test_a_tool_that_declares_its_effect_and_one_outside_any_graph(record: Record) -> None:
    plain: Any = add
    writes: Any = tool(plain.func)
    writes.metadata = {"side_effect": True}
    (found,) = record(lambda: writes.invoke({"a": 1, "b": 2}))
    (call,) = found.recorded.tools
    assert (call.side_effect, call.result, found.keys) == (True, 3, ["run", "run/tool:add"])


class Shelf(BaseRetriever):
    def _get_relevant_documents(self, query: str, **kwargs: Any) -> list[Document]:
        if query == "nothing":
            raise LookupError(query)
        return [Document(f"about {query}", metadata={"page": 7})]


def test_a_retriever(record: Record) -> None:
    def node(state: State) -> dict[str, list[str]]:
        with pytest.raises(LookupError):
            Shelf().invoke("nothing")
        return {"out": [d.page_content for d in Shelf().invoke("cats")]}

    graph = StateGraph(State)
    graph.add_node("n", node)
    graph.add_node("m", says("m"))
    graph.add_edge(START, "n")
    graph.add_edge("n", "m")
    one, two = record(both_ways(graph.compile(), {"out": []}))
    same(one, two)
    base = "run/n@1[pull:n]/retrieval:Shelf"
    assert one.of(SpanKind.RETRIEVAL) == [base, f"{base}#1"]
    assert [one.span(k).status for k in (base, f"{base}#1")] == ["error", "ok"]
    assert one.into(f"{base}#1") == {(base, "return")}
    assert one.recorded.run.output == {"out": ["about cats", "m"]}
