"""What a candidate is charged and takes does not depend on who ran before it, or beside it."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from redecode import tracer
from redecode.cli.main import app
from redecode.optimizer.cases import select
from redecode.optimizer.evaluation.prefixes import SHARED, Prefixes, cached, salted, without_salt
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.optimizer.spec import load
from redecode.tracer import FmRequest, Store

PROGRAM = """
import time
from dataclasses import dataclass
from operator import add
from typing import Annotated, Any, Literal

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send
from typing_extensions import TypedDict

from redecode.optimizer import Spec

class State(TypedDict, total=False):
    question: str
    fetch: str
    said: Annotated[list[str], add]

@dataclass
class Context:
    tone: Literal["a", "b", "c"] = "a"
    ways: Literal[1, 5] = 1

def ask(state: State, runtime: Runtime[Context]) -> State:
    if state.get("fetch"):
        raise ConnectionError(f"{state['fetch']} cannot be reached")
    article = (state["question"] + " ") * 200
    tone = f"Tone {runtime.context.tone}. "
    asked = tone + article if tone.startswith("Tone a") else article + tone
    said = ChatOpenAI(model="m", temperature=0).invoke(asked).content
    return {"said": [str(said)]}

def wait(state: State) -> State:
    time.sleep(0.2)
    return {"said": ["waited"]}

def fan(state: State, runtime: Runtime[Context]) -> Any:
    return "ask" if runtime.context.ways == 1 else [Send("wait", state) for _ in range(5)]

builder = StateGraph(State, context_schema=Context)
builder.add_node("ask", ask)
builder.add_node("wait", wait)
builder.add_conditional_edges(START, fan, ["ask", "wait"])
builder.add_edge("ask", END)
builder.add_edge("wait", END)
graph = builder.compile(name="toner")
spec = Spec(graph=graph, score=lambda output, case: 1.0, fixed={"ways": 1})
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "toner.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    yield importlib.import_module("toner")
    sys.modules.pop("toner")


