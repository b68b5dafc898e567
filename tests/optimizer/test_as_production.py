"""Evaluations of graphs in production: with a checkpointer, interrupts, and limits in their config."""

from __future__ import annotations

import asyncio
import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langgraph.errors import GraphRecursionError
from langgraph.types import Command
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.optimizer.besides import checkpointer_of, within_limits
from redecode.optimizer.cases import of_runs, past_of, select
from redecode.optimizer.conversations import UNTOLD
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.optimizer.spec import load
from redecode.tracer import Run, Store, instrument, uninstrument
from tests.optimizer.conftest import evaluated

HEAD = """
from typing import Annotated, Literal
import operator
from typing_extensions import TypedDict
from pydantic import BaseModel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from redecode.optimizer import Spec

class Saver(InMemorySaver):
    "One that cannot be asked from a coroutine, as of SQLite."
    async def aget_tuple(self, *args, **kwargs):
        raise NotImplementedError("no async methods")
    aput = aput_writes = aget_tuple

class Context(BaseModel):
    style: Literal["good", "ask", "loop"] = "good"

class State(TypedDict, total=False):
    q: str
    said: Annotated[list[str], operator.add]

saver = Saver()

def graph_of(node, more=lambda state: END, **how):
    builder = StateGraph(State, context_schema=Context)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_conditional_edges("node", more)
    return builder.compile(**how)

def node(state: State, runtime: Runtime[Context]):
    if runtime.context.style == "ask":
        interrupt("may I?")
    return {"said": [state["q"]]}
"""
AGENTS = {
    "graph": 'graph = graph_of(node, name="agent", checkpointer=saver)',
    "subgraph": """
graph = graph_of(graph_of(node, name="inner", checkpointer=True), name="agent", checkpointer=saver)
""",
    "called": """
inner = graph_of(node, name="inner", checkpointer=Saver())
def call(state: State, runtime: Runtime[Context]):
    return {"said": inner.invoke(state, context=runtime.context)["said"]}
graph = graph_of(call, name="agent", checkpointer=saver)
""",
    "functional": """
@task
def asked(style, q):
    return interrupt("may I?") if style == "ask" else q
@entrypoint(checkpointer=saver, context_schema=Context)
def agent(state: State, runtime: Runtime[Context], *, previous=None) -> State:
    said = [*(previous or {"said": []})["said"], asked(runtime.context.style, state["q"]).result()]
    return {"said": said}
graph = agent
""",
}
TAIL = """
spec = Spec(graph=graph, score=lambda output, case: output["said"] == case.output["said"], name="agent",
            agents=["agent", "LangGraph"])
"""


def module_of(folder: Path, agent: str) -> Any:
    (folder / "tuning.py").write_text(HEAD + agent + TAIL)
    return importlib.import_module("tuning")


def turns(module: Any, store: Path, threads: int, turns: int = 1, **config: Any) -> list[Run]:
    """The runs of so many conversations, the newest first."""
    instrument(store)
    try:
        for thread in range(threads):
            where = {"configurable": {"thread_id": f"t{thread}"}, **config}
            for turn in range(turns):
                module.graph.invoke({"q": f"q{turn} of {thread}"}, where, context=module.Context())
    finally:
        uninstrument()
    return Store(store).runs(besides=True)


@pytest.mark.parametrize("kind", AGENTS)
def test_a_conversation_stays_with_its_run_whatever_keeps_those_of_production(
    folder: Path, store: Path, kind: str
) -> None:
    module = module_of(folder, AGENTS[kind])
    runs = turns(module, store, 3)
    before = {thread: dict(kept) for thread, kept in module.saver.storage.items()}
    cases = select(runs, load("tuning:spec"), "all", now_ns=0, held_out=0).search
    assert len(cases) == 3
    for _ in range(2):
        assert [(o.error, o.quality) for o in evaluated(store, cases, style="good")] == [(None, 1.0)] * 3
    asked = evaluated(store, cases, style="ask")
    assert [o.error for o in asked] == [
        "RuntimeError: it waits for an answer to an interrupt, which nobody gives here: 'may I?'"
    ] * 3
    assert {thread: dict(kept) for thread, kept in module.saver.storage.items()} == before


