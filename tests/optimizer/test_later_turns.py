"""Later turns of conversations are evaluated with what their graph knew: what the turn before them had left."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.optimizer.cases import Cases, past_of, same_input, select
from redecode.optimizer.conversations import UNFIT, UNTOLD
from redecode.optimizer.spec import load
from redecode.tracer import Run, Store, instrument, uninstrument
from tests.optimizer.conftest import evaluated

HEAD = """
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
import operator
from typing_extensions import TypedDict
from pydantic import BaseModel
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import SimpleChatModel
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.channels import UntrackedValue
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from redecode.optimizer import Spec

class Context(BaseModel):
    window: Literal["all", "last"] = "all"

class Counts(SimpleChatModel):
    "Says how many messages it was given, and the first of them."
    _llm_type = "counts"
    def _call(self, messages, stop=None, run_manager=None, **kwargs):
        return f"{len(messages)} from {messages[0].content}"

def seen(known, runtime):
    return known if runtime.context.window == "all" else known[-1:]

saver = InMemorySaver()
routed = []

def graph_of(state, node, **how):
    builder = StateGraph(state, context_schema=Context, **how.pop("schemas", {}))
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    def route(state):
        routed.append(1)
        return END
    builder.add_conditional_edges("node", route)
    return builder.compile(name="agent", **how)

def chat(state, runtime: Runtime[Context]):
    return {"messages": [Counts().invoke(seen(state["messages"], runtime))]}

def given(text):
    return {"messages": [{"role": "user", "content": text}]}

def said(output):
    return output["messages"][-1].content
"""
NOTES = """
def note(state, runtime: Runtime[Context]):
    got = seen(list(state["said"]) + [state["q"]], runtime)
    return {"said": [f"{len(got)} from {got[0]}"], "count": state.get("count", 0) + len(got)}

def given(text):
    return {"q": text}

def said(output):
    return output["said"][-1]
"""
AGENTS = {
    "messages": "graph = graph_of(MessagesState, chat, checkpointer=saver)",
    "create_agent": """
from langchain.agents.middleware import wrap_model_call
@wrap_model_call
def windowed(request, handler):
    return handler(request.override(messages=seen(request.messages, request.runtime)))
graph = create_agent(Counts(), [], context_schema=Context, middleware=[windowed], checkpointer=saver, name="agent")
""",
    "mapping": NOTES
    + """
class State(TypedDict, total=False):
    q: str
    said: Annotated[list[str], operator.add]
    count: int
graph = graph_of(State, note, checkpointer=saver)
""",
    "model": NOTES
    + """
class Item(BaseModel):
    text: str
class State(BaseModel):
    q: str = ""
    said: Annotated[list[str], operator.add] = []
    count: int = 0
    items: Annotated[list[Item], operator.add] = []
def node(state, runtime: Runtime[Context]):
    assert all(type(item) is Item for item in state.items)
    return {**note(state.model_dump(), runtime), "items": [Item(text=state.q)]}
graph = graph_of(State, node, checkpointer=saver)
""",
    "reducer that loses": NOTES
    + """
def shorter(left, right):
    return [*left, *right][-2:] + ["cut"] if len(right) > 1 else [*left, *right]
class State(TypedDict, total=False):
    q: str
    said: Annotated[list[str], shorter]
    count: int
graph = graph_of(State, note, checkpointer=saver)
""",
    "narrow output": NOTES
    + """
class Out(TypedDict):
    said: list[str]
class State(TypedDict, total=False):
    q: str
    said: Annotated[list[str], operator.add]
    count: int
graph = graph_of(State, note, schemas={"output_schema": Out}, checkpointer=saver)
""",
    "stock middleware": """
from langchain.agents.middleware import ModelCallLimitMiddleware, wrap_model_call
@wrap_model_call
def windowed(request, handler):
    return handler(request.override(messages=seen(request.messages, request.runtime)))
graph = create_agent(Counts(), [], context_schema=Context, checkpointer=saver, name="agent",
                     middleware=[windowed, ModelCallLimitMiddleware(thread_limit=50)])
""",
    "an object without a hint": NOTES
    + """
class Item(BaseModel):
    text: str
