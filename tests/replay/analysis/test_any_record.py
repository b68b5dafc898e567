"""Whatever a record says, all of the run's time is found, in whatever order its rows come; or it is refused by name."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.replay.analysis.activities import activities_of
from redecode.replay.analysis.advice import advise
from redecode.replay.analysis.aggregate import aggregate
from redecode.replay.analysis.changes import Scale
from redecode.replay.analysis.errors import CyclicEdges
from redecode.replay.analysis.profiles import Profiler
from redecode.replay.analysis.runs import analyze_recorded
from redecode.replay.analysis.what_if import what_if
from redecode.tracer import Decode, EdgeKind, Provenance, RecordedRun, Span, SpanKind, TimeSource
from tests.replay.analysis.recordings import decode, recorded, span

TIMES = st.integers(0, 60)
KINDS = [SpanKind.NODE, SpanKind.DECODE, SpanKind.TOOL, SpanKind.GRAPH, SpanKind.CACHE, SpanKind.PARSE]


@st.composite
def records(draw: st.DrawFn) -> RecordedRun:
    """Any tree, any times, any edges; spans that are open, doubled, without their parent."""
    count = draw(st.integers(1, 7))
    ids = [f"s{n}" for n in range(count)]
    spans: list[Span] = [span("root", None, draw(TIMES), draw(st.one_of(st.none(), TIMES)))]
    for n, name in enumerate(ids):
        parent = draw(st.sampled_from(["root", "gone", None, *ids[:n]]))
        kind = draw(st.sampled_from(KINDS))
        step = draw(st.sampled_from([None, 1, 2])) if kind is SpanKind.NODE else None
        end = draw(st.one_of(st.none(), TIMES))
        host = draw(st.sampled_from([None, "far"]))
        spans.append(span(name, parent, draw(TIMES), end, kind, superstep=step, host=host))
    names = ["root", *ids]
    edges: list[tuple[Any, ...]] = []
    for _ in range(draw(st.integers(0, 10))):
        one, other = sorted((draw(st.integers(0, count)), draw(st.integers(0, count))))
        if not draw(st.integers(0, 19)):
            one, other = other, one  # a few the wrong way round: circles among them
        dst = "nowhere" if not draw(st.integers(0, 19)) else names[other]
        how = draw(st.sampled_from(list(EdgeKind)))
        if how in (EdgeKind.RETURN, EdgeKind.JOIN) and draw(st.booleans()):
            edges.append((names[other], spans[other].parent_span_id or "root", how))
        elif one != other:
            edges.append((names[one], dst, how, draw(st.sampled_from(list(Provenance)))))
    decodes: list[Decode] = []
    for s in spans:
        if s.kind is SpanKind.DECODE and draw(st.booleans()):
            gaps = draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
            times = tuple(sum(gaps[: k + 1]) for k in range(len(gaps)))
            more = {
                "queue_ns": draw(st.one_of(st.none(), TIMES)),
                "prefill_ns": draw(st.one_of(st.none(), TIMES)),
                "decode_ns": draw(st.one_of(st.none(), TIMES)),
                "token_times_ns": draw(st.sampled_from([None, times])),
                "chunk_times_ns": draw(st.sampled_from([None, times])),
                "token_time_source": draw(st.sampled_from([None, *TimeSource])),
                "output_tokens": draw(st.one_of(st.none(), st.integers(0, 9))),
            }
            decodes.append(decode(s.span_id, s.start_ns + draw(st.integers(-5, 5)), draw(TIMES), **more))
    if draw(st.booleans()) and count > 1:
        spans.append(span(ids[0], "root", draw(TIMES), draw(TIMES)))
    return recorded(spans, edges, decodes)


@settings(max_examples=100, deadline=None)
@given(record=records(), data=st.data())
def test_all_of_the_time_is_found(record: RecordedRun, data: st.DataObject) -> None:
    cut = activities_of(record)
    assert len({a.id for a in cut.activities}) == len(cut.activities)
    try:
        run = analyze_recorded(cut, slo_s=20e-9)
    except CyclicEdges:
        return
    kept: dict[str, Span] = {}
    for s in sorted(record.spans, key=lambda s: (s.start_ns, s.end_ns or 0)):
        kept.setdefault(s.span_id, s)
    root = min((s for s in kept.values() if s.parent_span_id is None), key=lambda s: (s.start_ns, s.span_id))
    latest = max([s.start_ns if s.end_ns is None else s.end_ns for s in kept.values()] + [
        d.done_ns or d.sent_ns for d in record.decodes
    ])  # fmt: skip
    assert run.start_ns == root.start_ns
    assert run.end_ns == max(root.start_ns, latest if root.end_ns is None else root.end_ns)
    assert run.makespan_ns == run.split.total_ns == sum(s.duration_ns for s in run.critical_path)
    assert min(run.split.to_json().values()) >= 0
    assert all(a.end_ns == b.start_ns and a.duration_ns > 0 for a, b in pairwise(run.critical_path))
    assert 0 <= run.barrier_cost_ns <= run.makespan_ns
    assert sum(b.duration_ns for b in run.blame) == run.makespan_ns
    assert {a.span_id for a in cut.activities} == {s.span_id for s in record.spans}
    gaps = cut.gaps_ns()
    for row in run.activities:
        assert row.gap_ns == gaps[row.id]
        assert row.total_float_ns is None or (row.free_float_ns is not None and row.total_float_ns >= 0)
        assert row.total_float_ns is None or row.deadline_slack_ns == row.total_float_ns + 20 - run.makespan_ns
    assert what_if(cut, []).predicted_ns == run.makespan_ns
    for row in run.activities:
        if "/" in row.id:
            assert what_if(cut, [Scale(row.id, 0)]).gain_ns == row.drag_ns
    Profiler().add(cut)
    advise(record)
    assert aggregate([record]).total_ns == run.makespan_ns

    shuffled = RecordedRun(
        record.run,
        data.draw(st.permutations(record.spans)),
        data.draw(st.permutations(record.edges)),
        data.draw(st.permutations(record.decodes)),
        [],
    )
    assert analyze_recorded(shuffled, slo_s=20e-9) == run
