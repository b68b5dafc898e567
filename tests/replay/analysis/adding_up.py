"""What holds of the analysis of every run that we recorded."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from redecode.replay.analysis.activities import activities_of
from redecode.replay.analysis.model import Activity
from redecode.replay.analysis.runs import analyze_recorded
from redecode.tracer import RecordedRun


def adds_up(recorded: RecordedRun) -> None:
    """What holds of every run recorded by us."""
    run, cut = recorded.run, activities_of(recorded)
    out = analyze_recorded(cut, slo_s=0.001)
    assert run.ended_ns is not None
    assert out.makespan_ns == run.ended_ns - run.started_ns
    assert out.makespan_ns == sum(s.duration_ns for s in out.critical_path) == out.split.total_ns
    assert sum(b.duration_ns for b in out.blame) == out.makespan_ns
    assert 0 <= out.barrier_cost_ns < out.makespan_ns
    assert out.edges_by_time == 0
    assert out.warnings == ()
    keys = Counter(a.profile_key for a in cut.activities)
    assert max(keys.values()) == 1, keys
    assert {a.span_id for a in cut.activities} == {s.span_id for s in recorded.spans}
    for row in out.activities:
        assert row.gap_ns >= 0
        total, free = row.total_float_ns, row.free_float_ns
        assert total is not None and free is not None  # these graphs leave nothing behind
        assert 0 <= free <= total <= out.makespan_ns
        assert row.deadline_slack_ns == total + 1_000_000 - out.makespan_ns
        assert row.critical or (row.drag_ns, row.gap_drag_ns) == (0, 0)
    leaves = {s.span_id for s in recorded.spans} - {s.parent_span_id for s in recorded.spans}
    of: dict[str, list[Activity]] = {}
    for a in cut.activities:
        of.setdefault(a.span_id, []).append(a)
    for span in recorded.spans:
        if span.span_id in leaves:
            parts = [a for a in of[span.span_id] if not a.part.startswith("start")]
            assert (parts[0].start_ns, parts[-1].end_ns) == (span.start_ns, span.end_ns)
            assert all(a.end_ns == b.start_ns for a, b in pairwise(parts))