def test_later_turns_of_which_nobody_said_what_their_graph_knew_are_no_cases(folder: Path, store: Path) -> None:
    runs = turns(module_of(folder, AGENTS["graph"]), store, 4, turns=3)
    spec = load("tuning:spec")
    first = {r.run_id for r in runs if r.input["q"].startswith("q0")}
    told = [replace(r, besides={"history": True} if r.run_id not in first else {}) for r in runs]
    older = [replace(r, besides={}) for r in runs]
    for found in (told, older):  # of before it was recorded as well
        cases = select(found, spec, "all", now_ns=0, held_out=0)
        assert {c.id for c in cases.search} == first == {c.id for c in past_of(found, spec)}
        assert cases.left_out == {UNTOLD: 8}


def test_without_a_checkpointer_an_input_has_its_whole_history_and_is_a_case(folder: Path, store: Path) -> None:
    runs = turns(module_of(folder, AGENTS["graph"].replace(", checkpointer=saver", "")), store, 2, turns=3)
    cases = select([replace(r, besides={}) for r in runs], load("tuning:spec"), "all", now_ns=0, held_out=0)
    assert len(cases.search) == 6 and not cases.left_out


def test_a_first_turn_is_the_first_of_all_runs_and_not_of_those_asked_for(folder: Path, store: Path) -> None:
    runs = [replace(r, besides={}) for r in turns(module_of(folder, AGENTS["graph"]), store, 2, turns=2)]
    cases = select(runs, load("tuning:spec"), "last-3", now_ns=0, held_out=0)
    assert [c.id for c in cases.search] == [runs[1].run_id] and list(cases.left_out.values()) == [2]


def test_runs_that_ended_in_an_interrupt_are_no_cases(folder: Path, store: Path) -> None:
    module = module_of(folder, AGENTS["graph"])
    instrument(store)
    for thread in ("answered", "waits"):
        where = {"configurable": {"thread_id": thread}}
        module.graph.invoke({"q": thread}, where, context=module.Context(style="ask"))
        if thread == "answered":
            module.graph.invoke(Command(resume="yes"), where, context=module.Context(style="ask"))
    module.graph.invoke({"q": "well"}, {"configurable": {"thread_id": "well"}}, context=module.Context())
    uninstrument()
    runs = Store(store).runs(besides=True)
    told = [
        replace(
            runs[1], besides={}, output={"q": "waits", "__interrupt__": [{"value": "may I?"}]}
        ),  # as others record it
        runs[1],
    ]
    for waits in told:
        cases = select([runs[0], waits, *runs[2:]], load("tuning:spec"), "all", now_ns=0, held_out=0)
        assert [c.input["q"] for c in cases.search] == ["well"]
        assert {why.split(":")[0]: n for why, n in cases.left_out.items()} == {
            "that ended in an interrupt": 2,
            "that go on after an interrupt": 1,
        }


LOOPING = """
def more(state: State, runtime: Runtime[Context]):
    return "node" if runtime.context.style == "loop" else END
graph = graph_of(node, more, name="agent")
"""


def test_a_limit_of_a_runs_config_is_recorded_and_its_candidates_have_it(folder: Path, store: Path) -> None:
    module = module_of(folder, LOOPING)
    runs = turns(module, store, 1, recursion_limit=7, max_concurrency=3)
    assert (runs[0].besides or {})["limits"] == {"recursion_limit": 7, "max_concurrency": 3}
    cases = select(runs, load("tuning:spec"), "all", now_ns=0, held_out=0)
    assert "runs that were given a max_concurrency or recursion_limit are evaluated with the same" in cases.notes
    assert of_runs(runs, spec=load("tuning:spec"))[0].limits == cases.search[0].limits
    (outcome,) = evaluated(store, cases.search, style="loop")
    assert str(outcome.error).startswith(f"{GraphRecursionError.__name__}: Recursion limit of 7 ")
    assert not any("limits" in (r.besides or {}) for r in turns(module, store, 2)[:2])


def test_what_a_graph_itself_says_is_no_limit_of_a_request(store: Path) -> None:
    agent: Any = create_agent(FakeListChatModel(responses=["hi"]), [])
    instrument(store)
    agent.invoke({"messages": [("user", "hello")]})
    uninstrument()
    (run,) = Store(store).runs(besides=True)
    (case,) = of_runs([run])
    assert case.limits == {"recursion_limit": agent.config["recursion_limit"]}  # LangChain's, by with_config
    assert within_limits(case, agent).limits == {} and within_limits(case, None).limits == case.limits


