"""A recorded run cut into activities: what becomes of every span and edge; none of the time is lost."""

from __future__ import annotations

from itertools import pairwise

import pytest

from redecode.replay.analysis.activities import activities_of
from redecode.replay.analysis.errors import CyclicEdges, NoActivities
from redecode.replay.analysis.model import RunAnalysis
from redecode.replay.analysis.runs import analyze_recorded
from redecode.tracer import Provenance, RecordedRun, SpanKind, TimeSource
from tests.replay.analysis.recordings import (
    BARRIER,
    CALL,
    DATA,
    JOIN,
    RETRY,
    RETURN,
    STREAM,
    decode,
    recorded,
    span,
)


def analysed(run: RecordedRun) -> RunAnalysis:
    """Its analysis, the parts of which add up."""
    out = analyze_recorded(run)
    root = next(s for s in run.spans if s.parent_span_id is None)
    end = root.end_ns if root.end_ns is not None else max(s.end_ns or s.start_ns for s in run.spans)
    assert out.makespan_ns == end - root.start_ns == sum(s.duration_ns for s in out.critical_path)
    assert out.split.total_ns == out.makespan_ns
    assert all(a.end_ns == b.start_ns for a, b in pairwise(out.critical_path))
    return out


def path(run: RunAnalysis) -> list[tuple[str, str, int, int]]:
    return [("gap" if s.gap else s.kind, s.activity.id, s.start_ns, s.end_ns) for s in run.critical_path]


def test_a_span_is_cut_where_it_calls_and_its_own_code_is_work() -> None:
    run = recorded(
        [span("root", None, 0, 100), span("n", "root", 10, 90, superstep=1), span("a", "n", 15, 40),
         span("b", "n", 50, 80)],
        [("root", "n", CALL), ("n", "a", CALL), ("a", "b", RETURN), ("b", "n", RETURN), ("n", "root", RETURN)],
    )  # fmt: skip
    assert path(analysed(run)) == [
        ("gap", "n/start", 0, 10),
        ("code", "a/before", 10, 15),
        ("tool", "a", 15, 40),
        ("code", "b/before", 40, 50),
        ("tool", "b", 50, 80),
        ("code", "n/end", 80, 90),
        ("gap", "root/end", 90, 100),
    ]
    split = analysed(run).split
    assert (split.code_ns, split.tool_ns, split.framework_ns) == (25, 55, 20)


def test_a_run_that_is_no_graph_is_its_own_code_between_calls() -> None:
    run = recorded([span("root", None, 0, 30), span("a", "root", 5, 20)], [("root", "a", CALL), ("a", "root", RETURN)])
    assert path(analysed(run)) == [("code", "a/before", 0, 5), ("tool", "a", 5, 20), ("code", "root/end", 20, 30)]


def test_a_run_that_called_nothing_is_one_activity() -> None:
    assert path(analysed(recorded([span("root", None, 3, 30)], []))) == [("code", "root", 3, 30)]


def test_branches_side_by_side_wait_for_each_other_only_where_that_was_recorded() -> None:
    """`b` starts just after `a` ended, in a branch of its own: a reader of times would chain them (jaeger-ui#2371)."""
    run = recorded(
        [span("root", None, 0, 50), span("a", "root", 0, 10), span("b", "root", 11, 50)],
        [("root", "a", CALL), ("root", "b", CALL), ("a", "root", JOIN), ("b", "root", JOIN)],
    )
    out = analysed(run)
    assert out.critical_spans == ["root", "b"]
    (row,) = [r for r in out.activities if r.id == "a"]
    assert (row.total_float_ns, row.free_float_ns) == (40, 40)


