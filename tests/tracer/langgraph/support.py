"""Recorded runs looked at by step key, and what holds of every one of them."""

from __future__ import annotations

import asyncio
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import pytest

pytest.importorskip("langgraph")

from redecode.replay.analysis.runs import analyze_recorded
from redecode.tracer import Provenance, RecordedRun, Span, SpanKind

Program = Callable[[], Any]


class State(TypedDict):
    out: Annotated[list[str], operator.add]


def says(name: str) -> Any:
    """A node that writes its name."""
    return lambda state: {"out": [name]}


@dataclass(frozen=True)
class Seen:
    """A recorded run, its spans named by their step keys."""

    recorded: RecordedRun

    @property
    def keys(self) -> list[str]:
        return [s.step_key for s in self.recorded.spans]

    def _edges(self, wanted: Callable[[Provenance], bool]) -> set[tuple[str, str, str]]:
        key = {s.span_id: s.step_key for s in self.recorded.spans}
        return {(key[e.src], key[e.dst], e.kind.value) for e in self.recorded.edges if wanted(e.provenance)}

    @property
    def edges(self) -> set[tuple[str, str, str]]:
        """(from, to, kind) of what was waited for."""
        return self._edges(lambda p: p is not Provenance.DECLARED)

    @property
    def reads(self) -> set[tuple[str, str]]:
        """(writer, reader) of state that a task may have read."""
        return {(src, dst) for src, dst, _ in self._edges(lambda p: p is Provenance.DECLARED)}

    def into(self, key: str) -> set[tuple[str, str]]:
        """(from, kind) of what a span waited for, its start and its end."""
        return {(src, kind) for src, dst, kind in self.edges if dst == key}

    def span(self, key: str) -> Span:
        (found,) = [s for s in self.recorded.spans if s.step_key == key]
        return found

    def of(self, kind: SpanKind) -> list[str]:
        return sorted(s.step_key for s in self.recorded.spans if s.kind is kind)


def check(r: RecordedRun) -> None:
    """What holds of every run that was recorded by this process."""
    keys = Counter(s.step_key for s in r.spans)
    assert max(keys.values()) == 1, keys
    assert not [e for e in r.edges if e.provenance is Provenance.TIME]
    assert r.run.ended_ns is not None
    assert r.run.lost == 0
    reached = {e.dst for e in r.edges if e.provenance is not Provenance.DECLARED}
    assert {s.span_id for s in r.spans if s.parent_span_id is not None} <= reached
    found = analyze_recorded(r)
    assert found.split.total_ns == found.makespan_ns == r.run.ended_ns - r.run.started_ns


def both_ways(graph: Any, value: Any, config: Any = None) -> Program:
    """The program that invokes a graph once, and once asynchronously."""

    def run() -> None:
        graph.invoke(value, config)
        asyncio.run(graph.ainvoke(value, config))

    return run


def same(one: Seen, two: Seen) -> None:
    """Two runs of the same path: the same steps, which waited for the same."""
    assert sorted(one.keys) == sorted(two.keys)
    assert one.edges == two.edges
    assert one.reads == two.reads