class State(TypedDict, total=False):
    q: str
    said: Annotated[list[str], operator.add]
    count: int
    last: Any
    items: Any
def node(state, runtime: Runtime[Context]):
    assert state.get("last") is None or type(state["last"]) is Item
    assert all(type(item) is Item for item in state.get("items", []))
    item = Item(text=state["q"])
    return {**note({"said": [], **state}, runtime), "last": item, "items": [*state.get("items", []), item]}
graph = graph_of(State, node, checkpointer=saver)
""",
    "messages of any list": """
from langgraph.graph.message import add_messages
class State(TypedDict):
    messages: Annotated[list, add_messages]
    kept: list
def node(state, runtime: Runtime[Context]):
    assert all(isinstance(message, AIMessage) for message in state.get("kept", []))
    said = chat(state, runtime)["messages"]
    return {"messages": said, "kept": [*state.get("kept", []), AIMessage("aside")]}
graph = graph_of(State, node, checkpointer=saver)
""",
    "given its checkpointer": "graph = graph_of(MessagesState, chat)",
}
UNKNOWN = {
    "function": (UNTOLD, NOTES + """
@entrypoint(checkpointer=saver, context_schema=Context)
def agent(q, runtime: Runtime[Context], *, previous=None):
    return note({"said": (previous or {"said": []})["said"], "q": q["q"]}, runtime)
graph = agent
"""),
    "a memory within": (UNFIT, """
inner = graph_of(MessagesState, chat, checkpointer=True)
graph = graph_of(MessagesState, inner, checkpointer=saver)
"""),
    "a memory that a tool has": (UNFIT, """
inner = graph_of(MessagesState, chat, checkpointer=True)
class Helper:
    def ask(self, messages):
        return inner.invoke({"messages": messages}, context=Context())["messages"][-1:]
helper = Helper()
def call(state, runtime: Runtime[Context]):
    return {"messages": helper.ask(state["messages"][-1:])}
graph = graph_of(MessagesState, call, checkpointer=saver)
"""),
    "a join that waits": (UNTOLD, NOTES + """
class State(TypedDict, total=False):
    q: str
    said: Annotated[list[str], operator.add]
    count: int
builder = StateGraph(State, context_schema=Context)
builder.add_node("a", note)
builder.add_node("b", lambda state: {})
builder.add_node("both", lambda state: {"said": ["both"]})
builder.add_conditional_edges(START, lambda state: "a" if len(state.get("said", [])) % 3 == 0 else "b", ["a", "b"])
builder.add_edge(["a", "b"], "both")
graph = builder.compile(name="agent", checkpointer=saver)
"""),
    "untracked": (UNTOLD, NOTES + """
class State(TypedDict, total=False):
    q: str
    said: Annotated[list[str], operator.add]
    count: Annotated[int, UntrackedValue]
graph = graph_of(State, note, checkpointer=saver)
"""),
}  # fmt: skip
TAIL = """
spec = Spec(graph=graph, score=lambda output, case: said(output) == case.expected, name="agent",
            agents=["agent", "LangGraph"])
