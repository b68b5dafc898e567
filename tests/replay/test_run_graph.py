"""The run graph: points in the order in which they waited for one another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redecode.replay import ReplayError, build_run_graph
from redecode.tracer import Edge, EdgeKind, Provenance, RecordedRun, Run, Span, SpanKind


def span(span_id: str, parent: str | None, start: int, end: int | None) -> Span:
    kind = SpanKind.RUN if parent is None else SpanKind.NODE
    return Span(
        run_id="r", span_id=span_id, parent_span_id=parent, kind=kind, name=span_id, step_key=span_id,
        start_ns=start, end_ns=end, status="ok" if end is not None else "open",
    )  # fmt: skip


def recorded(spans: list[Span], edges: list[tuple[str, str, EdgeKind]]) -> RecordedRun:
    run = Run(
        run_id="r", agent="a", status="ok", started_ns=0, ended_ns=None, fidelity=None, decodes=0, tools=0, tokens=0,
        prompt_tokens=0,
    )  # fmt: skip
    return RecordedRun(run, spans, [Edge(s, d, k, Provenance.RECORDED) for s, d, k in edges], [], [])


def test_an_unfinished_run_still_has_its_finished_part() -> None:
    spans = [span("root", None, 0, None), span("a", "root", 1, 9), span("b", "root", 9, None)]
    graph = build_run_graph(recorded(spans, [("root", "a", EdgeKind.CALL), ("a", "b", EdgeKind.RETURN)]))
    assert graph.open == ("root", "b")
    assert "b" not in graph.spans


def test_a_cycle_is_named() -> None:
    spans = [span("root", None, 0, 9), span("a", "root", 1, 2), span("b", "root", 3, 4)]
    with pytest.raises(ReplayError, match="cycle through spans a"):
        build_run_graph(recorded(spans, [("a", "b", EdgeKind.DATA), ("b", "a", EdgeKind.DATA)]))


@st.composite
def layered_runs(draw: st.DrawFn) -> tuple[list[Span], list[tuple[str, str, EdgeKind]]]:
    """Supersteps of random nodes; each waits for a random part of the layer before."""
    spans, edges, layer = [], [], ["root"]
    ends = {"root": 0}
    for level in range(draw(st.integers(1, 4))):
        new = []
        for n in range(draw(st.integers(1, 4))):
            name = f"{level}.{n}"
            before = draw(st.lists(st.sampled_from(layer), min_size=1, unique=True))
            start = max(ends[b] for b in before) + draw(st.integers(0, 20))
            ends[name] = start + draw(st.integers(0, 100))
            spans.append(span(name, "root", start, ends[name]))
            edges += [(b, name, EdgeKind.CALL if b == "root" else EdgeKind.DATA) for b in before]
            new.append(name)
        layer = new
    waited = {e[0] for e in edges}
    last = [s.span_id for s in spans if s.span_id not in waited]
    edges += [(s, "root", EdgeKind.JOIN) for s in last]
    end = max(ends[s] for s in last) + draw(st.integers(0, 20))
    return [span("root", None, 0, end), *spans], edges


@given(case=layered_runs(), data=st.data())
def test_the_order_of_points_is_that_of_waiting_whatever_the_order_of_the_rows(
    case: tuple[list[Span], list[tuple[str, str, EdgeKind]]], data: st.DataObject
) -> None:
    spans, edges = case
    graph = build_run_graph(recorded(spans, edges))
    place = {point: n for n, point in enumerate(graph.order)}
    assert len(place) == 2 * len(spans)
    assert all(place[w] < place[p] for p, waited in graph.before.items() for w in waited)
    shuffled = build_run_graph(recorded(data.draw(st.permutations(spans)), data.draw(st.permutations(edges))))
    assert shuffled.order == graph.order


def test_a_run_that_never_ended_lasts_until_its_parts_have() -> None:
    spans = [span("root", None, 0, None), span("a", "root", 1, 9), span("b", "root", 9, 20)]
    graph = build_run_graph(recorded(spans, [("root", "a", EdgeKind.CALL), ("a", "b", EdgeKind.RETURN)]))
    assert set(graph.before["root", "end"]) >= {("a", "end"), ("b", "end")}
    assert graph.gap_ns(("root", "end")) == 0