def test_an_fm_call_is_split_as_its_engine_split_it() -> None:
    call = decode(
        "d", 12, 95, queue_ns=5, prefill_ns=20, decode_ns=40, output_tokens=5, token_times_ns=(30, 40, 50, 60, 70),
        token_time_source=TimeSource.ENGINE,
    )  # fmt: skip
    run = recorded(
        [span("root", None, 0, 100), span("d", "root", 10, 100, SpanKind.DECODE)],
        [("root", "d", CALL), ("d", "root", RETURN)],
        [call],
    )
    out = analysed(run)
    assert path(out)[1:] == [
        ("transport", "d/sending", 10, 17),
        ("queue", "d/queue", 17, 22),
        ("prefill", "d/prefill", 22, 42),
        ("decode", "d/decode", 42, 82),
        ("transport", "d/receiving", 82, 100),
    ]
    assert (out.split.queue_ns, out.split.prefill_ns, out.split.decode_ns, out.split.fm_ns) == (5, 20, 40, 25)
    assert [r.activity.tokens for r in out.activities if r.id == "d/decode"] == [4]


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ({}, [("", 10, 100)]),
        ({"queue_ns": 5, "prefill_ns": 20, "decode_ns": 40},
         [("sending", 10, 30), ("queue", 30, 35), ("prefill", 35, 55), ("decode", 55, 95), ("receiving", 95, 100)]),
        ({"prefill_ns": 0, "decode_ns": 500}, [("decode", 10, 95), ("receiving", 95, 100)]),
        ({"queue_ns": 10**9, "prefill_ns": 60, "decode_ns": 20},
         [("queue", 10, 15), ("prefill", 15, 75), ("decode", 75, 95), ("receiving", 95, 100)]),
        ({"token_times_ns": (30, 50), "token_time_source": TimeSource.ENGINE},
         [("first token", 10, 42), ("decode", 42, 62), ("receiving", 62, 100)]),
        ({"token_times_ns": (30, 50), "token_time_source": TimeSource.CLIENT}, [("", 10, 100)]),
        ({"error": "boom"}, [("", 10, 100)]),
    ],
)  # fmt: skip
def test_parts_of_an_fm_call_tile_it_whatever_the_engine_says(
    more: dict[str, object], parts: list[tuple[str, int, int]]
) -> None:
    run = recorded(
        [span("root", None, 0, 100), span("d", "root", 10, 100, SpanKind.DECODE)],
        [("root", "d", CALL), ("d", "root", RETURN)],
        [decode("d", 12, 95, **more)],
    )
    analysed(run)
    cut = [a for a in activities_of(run).activities if a.span_id == "d"]
    assert [(a.part, a.start_ns, a.end_ns) for a in cut] == parts


def test_a_decode_is_cut_at_the_token_that_launched_a_tool() -> None:
    call = decode("d", 10, 60, chunk_times_ns=(10, 20, 30, 40, 50), token_times_ns=(9, 19, 29, 39, 49))
    run = recorded(
        [span("root", None, 0, 100), span("d", "root", 10, 60, SpanKind.DECODE), span("t", "root", 43, 90)],
        [("root", "d", CALL), ("d", "t", STREAM), ("t", "root", JOIN), ("d", "root", JOIN)],
        [call],
    )
    out = analysed(run)
    assert path(out) == [
        ("code", "d/before", 0, 10),
        ("fm", "d/1", 10, 40),  # the third chunk came at 40, and the tool began at 43
        ("code", "t/before", 40, 43),
        ("tool", "t", 43, 90),
        ("code", "root/end", 90, 100),
    ]
    rest = next(r for r in out.activities if r.id == "d/2")
    assert (rest.activity.start_ns, rest.activity.end_ns, rest.total_float_ns) == (40, 60, 30)
    assert [r.activity.tokens for r in out.activities if r.activity.span_id == "d"] == [2, 2]
    assert next(s.edge for s in out.critical_path if s.activity.id == "t/before") is STREAM


def test_a_tool_launched_before_anything_came_was_launched_with_the_call() -> None:
    run = recorded(
        [span("root", None, 0, 100), span("d", "root", 10, 60, SpanKind.DECODE), span("t", "root", 13, 90)],
        [("root", "d", CALL), ("d", "t", STREAM), ("t", "root", JOIN), ("d", "root", JOIN)],
        [decode("d", 10, 60, chunk_times_ns=(10, 20))],
    )
    assert [step[1] for step in path(analysed(run))] == ["d/before", "t/before", "t", "root/end"]


def test_the_wait_at_a_barrier_is_seen_and_so_is_what_it_costs() -> None:
    """`fast` had what `next` needs at 20; LangGraph began it when `slow` had ended too, at 80."""
    run = recorded(
        [span("root", None, 0, 112), span("slow", "root", 0, 80, superstep=1),
         span("fast", "root", 0, 20, superstep=1), span("next", "root", 82, 110, superstep=2)],
        [("root", "slow", CALL), ("root", "fast", CALL), ("slow", "next", BARRIER), ("fast", "next", BARRIER),
         ("fast", "next", DATA), ("next", "root", RETURN)],
    )  # fmt: skip
    out = analysed(run)
    assert out.critical_spans == ["slow", "next"]
    assert (out.split.barrier_wait_ns, out.split.code_ns, out.split.framework_ns) == (60, 48, 4)
    # Without the barrier: fast 20, gap 2, next 28, and the end waits for slow (80) and next (50), then its own gap 2.
    assert (out.data_only_ns, out.barrier_cost_ns) == (82, 30)
    declared = [*run.edges, *recorded([], [("slow", "next", DATA, Provenance.DECLARED)]).edges]
    needed = analysed(RecordedRun(run.run, run.spans, declared, [], []))
    assert (needed.barrier_cost_ns, needed.split.barrier_wait_ns) == (0, 0)  # it may have read what slow wrote


