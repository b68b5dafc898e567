"""What an agent's process keeps must not answer a candidate with what another one, or production, was answered."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from redecode import tracer
from redecode.cli.main import app
from redecode.optimizer.cases import select
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.optimizer.spec import load
from redecode.tracer import Store

PROGRAM = """
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from redecode.optimizer import Spec
from redecode.optimizer.caching import CachedStep

CACHE = InMemoryCache()
set_llm_cache(CACHE)

class State(TypedDict, total=False):
    question: str
    answer: Any

@dataclass
class Context:
    cache: Literal["none", "exact"] = "none"

kept = CachedStep("answer", "answers.sqlite", text=lambda s: s["question"], side_effect=False, kind="cache")

def answer(state: State, runtime: Runtime[Context]) -> State:
    def make() -> State:
        said = str(ChatOpenAI(model="m", temperature=0).invoke("please " + state["question"]).content)
        return {"answer": (said, len(said))}

    return kept.run(state, runtime.context, make)

builder = StateGraph(State, context_schema=Context)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
builder.add_edge("answer", END)
graph = builder.compile(name="keeper")
spec = Spec(graph=graph, score=lambda output, case: list(output["answer"]) == case.output["answer"], caches=[kept])
"""


@pytest.fixture
def server(tmp_path: Path, store: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Twelve runs of an agent that keeps every answer of its FM in LangChain's own cache."""
    (tmp_path / "keeping.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = serve(lambda body: str(body["messages"][-1]["content"])[7:])
    monkeypatch.setenv("OPENAI_BASE_URL", found.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    module = importlib.import_module("keeping")
    tracer.instrument(store)
    for n in range(12):
        module.graph.invoke({"question": f"question {n}"}, context=module.Context())
    tracer.uninstrument()
    found.requests.clear()
    yield found
    from langchain_core.globals import set_llm_cache

    set_llm_cache(None)
    sys.modules.pop("keeping")


def test_langchains_cache_of_all_calls_is_set_aside_and_comes_back(server: Any, store: Path) -> None:
    from langchain_core.globals import get_llm_cache

    before = get_llm_cache()
    assert before is not None
    here = InProcess(Settings(spec="keeping:spec", store=store, source=store))
    cases = select(Store(store).runs(), load("keeping:spec"), "all", now_ns=0).search[:4]
    try:
        outcomes = here.evaluate(Block(values={"cache": "none"}, cases=cases, memo=False))
    finally:
        here.close()
    assert [o.live for o in outcomes][1:] == [1, 1, 1] and len(server.requests) == 5
    assert get_llm_cache() is before


def test_a_candidate_whose_cache_can_keep_nothing_is_out_with_the_reason(server: Any, store: Path) -> None:
    command = ["tune", "keeping:spec", "--store", str(store), "--runs", "all", "--held-out", "0", "--workers", "0"]
    found = json.loads(CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False).stdout)
    assert [t["candidate"] for t in found["trials"]] == [{"cache": "none"}]
    (failed,) = found["failures"]
    assert failed["candidate"] == {"cache": "exact"}
    assert (
        "the cache around 'answer' can keep none of its answers: a part of it would come back as something else"
        in failed["why"]
    )
    assert "give the cache a `serde`" in failed["why"]
