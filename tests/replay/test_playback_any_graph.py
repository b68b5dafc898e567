"""Playback of any graph: recorded live, then played back, sync and async, each call gets its own answer again."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langgraph")

from hypothesis import HealthCheck, given, settings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool

from redecode.replay import playback
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


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_graphs, "_model", Counting())
    monkeypatch.setattr(random_graphs, "look", look)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=shapes())
def test_any_graph(shape: Shape, tmp_path_factory: pytest.TempPathFactory) -> None:
    hold(shape, tmp_path_factory.mktemp("any"))


def test_one_of_everything(tmp_path: Path) -> None:
    hold(MUCH, tmp_path)
