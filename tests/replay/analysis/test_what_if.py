"""What-ifs against the definitions: the graph as it was, gone through again with other durations."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.replay.analysis.activities import RunActivities, activities_of
from redecode.replay.analysis.changes import CacheHit, Change, FewerTokens, OffBarrier, Remove, Scale, Shorten
from redecode.replay.analysis.critical_path import analyze
from redecode.replay.analysis.errors import BadChange
from redecode.replay.analysis.what_if import what_if
from redecode.tracer import Provenance, RecordedRun, SpanKind, TimeSource
from tests.replay.analysis.dags import Dag, Truth, dags
from tests.replay.analysis.recordings import BARRIER, CALL, DATA, RETURN, decode, recorded, span

RUN = recorded([], []).run


def as_run(dag: Dag) -> RunActivities:
    """A graph of which nothing is known but its activities; the run ends with the last."""
    start = min(a.start_ns for a in dag.activities)
    end = max(dag.activities, key=lambda a: (a.end_ns, a.start_ns, a.id)).id
    return RunActivities(RUN, tuple(dag.activities), tuple(dag.edges), start, end, "ok")


@settings(max_examples=100, deadline=None)
@given(dag=dags(), data=st.data())
def test_several_changes_at_once_are_one_new_forward_pass(dag: Dag, data: st.DataObject) -> None:
    cut, truth = as_run(dag), Truth(dag)
    changes: list[Change] = []
    other: dict[str, int] = {}
    for a in dag.activities:
        by = data.draw(st.integers(0, 15))
        factor = data.draw(st.sampled_from([0.0, 0.5, 1.0, 3.0]))
        match data.draw(st.sampled_from(["keep", "shorten", "scale", "remove", "cache"])):
            case "shorten":
                changes.append(Shorten(a.id, by))
                other[a.id] = -min(by, a.duration_ns)
            case "scale":
                changes.append(Scale(a.id, factor))
                other[a.id] = round(a.duration_ns * factor) - a.duration_ns
            case "remove":
                changes.append(Remove(a.id))
                other[a.id] = -a.duration_ns - truth.gap[a.id]
            case "cache":
                changes.append(CacheHit(a.id, 2))
                other[a.id] = 2 - a.duration_ns
    found = what_if(cut, changes)
    assert found.predicted_ns == truth.forward(longer=other)[cut.end] - truth.origin
    assert found.recorded_ns == analyze(cut.activities, cut.edges).makespan_ns
    assert found.gain_ns == found.recorded_ns - found.predicted_ns
    assert len(found.relied_on) == len(found.path) - 1
    assert len(found.changes) == len(changes)


@settings(max_examples=50, deadline=None)
@given(dag=dags())
def test_taking_an_activity_away_gains_its_drag(dag: Dag) -> None:
    cut = as_run(dag)
    run = analyze(cut.activities, cut.edges, end=cut.end, start_ns=cut.start_ns)
    for row in run.activities:
        assert what_if(cut, [Scale(row.id, 0)]).gain_ns == row.drag_ns
        assert what_if(cut, [Shorten(row.id, 3)]).gain_ns == min(3, row.drag_ns)


# A run: superstep 1 is `slow` (a tool in it) beside `fast` (an FM call in it); `next` needs what `fast` wrote.
SPANS = [
    span("root", None, 0, 300),
    span("slow", "root", 10, 210, superstep=1),
    span("lookup", "slow", 20, 200),
    span("fast", "root", 10, 110, superstep=1),
    span("d", "fast", 20, 100, SpanKind.DECODE),
    span("next", "root", 220, 290, superstep=2),
]
EDGES = [
    ("root", "slow", CALL), ("root", "fast", CALL), ("slow", "lookup", CALL), ("lookup", "slow", RETURN),
    ("fast", "d", CALL), ("d", "fast", RETURN), ("slow", "next", BARRIER), ("fast", "next", BARRIER),
    ("fast", "next", DATA), ("next", "root", RETURN),
]  # fmt: skip
CALLED = decode(
    "d", 20, 100, queue_ns=10, prefill_ns=20, decode_ns=50, output_tokens=6,
    token_times_ns=(30, 40, 50, 60, 70, 80), token_time_source=TimeSource.ENGINE,
)  # fmt: skip


def run_of(**more: object) -> RecordedRun:
    return recorded(SPANS, EDGES, [CALLED], **more)  # type: ignore[arg-type]


CUT = activities_of(run_of())


@pytest.mark.parametrize(
    ("change", "predicted"),
    [
        (Scale("lookup", 0.5), 300 - 90),
        (Scale("run/lookup", 0.0), 300 - 100),  # then `fast` is what is waited for
        (Scale("lookup", 2), 300 + 180),
        (Shorten("lookup", 30), 270),
        (Shorten("lookup", 10**9), 200),
        (Scale("slow", 0.5), 300 - 100),  # its own code, too
        (Scale("fast", 0.0), 300),
        (Scale("root", 0.5), 150 + 0),  # all but the FM call: 5 + 5 + 80 + 5 = 95 < 5 + 100
        (Remove("slow"), 200),
        (Remove("next"), 220 - 0),
        (CacheHit("lookup", 20), 200),
        (CacheHit("slow", 150), 300 - 50),
        (OffBarrier("slow"), 220),  # next: 110 + 10 + 70, and 10 to the end: 200; slow: 210 + 10
        (OffBarrier("next"), 220),
        (FewerTokens("d", 2), 300),
        (FewerTokens("m", 5), 300),
    ],
    ids=str,
)  # fmt: skip
def test_changes_of_a_recorded_run(change: Change, predicted: int) -> None:
    found = what_if(CUT, [change])
    assert found.tier == "algebraic (ms)"
    assert found.predicted_ns == predicted
    assert found.changes == (str(change),)


def test_fewer_tokens_are_so_many_times_the_time_per_token() -> None:
    found = what_if(CUT, [Scale("lookup", 0.0), FewerTokens("d", 2)])
    assert found.predicted_ns == 200 - 2 * 10
    assert what_if(CUT, [FewerTokens("m", 5), Scale("slow", 0.0)]).predicted_ns == 200 - 5 * 10


def test_the_answer_says_what_it_relies_on() -> None:
    found = what_if(CUT, [OffBarrier("slow")])
    assert [e.provenance for e in found.relied_on][-1] is Provenance.DECLARED
    assert any("declared" in note for note in found.notes) and any("FM calls keep" in note for note in found.notes)
    plain = json.loads(json.dumps(found.to_json()))
    assert plain["relied_on"]["join declared"] == 1 and plain["gain_ns"] == 80
    guessed = [(*e, Provenance.TIME) for e in EDGES]
    told = what_if(activities_of(recorded(SPANS, guessed)), [Scale("lookup", 0.5)])
    assert any("guessed from times" in note for note in told.notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Scale("lokup", 0.5), "no step 'lokup' in run r; the nearest: lookup"),
        (Scale("lookup", -1), "from 0 on"),
        (Scale("lookup", float("nan")), "from 0 on"),
        (Shorten("slow", 5), "has steps of its own"),
        (FewerTokens("lookup", 1), "time per output token is not known"),
        (FewerTokens("d", 6), "it has 5 after its first"),
        (OffBarrier("lookup"), "no barrier"),
        (FewerTokens("d/decode", 1), "name the step"),
    ],
    ids=str,
)
def test_a_change_that_means_nothing_is_refused_with_the_reason(change: Change, words: str) -> None:
    with pytest.raises(BadChange, match=words):
        what_if(CUT, [change])