def test_where_the_data_is_not_known_a_barrier_costs_nothing() -> None:
    run = recorded(
        [span("root", None, 0, 100), span("a", "root", 0, 50, superstep=1), span("b", "root", 50, 100, superstep=2)],
        [("root", "a", CALL), ("a", "b", BARRIER), ("b", "root", RETURN)],
    )
    assert analysed(run).barrier_cost_ns == 0


def test_a_failed_attempt_and_the_wait_before_the_next_are_on_the_path() -> None:
    run = recorded(
        [span("root", None, 0, 100), span("a", "root", 10, 30, superstep=1, status="error"),
         span("b", "root", 70, 95, superstep=1)],
        [("root", "a", CALL), ("a", "b", RETRY), ("b", "root", RETURN)],
    )  # fmt: skip
    out = analysed(run)
    assert [s.edge for s in out.critical_path if s.gap and s.activity.id == "b"] == [RETRY]
    assert [r.activity.status for r in out.activities if r.id == "a"] == ["error"]
    assert out.split.framework_ns == 10 + 40 + 5


def test_work_nobody_waited_for_never_holds_the_run_up_even_if_it_ends_later() -> None:
    run = recorded(
        [span("root", None, 0, 100), span("a", "root", 10, 90), span("spec", "root", 20, 500),
         span("below", "spec", 30, 400)],
        [("root", "a", CALL), ("root", "spec", CALL), ("spec", "below", CALL), ("below", "spec", RETURN),
         ("a", "root", RETURN)],
    )  # fmt: skip
    out = analyze_recorded(run, slo_s=1e-7)
    assert (out.makespan_ns, out.critical_spans) == (100, ["root", "a"])
    rows = {r.id: r for r in out.activities}
    assert rows["below"].free_float_ns == 0  # what it was followed by would move
    for lost in ("below", "spec/end"):
        row = rows[lost]
        assert (row.total_float_ns, row.latest_start_ns, row.deadline_slack_ns) == (None, None, None)
        assert (row.critical, row.drag_ns, row.latency_budget_ns, row.burn_ns) == (False, 0, None, None)
    assert rows["spec/end"].free_float_ns is None


def test_an_open_run_is_analysed_up_to_the_last_known_time() -> None:
    run = recorded(
        [span("root", None, 0, None), span("a", "root", 10, 40, superstep=1), span("b", "root", 45, None, superstep=2),
         span("t", "b", 50, 70), span("u", "b", 72, None)],
        [("root", "a", CALL), ("a", "b", BARRIER), ("b", "t", CALL), ("t", "u", RETURN)],
    )  # fmt: skip
    out = analysed(run)
    assert (out.status, out.makespan_ns) == ("open", 72)
    assert [s[1] for s in path(out)] == ["a", "a", "b/start", "t/before", "t", "u/before"]
    more = RecordedRun(run.run, [*run.spans, span("late", "a", 60, 90)], run.edges, [], [])
    assert [s[1] for s in path(analysed(more))][-1] == "u"  # open until then
    assert [r.activity.status for r in out.activities if r.id == "u"] == ["open"]
    assert out.edges_by_time == 0


def test_a_run_of_which_only_the_beginning_is_known() -> None:
    out = analysed(recorded([span("root", None, 7, None)], []))
    assert (out.status, out.makespan_ns, path(out)) == ("open", 0, [])


def test_a_child_that_outlives_its_parent_is_waited_for_by_who_waited() -> None:
    run = recorded(
        [span("root", None, 0, 100), span("p", "root", 0, 20, SpanKind.NODE), span("c", "p", 5, 60),
         span("z", "root", 60, 100)],
        [("root", "p", CALL), ("p", "c", CALL), ("c", "z", JOIN), ("p", "z", RETURN), ("z", "root", RETURN)],
    )  # fmt: skip
    assert [s[1] for s in path(analysed(run))] == ["c/before", "c", "z"]


