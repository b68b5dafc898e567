"""The node cache: a hit runs no node body, and is recorded as the step it stood for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("langgraph")

from langgraph.cache.memory import InMemoryCache
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy, Send

from redecode.tracer import SpanKind
from tests.tracer.langgraph.support import Program, Seen, State, same, says

Record = Callable[[Program], list[Seen]]


def test_a_hit_stands_in_the_place_of_its_node(record: Record) -> None:
    ran: list[str] = []

    def node(name: str) -> Any:
        def run(state: State) -> dict[str, list[str]]:
            ran.append(name)
            return {"out": [name]}

        return run

    graph = StateGraph(State)
    graph.add_node("a", says("a"))
    graph.add_node("cached", node("cached"), cache_policy=CachePolicy())
    graph.add_node("beside", node("beside"))
    graph.add_node("end", says("end"))
    graph.add_edge(START, "a")
    graph.add_edge("a", "cached")
    graph.add_edge("a", "beside")
    graph.add_edge(["cached", "beside"], "end")
    compiled = graph.compile(cache=InMemoryCache())

    def program() -> None:
        for _ in range(2):
            compiled.invoke({"out": []})
        asyncio.run(compiled.ainvoke({"out": []}))

    miss, hit, hit_async = record(program)
    key = "run/cached@2[pull:cached]"
    assert ran.count("cached") == 1
    assert [r.span(key).kind for r in (miss, hit, hit_async)] == [SpanKind.NODE, SpanKind.CACHE, SpanKind.CACHE]
    same(miss, hit)  # the same steps wait for the same, whether or not their body ran
    same(hit, hit_async)
    assert miss.recorded.run.output == hit.recorded.run.output


def test_hits_alone_make_a_superstep(record: Record) -> None:
    graph = StateGraph(State)
    graph.add_node("w", lambda n: {"out": [str(n)]}, cache_policy=CachePolicy())
    graph.add_node("end", says("end"))
    graph.add_conditional_edges(START, lambda state: [Send("w", n) for n in range(3)], ["w"])
    graph.add_edge("w", "end")
    compiled = graph.compile(cache=InMemoryCache())

    def program() -> None:
        for _ in range(2):
            compiled.invoke({"out": []})

    miss, hit = record(program)
    same(miss, hit)
    hits = [f"run/w@1[push:{n}]" for n in range(3)]
    assert hit.of(SpanKind.CACHE) == hits
    assert hit.into("run/end@2[pull:end]") == {(h, k) for h in hits for k in ("data", "barrier")}


def test_equals_that_run_beside_each_other_are_a_step_each(record: Record) -> None:
    both = threading.Barrier(2)

    def work(n: int) -> dict[str, list[str]]:
        both.wait(10)  # neither has an answer for the other yet
        return {"out": [str(n)]}

    graph: Any = StateGraph(State)
    graph.add_node("w", work, cache_policy=CachePolicy())
    graph.add_conditional_edges(START, lambda state: [Send("w", 1), Send("w", 1)], ["w"])
    compiled = graph.compile(cache=InMemoryCache())
    (found,) = record(lambda: compiled.invoke({"out": []}))
    assert found.recorded.run.output == {"out": ["1", "1"]}
    assert {k: found.span(k).kind for k in found.keys if "/w@" in k} == {
        f"run/w@1[push:{n}]": SpanKind.NODE for n in range(2)
    }
