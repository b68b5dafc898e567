"""Where nothing is left between a call's end and the next one's beginning, CRISP's walk finds the same path."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.replay.analysis.runs import analyze_recorded
from redecode.tracer import EdgeKind, RecordedRun, Span
from tests.replay.analysis.recordings import CALL, JOIN, RETURN, recorded, span


def last_returning_child(spans: list[Span]) -> dict[str, int]:
    """Time on the critical path by span: CRISP (Zhang et al., USENIX ATC 2022), `computeCriticalPath`.

    Into the child that returned last, then into the last of those that had returned when that one began, and so on.
    What its children on the path do not cover is the span's own.
    """
    below: dict[str | None, list[Span]] = {}
    for s in spans:
        below.setdefault(s.parent_span_id, []).append(s)
    out: dict[str, int] = {}

    def walk(s: Span) -> None:
        assert s.end_ns is not None
        own, horizon = s.end_ns - s.start_ns, s.end_ns
        for child in sorted(below.get(s.span_id, []), key=lambda c: (c.end_ns or 0, c.start_ns), reverse=True):
            assert child.end_ns is not None
            if child.end_ns <= horizon:
                walk(child)
                own -= child.end_ns - child.start_ns
                horizon = child.start_ns
        if own:
            out[s.span_id] = own

    walk(below[None][0])
    return out


@st.composite
def zero_gap_trees(draw: st.DrawFn) -> RecordedRun:
    """Spans that call others in groups, one group when the one before has ended; each group's begin together.

    No two of a group end together, so that there is one path.
    """
    spans: list[Span] = []
    edges: list[tuple[str, str, EdgeKind]] = []

    def make(name: str, parent: str | None, start: int, depth: int) -> int:
        at, waited = start, [(name, CALL)]
        place = len(spans)
        for group in range(draw(st.integers(0, 3 if depth else 0))):
            ends: dict[str, int] = {}
            for n in range(draw(st.integers(1, 3))):
                child = f"{name}.{group}{n}"
                edges.extend((src, child, kind) for src, kind in waited)
                end = make(child, name, at, depth - 1)
                if end in ends.values():  # nobody waits for it: it stays in the tree without being of the group
                    shift = max(ends.values()) + 1 - end
                    spans[:] = [
                        span(s.span_id, s.parent_span_id, s.start_ns, (s.end_ns or 0) + shift)
                        if s.span_id == child
                        else s
                        for s in spans
                    ]
                    end += shift
                ends[child] = end
            waited = [(c, JOIN if len(ends) > 1 else RETURN) for c in ends]
            at = max(ends.values())
        if len(waited) and waited[0][0] != name:
            edges.extend((src, name, kind) for src, kind in waited)
            end = at + draw(st.integers(0, 3))
        else:
            end = at + draw(st.integers(1, 9))
        spans.insert(place, span(name, parent, start, end))
        return end

    make("root", None, 0, 2)
    return recorded(spans, edges)


@settings(max_examples=100, deadline=None)
@given(run=zero_gap_trees())
def test_the_last_returning_child_is_on_the_path(run: RecordedRun) -> None:
    ours: dict[str, int] = {}
    for segment in analyze_recorded(run).critical_path:
        ours[segment.activity.span_id] = ours.get(segment.activity.span_id, 0) + segment.duration_ns
    assert ours == {k: v for k, v in last_returning_child(run.spans).items() if v}


def test_with_a_gap_it_is_misled_and_the_recorded_edges_are_not() -> None:
    """Two branches; the second call of one begins just after the other branch's first has returned."""
    spans = [
        span("root", None, 0, 40),
        span("a1", "root", 0, 10), span("a2", "root", 14, 40),
        span("b1", "root", 0, 13), span("b2", "root", 13, 30),
    ]  # fmt: skip
    edges = [
        ("root", "a1", CALL), ("a1", "a2", RETURN), ("root", "b1", CALL), ("b1", "b2", RETURN),
        ("a2", "root", JOIN), ("b2", "root", JOIN),
    ]  # fmt: skip
    assert set(last_returning_child(spans)) == {"root", "b1", "a2"}
    assert analyze_recorded(recorded(spans, edges)).critical_spans == ["a1", "root", "a2"]
