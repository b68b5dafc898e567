"""The definitions, on random graphs, against every path enumerated (P1 to P11 of the design's list)."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from redecode.replay.analysis.critical_path import analyze
from redecode.replay.analysis.model import Activity, RunAnalysis
from tests.replay.analysis.dags import Dag, Truth, dags, edge, moved

cases = settings(max_examples=100, deadline=None)


def by_id(run: RunAnalysis) -> dict[str, object]:
    return {row.id: row for row in run.activities}


@cases
@given(dag=dags())
def test_the_forward_pass_gives_the_times_observed(dag: Dag) -> None:
    truth, run = Truth(dag), analyze(dag.activities, dag.edges)
    finishes = truth.forward()
    for row in run.activities:
        assert row.gap_ns == truth.gap[row.id] >= 0
        assert row.earliest_finish_ns == row.activity.end_ns == finishes[row.id]
        assert row.duration_ns == row.earliest_finish_ns - row.earliest_start_ns == truth.duration[row.id]
        assert row.latest_finish_ns is not None
        assert row.latest_start_ns == row.latest_finish_ns - row.duration_ns
        assert row.total_float_ns == row.latest_finish_ns - row.earliest_finish_ns


@cases
@given(dag=dags())
def test_activities_and_gaps_of_the_path_tile_the_run(dag: Dag) -> None:
    run = analyze(dag.activities, dag.edges)
    path = run.critical_path
    assert run.makespan_ns == run.end_ns - run.start_ns == Truth(dag).longest() == sum(s.duration_ns for s in path)
    assert all(a.end_ns == b.start_ns for a, b in pairwise(path))
    assert all(s.duration_ns > 0 for s in path)
    if path:
        assert (path[0].start_ns, path[-1].end_ns) == (run.start_ns, run.end_ns)
    assert run.split.total_ns == run.makespan_ns
    rows = {row.id: row for row in run.activities}
    assert all(rows[s.activity.id].critical for s in path)
    whole = [s for s in path if not s.gap]
    assert all((s.start_ns, s.end_ns) == (s.activity.start_ns, s.activity.end_ns) for s in whole)


@cases
@given(dag=dags())
def test_floats_are_the_longest_delays_that_move_nothing(dag: Dag) -> None:
    truth, run = Truth(dag), analyze(dag.activities, dag.edges)
    for row in run.activities:
        total, free = row.total_float_ns, row.free_float_ns
        assert total is not None and free is not None
        assert 0 <= free <= total
        assert truth.makespan(longer={row.id: total}) == run.makespan_ns
        assert truth.makespan(longer={row.id: total + 1}) == run.makespan_ns + 1
        later = truth.forward(longer={row.id: free})
        assert {n: f for n, f in later.items() if n != row.id} == {
            a.id: a.end_ns for a in dag.activities if a.id != row.id
        }
        later = truth.forward(longer={row.id: free + 1})
        followed = any(row.id in waits for waits in truth.before.values())
        if followed:
            assert any(later[a.id] > a.end_ns for a in dag.activities if a.id != row.id) or (
                max(later.values()) == run.end_ns + 1
            )
        else:
            assert free == total


@cases
@given(dag=dags(), data=st.data())
def test_drag_is_what_the_run_gains_and_its_curve_is_straight_up_to_it(dag: Dag, data: st.DataObject) -> None:
    truth, run = Truth(dag), analyze(dag.activities, dag.edges)
    for row in run.activities:
        assert row.drag_ns == run.makespan_ns - truth.longest(without=row.id)
        assert row.gap_drag_ns == run.makespan_ns - truth.longest(without_gap=row.id)
        assert row.critical or row.drag_ns == 0
        shorter = data.draw(st.integers(0, row.duration_ns))
        gain = run.makespan_ns - truth.makespan(longer={row.id: -shorter})
        assert gain == min(shorter, row.drag_ns)


@cases
@given(dag=dags(), time=st.integers(1, 60))
def test_deadline_slack_is_total_float_plus_headroom(dag: Dag, time: int) -> None:
    plain = analyze(dag.activities, dag.edges)
    run = analyze(dag.activities, dag.edges, deadline_ns=plain.start_ns + time)
    assert run.headroom_ns == time - run.makespan_ns
    # The definition: the same backward pass with the deadline for a horizon.
    late = Activity("horizon", run.start_ns, max(plain.start_ns + time, run.end_ns), "tool")
    other = analyze([*dag.activities, late], dag.edges)
    for row, horizon in zip(run.activities, (r for r in other.activities if r.id != "horizon"), strict=True):
        assert row.total_float_ns is not None
        assert row.deadline_slack_ns == row.total_float_ns + run.headroom_ns
        if run.headroom_ns >= 0:
            assert row.deadline_slack_ns == horizon.total_float_ns


@cases
@given(dag=dags(), time=st.integers(1, 60), data=st.data())
def test_no_path_is_given_more_than_the_deadline_and_the_longest_all_of_it(
    dag: Dag, time: int, data: st.DataObject
) -> None:
    truth = Truth(dag)
    some = {a.id: data.draw(st.integers(0, 12)) for a in dag.activities if data.draw(st.booleans())}
    gaps = {a.id: data.draw(st.integers(0, 5)) for a in dag.activities if data.draw(st.booleans())}
    run = analyze(dag.activities, dag.edges, deadline_ns=truth.origin + time, profiles=some, gap_profiles=gaps)
    rows = {row.id: row for row in run.activities}
    truth.duration |= some
    truth.gap |= gaps
    longest = truth.longest()
    for path in truth.paths():
        parts = [part for n in path for part in (rows[n].latency_budget_ns, rows[n].gap_budget_ns)]
        given_out = sum(part for part in parts if part is not None)
        assert len(parts) == 2 * len(path) and None not in parts
        assert given_out <= time
        if truth.length(path) == longest > 0:
            assert given_out > time - 2 * len(path)  # each is rounded down by less than 1 ns
    for n, row in rows.items():
        assert row.profile_ns == some.get(n)
        through = max(truth.length(p) for p in truth.paths() if n in p)
        assert row.latency_budget_ns == (time * truth.duration[n] // through if through else 0)
    assert run.budgets_from == ("recorded" if not some else "both" if len(some) < len(rows) else "profiles")


@cases
@given(dag=dags(), time=st.integers(1, 60), data=st.data())
def test_a_missed_deadline_is_somebodys(dag: Dag, time: int, data: st.DataObject) -> None:
    expected = {a.id: data.draw(st.integers(0, 12)) for a in dag.activities}
    truth = Truth(dag)
    run = analyze(dag.activities, dag.edges, deadline_ns=truth.origin + time, profiles=expected)
    burns = [b.burn_ns for b in run.blame]
    assert None not in burns
    spent = sum(b for b in burns if b is not None)
    assert spent >= run.makespan_ns - time
    if run.makespan_ns > time:
        assert max(b for b in burns if b is not None) > 0
    assert burns == sorted(burns, reverse=True)  # type: ignore[type-var]
    assert sum(b.duration_ns for b in run.blame) == run.makespan_ns
    given_out = sum(b.budget_ns or 0 for b in run.blame)
    assert spent == run.makespan_ns - given_out


@cases
@given(dag=dags(), data=st.data())
def test_the_order_of_the_rows_does_not_matter(dag: Dag, data: st.DataObject) -> None:
    activities, edges = data.draw(st.permutations(dag.activities)), data.draw(st.permutations(dag.edges))
    deadline = max(a.end_ns for a in activities) + 1
    assert analyze(activities, edges, deadline_ns=deadline) == analyze(dag.activities, dag.edges, deadline_ns=deadline)


@cases
@given(dag=dags(), by=st.integers(-50, 10**18), factor=st.integers(1, 1_000_000))
def test_shifted_or_in_other_units_it_is_the_same_run(dag: Dag, by: int, factor: int) -> None:
    def told(run: RunAnalysis, times: int = 1) -> list[object]:
        segments = [(s.activity.id, s.gap, s.duration_ns * times) for s in run.critical_path]
        rows = [
            (r.id, *(v * times for v in (r.gap_ns, r.total_float_ns, r.free_float_ns, r.drag_ns, r.gap_drag_ns) if v))
            for r in run.activities
        ]
        return [segments, rows, run.makespan_ns * times, run.barrier_cost_ns * times]

    plain = analyze(dag.activities, dag.edges)
    other = moved(dag, lambda t: t * factor + by)
    assert told(analyze(other.activities, dag.edges)) == told(plain, factor)


@cases
@given(dag=dags(least_gap=0), offset=st.integers(-40, 40), data=st.data())
def test_a_host_whose_clock_is_off_changes_nothing_but_the_gaps_around_it(
    dag: Dag, offset: int, data: st.DataObject
) -> None:
    """A call to another host: all that is there comes between a sending and an answer on the run's own host."""
    caller = data.draw(st.sampled_from(dag.activities))
    there = [
        Activity("there0", caller.end_ns + 2, caller.end_ns + 5, "tool", host="other"),
        Activity("there1", caller.end_ns + 5, caller.end_ns + 9, "tool", host="other"),
    ]
    back = Activity("back", caller.end_ns + 12, caller.end_ns + 20, "code")
    edges = [*dag.edges, edge(caller.id, "there0"), edge("there0", "there1"), edge("there1", "back")]
    start = min(a.start_ns for a in dag.activities)

    def run(off: int) -> RunAnalysis:
        return analyze(
            [*dag.activities, *moved(Dag(there, []), lambda t: t + off).activities, back],
            edges,
            start_ns=start,
            end="back",
        )

    def told(run: RunAnalysis) -> dict[str, tuple[object, ...]]:
        return {r.id: (r.duration_ns, r.total_float_ns, r.free_float_ns, r.drag_ns) for r in run.activities}

    right, off = run(0), run(offset)
    assert off.makespan_ns == right.makespan_ns == sum(s.duration_ns for s in off.critical_path)
    assert told(off) == told(right)
    assert {r.id for r in off.activities if r.gap_ns < 0} <= {"there0", "back"}
    assert any("another host (the run's own → other)" in w for w in off.warnings) == (offset < -2)
    assert any("another host (other → the run's own)" in w for w in off.warnings) == (offset > 3)
    assert not right.warnings


@cases
@given(dag=dags(), data=st.data())
def test_dropping_what_nothing_waits_for_and_is_not_critical_leaves_the_run_as_long(
    dag: Dag, data: st.DataObject
) -> None:
    run = analyze(dag.activities, dag.edges)
    followed = {e.src for e in dag.edges}
    spare = [r.id for r in run.activities if not r.critical and r.id not in followed]
    assume(spare)
    gone = data.draw(st.sampled_from(spare))
    rest = analyze(
        [a for a in dag.activities if a.id != gone], [e for e in dag.edges if e.dst != gone], start_ns=run.start_ns
    )
    assert rest.makespan_ns == run.makespan_ns


@cases
@given(dag=dags())
def test_the_barrier_cost_is_what_waiting_for_data_alone_would_gain(dag: Dag) -> None:
    truth, run = Truth(dag), analyze(dag.activities, dag.edges)
    assert run.data_only_ns == truth.data_only()
    assert run.barrier_cost_ns == run.makespan_ns - truth.data_only() >= 0
    if not any(e.kind == "barrier" for e in dag.edges):
        assert run.barrier_cost_ns == run.split.barrier_wait_ns == 0
