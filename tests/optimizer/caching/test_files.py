"""Caches in a file: LangGraph's node cache, exact; a cache around a node, by meaning. Hits are recorded as such."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest

pytest.importorskip("langgraph")

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph, add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import CachePolicy

from redecode import tracer
from redecode.optimizer.caching import (
    CacheUnusable,
    CachingError,
    FileCache,
    HashedNgrams,
    NeverCached,
    SemanticCache,
    exact_key,
)
from redecode.optimizer.caching.files import AnswerFile
from redecode.tracer import SpanKind, Store

VECTORS = HashedNgrams(dimensions=256)


class State(TypedDict, total=False):
    question: str
    answer: str
    messages: Annotated[list[Any], add_messages]


class Clock:
    def __init__(self) -> None:
        self.ns = 1_000_000_000

    def __call__(self) -> int:
        return self.ns


def build(ran: list[str], cache: Any, policy: CachePolicy[Any] | None = None) -> Any:
    def ask(state: State) -> State:
        ran.append(state.get("question", ""))
        return {"answer": f"as to {state.get('question')}"}

    graph = StateGraph(State)
    graph.add_node("ask", ask, cache_policy=policy or CachePolicy(key_func=exact_key("question")))
    graph.add_edge(START, "ask")
    return graph.compile(cache=cache)


def file_cache(path: Path, **more: Any) -> Any:
    return FileCache(path, serde=JsonPlusSerializer(), **more)


# -- exact --


def test_another_process_answers_from_the_file_and_it_is_recorded(recording: Path, tmp_path: Path) -> None:
    path, ran = tmp_path / "answers", list[str]()
    first = build(ran, file_cache(path)).invoke({"question": "open?"})
    again = build(ran, file_cache(path))  # as another process would
    assert again.invoke({"question": "open?"}) == first == asyncio.run(again.ainvoke({"question": "open?"}))
    assert again.invoke({"question": "closed?"})["answer"] == "as to closed?"
    assert ran == ["open?", "closed?"]
    tracer.uninstrument()
    store = Store(recording)
    runs = [store.load(run.run_id) for run in reversed(store.runs())]
    kinds = [next(s.kind for s in run.spans if s.name == "ask") for run in runs]
    assert kinds == [SpanKind.NODE, SpanKind.CACHE, SpanKind.CACHE, SpanKind.NODE]


def test_answers_grow_old_and_belong_to_a_tenant(tmp_path: Path) -> None:
    clock, ran, whose = Clock(), list[str](), ContextVar("whose", default="acme")
    cache = file_cache(tmp_path / "answers", now_ns=clock, tenant=whose.get)
    graph = build(ran, cache, CachePolicy(key_func=exact_key("question"), ttl=60))
    for _ in range(2):
        graph.invoke({"question": "q"})
    assert len(ran) == 1
    token = whose.set("other")
    graph.invoke({"question": "q"})
    assert len(ran) == 2
    cache.clear()
    graph.invoke({"question": "q"})
    assert len(ran) == 3
    whose.reset(token)
    graph.invoke({"question": "q"})
    assert len(ran) == 3  # the other's answers are gone, not these
    clock.ns += 61 * 10**9
    graph.invoke({"question": "q"})
    assert len(ran) == 4


def test_an_exact_key_is_of_what_counts() -> None:
    by_messages, knob = exact_key("messages"), {"model": "s"}
    one = {"messages": [HumanMessage("hi", id="1")], "other": 1}
    two = {"messages": [HumanMessage("hi", id="2")], "other": 2}
    assert by_messages(one) == by_messages(two) != by_messages({"messages": [HumanMessage("ho", id="1")]})
    assert exact_key()(one) != exact_key()(two)
    with_model = exact_key("question", also=lambda: knob)
    before = with_model({"question": "q"})
    knob["model"] = "xs"
    assert with_model({"question": "q"}) != before


def test_a_file_that_breaks_is_a_cache_that_misses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []
    graph = build(ran, file_cache(tmp_path / "answers"))
    graph.invoke({"question": "q"})
    for file in tmp_path.glob("answers*"):
        file.write_bytes(b"not a database" * 100)
    assert graph.invoke({"question": "q"})["answer"] == "as to q"
    assert len(ran) == 2 and "nothing comes from it" in caplog.text


def test_what_is_no_cache_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not a database" * 100)
    with pytest.raises(CacheUnusable, match="name another file"):
        AnswerFile(tmp_path / "x")
    with pytest.raises(CacheUnusable, match="cannot use"):
        AnswerFile(tmp_path / "no" / "where")
    with pytest.raises(CachingError, match="threshold"):
        SemanticCache(tmp_path / "y", threshold=1.5, vectors=VECTORS)


def test_a_file_is_its_owners_and_keeps_so_many(tmp_path: Path) -> None:
    clock = Clock()
    file = AnswerFile(tmp_path / "answers", most=3, now_ns=clock)
    assert file.path.stat().st_mode & 0o077 == 0
    for n in range(5):
        clock.ns += 1
        file.put("t", "s", str(n), ("json", b"1"), None)
        file.get("t", "s", ["0"])  # used again and again, so it stays
    assert set(file.get("t", "s", [str(n) for n in range(5)])) == {"0", "3", "4"}
    assert file.get("u", "s", ["0"]) == {}


_WRITER = """
import sys
from redecode.optimizer.caching.files import AnswerFile
file = AnswerFile(sys.argv[1])
for n in range(40):
    file.put("t", "s", f"{sys.argv[2]}-{n}", ("json", b"%d" % n), None)
    file.put("t", "s", "shared", ("json", b"%d" % n), None)
