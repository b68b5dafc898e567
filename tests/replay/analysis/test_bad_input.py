"""What is no graph of activities is refused by name; docs/critical-path.md has the table."""

from __future__ import annotations

import re
from typing import Any

import pytest

from redecode.replay import ReplayError
from redecode.replay.analysis import errors
from redecode.replay.analysis.critical_path import analyze
from redecode.replay.analysis.model import Activity
from redecode.tracer import Edge, EdgeKind, Provenance
from tests.replay.analysis.dags import edge

A, B, C = Activity("a", 0, 5, "tool"), Activity("b", 5, 9, "tool"), Activity("c", 9, 12, "tool")


@pytest.mark.parametrize(
    ("activities", "edges", "options", "error", "words"),
    [
        ([], [], {}, errors.NoActivities, "no activities"),
        ([A, B, Activity("a", 7, 8, "tool")], [], {}, errors.DuplicateActivity, "'a' is there twice"),
        ([A, B], [edge("a", "x")], {}, errors.UnknownActivity, "'a' → 'x' names activity 'x'"),
        ([A, B], [edge("x", "a")], {}, errors.UnknownActivity, "names activity 'x'"),
        ([A], [], {"end": "x"}, errors.UnknownActivity, "'x'"),
        ([A], [], {"deadline_ns": 9, "profiles": {"x": 3}}, errors.UnknownActivity, "profile names activity 'x'"),
        ([A, Activity("b", 5, 2, "tool")], [], {}, errors.BackwardsActivity, "'b' ends 3 ns before it starts"),
        ([A], [edge("a", "a")], {}, errors.CyclicEdges, "cycle through a$"),
        ([C, B, A], [edge("a", "b"), edge("b", "a"), edge("b", "c")], {}, errors.CyclicEdges, "cycle through a, b$"),
        ([A, B, C], [edge("a", "b"), edge("b", "c"), edge("c", "a")], {}, errors.CyclicEdges, "cycle through a"),
        ([B, C], [], {"deadline_ns": 5}, errors.BadDeadline, "5 is not after the run's start 5"),
    ],
)  # fmt: skip
def test_bad_input_is_a_typed_error_that_names_it(
    activities: list[Activity], edges: list[Edge], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        analyze(activities, edges, **options)
    assert isinstance(caught.value, ReplayError)
    assert re.search(words, str(caught.value)), str(caught.value)


def test_activities_that_wait_for_nothing_began_late_after_the_run_did() -> None:
    out = analyze([A, C], [])
    assert [(s.gap, s.start_ns, s.end_ns) for s in out.critical_path] == [(True, 0, 9), (False, 9, 12)]
    assert out.activities[0].total_float_ns == 7


def test_an_edge_twice_is_one_edge() -> None:
    twice = analyze([A, B], [edge("a", "b"), edge("a", "b"), edge("a", "b", EdgeKind.DATA)])
    once = analyze([A, B], [edge("a", "b", EdgeKind.DATA)])
    assert twice.activities == once.activities


def test_edges_guessed_from_times_are_counted() -> None:
    out = analyze([A, B, C], [edge("a", "b", provenance=Provenance.TIME), edge("b", "c")])
    assert out.edges_by_time == 1
    assert [s.provenance for s in out.critical_path] == [None, Provenance.TIME, Provenance.RECORDED]


def test_of_equal_branches_the_last_by_name_is_the_path_and_neither_has_drag() -> None:
    one, other = Activity("x", 0, 5, "tool"), Activity("y", 0, 5, "tool")
    out = analyze([other, one, B], [edge("x", "b"), edge("y", "b")])
    assert [s.activity.id for s in out.critical_path] == ["y", "b"]
    rows = {r.id: r for r in out.activities}
    assert rows["x"].critical and rows["y"].critical
    assert (rows["x"].drag_ns, rows["y"].drag_ns, rows["b"].drag_ns) == (0, 0, 4)


def test_an_edge_that_was_not_kept_is_a_negative_gap_and_said_so() -> None:
    out = analyze([A, Activity("b", 3, 9, "tool", host="h")], [edge("a", "b")])
    assert [r.gap_ns for r in out.activities] == [0, -2]
    assert [(s.activity.id, s.start_ns, s.end_ns) for s in out.critical_path] == [("a", 0, 3), ("b", 3, 9)]
    assert out.warnings == (
        "b began 2 ns before a, which it waited for, had finished, on another host (the run's own → h)",
    )


def test_a_person_is_waited_for_outside_the_deadline_unless_asked_to_count() -> None:
    work = [Activity("a", 0, 10, "tool"), Activity("p", 10, 1000, "person"), Activity("b", 1000, 1020, "decode")]
    edges = [edge("a", "p"), edge("p", "b")]
    out = analyze(work, edges, deadline_ns=40)
    assert (out.headroom_ns, out.person_ns, out.split.person_ns, out.makespan_ns) == (10, 990, 990, 1020)
    assert [r.latency_budget_ns for r in out.activities] == [13, None, 26]
    assert [r.deadline_slack_ns for r in out.activities] == [10, 10, 10]
    counted = analyze(work, edges, deadline_ns=40, count_person=True)
    assert counted.headroom_ns == -980
    assert [r.latency_budget_ns for r in counted.activities] == [0, 38, 0]


def test_to_json_is_plain_data_and_whole() -> None:
    import json

    out = analyze([A, B], [edge("a", "b")], deadline_ns=20, profiles={"a": 4})
    plain = json.loads(json.dumps(out.to_json()))
    assert plain["makespan_ns"] == 9 and plain["critical_spans"] == ["a", "b"]
    assert (
        plain["activities"][0] | {"kind": "tool", "burn_ns": -5, "profile_ns": 4, "critical": True}
        == (plain["activities"][0])
    )
    assert [b["activity"] for b in plain["blame"]] == ["a", "b"] or len(plain["blame"]) == 2
    assert plain["no_profile"] == ["b"] and plain["budgets_from"] == "both"
