"""Whether runs meet their SLO, without a browser."""

from __future__ import annotations

from pathlib import Path

from redecode.tracer import Store
from tests.dashboards.conftest import STEPS, App


def metric(at, label: str) -> str:  # type: ignore[no-untyped-def]
    return next(str(m.value) for m in at.metric if m.label == label)


def test_without_an_slo_it_says_how_to_have_one(open_page: App, filled: Path) -> None:
    at = open_page(filled, "slo")
    assert "--slo" in at.info[0].value


def test_recorded_runs_are_judged_and_replays_are_not(open_page: App, filled: Path) -> None:
    took = [r.duration_s or 0.0 for r in Store(filled).runs() if r.source_run_id is None]
    target = sorted(took)[len(took) // 2]
    at = open_page(filled, "slo", slo_target=str(target))
    missed = sum(s > target for s in took)
    assert metric(at, "Missed") == f"{missed} of {len(took)}"
    allowed = len(took) * 0.05
    assert metric(at, "Error budget spent") == f"{missed / allowed:.0%}"


def test_the_step_that_burns_most_stands_first(open_page: App, filled: Path) -> None:
    at = open_page(filled, "slo", slo_target="0.05", of="brancher")
    steps = at.dataframe[0].value
    assert steps["step"].iloc[0] == "run/slow"
    assert steps["burn p50"].iloc[0] == "+21.0 ms"
    assert metric(at, "Missed") == "1 of 1"
    assert Store(filled).find(STEPS) == STEPS


def test_an_objective_that_allows_it_is_met(open_page: App, filled: Path) -> None:
    at = open_page(filled, "slo", slo_target="1000000", objective="100")
    assert metric(at, "SLO met") == "100 %"
    assert metric(at, "Error budget spent") == "–"