"""


def test_processes_and_threads_write_at_once_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    AnswerFile(path)
    programs = [subprocess.Popen([sys.executable, "-c", _WRITER, str(path), str(n)]) for n in range(2)]
    file = AnswerFile(path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: file.put("t", "s", f"mine-{n}", ("json", b"0"), None), range(40)))
    assert [program.wait() for program in programs] == [0, 0]
    keys = [f"{who}-{n}" for who in ("0", "1", "mine") for n in range(40)]
    assert set(file.get("t", "s", [*keys, "shared"])) == {*keys, "shared"}


# -- by meaning --


def semantic(path: Path, ran: list[str], **more: Any) -> Any:
    options = {"threshold": 0.8, "vectors": VECTORS, **more}
    around = {k: options.pop(k) for k in ("tenant", "scope") if k in options}
    cache = SemanticCache(path, **options)

    def ask(state: State) -> State:
        ran.append(state["question"])
        return {"answer": f"as to {state['question']}"}

    async def aask(state: State) -> State:
        return ask(state)

    graph = StateGraph(State)
    node = cache.around("ask", ask, aask, text=lambda s: s["question"], side_effect=False, **around)
    graph.add_node("ask", RunnableLambda(*node))
    graph.add_edge(START, "ask")
    return graph.compile()


NEAR = ("Where is my parcel number 4711 please?", "where is my parcel number 4711 please")


def test_what_is_alike_is_answered_alike_and_recorded_as_a_cache_step(recording: Path, tmp_path: Path) -> None:
    ran: list[str] = []
    graph = semantic(tmp_path / "answers", ran)
    first = graph.invoke({"question": NEAR[0]})["answer"]
    assert graph.invoke({"question": NEAR[1]})["answer"] == first
    assert asyncio.run(graph.ainvoke({"question": NEAR[1]}))["answer"] == first
    assert semantic(tmp_path / "answers", ran).invoke({"question": NEAR[1]})["answer"] == first
    assert graph.invoke({"question": "Cancel everything"})["answer"] == "as to Cancel everything"
    assert ran == [NEAR[0], "Cancel everything"]
    tracer.uninstrument()
    store = Store(recording)
    hits = []
    for run in reversed(store.runs()):
        steps = [s for s in store.load(run.run_id).spans if s.kind is SpanKind.CACHE]
        assert all(s.status == "ok" and s.step_key.startswith("run/ask@1") for s in steps)
        hits.append(len(steps))
    assert hits == [0, 1, 1, 1, 0]


def test_alike_is_not_enough_across_tenants_scopes_time_and_encoders(tmp_path: Path) -> None:
    clock, path, ran = Clock(), tmp_path / "answers", list[str]()

    def asks(**more: Any) -> int:
        before = len(ran)
        semantic(path, ran, now_ns=clock, ttl_s=60, **more).invoke({"question": NEAR[0]})
        return len(ran) - before

    assert [asks(), asks()] == [1, 0]
    assert [asks(tenant=lambda s: "acme"), asks(tenant=lambda s: "acme")] == [1, 0]
    assert [asks(scope=lambda s: {"model": "xs"}), asks(scope=lambda s: {"model": "xs"})] == [1, 0]
    assert asks(vectors=HashedNgrams(dimensions=128)) == 1
    clock.ns += 61 * 10**9
    assert [asks(), asks()] == [1, 0]


def test_an_answer_that_was_replaced_is_not_found_under_its_old_vector(tmp_path: Path) -> None:
    path, ran = tmp_path / "answers", list[str]()
    one, two = semantic(path, ran, most=1), semantic(path, ran, most=1)
    one.invoke({"question": NEAR[0]})
    two.invoke({"question": "Cancel everything"})  # makes room for itself
    assert one.invoke({"question": NEAR[1]})["answer"] == f"as to {NEAR[1]}"
    assert ran == [NEAR[0], "Cancel everything", NEAR[1]]


def test_a_node_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = SemanticCache(tmp_path / "answers", threshold=0.9, vectors=VECTORS)
    seen: list[int] = []

    def ask(state: str) -> str:
        seen.append(1)
        if len(seen) == 1:
            raise RuntimeError("down")
        return "up"

    node, _ = cache.around("ask", ask, text=str, side_effect=False)
    with pytest.raises(RuntimeError):
        node("q q q")
    assert [node("q q q"), node("q q q")] == ["up", "up"] and len(seen) == 2


def test_a_cache_that_cannot_be_asked_does_not_stop_its_host(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = SemanticCache(tmp_path / "answers", threshold=0.9, vectors=VECTORS)
    node, _ = cache.around("ask", lambda state: {"a": (1, 2)}, text=lambda state: state["missing"], side_effect=False)
    assert node({}) == {"a": (1, 2)} and "cannot be asked" in caplog.text
    node, _ = cache.around("ask", lambda state: {"a": (1, 2)}, text=str, side_effect=False)
    assert node("q q") == {"a": (1, 2)} and "cannot keep its answer" in caplog.text


def test_a_step_with_effects_is_refused(tmp_path: Path) -> None:
    @tool
    def look(what: str) -> str:
        """Look."""
        return what

    @tool
    def pay(amount: int) -> str:
        """Pay."""
        return "paid"

    look.metadata = {"side_effect": False}
    cache = SemanticCache(tmp_path / "answers", threshold=0.9, vectors=VECTORS)
    around: Callable[..., Any] = cache.around
    with pytest.raises(NeverCached, match="has effects"):
        around("pay", lambda s: s, text=str, side_effect=True)
    with pytest.raises(NeverCached, match="'pay', which does not say"):
        around("tools", ToolNode([look, pay]).invoke, text=str, side_effect=False)
    assert around("tools", ToolNode([look]).invoke, text=str, side_effect=False)
