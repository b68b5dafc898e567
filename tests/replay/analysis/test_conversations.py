"""A run interrupted for a person, really recorded, and the one that resumed it."""

from __future__ import annotations

import operator
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest

pytest.importorskip("langgraph")

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from redecode.replay.analysis.conversations import joined, resumed
from redecode.replay.analysis.runs import analyze_recorded
from redecode.tracer import Store


class State(TypedDict):
    out: Annotated[list[str], operator.add]


def test_waiting_for_a_person_is_known_and_does_not_count(recording: Path) -> None:
    def ask(state: State) -> Any:
        return {"out": [interrupt("may I?")]}

    graph = StateGraph(State)
    graph.add_node("prepare", lambda state: {"out": ["ready"]})
    graph.add_node("ask", ask)
    graph.add_edge(START, "prepare")
    graph.add_edge("prepare", "ask")
    made = graph.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    made.invoke({"out": []}, {"configurable": {"thread_id": "other"}})
    made.invoke({"out": []}, config)
    time.sleep(0.05)
    made.invoke(Command(resume="yes"), config)
    made.invoke({"out": []}, config)  # a new question: it resumes nothing

    store = Store(recording)
    new, second, first, _ = store.runs()
    assert [s.run.run_id for s in resumed(store, second.run_id[:12])] == [first.run_id, second.run_id]
    assert [s.run.run_id for s in resumed(store, first.run_id)] == [first.run_id]
    assert [s.run.run_id for s in resumed(store, new.run_id)] == [new.run_id]

    assert first.ended_ns is not None and second.ended_ns is not None
    both = joined(resumed(store, second.run_id))
    out = analyze_recorded(both, slo_s=0.05)
    assert out.makespan_ns == second.ended_ns - first.started_ns == out.split.total_ns
    waited = second.started_ns - first.ended_ns
    assert out.person_ns == out.split.person_ns == waited >= 50_000_000
    worked = first.ended_ns - first.started_ns + second.ended_ns - second.started_ns
    assert out.headroom_ns == 50_000_000 - worked
    assert analyze_recorded(both, slo_s=0.05, count_person=True).headroom_ns == 50_000_000 - worked - waited
    assert [s.activity.part for s in out.critical_path if s.kind == "person"] == ["waits for a person"]
    assert out.warnings == ()