"""


def module_of(folder: Path, agent: str) -> Any:
    (folder / "tuning.py").write_text(HEAD + agent + TAIL)
    return importlib.import_module("tuning")


def converse(module: Any, store: Path, threads: int = 2, turns: int = 3, between: Callable[..., Any] = id) -> list[Run]:
    """The runs of so many conversations, the newest first, with what each said last as the right answer."""
    right, runs = {}, list[Run]()
    instrument(store)
    try:
        for thread in range(threads):
            own = {} if module.graph.checkpointer is not None else {"__pregel_checkpointer": module.saver}
            where = {"configurable": {"thread_id": f"t{thread}", **own}}
            for turn in range(turns):
                asked = f"q{turn} of {thread}"
                output = module.graph.invoke(module.given(asked), where, context=module.Context())
                right[asked] = module.said(output)
                between(where)
    finally:
        uninstrument()
    for run in Store(store).runs(besides=True):
        if run.agent.endswith("UpdateState"):
            continue
        asked = run.input["q"] if "q" in run.input else run.input["messages"][0]["content"]
        runs.append(replace(run, labels={**run.labels, "expected": right[asked]}))
    return runs


def chosen(runs: Sequence[Run]) -> Cases:
    return select(runs, load("tuning:spec"), "all", now_ns=0, held_out=0)


@pytest.mark.parametrize("kind", AGENTS)
def test_a_later_turn_begins_with_what_the_turn_before_left(folder: Path, store: Path, kind: str) -> None:
    module = module_of(folder, AGENTS[kind])
    runs = converse(module, store)
    found = chosen(runs)
    assert not found.left_out and len(found.search) == 6 == len(past_of(runs, load("tuning:spec")))
    threads = {thread: json.dumps(kept, default=str) for thread, kept in module.saver.storage.items()}
    module.routed.clear()
    assert [(o.error, o.quality) for o in evaluated(store, found.search, window="all")] == [(None, 1.0)] * 6
    assert len(module.routed) in (0, 7)  # once for each turn, and for the run before any that counts: in no turn before
    first = [float(c.history is None) for c in found.search]
    assert [o.quality for o in evaluated(store, found.search, window="last")] == first and sum(first) == 2
    assert {thread: json.dumps(kept, default=str) for thread, kept in module.saver.storage.items()} == threads


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_no_output_says_of_a_history_is_no_case(folder: Path, store: Path, kind: str) -> None:
    why, agent = UNKNOWN[kind]
    runs = converse(module_of(folder, agent), store)
    found = chosen(runs)
    count = 6 - len(found.search)
    assert found.left_out == {why: count} and count >= 2 and 6 - count == len(past_of(runs, load("tuning:spec")))


def test_a_history_is_that_of_the_run_which_left_it(folder: Path, store: Path) -> None:
    module = module_of(folder, AGENTS["mapping"])

    def edits(where: Any) -> None:
        if where["configurable"]["thread_id"] == "t1":
            module.graph.update_state(where, {"said": ["edited"]})

    runs = converse(module, store, between=edits)
    found = chosen(runs)
    assert found.left_out == {UNTOLD: 2}  # nobody recorded what it was edited to
    first = next(module.graph.get_state_history({"configurable": {"thread_id": "t0"}}, filter={"step": 1}))
    instrument(store)
    module.graph.invoke({"q": "forked"}, first.config, context=module.Context())
    uninstrument()
    found = chosen(Store(store).runs(besides=True))
    (forked,) = (c for c in found.search if c.input == {"q": "forked"})
    assert forked.history == first.values and len(first.values["said"]) == 1


def test_equal_words_in_other_conversations_are_other_cases(folder: Path, store: Path) -> None:
    module = module_of(folder, AGENTS["messages"])
    instrument(store)
    for thread in ("a", "b"):
        where = {"configurable": {"thread_id": thread}}
        for text in (f"hello {thread}", "yes"):
            module.graph.invoke(module.given(text), where, context=module.Context())
    uninstrument()
    found = chosen(Store(store).runs(besides=True))
    assert len(found.search) == 4 and len({same_input(c) for c in found.search}) == 4


def test_a_study_decides_on_later_turns_too_and_goes_on_with_them(folder: Path, store: Path) -> None:
    runs = converse(module_of(folder, AGENTS["messages"]), store, threads=12, turns=3)
    expected = folder / "expected.jsonl"
    lines = [json.dumps({"run_id": r.run_id, "expected": r.labels["expected"]}) for r in runs]
    expected.write_text("\n".join(lines))
    asked = ["tune", "tuning:spec", "--store", str(store), "--studies", str(folder / "study"), "--runs", "all"]
    asked += ["--expected", str(expected), "--json", "--trials"]
    begun = json.loads(CliRunner().invoke(app, [*asked, "1"]).stdout)
    told = json.loads(CliRunner().invoke(app, [*asked, "2", "--resume", begun["study"]]).stdout)
    assert told["verdict"] == "keep" and told["runs"] == {"search": 24, "held_out": 12, "left_out": {}}
    error = {t["candidate"]["window"]: t["measured"]["error"] for t in told["trials"]}
    assert error["all"] == 0 and 0.3 < error["last"] < 0.7, "which is out by then, or evaluated on all"
