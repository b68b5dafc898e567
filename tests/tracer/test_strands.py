"""Strands: what a call had to wait for, whatever the timing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from redecode.tracer.records import EdgeKind
from redecode.tracer.strands import tasks, threads
from redecode.tracer.strands.strands import Call, Strands


@pytest.fixture(autouse=True)
def strands_in_threads_and_tasks() -> Iterator[None]:
    undo = [threads.install(), tasks.install()]
    yield
    for restore in undo:
        restore()


class Step:
    """A step whose calls are instantaneous; remembers what each waited for."""

    def __init__(self) -> None:
        self.strands = Strands()
        self.strands.enter_body()
        self.waited: dict[str, set[str]] = {}
        self.kinds: dict[str, set[EdgeKind]] = {}
        self.labels: dict[str, str] = {}

    def begin(self, name: str) -> Call:
        call = self.strands.enter()
        call.span_id = name
        self.waited[name] = {span_id for span_id, _ in call.before}
        self.kinds[name] = {kind for _, kind in call.before}
        self.labels[name] = call.label
        return call

    def call(self, name: str, takes_s: float = 0.0) -> str:
        call = self.begin(name)
        time.sleep(takes_s)
        self.strands.leave(call, name)
        return name

    async def ask(self, name: str, after_s: float = 0.0, takes_s: float = 0.0) -> str:
        await asyncio.sleep(after_s)
        call = self.begin(name)
        await asyncio.sleep(takes_s)
        self.strands.leave(call, name)
        return name

    @property
    def rest(self) -> set[str]:
        return {span for span, _ in self.strands.rest()}


def test_one_after_another() -> None:
    step = Step()
    for name in "abc":
        step.call(name)
    assert step.waited == {"a": set(), "b": {"a"}, "c": {"b"}}
    assert step.rest == {"c"}


def test_submitting_is_no_waiting_even_if_a_sibling_has_ended() -> None:
    step = Step()
    step.call("first")
    with ThreadPoolExecutor(2) as pool:
        futures = []
        for n in range(4):
            futures.append(pool.submit(step.call, f"p{n}"))
            time.sleep(0.02)  # each has ended before the next is submitted, and nobody looked
        assert [f.result() for f in futures] == ["p0", "p1", "p2", "p3"]
    step.call("after")
    assert [step.waited[f"p{n}"] for n in range(4)] == [{"first"}] * 4
    assert step.waited["after"] == {"p0", "p1", "p2", "p3"}
    assert [step.labels[f"p{n}"] for n in range(4)] == ["~call.0", "~call.1", "~call.2", "~call.3"]


def test_a_result_asked_for_is_waited_for() -> None:
    step = Step()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(step.call, "a").result()
        pool.submit(step.call, "b").result()
    assert step.waited == {"a": set(), "b": {"a"}}
    assert step.rest == {"b"}


def test_work_that_was_started_and_never_called_anything_hides_nothing() -> None:
    step = Step()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(step.call, "a").result()
        pool.submit(lambda: None).result()
        pool.submit(lambda: None).result()
    assert step.rest == {"a"}
    step.call("b")
    assert step.waited["b"] == {"a"}


def test_threads_by_hand_and_two_chains_beside_each_other() -> None:
    step = Step()

    def chain(name: str) -> None:
        for n in range(3):
            step.call(f"{name}{n}", takes_s=0.01)

    workers = [threading.Thread(target=chain, args=(name,)) for name in "xy"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    step.call("end")
    assert step.waited["x2"] == {"x1"}
    assert step.waited["y2"] == {"y1"}
    assert step.waited["end"] == {"x2", "y2"}
    assert (step.labels["x2"], step.labels["y2"]) == ("~chain.0", "~chain.1")


def test_threads_started_by_threads_are_waited_for_by_whoever_waited_for_those() -> None:
    step = Step()

    def outer(name: str) -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(step.call, [f"{name}0", f"{name}1"]))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(outer, "ab"))
    step.call("end")
    assert step.waited["end"] == {"a0", "a1", "b0", "b1"}
    assert step.labels["b1"] == "~outer.1~call.1"


async def by_gather(step: Step, work: Callable[[int], Coroutine[Any, Any, Any]]) -> None:
    await asyncio.gather(*(work(n) for n in range(3)))


async def by_task_group(step: Step, work: Callable[[int], Coroutine[Any, Any, Any]]) -> None:
    async with asyncio.TaskGroup() as group:
        for n in range(3):
            group.create_task(work(n))


async def by_tasks_awaited_later(step: Step, work: Callable[[int], Coroutine[Any, Any, Any]]) -> None:
    started = [asyncio.create_task(work(n)) for n in range(3)]
    await asyncio.sleep(0.03)
    for task in started:
        await task


@pytest.mark.parametrize("start", [by_gather, by_task_group, by_tasks_awaited_later])
async def test_tasks_are_told_apart_by_the_order_they_are_started_in(
    start: Callable[[Step, Callable[[int], Coroutine[Any, Any, Any]]], Awaitable[None]],
) -> None:
    step = Step()
    step.call("first")

    async def chain(n: int) -> None:
        await step.ask(f"{n}a", after_s=0.02 - 0.01 * n)  # the last one started is the first to call
        await step.ask(f"{n}b")

    await start(step, chain)
    step.call("end")
    for n in range(3):
        assert (step.waited[f"{n}a"], step.waited[f"{n}b"]) == ({"first"}, {f"{n}a"})
        assert step.labels[f"{n}b"] == f"~chain.{n}"
    assert step.waited["end"] == {"0b", "1b", "2b"}


async def test_a_sibling_held_back_by_a_semaphore_has_not_waited_for_those_before_it() -> None:
    step, one_by_one = Step(), asyncio.Semaphore(1)

    async def held(n: int) -> None:
        async with one_by_one:
            await step.ask(f"{n}", takes_s=0.002)

    await asyncio.gather(*(held(n) for n in range(3)))
    assert [step.waited[f"{n}"] for n in range(3)] == [set()] * 3
    assert step.rest == {"0", "1", "2"}


async def test_batches_wait_for_the_batch_before_and_not_for_those_before_that() -> None:
    step = Step()
    for batch in "abc":
        await asyncio.gather(*(step.ask(f"{batch}{n}") for n in range(2)))
    assert step.waited["b0"] == step.waited["b1"] == {"a0", "a1"}
    assert step.waited["c0"] == {"b0", "b1"}


async def test_starting_a_task_is_no_waiting_for_one_that_nobody_awaited() -> None:
    step, started = Step(), []
    for n in range(3):
        started.append(asyncio.create_task(step.ask(f"{n}")))
        await asyncio.sleep(0.01)  # it has ended, and nobody looked
    assert [step.waited[f"{n}"] for n in range(3)] == [set()] * 3
    await asyncio.gather(*started)


async def test_going_on_in_another_thread_or_task_is_going_on() -> None:
    step = Step()
    await asyncio.to_thread(step.call, "thread")
    await asyncio.wait_for(step.ask("in time"), 1)
    await asyncio.create_task(step.ask("named"), name="whatever")
    step.call("end")
    assert step.waited == {"thread": set(), "in time": {"thread"}, "named": {"in time"}, "end": {"named"}}
    assert [step.labels[name] for name in step.waited] == ["", "", "~ask.0", ""]


def test_a_loop_run_inside_a_step_is_part_of_it() -> None:
    step = Step()
    step.call("before")
    asyncio.run(step.ask("inside"))
    step.call("after")
    assert step.waited == {"before": set(), "inside": {"before"}, "after": {"inside"}}
    assert set(step.labels.values()) == {""}


def test_the_helpers_of_libraries_shift_no_label() -> None:
    labels = []
    for helps in (False, True):
        step = Step()
        with ThreadPoolExecutor(2) as pool:
            if helps:
                pool.submit(time.sleep, 0).result()
            pool.submit(step.call, "a").result()
        labels.append(step.labels["a"])
    assert labels == ["~call.0"] * 2


def test_what_a_call_starts_itself_is_not_the_steps_work() -> None:
    step = Step()

    def call() -> None:
        pass

    with ThreadPoolExecutor(1) as pool:
        asking = step.begin("asking")
        pool.submit(call).result()  # the client's own helper, which happens to have the same name
        step.strands.leave(asking, "asking")
        pool.submit(step.call, "a").result()
    assert step.labels["a"] == "~call.0"


async def test_a_pools_thread_forgets_what_it_was_given_before() -> None:
    step, loop = Step(), asyncio.get_running_loop()
    await loop.run_in_executor(None, step.call, "handed over")
    await asyncio.to_thread(step.call, "gone on")
    assert (step.labels["handed over"], step.labels["gone on"]) == ("~call.0", "")
    assert step.waited["gone on"] == {"handed over"}


def test_a_call_made_while_an_answer_streams_started_on_a_part_of_it() -> None:
    step = Step()
    step.call("before")
    stream = step.begin("stream")
    silent = step.begin("nothing has come yet")
    step.strands.leave(silent, "nothing has come yet")
    stream.flowing = True
    step.call("early")
    with ThreadPoolExecutor(1) as pool:
        handed = pool.submit(step.call, "handed")
    step.call("next")
    step.strands.leave(stream, "stream")
    handed.result()
    step.call("end")
    assert step.waited["nothing has come yet"] == {"before"}
    assert step.waited["early"] == {"stream", "nothing has come yet"}
    assert step.kinds["early"] == {EdgeKind.STREAM, EdgeKind.RETURN}
    assert step.waited["handed"] == {"stream", "early"}
    assert step.waited["next"] == {"stream", "handed"}  # which has waited for "early"
    assert step.waited["end"] == {"stream", "next"}
    assert step.kinds["end"] == {EdgeKind.RETURN}
    assert step.rest == {"end"}


def test_after_the_body_of_what_was_called_the_step_goes_on() -> None:
    step = Step()

    def chain(name: str) -> None:
        call = step.begin(f"{name}-tool")
        inner = Strands()
        inner.enter_body(step.strands)
        leaf = inner.enter()
        inner.leave(leaf, "leaf")
        step.strands.leave(call, f"{name}-tool")
        step.call(f"{name}-after")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(chain, "xy"))
    assert step.waited["x-after"] == {"x-tool"}
    assert step.labels["y-after"] == "~chain.1"
