"""Programs of many kinds, recorded live and played back: the same output, and nothing asked of the server again."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, TypedDict

import openai
import pytest

pytest.importorskip("langgraph")

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import CachePolicy, Command, RetryPolicy, Send, interrupt
from pydantic import SecretStr

from redecode.replay import ReplayDivergence, playback
from redecode.tracer import Store, instrument, run, uninstrument

Serve = Callable[..., Any]
QUESTION = "who?"


class State(TypedDict):
    out: Annotated[list[str], operator.add]


class World:
    """A server whose answers differ and fail now and then, and tools that have effects."""

    def __init__(self, serve: Serve) -> None:
        self.numbers, self.effects = count(), 0
        self.models: dict[str, ChatOpenAI] = {}
        self.making = Lock()
        self.server = serve(lambda _: f"answer {next(self.numbers)}")

    @property
    def llm(self) -> ChatOpenAI:
        return self.model("m")

    def model(self, name: str) -> ChatOpenAI:
        with self.making:
            if name not in self.models:
                options: Any = {"max_retries": 0, "timeout": openai.Timeout(30)}
                url = self.server.base_url
                self.models[name] = ChatOpenAI(base_url=url, api_key=SecretStr("none"), model=name, **options)
            return self.models[name]

    def effect(self, text: str) -> str:
        self.effects += 1
        return f"{text} {self.effects}"


def node(function: Callable[[State], str], **options: Any) -> Any:
    """A graph of one node."""
    graph = StateGraph(State)
    graph.add_node("only", lambda state: {"out": [function(state)]}, **options)
    graph.add_edge(START, "only")
    graph.add_edge("only", END)
    return graph


def fallbacks(world: World) -> Any:
    chain = world.model("missing").with_fallbacks([world.llm])  # the server does not have the first
    return node(lambda _: str(chain.invoke(QUESTION).content)).compile().invoke({"out": []})


def retries(world: World) -> Any:
    models = iter(["missing", "missing", "m"])
    policy = RetryPolicy(initial_interval=0.001, jitter=False, retry_on=openai.NotFoundError)
    asks = lambda _: str(world.model(next(models)).invoke(QUESTION).content)  # noqa: E731
    return node(asks, retry_policy=policy).compile().invoke({"out": []})


def handled(world: World) -> Any:
    def ask(_: State) -> str:
        try:
            return str(world.model("missing").invoke(QUESTION).content)
        except openai.NotFoundError as error:
            return f"{error.status_code} {error.body}"

    return node(ask).compile().invoke({"out": []})


def threads(world: World) -> Any:
    def ask(_: State) -> str:
        llm = world.llm
        with ThreadPoolExecutor(4) as pool:
            return " ".join(pool.map(lambda _: str(llm.invoke(QUESTION).content), range(6)))

    return node(ask).compile().invoke({"out": []})


def batch(world: World) -> Any:
    llm = world.llm
    return node(lambda _: " ".join(str(m.content) for m in llm.batch([QUESTION] * 4))).compile().invoke({"out": []})


def gather(world: World) -> Any:
    async def go() -> Any:
        async with openai.AsyncOpenAI(base_url=world.server.base_url, api_key="x", max_retries=0) as client:

            async def ask(state: State) -> Any:
                calls = [
                    client.chat.completions.create(model="m", messages=[{"role": "user", "content": QUESTION}])
                    for _ in range(5)
                ]
                return {"out": [str(answer.choices[0].message.content) for answer in await asyncio.gather(*calls)]}

            graph = StateGraph(State)
            graph.add_node("only", ask)
            graph.add_edge(START, "only")
            return await graph.compile().ainvoke({"out": []})

    return asyncio.run(go())


def abatch(world: World) -> Any:
    async def go() -> Any:
        llm = world.models.pop("m", None) or world.llm
        try:
            return [str(m.content) for m in await llm.abatch([QUESTION] * 4)]
        finally:
            await llm.root_async_client.close()
            world.models.clear()

    with run("abatch"):
        return asyncio.run(go())


def tools(world: World) -> Any:
    @tool
    def act(text: str) -> str:
        """Do something."""
        if text == "bad":
            raise ValueError(world.effect(text))
        return world.effect(text)

    calls: Any = [{"name": "act", "args": {"text": t}, "id": f"c{n}"} for n, t in enumerate(["a", "bad", "a", "b"])]
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([act], handle_tool_errors=lambda error: f"sorry: {error}"))
    graph.add_edge(START, "tools")
    made = graph.compile().invoke({"messages": [HumanMessage("do"), AIMessage("", tool_calls=calls)]})
    return [(m.content, m.status) for m in made["messages"][2:]]


def subgraphs(world: World) -> Any:
    inner = node(lambda _: str(world.llm.invoke(QUESTION).content)).compile()
    outer = StateGraph(State)
    outer.add_node("inner", inner)
    outer.add_node("called", lambda _: {"out": inner.invoke({"out": []})["out"] + inner.invoke({"out": []})["out"]})
    outer.add_conditional_edges(START, lambda s: [Send("inner", s) for _ in range(3)], ["inner"])
    outer.add_edge("inner", "called")
    return outer.compile().invoke({"out": []})


def functional(world: World) -> Any:
    @task
    def ask(n: int) -> str:
        return f"{n} {world.llm.invoke(QUESTION).content}"

    @entrypoint()
    def flow(n: int) -> list[str]:
        return [future.result() for future in [ask(i) for i in range(n)]]

    return flow.invoke(4)


def resumed(world: World) -> Any:
    def ask(_: State) -> str:
        first = world.llm.invoke(QUESTION).content
        return f"{first} {interrupt('go on?')} {world.llm.invoke(QUESTION).content}"

    graph = node(ask).compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    stopped = graph.invoke({"out": []}, config)
    return stopped["__interrupt__"][0].value, graph.invoke(Command(resume="yes"), config)["out"]


def cached(world: World) -> Any:
    graph = node(lambda _: str(world.llm.invoke(QUESTION).content), cache_policy=CachePolicy())
    made = graph.compile(cache=InMemoryCache())
    return [made.invoke({"out": ["x"]})["out"] for _ in range(3)]


def twice(world: World) -> Any:
    graph = node(lambda _: str(world.llm.invoke(QUESTION).content)).compile()
    return [graph.invoke({"out": ["same"]})["out"] for _ in range(3)]


def at_once(world: World) -> Any:
    graph = node(lambda s: f"{s['out'][0]} {world.llm.invoke(QUESTION).content}").compile()
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda n: graph.invoke({"out": [str(n)]})["out"], range(8)))


def outside(world: World) -> Any:
    with openai.OpenAI(base_url=world.server.base_url, api_key="x", max_retries=0) as client:

        def ask(n: int) -> Any:
            made = client.chat.completions.create(model="m", messages=[{"role": "user", "content": f"{n}?"}])
            return made.choices[0].message.content

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(ask, range(8)))


def piped(world: World) -> Any:
    chain: Any = RunnableLambda(lambda n: f"{n}?") | world.llm | RunnableLambda(lambda m: str(m.content))
    both = chain.with_retry() | {"a": RunnableLambda(lambda text: text) | chain, "b": chain}
    with run("piped"):
        return both.invoke(1)


PROGRAMS = [
    fallbacks, retries, handled, threads, batch, gather, abatch, tools, subgraphs, functional, resumed, cached, twice,
    at_once, outside, piped,
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_plays_back(tmp_path: Path, serve: Serve, program: Callable[[World], Any]) -> None:
    world = World(serve)
    instrument(tmp_path / "live")
    out = program(world)
    uninstrument()
    opened = Store(tmp_path / "live")
    recorded = [opened.load(r.run_id) for r in opened.runs()]
    asked, effects = len(world.server.requests), world.effects
    assert asked or effects
    with playback(*recorded, into=tmp_path / "played", pace=0.0) as player:
        assert program(world) == out
    assert (len(world.server.requests), world.effects) == (asked, effects)
    assert player.played == sum(bool(r.decodes or r.tools) for r in recorded)
    assert player.unasked() == []
    keys = sorted(s.step_key for r in recorded for s in r.spans)
    played = Store(tmp_path / "played")
    assert sorted(s.step_key for r in played.runs() for s in played.load(r.run_id).spans) == keys


def test_one_run_more_than_recorded(tmp_path: Path, serve: Serve) -> None:
    world = World(serve)
    instrument(tmp_path / "live")
    twice(world)
    uninstrument()
    opened = Store(tmp_path / "live")
    recorded = [opened.load(r.run_id) for r in opened.runs()][:2]
    asked = len(world.server.requests)
    with (
        pytest.raises(ReplayDivergence, match="more often than the 2 recorded runs being played back"),
        playback(*recorded, into=tmp_path / "played", pace=0.0),
    ):
        twice(world)
    assert len(world.server.requests) == asked


def test_a_node_whose_cache_is_empty_now(tmp_path: Path, serve: Serve) -> None:
    world = World(serve)
    instrument(tmp_path / "live")
    cached(world)
    uninstrument()
    opened = Store(tmp_path / "live")
    last = opened.load(opened.runs()[0].run_id)
    with (
        pytest.raises(ReplayDivergence, match="was answered from the node cache; play back the run that had filled it"),
        playback(last, into=tmp_path / "played", pace=0.0),
    ):
        cached(world)
