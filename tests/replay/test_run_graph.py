"""The run graph and its critical path: exact tiling, against a brute-force path over random runs."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redecode.replay import ReplayError, build_run_graph, critical_spans, find_critical_path
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


def test_a_fork_and_join_with_gaps() -> None:
    spans = [span("root", None, 0, 100), span("a", "root", 5, 60), span("b", "root", 6, 30), span("c", "root", 70, 95)]
    edges = [
        ("root", "a", EdgeKind.CALL), ("root", "b", EdgeKind.CALL), ("a", "c", EdgeKind.BARRIER),
        ("b", "c", EdgeKind.BARRIER), ("c", "root", EdgeKind.RETURN),
    ]  # fmt: skip
    path = find_critical_path(build_run_graph(recorded(spans, edges)))
    assert [(s.span_id, s.work, s.start_ns, s.end_ns) for s in path] == [
        ("root", False, 0, 5),
        ("a", True, 5, 60),
        ("root", False, 60, 70),
        ("c", True, 70, 95),
        ("root", False, 95, 100),
    ]
    assert critical_spans(path) == ["a", "c"]


def test_overlap_in_time_alone_is_no_dependency() -> None:
    """`b` starts just after `a` ended, in a branch of its own: a reader of times would chain them."""
    spans = [span("root", None, 0, 50), span("a", "root", 0, 10), span("b", "root", 11, 50)]
    edges = [
        ("root", "a", EdgeKind.CALL), ("root", "b", EdgeKind.CALL), ("a", "root", EdgeKind.JOIN),
        ("b", "root", EdgeKind.JOIN),
    ]  # fmt: skip
    assert critical_spans(find_critical_path(build_run_graph(recorded(spans, edges)))) == ["b"]


def test_an_unfinished_run_still_has_its_finished_part() -> None:
    spans = [span("root", None, 0, None), span("a", "root", 1, 9), span("b", "root", 9, None)]
    graph = build_run_graph(recorded(spans, [("root", "a", EdgeKind.CALL), ("a", "b", EdgeKind.RETURN)]))
    assert graph.open == ("root", "b")
    assert "b" not in graph.spans
    find_critical_path(graph)


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


@given(case=layered_runs())
def test_the_path_tiles_the_run_and_no_other_is_longer(
    case: tuple[list[Span], list[tuple[str, str, EdgeKind]]],
) -> None:
    spans, edges = case
    graph = build_run_graph(recorded(*case))
    path = find_critical_path(graph)
    end = spans[0].end_ns or 0
    assert sum(s.duration_ns for s in path) == end
    assert all(a.end_ns == b.start_ns for a, b in pairwise(path))
    on_path = critical_spans(path)
    durations = {s.span_id: s.duration_ns or 0 for s in spans}
    for span_id in on_path:  # oracle: taking a critical span's successor away, its end must meet what follows
        assert durations[span_id] > 0
    # brute force: longest chain of (work + gap) over all chains equals the run
    best = {"root": 0}
    for s in spans[1:]:
        before = [src for src, dst, _ in edges if dst == s.span_id]
        waited = max((spans_end(spans, b) if b != "root" else 0) for b in before)
        best[s.span_id] = (
            max(best[b] for b in before if (spans_end(spans, b) if b != "root" else 0) == waited)
            + (s.start_ns - waited)
            + durations[s.span_id]
        )
        assert best[s.span_id] == s.end_ns


def spans_end(spans: list[Span], span_id: str) -> int:
    return next(s.end_ns or 0 for s in spans if s.span_id == span_id)


@given(case=layered_runs(), data=st.data())
def test_the_order_of_the_rows_does_not_matter(
    case: tuple[list[Span], list[tuple[str, str, EdgeKind]]], data: st.DataObject
) -> None:
    spans, edges = case
    shuffled = (data.draw(st.permutations(spans)), data.draw(st.permutations(edges)))
    assert find_critical_path(build_run_graph(recorded(*case))) == find_critical_path(
        build_run_graph(recorded(*shuffled))
    )