def test_a_span_whose_parent_is_missing_and_a_second_root_are_the_runs_own_and_that_is_a_guess() -> None:
    run = recorded(
        [
            span("root", None, 0, 100),
            span("a", "gone", 10, 90),
            span("other", None, 5, 20),
            span("late", "gone", 50, 300),
        ],
        [("gone", "a", CALL)],
    )
    out = analysed(run)
    assert path(out) == [("code", "a/before", 0, 10), ("tool", "a", 10, 90), ("code", "root/end", 90, 100)]
    assert out.edges_by_time == 5  # three beginnings, and two ends that the run's end may have waited for
    assert out.warnings == (
        "3 spans have no parent that was recorded and are taken to be the run's",
        "1 edges name spans that were not recorded and are left out",
    )


def test_a_span_id_twice_counts_once() -> None:
    out = analysed(recorded([span("root", None, 0, 10), span("a", "root", 2, 8), span("a", "root", 3, 9)], []))
    assert [s[1] for s in path(out)] == ["root/end"]
    assert out.warnings == ("1 spans have the id of another one and are left out",)


def test_back_to_back_siblings_and_spans_that_take_no_time_are_all_on_the_path() -> None:
    run = recorded(
        [span("root", None, 0, 20), span("a", "root", 0, 10), span("zero", "root", 10, 10), span("b", "root", 10, 20)],
        [("root", "a", CALL), ("a", "zero", RETURN), ("zero", "b", RETURN), ("b", "root", RETURN)],
    )
    out = analysed(run)
    assert [s[1] for s in path(out)] == ["a", "b"]
    assert {r.id for r in out.activities if r.critical} == {"root/start", "a", "zero", "b", "root/end"}
    assert [r.drag_ns for r in out.activities if r.id == "zero"] == [0]


def test_a_span_that_ends_before_it_starts_takes_no_time() -> None:
    out = analysed(recorded([span("root", None, 0, 20), span("a", "root", 9, 4)], [("root", "a", CALL)]))
    assert out.warnings == ("1 spans end before they start and are taken to take no time",)


def test_a_cycle_is_named() -> None:
    run = recorded(
        [span("root", None, 0, 9), span("a", "root", 1, 2), span("b", "root", 3, 4)],
        [("a", "b", DATA), ("b", "a", DATA), ("root", "a", CALL)],
    )
    with pytest.raises(CyclicEdges, match="cycle through a, b"):
        analyze_recorded(run)


def test_a_run_without_spans_cannot_be_analysed() -> None:
    with pytest.raises(NoActivities, match="run r"):
        activities_of(recorded([], []))


def test_times_of_another_host_are_never_moved_and_what_cannot_be_is_said() -> None:
    run = recorded(
        [span("root", None, 100, 200), span("far", "root", 40, 90, host="gpu1"), span("on", "root", 120, 190)],
        [("root", "far", CALL), ("far", "on", RETURN), ("on", "root", RETURN)],
    )
    out = analysed(run)
    assert [(r.activity.start_ns, r.activity.end_ns) for r in out.activities if r.id == "far"] == [(40, 90)]
    assert out.warnings == (
        "run/far began 60 ns before run/root start, which it waited for, had finished, "
        "on another host (the run's own → gpu1)",
    )


def test_a_run_without_an_slo_has_no_budgets_and_one_with_an_slo_has() -> None:
    spans, edges = [span("root", None, 0, 100), span("a", "root", 20, 80)], [("root", "a", CALL), ("a", "root", RETURN)]
    plain = analyze_recorded(recorded(spans, edges))
    assert (plain.deadline_ns, plain.headroom_ns, plain.budgets_from) == (None, None, None)
    assert all(r.latency_budget_ns is None and r.deadline_slack_ns is None for r in plain.activities)
    met = analyze_recorded(recorded(spans, edges, slo_s=150e-9))
    assert (met.deadline_ns, met.headroom_ns, met.budgets_from) == (150, 50, "recorded")
    assert {r.id: r.latency_budget_ns for r in met.activities} == {
        "root/start": 0, "a/before": 30, "a": 90, "root/end": 30,
    }  # fmt: skip
    missed = analyze_recorded(recorded(spans, edges, slo_s=150e-9), slo_s=50e-9)
    assert missed.headroom_ns == -50
    assert [(b.activity.id, b.burn_ns) for b in missed.blame] == [("a", 30), ("a/before", 10), ("root/end", 10)]
