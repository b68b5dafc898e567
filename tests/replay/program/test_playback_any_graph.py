"""Playback and forks of any graph: each call gets its own answer again, and live is what depends on the fork point."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langgraph")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool

from redecode.replay import fork, playback
from redecode.tracer import RecordedRun, Store, instrument, uninstrument
from tests.tracer.langgraph import random_graphs
from tests.tracer.langgraph.random_graphs import Shape, graph, shapes
from tests.tracer.langgraph.test_any_graph import MUCH

_live = count()


class Counting(BaseChatModel):
    """Answers something else every time."""

    @property
    def _llm_type(self) -> str:
        return "counting"

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(f"answer {next(_live)}"))])


@tool
def look(at: int) -> str:
    """Find something else every time."""
    return f"{at} {next(_live)}"


def facts(run: RecordedRun) -> tuple[Any, ...]:
    """What each call asked and got, what depended on what, by step keys alone."""
    keys = {s.span_id: s.step_key for s in run.spans}
    return (
        sorted((s.step_key, str(s.kind), s.status) for s in run.spans),
        {d.step_key: (d.messages, d.output) for d in run.decodes},
        {t.step_key: (t.tool, t.arguments, t.result) for t in run.tools},
        sorted((keys[e.src], keys[e.dst], e.kind, e.provenance) for e in run.edges),
        run.run.output,
    )


def ways(made: Any) -> list[Any]:
    return [lambda: made.invoke({"out": []}), lambda: asyncio.run(made.ainvoke({"out": []}))]


def hold(shape: Shape, path: Path) -> None:
    for n in range(2):
        instrument(path / f"live{n}")
        out = ways(graph(shape))[n]()
        uninstrument()
        opened = Store(path / f"live{n}")
        source = opened.load(opened.runs()[0].run_id)
        before = next(_live)
        with playback(source, into=path / f"played{n}", pace=0.0) as player:
            assert ways(graph(shape))[n]() == out
        assert next(_live) == before + 1
        assert player.unasked() == []
        played = Store(path / f"played{n}")
        assert facts(played.load(played.runs()[0].run_id)) == facts(source)


def descendants(run: RecordedRun, until: str) -> set[str]:
    """Step keys of the calls that depend on a step by the recorded edges; barriers are no dependencies."""
    spans = {s.span_id: s for s in run.spans}
    into: dict[str, list[Any]] = {}
    for edge in run.edges:
        into.setdefault(edge.dst, []).append(edge)

    @functools.cache
    def starts(span_id: str) -> bool:
        span = spans[span_id]
        if span.step_key == until or (span.parent_span_id is not None and starts(span.parent_span_id)):
            return True
        before = [e for e in into.get(span_id, ()) if spans[e.src].parent_span_id != span_id and e.kind != "barrier"]
        return any(starts(e.src) if e.kind in ("call", "stream") else ends(e.src) for e in before)

    @functools.cache
    def ends(span_id: str) -> bool:
        below = [e.src for e in into.get(span_id, ()) if spans[e.src].parent_span_id == span_id]
        return starts(span_id) or any(ends(src) for src in below)

    return {s.step_key for s in run.spans if s.kind in ("decode", "tool") and starts(s.span_id)}


def hold_forked(shape: Shape, path: Path, choose: Callable[[list[str]], str]) -> None:
    for n in range(2):
        instrument(path / f"live{n}")
        ways(graph(shape))[n]()
        uninstrument()
        opened = Store(path / f"live{n}")
        source = opened.load(opened.runs()[0].run_id)
        keys = sorted(s.step_key for s in source.spans if s.kind in ("decode", "tool"))
        if not keys:
            return
        until = choose(keys)
        with fork(source, until=until, into=path / f"fork{n}", pace=0.0, live_tools=["look"]):
            ways(graph(shape))[n]()
        forks = Store(path / f"fork{n}")
        forked = forks.load(forks.runs()[0].run_id)
        by = {s.step_key: s.attributes["redecode.answered_by"] for s in forked.spans if s.kind in ("decode", "tool")}
        assert sorted(by) == keys
        assert {key for key, how in by.items() if how == "live"} == descendants(source, until)


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_graphs, "_model", Counting())
    monkeypatch.setattr(random_graphs, "look", look)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=shapes())
def test_any_graph(shape: Shape, tmp_path_factory: pytest.TempPathFactory) -> None:
    hold(shape, tmp_path_factory.mktemp("any"))


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=shapes(), data=st.data())
def test_any_fork_has_live_what_depends_on_it(
    shape: Shape, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hold_forked(shape, tmp_path_factory.mktemp("fork"), lambda keys: data.draw(st.sampled_from(keys)))


def test_one_of_everything(tmp_path: Path) -> None:
    hold(MUCH, tmp_path)
    hold_forked(MUCH, tmp_path / "forks", lambda keys: keys[len(keys) // 3])
