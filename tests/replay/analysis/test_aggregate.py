"""Many runs together: every number against the runs it adds up."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from redecode.replay.analysis.aggregate import Aggregate, aggregate, aggregate_stored
from redecode.replay.analysis.model import ActivityKind
from redecode.replay.analysis.profiles import Quantiles
from redecode.replay.analysis.runs import analyze_recorded, analyze_run
from redecode.tracer import RecordedRun, Store
from tests.replay.analysis.recordings import BARRIER, CALL, DATA, JOIN, RETURN, recorded, span


def one(tool: int, other: int, *, slo_s: float | None = None) -> RecordedRun:
    """Two tools side by side, and the end of both."""
    end = 10 + max(tool, other) + 10
    return recorded(
        [span("root", None, 0, end), span("t", "root", 10, 10 + tool), span("o", "root", 10, 10 + other)],
        [("root", "t", CALL), ("root", "o", CALL), ("t", "root", JOIN), ("o", "root", JOIN)],
        slo_s=slo_s,
    )


def by_key(found: Aggregate) -> dict[str, object]:
    return {s.step_key: s for s in found.steps}


def test_how_often_and_how_long_a_step_is_on_the_path() -> None:
    circle = one(10, 10)
    circle.edges.extend(recorded([], [("t", "o", DATA), ("o", "t", DATA)]).edges)
    runs = [one(100, 40), one(50, 90), one(70, 30), recorded([], []), circle]
    found = aggregate(runs)
    assert (found.runs, found.left_out, found.open, found.by_time, found.with_slo) == (3, 2, 0, 0, 0)
    assert found.total_ns == found.split.total_ns == 120 + 110 + 90
    assert found.latency == Quantiles.of([120, 110, 90])
    steps = {s.step_key: s for s in found.steps}
    tool = steps["run/t"]
    assert (tool.kind, tool.runs, tool.on_path, tool.path_ns) == (ActivityKind.TOOL, 3, 2, 170)
    assert tool.path_share == 170 / 320
    assert tool.duration == Quantiles.of([100, 50, 70])
    assert tool.total_float == Quantiles.of([0, 40, 0])
    assert tool.drag_ns == 60 + 0 + 40  # then the other would be waited for
    assert tool.burn is None
    assert [s.step_key for s in found.steps] == ["run/t", "run/o", "run/root"]
    assert [s.step_key for s in found.gains] == ["run/t", "run/root", "run/o"]
    assert steps["run/root"].path_ns == 20 * 3


def test_where_the_budget_burns_and_who_missed() -> None:
    runs = [one(100, 40, slo_s=100e-9), one(50, 40, slo_s=100e-9), one(70, 60)]
    found = aggregate(runs)
    assert (found.with_slo, found.missed) == (2, 1)
    burns = []
    for run in runs[:2]:
        burns.append(sum(r.burn_ns or 0 for r in analyze_recorded(run).activities if r.activity.step_key == "run/t"))
    (tool,) = [s for s in found.steps if s.step_key == "run/t"]
    assert tool.burn == Quantiles.of(burns)
    assert aggregate(runs, slo_s=1e-3).missed == 0
    plain = json.loads(json.dumps(found.to_json()))
    assert plain["steps"][0]["burn"]["n"] == 2 and plain["latency"]["n"] == 3
    assert plain["gains"][0]["mean_gain_ns"] == plain["gains"][0]["gain_ns"] // 3


def test_what_barriers_cost_all_runs_together() -> None:
    held = recorded(
        [span("root", None, 0, 112), span("slow", "root", 0, 80, superstep=1),
         span("fast", "root", 0, 20, superstep=1), span("next", "root", 82, 110, superstep=2)],
        [("root", "slow", CALL), ("root", "fast", CALL), ("slow", "next", BARRIER), ("fast", "next", BARRIER),
         ("fast", "next", DATA), ("next", "root", RETURN)],
    )  # fmt: skip
    found = aggregate([held, held, one(10, 10)])
    assert (found.barrier_cost_ns, found.split.barrier_wait_ns) == (60, 120)
    assert found.barrier_cost == Quantiles.of([30, 30, 0])


def test_open_runs_and_guessed_edges_are_counted() -> None:
    unended = recorded([span("root", None, 0, None), span("a", "root", 5, 9)], [("root", "a", CALL)])
    orphan = recorded([span("root", None, 0, 10), span("a", "gone", 5, 9)], [])
    found = aggregate([unended, orphan])
    assert (found.open, found.by_time) == (1, 1)


def test_no_runs_at_all() -> None:
    found = aggregate([])
    assert (found.runs, found.latency, found.steps, found.total_ns) == (0, None, (), 0)
    assert json.dumps(found.to_json())


def test_stored_runs_add_up(tmp_path: Path) -> None:
    recordings = Path(str(files("redecode.agents"))) / "recordings"
    store = Store(tmp_path / "store")
    name = json.loads((recordings / "demo.json").read_text())["journal"]
    shutil.copy(recordings / "demo.journal", store.spool / name)
    runs = [analyze_run(store, r.run_id) for r in store.runs()]
    found = aggregate_stored(store)
    assert found.runs == len(runs)
    assert found.total_ns == sum(r.makespan_ns for r in runs) == found.split.total_ns
    assert found.split.prefill_ns == sum(r.split.prefill_ns for r in runs)
    gaps = sum(s.duration_ns for r in runs for s in r.critical_path if s.gap)
    assert sum(s.path_ns for s in found.steps) == found.total_ns - gaps
    assert sum(s.path_share for s in found.steps) == pytest.approx(1 - gaps / found.total_ns)
    assert sum(s.drag_ns for s in found.steps) == sum(row.drag_ns for r in runs for row in r.activities)
    limited = aggregate_stored(store, limit=2)
    assert limited.latency == Quantiles.of([r.makespan_ns for r in runs[:2]])
