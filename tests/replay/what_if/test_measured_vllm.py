"""A what-if measured on a real vLLM: the tool's wait is halved, the FM calls are made again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TypedDict

import httpx
import pytest

pytest.importorskip("langgraph")

from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph
from pydantic import SecretStr

from redecode.replay.analysis.changes import Scale
from redecode.replay.what_if.measured import measure
from redecode.tracer import Store, instrument, uninstrument

MS = 1_000_000
pytestmark = [pytest.mark.vllm]


class State(TypedDict, total=False):
    name: str
    known: bool


async def test_half_a_lookup_gains_what_was_predicted(engine_url: str, store: Path) -> None:
    # A client of its own: LangChain's is shared by all tests on this engine, and one of them may have closed it.
    http = httpx.Client()
    llm = ChatOpenAI(
        base_url=f"{engine_url}/v1", api_key=SecretStr("none"), model="redecode-fm-xs", max_tokens=16, http_client=http
    )

    def ask(state: State) -> State:
        return {"name": str(llm.invoke("Give only the name of the contact.\nArticle: Anna Novak sells books.").content)}

    def lookup(state: State) -> State:
        time.sleep(0.5)
        return {"known": True}

    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_node("lookup", lookup)
    graph.add_node("again", ask)
    for one, other in ((START, "ask"), ("ask", "lookup"), ("lookup", "again")):
        graph.add_edge(one, other)
    made: Any = graph.compile()
    instrument(store)
    try:
        made.invoke({})
    finally:
        uninstrument()
        http.close()

    opened = Store(store)
    (run,) = opened.runs()
    found = await measure(store, opened.load(run.run_id), [Scale("lookup", 0.5)], engine_url, repeat=2)
    (step,) = found.steps
    assert step.baseline.median_ns >= 450 * MS  # a replay that is late waits so much less
    assert 200 * MS <= step.measured.median_ns < 450 * MS
    gain = found.baseline.median_ns - found.predicted_ns
    assert 225 * MS <= gain <= found.baseline.median_ns / 2
    assert max(map(abs, found.calls_known_errors_ns)) < gain  # nearer to the truth than no prediction
