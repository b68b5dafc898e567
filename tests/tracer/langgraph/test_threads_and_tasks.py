"""Work handed to threads and tasks inside a node: whose it is, which of them it is, and what it waited for."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

pytest.importorskip("langgraph")

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph
from pydantic import SecretStr

from redecode.tracer import SpanKind
from tests.tracer.langgraph.support import Program, Seen, State, same

Record = Callable[[Program], list[Seen]]
Serve = Callable[..., Any]
NODE = "run/n@1[pull:n]"
RNG = random.Random(7)


@tool
def look(name: str) -> str:
    """Look, taking some time."""
    time.sleep(RNG.random() * 0.004)
    return name


def one_node(node: Any) -> Any:
    graph = StateGraph(State)
    graph.add_node("n", node)
    graph.add_edge(START, "n")
    return graph.compile()


def several_times(node: Any, *, asynchronous: bool = False, times: int = 3) -> Program:
    graph = one_node(node)

    async def run() -> None:
        for _ in range(times):
            await graph.ainvoke({"out": []})

    return (lambda: asyncio.run(run())) if asynchronous else lambda: [graph.invoke({"out": []}) for _ in range(times)]


def all_same(runs: list[Seen]) -> Seen:
    for other in runs[1:]:
        same(runs[0], other)
    return runs[0]


def chains(found: Seen, label: str, count: int, length: int, before: set[tuple[str, str]]) -> None:
    """`count` chains of `length` calls, beside each other."""
    for n in range(count):
        calls = [f"{NODE}/{label.format(n)}/tool:look" + (f"#{k}" if k else "") for k in range(length)]
        assert found.into(calls[0]) == before
        for one, two in pairwise(calls):
            assert found.into(two) == {(one, "return")}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_plain_thread_pool(record: Record, asynchronous: bool) -> None:
    def chain(n: int) -> None:
        for k in range(3):
            look.invoke({"name": f"{n}{k}"})

    def node(state: State) -> dict[str, list[str]]:
        look.invoke({"name": "before"})
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(chain, range(3)))
        look.invoke({"name": "after"})
        return {"out": []}

    found = all_same(record(several_times(node, asynchronous=asynchronous)))
    first, after = f"{NODE}/tool:look", f"{NODE}/tool:look#1"
    chains(found, "~chain.{}", 3, 3, {(first, "return")})
    assert found.into(after) == {(f"{NODE}/~chain.{n}/tool:look#2", "join") for n in range(3)}
    assert found.into(NODE) == {("run", "call"), (after, "return")}


def test_threads_by_hand(record: Record) -> None:
    def node(state: State) -> dict[str, list[str]]:
        threads = [threading.Thread(target=look.invoke, args=({"name": str(n)},)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"out": []}

    found = all_same(record(several_times(node)))
    calls = [f"{NODE}/~{n}/tool:look" for n in range(3)]
    assert found.of(SpanKind.TOOL) == calls
    assert found.into(NODE) == {("run", "call"), *((c, "join") for c in calls)}


async def by_gather(work: Any) -> None:
    await asyncio.gather(*(work(n) for n in range(3)))


async def by_group(work: Any) -> None:
    async with asyncio.TaskGroup() as group:
        for n in range(3):
            group.create_task(work(n))


async def later(work: Any) -> None:
    tasks = [asyncio.create_task(work(n)) for n in range(3)]
    await asyncio.sleep(0.01)
    for task in tasks:
        await task


@pytest.mark.parametrize("start", [by_gather, by_group, later], ids=["gather", "task group", "awaited later"])
def test_asyncio_tasks(record: Record, start: Callable[[Any], Any]) -> None:
    async def chain(n: int) -> None:
        await asyncio.sleep(RNG.random() * 0.01)  # who is first is chance
        for k in range(3):
            await look.ainvoke({"name": f"{n}{k}"})

    async def node(state: State) -> dict[str, list[str]]:
        await look.ainvoke({"name": "before"})
        await start(chain)
        await look.ainvoke({"name": "after"})
        return {"out": []}

    found = all_same(record(several_times(node, asynchronous=True)))
    chains(found, "~chain.{}", 3, 3, {(f"{NODE}/tool:look", "return")})
    assert found.into(f"{NODE}/tool:look#1") == {(f"{NODE}/~chain.{n}/tool:look#2", "join") for n in range(3)}


def test_going_to_a_thread_or_to_a_task_and_waiting_for_it_is_no_fork(record: Record) -> None:
    async def node(state: State) -> dict[str, list[str]]:
        await asyncio.to_thread(look.invoke, {"name": "thread"})
        await asyncio.wait_for(look.ainvoke({"name": "in time"}), 5)
        await asyncio.gather(*(asyncio.to_thread(look.invoke, {"name": str(n)}) for n in range(2)))
        return {"out": []}

    found = all_same(record(several_times(node, asynchronous=True)))
    first, second = f"{NODE}/tool:look", f"{NODE}/tool:look#1"
    assert found.into(second) == {(first, "return")}
    for n in range(2):
        assert found.into(f"{NODE}/~to_thread.{n}/tool:look") == {(second, "return")}


def test_an_executor_of_the_loop_and_a_callback(record: Record) -> None:
    async def node(state: State) -> dict[str, list[str]]:
        loop, called = asyncio.get_running_loop(), asyncio.Event()

        def call_back() -> None:
            look.invoke({"name": "called back"})
            called.set()

        await look.ainvoke({"name": "before"})
        pool = ThreadPoolExecutor(2)
        asked = [loop.run_in_executor(pool, look.invoke, {"name": str(n)}) for n in range(2)]
        await asyncio.gather(*asked)
        pool.shutdown()
        loop.call_soon(call_back)
        await called.wait()
        await loop.run_in_executor(None, look.invoke, {"name": "default"})
        return {"out": []}

    found = all_same(record(several_times(node, asynchronous=True)))
    assert len(found.of(SpanKind.TOOL)) == 5
    first = f"{NODE}/tool:look"
    beside = [f"{NODE}/~{n}/tool:look" for n in range(2)]
    for key in beside:
        assert found.into(key) == {(first, "return")}
    assert found.into(f"{NODE}/tool:look#1") == {(key, "join") for key in beside}  # the callback
    assert found.into(f"{NODE}/~2/tool:look") == {(f"{NODE}/tool:look#1", "return")}
    assert found.into(NODE) == {("run", "call"), (f"{NODE}/~2/tool:look", "return")}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_chains_that_langchain_runs_beside_each_other(record: Record, asynchronous: bool) -> None:
    def ask(value: Any) -> str:
        return str(look.invoke({"name": "x"}))

    async def ask_async(value: Any) -> str:
        return str(await look.ainvoke({"name": "x"}))

    step = RunnableLambda(ask_async if asynchronous else ask)
    both = RunnableParallel(long=step | step, short=step)

    def node(state: State) -> dict[str, list[str]]:
        both.invoke({})
        step.batch([1, 2])
        return {"out": []}

    async def node_async(state: State) -> dict[str, list[str]]:
        await both.ainvoke({})
        await step.abatch([1, 2])
        return {"out": []}

    found = all_same(record(several_times(node_async if asynchronous else node, asynchronous=asynchronous)))
    long, short = [f"{NODE}/~0/tool:look", f"{NODE}/~0/tool:look#1"], f"{NODE}/~1/tool:look"
    assert found.into(long[1]) == {(long[0], "return")}
    assert found.into(short) == {(NODE, "call")}
    for n in (2, 3):
        assert found.into(f"{NODE}/~{n}/tool:look") == {(long[1], "join"), (short, "join")}


def test_a_sync_node_of_an_async_run_has_the_keys_it_has_in_a_sync_one(record: Record) -> None:
    def node(state: State) -> dict[str, list[str]]:
        look.invoke({"name": "1"})
        RunnableParallel(a=look, b=look).invoke({"name": "2"})
        return {"out": []}

    graph = one_node(node)
    one, two = record(lambda: (graph.invoke({"out": []}), asyncio.run(graph.ainvoke({"out": []}))))
    same(one, two)


def answers(words: str) -> Any:
    return GenericFakeChatModel(messages=iter([AIMessage(words)]))


def test_a_tool_started_on_a_part_of_an_answer(record: Record) -> None:
    def node(state: State) -> dict[str, list[str]]:
        for place, _ in enumerate(answers("a b c").stream("?")):
            if place == 0:
                look.invoke({"name": "early"})
        look.invoke({"name": "after"})
        return {"out": []}

    async def node_async(state: State) -> dict[str, list[str]]:
        started: list[asyncio.Task[Any]] = []
        async for _ in answers("a b c").astream("?"):
            if not started:
                started.append(asyncio.create_task(look.ainvoke({"name": "early"})))
        await asyncio.gather(*started)
        await look.ainvoke({"name": "after"})
        return {"out": []}

    def program() -> None:
        one_node(node).invoke({"out": []})
        asyncio.run(one_node(node_async).ainvoke({"out": []}))

    one, two = record(program)
    chat = f"{NODE}/chat"
    for found, early, after, joined in (
        (one, f"{NODE}/tool:look", f"{NODE}/tool:look#1", "return"),
        (two, f"{NODE}/~0/tool:look", f"{NODE}/tool:look", "join"),
    ):
        assert found.into(early) == {(chat, "stream")}
        assert found.into(after) == {(chat, "return"), (early, joined)}


def test_work_that_outlives_its_run_is_a_run_of_its_own(record: Record, serve: Serve) -> None:
    import openai

    raw = openai.OpenAI(base_url=serve().base_url, api_key="none")
    ended, threads = threading.Event(), []

    def late() -> None:
        ended.wait(10)
        raw.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}])

    def node(state: State) -> dict[str, list[str]]:
        threads.append(threading.Thread(target=late))
        threads[0].start()
        return {"out": []}

    def program() -> None:
        one_node(node).invoke({"out": []})
        ended.set()
        threads[0].join()

    graph, call = record(program)
    raw.close()
    assert graph.keys == ["run", NODE]
    assert call.keys == ["run", "run/chat"]


@pytest.mark.parametrize("client", ["langchain", "openai"])
def test_a_tool_started_while_an_engine_still_streams(record: Record, serve: Serve, client: str) -> None:
    import openai

    server = serve(lambda _: "several chunks", vllm=True)
    llm = ChatOpenAI(base_url=server.base_url, api_key=SecretStr("none"), model="m")
    raw = openai.OpenAI(base_url=server.base_url, api_key="none")

    def chunks() -> Any:
        if client == "langchain":
            return llm.stream("?")
        return raw.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], stream=True)

    def node(state: State) -> dict[str, list[str]]:
        stream = iter(chunks())
        if client == "openai":
            look.invoke({"name": "nothing has come yet"})
        next(stream)
        look.invoke({"name": "early"})
        for _ in stream:
            pass
        return {"out": []}

    (found,) = record(lambda: one_node(node).invoke({"out": []}))
    llm.root_client.close()
    raw.close()
    chat, first, second = f"{NODE}/chat", f"{NODE}/tool:look", f"{NODE}/tool:look#1"
    if client == "langchain":
        assert found.into(first) == {(chat, "stream")}
    else:
        assert found.into(first) == {(NODE, "call")}
        assert found.into(second) == {(chat, "stream"), (first, "return")}
    assert found.recorded.decodes[0].sampled_ids is not None