class Provider:
    """Keeps every prompt it was asked, as providers do, and tells how much of the next one begins like one of them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        said = str(body["messages"][-1]["content"])
        with self.lock:
            same = max((_alike(one, said) for one in self.asked), default=0)
            self.asked.append(said)
        usage = {
            "prompt_tokens": len(said), "completion_tokens": 2, "total_tokens": len(said) + 2,
            "prompt_tokens_details": {"cached_tokens": same},
        }  # fmt: skip
        message = {"role": "assistant", "content": "yes"}
        return {
            "id": "x", "object": "chat.completion", "created": 1, "model": "m", "usage": usage,
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        }  # fmt: skip


def _alike(one: str, other: str) -> int:
    n = 0
    while n < min(len(one), len(other)) and one[n] == other[n]:
        n += 1
    return n


def cases_of(store: Path, count: int) -> Any:
    return select(Store(store).runs(), load("toner:spec"), "all", now_ns=0).search[:count]


@pytest.fixture
def provider(serve: Callable[..., Any], module: ModuleType, monkeypatch: pytest.MonkeyPatch, store: Path) -> Provider:
    server, found = serve(lambda _: "yes"), Provider()
    server.response = found
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    tracer.instrument(store)
    for n in range(40):
        module.graph.invoke({"question": f"Number {n}"}, context=module.Context())
    tracer.uninstrument()
    return found


def test_no_candidate_is_cheaper_for_what_another_one_asked(provider: Provider, store: Path) -> None:
    """The recording asked what the incumbent asks, and two candidates ask nearly the same: all cost the same."""
    command = [
        "tune",
        "toner:spec",
        "--store",
        str(store),
        "--runs",
        "all",
        "--workers",
        "0",
        "--json",
        "--knob",
        "tone",
    ]
    prices = ["--price", "m=1,1,0.1", "--margin", "latency=9"]
    found = json.loads(CliRunner().invoke(app, [*command, *prices], catch_exceptions=False).stdout)
    costs = [t["measured"]["cost"] for t in found["trials"]]
    assert len(costs) == 3 and max(costs) / min(costs) < 1.02
    ran = [x["cost"] for name, x in found["lanes"].items() if name != "observed"]
    assert all(cost / costs[0] < 1.1 for cost in ran)
    assert found["verdict"] != "promote"


def test_what_a_candidates_own_prompts_share_counts() -> None:
    prefixes = Prefixes()

    def share(lane: str, words: str) -> float:
        asked = FmRequest(
            path="/chat/completions", model="m", messages=[{"role": "user", "content": words}], tools=None, sampling={},
            stream=False,
        )  # fmt: skip
        return prefixes.share(lane, asked)

    system = "be good " * 100
    assert share("one", system + "first") == 0.0
    assert share("two", system + "first") == 0.0
    assert 0.9 < share("one", system + "second") < 1.0
    assert share("one", system + "second") == 1.0
    assert share("one", "else " * 100) < 0.2
    for n in range(9):
        share(f"more-{n}", "x")
    assert share("two", system + "first") == 0.0  # of the last few candidates alone
    assert cached({SHARED: 0.5}, 90, 100) == 50 and cached({SHARED: 0.5}, 10, 100) == 10 and cached({}, 90, 100) == 90


def test_a_salt_keeps_candidates_apart_and_is_no_part_of_what_was_asked() -> None:
    one, other = (salted(lane, {"model": "m"}) for lane in ("s/1", "s/2"))
    assert one["cache_salt"] != other["cache_salt"] and not set("/@\\") & set(one["cache_salt"])
    assert without_salt(one) == {"model": "m"} and salted("s/1", {"cache_salt": "x" * 120}) == {"cache_salt": "x" * 120}
    tenants = salted("s/1", {"cache_salt": "tenant"})
    assert tenants["cache_salt"].startswith("tenant") and without_salt(tenants) == {"cache_salt": "tenant"}


@pytest.mark.parametrize("vllm", [False, True])
def test_a_vllm_is_asked_with_a_salt_of_each_candidate_and_the_memo_knows_the_call(
    module: ModuleType, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, store: Path, vllm: bool
) -> None:
    server = serve(lambda _: "yes", vllm=vllm)
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    tracer.instrument(store)
    for n in range(6):
        module.graph.invoke({"question": f"Number {n}"}, context=module.Context())
    tracer.uninstrument()
    server.requests.clear()
    here = InProcess(Settings(spec="toner:spec", store=store, source=store, concurrency=1))
    try:
        for trial in (0, 1):
            block = Block(
                values={"tone": "a", "ways": 1}, cases=cases_of(store, 3), labels={"study": "s", "trial": trial}
            )
            outcomes = here.evaluate(block)
    finally:
        here.close()
    assert [o.memo for o in outcomes] == [1, 1, 1] and len(server.requests) == 4
    salts = {body.get("cache_salt") for body in server.requests[1:]}
    assert len(salts) == 1 and (None in salts) is not vllm


def test_sync_nodes_side_by_side_have_threads_of_their_own(
    module: ModuleType, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    """In production each `invoke` has a pool; here all runs share that of the event loop."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    tracer.instrument(store)
    for n in range(12):
        module.graph.invoke({"question": f"Number {n}"}, context=module.Context(ways=5))
    tracer.uninstrument()
    here = InProcess(Settings(spec="toner:spec", store=store, source=store, concurrency=8))
    began = time.monotonic()
    try:
        outcomes = here.evaluate(Block(values={"tone": "a", "ways": 5}, cases=cases_of(store, 8), labels={}))
        many = here._loop.run(asyncio.to_thread(threading.active_count))
    finally:
        here.close()
    assert all(o.error is None for o in outcomes) and many > 20
    assert min(o.latency_s for o in outcomes) < 0.6 and time.monotonic() - began < 30


def test_a_host_that_a_node_itself_cannot_reach_is_that_runs_failure(
    module: ModuleType, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    server = serve(lambda _: "yes")
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    tracer.instrument(store)
    with pytest.raises(ConnectionError):
        module.graph.invoke({"question": "Number 9", "fetch": "a host"}, context=module.Context())
    for n in range(4):
        module.graph.invoke({"question": f"Number {n}"}, context=module.Context())
    tracer.uninstrument()
    here = InProcess(Settings(spec="toner:spec", store=store, source=store, again_s=(0.01,)))
    try:
        outcomes = here.evaluate(Block(values={"tone": "a", "ways": 1}, cases=cases_of(store, 9), labels={}))
    finally:
        here.close()
    assert sorted(o.error or "" for o in outcomes)[-1] == "ConnectionError: a host cannot be reached"
    assert sum(o.error is None for o in outcomes) >= 2
