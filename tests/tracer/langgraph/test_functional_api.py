"""Tasks of the functional API: called from a body, awaited in any order, nested, cached and retried."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from typing import Any

import pytest

pytest.importorskip("langgraph")

from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.types import CachePolicy, Command, RetryPolicy, interrupt

from redecode.tracer import SpanKind
from tests.tracer.langgraph.support import Program, Seen, same

Record = Callable[[Program], list[Seen]]
WORK = "run/work@0[pull:work]"


def called(name: str, place: int) -> str:
    return f"{WORK}/{name}@0[push:(pull:work):{place}]"


@tool
def look(name: str) -> str:
    """Look."""
    return name


def test_futures_awaited_out_of_order(record: Record) -> None:
    @task
    def leaf(n: int) -> int:
        look.invoke({"name": str(n)})
        return n

    @entrypoint()
    def work(n: int) -> int:
        first, second = leaf(1), leaf(2)
        second.result()
        third = leaf(3)
        first.result()
        return third.result()

    def program() -> None:
        for _ in range(3):
            work.invoke(1)

    one, *others = record(program)
    for other in others:
        same(one, other)
    first, second, third = (called("leaf", n) for n in range(3))
    assert one.into(first) >= {(WORK, "call")}
    assert one.into(third) == {(second, "join"), (f"{third}/tool:look", "return")}
    assert one.into(WORK) == {("run", "call"), (first, "join"), (third, "join")}


def test_async_tasks_beside_each_other_and_nested(record: Record) -> None:
    @task
    async def leaf(n: int, wait_s: float = 0.0) -> int:
        await asyncio.sleep(wait_s)
        await look.ainvoke({"name": str(n)})
        return n

    @task
    async def pair(n: int) -> int:
        return sum(await asyncio.gather(leaf(n, 0.01), leaf(n + 1)))

    @entrypoint()
    async def work(n: int) -> int:
        slow, both = leaf(0, 0.04), pair(1)
        await both
        after = leaf(3)
        await after
        await slow
        await look.ainvoke({"name": "end"})
        return 1

    async def program() -> None:
        for _ in range(3):
            await work.ainvoke(1)

    one, *others = record(lambda: asyncio.run(program()))
    for other in others:
        same(one, other)
    slow, both, after = called("leaf", 0), called("pair", 1), called("leaf", 2)
    assert one.into(after) >= {(both, "join")}
    assert (slow, "join") not in one.into(after)
    assert one.into(f"{WORK}/tool:look") == {(slow, "join"), (after, "join")}
    nested = [f"{both}/leaf@0[push:(push:(pull:work):1):{n}]" for n in range(2)]
    assert one.into(both) >= {(n, "join") for n in nested}


def test_each_attempt_is_a_span(record: Record) -> None:
    attempts: list[int] = []

    patient: Any = task(retry_policy=RetryPolicy(initial_interval=0.001, jitter=False))

    @patient  # type: ignore[untyped-decorator]
    def flaky(n: int) -> int:
        attempts.append(n)
        if len(attempts) % 3:
            raise ConnectionError("not yet")
        return n

    @entrypoint()
    def work(n: int) -> Any:
        return flaky(n).result()

    def program() -> None:
        work.invoke(1)
        asyncio.run(work.ainvoke(1))

    one, two = record(program)
    same(one, two)
    base = called("flaky", 0)
    assert [(k, one.span(k).status) for k in one.keys[2:]] == [
        (base, "error"),
        (f"{base}#1", "error"),
        (f"{base}#2", "ok"),
    ]
    assert one.into(f"{base}#1") == {(base, "retry")}
    assert one.into(f"{base}#2") == {(f"{base}#1", "retry")}
    assert one.into(WORK) == {("run", "call"), (f"{base}#2", "return")}


def test_a_chain_with_the_name_of_its_task_is_no_task(record: Record) -> None:
    chain: Any = RunnableLambda(lambda n: look.invoke({"name": str(n)}), name="leaf")

    @task
    def leaf(n: int) -> Any:
        return chain.invoke(n)

    @entrypoint()
    def work(n: int) -> Any:
        return leaf(n).result()

    (found,) = record(lambda: work.invoke(1))
    assert found.keys == ["run", WORK, called("leaf", 0), f"{called('leaf', 0)}/tool:look"]


def test_a_task_that_raises_raises_where_it_is_asked(record: Record) -> None:
    @task
    def bad(n: int) -> int:
        raise ValueError(n)

    @entrypoint()
    def work(n: int) -> Any:
        with pytest.raises(ValueError, match="1"):
            bad(1).result()
        return look.invoke({"name": "after"})

    (found,) = record(lambda: work.invoke(1))
    assert (found.recorded.run.status, found.span(called("bad", 0)).status) == ("ok", "error")
    assert found.into(f"{WORK}/tool:look") == {(called("bad", 0), "join")}


def test_a_hit_of_the_cache_is_the_step_without_its_body(record: Record) -> None:
    ran: list[int] = []

    remembered: Any = task(cache_policy=CachePolicy())

    @remembered  # type: ignore[untyped-decorator]
    def cached(n: int) -> int:
        ran.append(n)
        look.invoke({"name": str(n)})
        return n

    @entrypoint(cache=InMemoryCache())
    def work(n: int) -> Any:
        return cached(n).result() + len(look.invoke({"name": "end"}))

    def program() -> None:
        assert work.invoke(1) == work.invoke(1) == asyncio.run(work.ainvoke(1)) == 4

    miss, hit, hit_async = record(program)
    assert ran == [1]
    key = called("cached", 0)
    assert (miss.span(key).kind, hit.span(key).kind) == (SpanKind.NODE, SpanKind.CACHE)
    same(hit, hit_async)
    assert hit.into(key) == {(WORK, "call")}
    assert hit.into(f"{WORK}/tool:look") == {(key, "join")}


def test_a_task_that_runs_while_its_equal_is_cached_goes_on_running(record: Record) -> None:
    begun, go_on = threading.Barrier(2), threading.Event()
    remembered: Any = task(cache_policy=CachePolicy())

    @remembered  # type: ignore[untyped-decorator]
    def cached(n: int) -> int:
        if begun.wait(10):
            go_on.wait(10)
        return n

    @task
    def other(n: int) -> int:  # to call it makes LangGraph look into the cache again
        return n

    @entrypoint(cache=InMemoryCache())
    def work(n: int) -> int:
        both = [cached(n), cached(n)]
        wait(both, return_when=FIRST_COMPLETED)
        other(n).result()
        go_on.set()
        return sum(future.result() for future in both)

    (found,) = record(lambda: work.invoke(1))
    assert found.recorded.run.output == 2
    assert [found.span(called("cached", n)).kind for n in range(2)] == [SpanKind.NODE] * 2
    assert found.of(SpanKind.CACHE) == []


def test_what_was_done_before_an_interrupt_is_not_done_again(record: Record) -> None:
    @task
    def once(n: int) -> int:
        return n

    @entrypoint(checkpointer=InMemorySaver())
    def work(n: int) -> Any:
        return once(n).result(), interrupt("what?")

    config: Any = {"configurable": {"thread_id": "t"}}

    def program() -> None:
        work.invoke(1, config)
        assert work.invoke(Command(resume="this"), config) == (1, "this")

    before, after = record(program)
    assert called("once", 0) in before.keys
    assert before.recorded.run.conversation_id == after.recorded.run.conversation_id == "t"
    assert [k for k in after.keys if "once" in k] == []
