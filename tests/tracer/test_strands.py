"""Strands: what a call had to wait for, whatever the timing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from redecode.tracer import threads
from redecode.tracer.strands import Strands


@pytest.fixture(autouse=True)
def context_in_threads() -> Iterator[None]:
    restore = threads.install()
    yield
    restore()


class Step:
    """A step whose calls are instantaneous; remembers what each waited for."""

    def __init__(self) -> None:
        self.strands = Strands()
        self.strands.enter_body()
        self.waited: dict[str, set[str]] = {}
        self.labels: dict[str, str] = {}

    def call(self, name: str, takes_s: float = 0.0) -> str:
        strand, before = self.strands.enter()
        self.waited[name] = {span_id for span_id, _ in before}
        self.labels[name] = strand.label
        time.sleep(takes_s)
        self.strands.leave(strand, name)
        return name


def test_one_after_another() -> None:
    step = Step()
    for name in "abc":
        step.call(name)
    assert step.waited == {"a": set(), "b": {"a"}, "c": {"b"}}
    assert [span for span, _ in step.strands.rest()] == ["c"]


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
    assert step.waited["after"] == {"first", "p0", "p1", "p2", "p3"}
    assert [step.labels[f"p{n}"] for n in range(4)] == ["~0", "~1", "~2", "~3"]


def test_a_result_asked_for_is_waited_for() -> None:
    step = Step()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(step.call, "a").result()
        pool.submit(step.call, "b").result()
    assert step.waited == {"a": set(), "b": {"a"}}


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


async def test_tasks_and_threads_of_an_event_loop() -> None:
    step = Step()

    async def ask(name: str) -> None:
        step.call(name)
        await asyncio.sleep(0.01)

    await asyncio.gather(*(ask(f"g{n}") for n in range(3)))
    step.call("middle")
    await asyncio.to_thread(step.call, "t0")
    await asyncio.to_thread(step.call, "t1")
    assert [step.waited[f"g{n}"] for n in range(1)] == [set()]
    assert {"g0", "g1", "g2"} <= step.waited["middle"] | step.waited["g1"] | step.waited["g2"]
    assert step.waited["t0"] == {"middle"}
    assert "t0" in step.waited["t1"]
