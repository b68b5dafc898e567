"""A graph's store in an evaluation: each run reads it, and what it writes stays with it."""

from __future__ import annotations

import asyncio
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.optimizer.cases import select
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.optimizer.spec import load, memory_of
from redecode.tracer import Store, instrument, uninstrument

HEAD = """
from typing import Annotated, Any, Literal
from typing_extensions import TypedDict
from pydantic import BaseModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.config import get_store
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import InjectedStore, ToolNode
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from redecode.optimizer import Spec

class Context(BaseModel):
    style: Literal["terse", "long"] = "terse"

class State(TypedDict, total=False):
    n: int
    messages: list
    seen: list[str]

memory = InMemoryStore()
memory.put(("notes",), "kept", {"n": 0})

def seen(store, style, n):
    found = sorted(item.key for item in store.search(("notes",), limit=100))
    store.put(("notes",), f"{style}{n}", {"n": n})
    assert store.get(("notes",), f"{style}{n}").value == {"n": n}
    store.delete(("notes",), "kept")
    return found

def graph_of(node, **how):
    builder = StateGraph(State, context_schema=Context)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder.compile(**how)
"""
AGENTS = {
    "runtime": """
def node(state, runtime: Runtime[Context]):
    return {"seen": seen(runtime.store, runtime.context.style, state["n"])}
graph = graph_of(node, name="agent", store=memory)
""",
    "async": """
async def node(state: State, runtime: Runtime[Context]):
    store = runtime.store
    found = sorted(item.key for item in await store.asearch(("notes",), limit=100))
    await store.aput(("notes",), f"{runtime.context.style}{state['n']}", {"n": state["n"]})
    await store.adelete(("notes",), "kept")
    return {"seen": found}
graph = graph_of(node, name="agent", store=memory)
""",
    "argument": """
def node(state: State, *, store: BaseStore):
    return {"seen": seen(store, "x", state["n"])}
graph = graph_of(node, name="agent", store=memory)
""",
    "subgraph": """
def node(state: State):
    return {"seen": seen(get_store(), "x", state["n"])}
inner = graph_of(node, name="inner", store=InMemoryStore())
graph = graph_of(inner, name="agent", store=memory)
""",
    "called": """
def leaf(state: State):
    return {"seen": seen(get_store(), "x", state["n"])}
inner = graph_of(leaf, name="inner", store=InMemoryStore())
def node(state: State):
    return inner.invoke(state)
graph = graph_of(node, name="agent", store=memory)
""",
    "tool": """
@tool
def remember(n: int, store: Annotated[Any, InjectedStore()]) -> str:
    "Remembers."
    return ",".join(seen(store, "x", n))
tools = ToolNode([remember])
def ask(state: State):
    call = {"name": "remember", "args": {"n": state["n"]}, "id": "1", "type": "tool_call"}
    return {"messages": [AIMessage(content="", tool_calls=[call])]}
def told(state: State):
    return {"seen": state["messages"][-1].content.split(",")}
builder = StateGraph(State, context_schema=Context)
for name, node in (("ask", ask), ("tools", tools), ("told", told)):
    builder.add_node(name, node)
builder.add_edge(START, "ask")
builder.add_edge("ask", "tools")
builder.add_edge("tools", "told")
graph = builder.compile(name="agent", store=memory)
""",
    "functional": """
@task
def remember(n):
    return seen(get_store(), "x", n)
@entrypoint(store=memory, context_schema=Context)
def agent(state: State) -> State:
    return {"seen": remember(state["n"]).result()}
graph = agent
""",
}
TAIL = """
def score(output, case):
    return output["seen"] == ["kept"]
spec = Spec(graph=graph, score=score, live_tools=["remember"], name="agent", agents=["agent", "LangGraph"])
"""


def recorded(folder: Path, store: Path, agent: str, runs: int = 4) -> Any:
    """The module of an agent of which so many runs were recorded, each without what the ones before left."""
    (folder / "tuning.py").write_text(HEAD + agent + TAIL)
    instrument(store)
    try:
        module = importlib.import_module("tuning")
        for n in range(runs):
            asyncio.run(module.graph.ainvoke({"n": n}, context=module.Context()))
            for item in module.memory.search(("notes",), limit=100):
                module.memory.delete(("notes",), item.key)
            module.memory.put(("notes",), "kept", {"n": 0})
    finally:
        uninstrument()
    return module


@pytest.mark.parametrize("kind", AGENTS)
def test_runs_of_an_evaluation_write_nothing_into_the_store_and_find_nothing_of_each_other(
    folder: Path, store: Path, kind: str
) -> None:
    module = recorded(folder, store, AGENTS[kind])
    cases = select(Store(store).runs(), load("tuning:spec"), "all", now_ns=0, held_out=0).search
    here = InProcess(Settings(spec="tuning:spec", store=store, source=store, concurrency=2))
    try:
        for style in ("terse", "long", "terse"):
            outcomes = here.evaluate(Block(values={"style": style}, cases=cases))
            assert [(o.error, o.quality) for o in outcomes] == [(None, 1.0)] * len(cases)
    finally:
        here.close()
    assert [(i.key, i.value) for i in module.memory.search(("notes",), limit=100)] == [("kept", {"n": 0})]


def test_what_is_recorded_of_such_a_run_is_what_is_recorded_without(folder: Path, store: Path) -> None:
    recorded(folder, store, AGENTS["subgraph"], 1)
    (case,) = select(Store(store).runs(besides=True), load("tuning:spec"), "all", now_ns=0, held_out=0).search
    here = InProcess(Settings(spec="tuning:spec", store=store, source=store))
    try:
        (outcome,) = here.evaluate(Block(values={"style": "terse"}, cases=[case]))
    finally:
        here.close()
    then, now = Store(store).load(case.id), Store(store).load(str(outcome.run_id))

    def told(found: Any) -> Any:
        steps = [(s.kind, s.name, s.step_key, s.status) for s in found.spans]
        return steps, len(found.edges), found.run.besides, found.run.input, found.run.output

    assert told(now) == told(then)


def test_a_graph_without_a_store_has_none() -> None:
    class Graph:
        store = "a mere word"

    assert memory_of(Graph()) is None and memory_of(object()) is None


def test_it_is_said_once_of_a_study_of_a_graph_with_a_store(folder: Path, store: Path) -> None:
    recorded(folder, store, AGENTS["runtime"], 12)
    command = ["tune", "tuning:spec", "--runs", "all", "--workers", "0", "--store", str(store), "--json"]
    for more in ((), ("--resume", "last")):
        result = CliRunner().invoke(app, [*command, *more], catch_exceptions=False)
        notes = json.loads(result.stdout)["notes"]
        assert sum("as it is now" in note for note in notes) == 1, notes
