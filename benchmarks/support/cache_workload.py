"""Requests as they come to an agent that people use: some again, some in other words, some with one thing changed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import get_runtime
from langgraph.types import CachePolicy

from redecode import tracer
from redecode.agents import AGENTS, model_dir
from redecode.agents.catalogue import make_agent
from redecode.agents.extraction.graphs import single
from redecode.agents.extraction.prompts import WORDINGS, Layout, Wording, ask_all
from redecode.agents.extraction.state import ExtractionContext, ExtractionState
from redecode.agents.fm.articles import cases
from redecode.optimizer.caching import FileCache, SemanticCache, Vectors, exact_key
from redecode.optimizer.caching.calls import said
from redecode.replay.engine import EngineClient, start, stop


@dataclass(frozen=True, slots=True)
class Request:
    """An article and how it is asked about. `kind`: new, again, reworded, or edited (one value is another)."""

    kind: str
    article: str
    wording: Wording


@contextmanager
def engine(model: str, folder: Path) -> Iterator[str]:
    """URL of a vLLM with a bundled model."""
    state = start(model_dir(model), home=folder / "engine")
    try:
        yield f"{state.base_url}/v1"
    finally:
        stop(folder / "engine")


def requests(count: int, seed: int = 5) -> list[Request]:
    """So many, in an order that the seed gives."""
    rng = random.Random(seed)
    fresh = cases("heldout", seed)
    out: list[Request] = []
    addresses: dict[str, str] = {}
    while len(out) < count:
        kind = "new" if not out else rng.choices(["new", "again", "reworded", "edited"], [25, 35, 25, 15])[0]
        if kind == "new":
            article = next(islice(fresh, 1))
            addresses[article.text] = article.contact.address
            out.append(Request("new", article.text, "plain"))
            continue
        before = rng.choice(out)
        if kind == "again":
            out.append(Request("again", before.article, before.wording))
        elif kind == "reworded":
            other = rng.choice([w for w in WORDINGS if w not in (before.wording, "few_shot")])
            out.append(Request("reworded", before.article, other))
        elif before.article in addresses:
            address = addresses[before.article]
            at = max(n for n, ch in enumerate(address) if ch.isdigit())
            changed = address[:at] + str((int(address[at]) + rng.randrange(1, 10)) % 10) + address[at + 1 :]
            article_text = before.article.replace(address, changed)
            addresses[article_text] = changed
            out.append(Request("edited", article_text, before.wording))
    return out


def _context(url: str, model: str, wording: Wording) -> ExtractionContext:
    return ExtractionContext(base_url=url, model=model, wording=wording)


def run(graph: Any, some: Sequence[Request], url: str, model: str) -> tuple[list[Any], list[float]]:
    """Contacts that came out, and seconds that each run took, one after another."""
    contacts, took = [], []
    for request in some:
        begun = time.perf_counter()
        out = graph.invoke({"article": request.article}, context=_context(url, model, request.wording))
        took.append(time.perf_counter() - begun)
        contacts.append(out["contact"])
    return contacts, took


def plain_agent() -> Any:
    """The agent without a cache."""
    return single()


def recorded(some: Sequence[Request], url: str, model: str, store: Path) -> tuple[list[Any], list[float]]:
    """As `run`, without a cache, into a store."""
    graph = single()
    run(graph, some[:1], url, model)  # the first call of an engine is slower
    tracer.instrument(store)
    try:
        return run(graph, some, url, model)
    finally:
        tracer.uninstrument()


def forget(url: str) -> None:
    """Empty the engine's own cache of prompts."""

    async def reset() -> None:
        async with EngineClient(url) as client:
            await client.reset_prefix_cache()

    asyncio.run(reset())


def architectures(url: str, model: str, store: Path, count: int, layout: Layout) -> None:
    """Every reference agent on the same articles, into a store."""
    tracer.instrument(store)
    try:
        for name in AGENTS:
            forget(url)
            agent = make_agent(name, seed=9, count=count)
            knobs = {"layout": layout} if "layout" in agent.context_type.model_fields else {}
            context = agent.context_type.model_validate({"base_url": url, "model": model, **knobs})
            for case in agent.cases:
                agent.graph.invoke(case.input, {"run_name": name}, context=context)
    finally:
        tracer.uninstrument()


def with_exact_cache(folder: Path, url: str, model: str) -> Any:
    """The agent with LangGraph's node cache in a file; one cache for each wording, which the state does not tell."""

    def graph_for(wording: Wording) -> Any:
        builder = single().builder
        key = exact_key("article", also=lambda: [url, model, wording])
        builder.nodes["extract"].cache_policy = CachePolicy(key_func=key)
        return builder.compile(cache=FileCache(folder / "exact", serde=JsonPlusSerializer()))  # type: ignore[arg-type]

    graphs: dict[Wording, Any] = {wording: graph_for(wording) for wording in WORDINGS}

    class Chosen:
        """The graph for a context."""

        def invoke(self, state: Any, *, context: ExtractionContext) -> Any:
            return graphs[context.wording].invoke(state, context=context)

    return Chosen()


def with_semantic_cache(folder: Path, threshold: float, vectors: Vectors) -> Any:
    """The agent with a cache around its node, asked by what the model would be asked."""
    cache = SemanticCache(folder / "semantic", threshold=threshold, vectors=vectors)
    node: Any = single().builder.nodes["extract"].runnable

    def context() -> ExtractionContext:
        return get_runtime(ExtractionContext).context

    around = cache.around(
        "extract",
        node.invoke,
        node.ainvoke,
        text=lambda state: said(ask_all(state["article"], "json", context().prompt())),
        scope=lambda state: [context().model, context().temperature],
        side_effect=False,
    )
    builder: Any = StateGraph(ExtractionState, context_schema=ExtractionContext)
    builder.add_node("extract", RunnableLambda(*around))
    builder.add_edge(START, "extract")
    builder.add_edge("extract", END)
    return builder.compile(name="single")
