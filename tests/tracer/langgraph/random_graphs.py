"""Graphs of any shape, made from plain data.

Run by itself it reads a shape (JSON) on stdin, runs it and prints what was recorded: `python random_graphs.py STORE`.
"""

from __future__ import annotations

import asyncio
import json
import operator
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypedDict

from hypothesis import strategies as st
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.config import get_config
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy, Send

from redecode import tracer
from redecode.tracer.events import parse, span_event
from redecode.tracer.spool import read_journal

Shape = list[dict[str, Any]]
"""Layers of a graph, each with: `nodes`, a list of (what the node does, how often); `enter`, how it comes from the
layer before it (`all`: every node waits for all of them; `one`: for one; `send`: so many `Send`s; `condition`, `goto`:
to one of its nodes); and `rounds`, how often it is gone through."""

PLAIN = ["nothing", "tools", "chat", "threads", "mixed", "flaky"]
_rng = random.Random(1)
_model = FakeListChatModel(responses=["yes"])


class State(TypedDict):
    out: Annotated[list[str], operator.add]


def shapes(depth: int = 1) -> st.SearchStrategy[Shape]:
    """Any shape, with graphs in it down to some depth."""
    plain: st.SearchStrategy[Any] = st.tuples(st.sampled_from(PLAIN), st.integers(1, 3))
    if depth:
        inside = st.tuples(st.sampled_from(["graph", "called"]), shapes(depth - 1))
        plain = st.one_of(plain, plain, plain, inside)
    layer = st.fixed_dictionaries(
        {
            "nodes": st.lists(plain, min_size=1, max_size=3),
            "enter": st.sampled_from(["all", "one", "send", "condition", "goto"]),
            "width": st.integers(1, 4),
            "rounds": st.integers(1, 2),
        }
    )
    return st.lists(layer, min_size=1, max_size=3 if depth else 2)


@tool
def look(at: int) -> int:
    """Look, taking some time."""
    time.sleep(_rng.random() * 0.001)
    return at


def chain(times: int) -> None:
    for n in range(times):
        look.invoke({"at": n})


async def _chain(times: int) -> None:
    await asyncio.sleep(_rng.random() * 0.001)
    for n in range(times):
        await look.ainvoke({"at": n})


_chain.__name__ = "chain"  # a task is known by the name of what it runs


def node(what: str, much: Any, name: str) -> Any:
    """A node that does the same in a sync and in an async run."""
    tried: set[str] = set()
    inner = graph(much) if what in ("graph", "called") else None

    def fail_once() -> None:
        task = get_config()["metadata"]["langgraph_checkpoint_ns"]
        if what == "flaky" and task not in tried:
            tried.add(task)
            raise ConnectionError("not yet")

    def sync(state: Any) -> dict[str, list[str]]:
        fail_once()
        if what == "tools":
            chain(much)
        if what in ("chat", "mixed"):
            _model.invoke("?")
        if what in ("threads", "mixed"):
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(chain, range(1, much + 1)))
            look.invoke({"at": 0})
        if inner is not None:
            inner.invoke({"out": []})
            inner.invoke({"out": []})
        return {"out": [name]}

    async def asynchronous(state: Any) -> dict[str, list[str]]:
        fail_once()
        if what == "tools":
            await _chain(much)
        if what in ("chat", "mixed"):
            await _model.ainvoke("?")
        if what in ("threads", "mixed"):
            await asyncio.gather(*(_chain(n) for n in range(1, much + 1)))
            await look.ainvoke({"at": 0})
        if inner is not None:
            await inner.ainvoke({"out": []})
            await inner.ainvoke({"out": []})
        return {"out": [name]}

    return inner if what == "graph" else RunnableLambda(sync, asynchronous, name=name)


def graph(shape: Shape) -> Any:
    """The graph of a shape."""
    made = StateGraph(State)
    before = [START]
    for level, layer in enumerate(shape):
        names = [f"n{level}{place}" for place in range(len(layer["nodes"]))]
        enter, chosen = layer["enter"], names[layer["width"] % len(names)]
        for name, (what, much) in zip(names, layer["nodes"], strict=True):
            retry = RetryPolicy(initial_interval=0.001, jitter=False) if what == "flaky" else None
            made.add_node(name, node(what, much, name), retry_policy=retry)
        if enter == "all":
            for name in names:
                made.add_edge(before if before != [START] else START, name)
        elif enter == "one":
            for place, name in enumerate(names):
                made.add_edge(before[place % len(before)], name)
        elif enter == "send":
            many = [Send(chosen, {"out": []})] * layer["width"]
            made.add_conditional_edges(before[0], lambda s, many=many: many, [chosen])
            names = [chosen]
        elif enter == "condition" or before == [START]:
            made.add_conditional_edges(before[0], lambda s, to=chosen: to, [chosen])
            names = [chosen]
        else:
            by = f"by{level}"
            made.add_node(by, lambda s, to=chosen: Command(goto=to, update={"out": []}), destinations=(chosen,))
            made.add_edge(before[0], by)
            names = [chosen]
        if layer["rounds"] > 1:
            again = f"again{level}"
            made.add_node(again, lambda s, name=again: {"out": [name]})
            made.add_edge(names[0], again)
            to = [names[0], END]
            made.add_conditional_edges(again, lambda s, name=again, to=to: to[s["out"].count(name) > 1], to)
        before = names
    return made.compile()


Recorded = tuple[list[str], list[list[str]]]
"""Step keys of a run, and its edges: from, to, kind and provenance."""


def recorded(store: Path) -> list[Recorded]:
    """The runs in a spool, in the order they began in."""
    runs: dict[str, list[Any]] = {}
    for journal in sorted((store / "spool").glob("*.journal")):
        for payload in (p for batch in read_journal(journal) for p in batch.payloads):
            event = parse(payload)
            assert event["t"] in ("process", "start", "end"), event
            if event["t"] == "start" and event["kind"] == "run":
                runs[event["run"]] = []
            elif event["t"] == "end":
                runs[event["run"]].append(span_event(event))
    out: list[Recorded] = []
    for spans in runs.values():
        key = {span.span: span.step_key for span in spans}
        edges = sorted([key[src], span.step_key, kind, how] for span in spans for src, kind, how in span.edges)
        out.append((sorted(key.values()), edges))
    return out


def run_every_way(shape: Shape, store: Path) -> list[Recorded]:
    """Run it sync and async, whole and streamed, each time with other delays."""
    made = graph(shape)

    async def stream() -> None:
        async for _ in made.astream({"out": []}, stream_mode=["updates", "messages"], subgraphs=True):
            pass

    tracer.instrument(store)
    try:
        for n in range(2):
            _rng.seed(n)
            made.invoke({"out": []})
            asyncio.run(made.ainvoke({"out": []}))
        list(made.stream({"out": []}, stream_mode="values"))
        asyncio.run(stream())
    finally:
        tracer.uninstrument()
    return recorded(store)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run_every_way(json.load(sys.stdin), Path(sys.argv[1]))))