def test_checkpointers() -> None:
    class Graph:
        checkpointer: Any = None

    graph = Graph()
    assert [checkpointer_of(object()), checkpointer_of(graph)] == [None, None]
    graph.checkpointer = False
    assert checkpointer_of(graph) is None
    graph.checkpointer = True
    assert checkpointer_of(graph) is True


def test_a_graph_without_a_name_is_told_whose_runs_are_taken(folder: Path, store: Path) -> None:
    agent = AGENTS["graph"].replace('name="agent", ', "") + "\nunnamed = Spec(graph=graph, score=lambda o, case: True)"
    turns(module_of(folder, agent + "\nknown = unnamed.model_copy(update={'agents': ['LangGraph']})"), store, 12)
    for name, told in (("unnamed", 1), ("known", 0)):
        command = ["tune", f"tuning:{name}", "--runs", "all", "--workers", "0", "--store", str(store), "--json"]
        result = CliRunner().invoke(app, [*command, "--trials", "1"], catch_exceptions=False)
        notes = json.loads(result.stdout)["notes"]
        assert sum("the graph has no name" in note for note in notes) == told, notes


ONLY_AWAITED = """
async def odd(state: State, runtime: Runtime[Context]):
    if runtime.context.style == "loop":
        raise NotImplementedError("of mine")
    return {"said": [state["q"]]}
graph = graph_of(odd, name="agent")
"""


def test_a_graph_that_can_only_be_awaited_stays_awaited(folder: Path, store: Path) -> None:
    module = module_of(folder, ONLY_AWAITED)
    instrument(store)
    asyncio.run(module.graph.ainvoke({"q": "a"}, context=module.Context()))
    uninstrument()
    cases = select(Store(store).runs(besides=True), load("tuning:spec"), "all", now_ns=0, held_out=0).search
    here = InProcess(Settings(spec="tuning:spec", store=store, source=store))
    try:
        tried = [here.evaluate(Block(values={"style": style}, cases=cases))[0] for style in ("good", "loop", "good")]
    finally:
        here.close()
    assert [o.error for o in tried] == [None, "NotImplementedError: of mine", None]


SOME_RAISE = """
import time
def chat(state: State, runtime: Runtime[Context]):
    time.sleep(0.2)
    return {}
async def look(state: State, runtime: Runtime[Context]):
    if state["q"] == "q0":
        raise NotImplementedError("no songs yet")
    return {"said": [state["q"]]}
builder = StateGraph(State, context_schema=Context)
builder.add_sequence([chat, look])
builder.add_edge(START, "chat")
graph = builder.compile(name="agent")
"""


def test_a_run_that_is_invoked_since_it_raised_takes_no_other_along(folder: Path, store: Path) -> None:
    """Those that begin in the meantime, too: their graph can only be awaited."""
    module = module_of(folder, SOME_RAISE)

    async def all_runs() -> None:
        for number in range(1, 13):
            await module.graph.ainvoke({"q": f"q{number}"}, context=module.Context())

    instrument(store)
    asyncio.run(all_runs())
    uninstrument()
    cases = select(Store(store).runs(besides=True), load("tuning:spec"), "all", now_ns=0, held_out=0).search
    sung = [replace(case, input={"q": "q0"}) if n % 4 == 0 else case for n, case in enumerate(cases)]
    outcomes = evaluated(store, sung, style="good")
    assert len(outcomes) == 12 and {o.error for o in outcomes[::4]} == {"NotImplementedError: no songs yet"}
    assert {o.error for n, o in enumerate(outcomes) if n % 4} == {None}


EITHER = """
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
asked = []
def ask(state: State, runtime: Runtime[Context]):
    asked.append(runtime.context.style)
    ChatOpenAI(model="m", temperature=0).invoke(state["q"])
    return {}
def say(state: State):
    if state["q"] == "fails":
        raise ValueError("of mine")
    return {"said": [state["q"]]}
async def not_awaited(state: State):
    raise NotImplementedError("no async methods")
async def awaited(state: State):
    return say(state)
def built(last):
    builder = StateGraph(State, context_schema=Context)
    builder.add_node("ask", ask)
    builder.add_node("say", last)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "say")
    return builder.compile(name="agent")
def build(values):
    return built(awaited if values["style"] == "good" else RunnableLambda(say, not_awaited))
graph = built(RunnableLambda(say, not_awaited))
"""


@pytest.fixture
def either(folder: Path, store: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("OPENAI_BASE_URL", serve().base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    module = module_of(folder, EITHER)
    turns(module, store, 3)
    module.asked.clear()
    return module


def test_that_a_graph_cannot_be_awaited_is_known_of_that_graph(either: Any, folder: Path, store: Path) -> None:
    either.factory = either.spec.model_copy(update={"graph": None, "build": either.build, "context": either.Context})
    cases = select(Store(store).runs(besides=True), either.spec, "all", now_ns=0, held_out=0).search
    here = InProcess(Settings(spec="tuning:factory", store=store, source=store))
    found = []
    try:
        for style in ("good", "ask", "good", "ask"):
            either.asked.clear()
            outcomes = here.evaluate(Block(values={"style": style}, cases=cases, memo=False))
            assert [(o.error, o.quality) for o in outcomes] == [(None, 1.0)] * 3
            found.append(len(either.asked))
    finally:
        here.close()
    # Three runs, one before them of what is new; the one that finds out is tried twice, and nothing is tried again.
    assert found == [4, 5, 3, 3]


@pytest.mark.parametrize("q", ["q0 of 0", "fails"])
def test_a_run_that_is_tried_twice_counts_once_and_has_paid_for_both(either: Any, store: Path, q: str) -> None:
    """Also where it fails: that it can be invoked is known then."""
    case = select(Store(store).runs(besides=True), either.spec, "all", now_ns=0, held_out=0).search[0]
    here = InProcess(Settings(spec="tuning:spec", store=store, source=store))
    try:
        asked = replace(case, input={"q": q})
        first, second = (here.evaluate(Block(values={}, cases=[asked], memo=False))[0] for _ in range(2))
    finally:
        here.close()
    assert [o.error for o in (first, second)] == [None if q != "fails" else "ValueError: of mine"] * 2
    assert [(o.live, o.usage["m"].calls) for o in (first, second)] == [(3, 1), (1, 1)]  # one before it, tried twice
    assert len(either.asked) == 4


MIXED = """
from langchain_core.runnables import RunnableLambda
def either(state: State, runtime: Runtime[Context]):
    if runtime.context.style == "loop":
        raise TypeError("of mine")
    return {"said": [state["q"]]}
async def only_awaited(state: State):
    return {"said": [state["q"]]}
async def not_awaited(state: State):
    raise NotImplementedError("no async methods")
def route(state: State):
    return state["q"]
builder = StateGraph(State, context_schema=Context)
builder.add_node("either", either)
builder.add_node("sync", RunnableLambda(lambda state: {"said": [state["q"]]}, not_awaited))
builder.add_node("async", only_awaited)
builder.add_edge(START, "either")
builder.add_conditional_edges("either", route, {"sync": "sync", "async": "async", "both": "sync"})
builder.add_conditional_edges("sync", route, {"sync": END, "both": "async"})
graph = builder.compile(name="agent")
"""


def test_a_run_that_can_only_be_awaited_is_where_its_graph_was_invoked(folder: Path, store: Path) -> None:
    """What no way can run fails with what it failed with first; what fails by itself is not tried again."""
    module = module_of(folder, MIXED)
    instrument(store)
    module.graph.invoke({"q": "sync"}, context=module.Context())
    uninstrument()
    (case,) = select(Store(store).runs(besides=True), load("tuning:spec"), "all", now_ns=0, held_out=0).search
    here = InProcess(Settings(spec="tuning:spec", store=store, source=store, concurrency=1))

    def ran(q: str, style: str = "good") -> str | None:
        return here.evaluate(Block(values={"style": style}, cases=[replace(case, input={"q": q})]))[0].error

    try:
        assert [ran(q) for q in ("sync", "sync", "async", "async", "sync")] == [None] * 5
        assert str(ran("both")).startswith('TypeError: No synchronous function provided to "async"')
        before = len(Store(store).runs())
        assert [ran("sync", "loop"), ran("sync", "loop")] == ["TypeError: of mine"] * 2
        assert len(Store(store).runs()) == before + 3  # with the first of what is new
    finally:
        here.close()
