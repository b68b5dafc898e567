"""The Placement page: plans that `redecode place` keeps, and the router's decisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.dashboards.menu import PLACEMENT, shown
from redecode.dashboards.planned import decisions_of, plans_in
from redecode.dashboards.tuned import CannotRead
from redecode.replay.simulator.catalogue import keep
from redecode.tracer import Store
from tests.dashboards.conftest import App
from tests.dashboards.studies import planned
from tests.replay.closed_loop.test_engine_replay import record, run_of
from tests.replay.simulator.made import made_profile


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A store in which `redecode place` has planned, and what it printed."""
    store = tmp_path_factory.mktemp("placed") / "store"
    record(store, [run_of(n, calls=3, wait_ms=40) for n in range(2)])
    keep(store, made_profile())
    asked = ["--slo", "1s@p90", "--load", "20rps", "--cost", "machine=3", "--seeds", "2", "--runs", "50"]
    done = CliRunner().invoke(app, ["place", *asked, "--name", "twenty", "--json", "--store", str(store)])
    assert done.exit_code == 0, done.output
    refused = ["--slo", "1ms@p90", "--load", "20rps", "--name", "too-tight", "--seeds", "2", "--runs", "50"]
    assert CliRunner().invoke(app, ["place", *refused, "--store", str(store)]).exit_code == 1
    return store, json.loads(done.stdout)


def metric(at: Any, label: str) -> str:
    return next(str(m.value) for m in at.metric if m.label == label)


def test_a_plan_is_kept_as_it_was_printed(placed: tuple[Path, dict[str, Any]]) -> None:
    store, printed = placed
    kept = json.loads((store / "plans" / "twenty.json").read_text())
    assert {k: v for k, v in kept.items() if k in printed} == printed
    assert kept["asked"]["slos"] == {"": "1s@p90"}


def test_the_page_tells_the_plan_with_its_interval_and_what_breaks_it(
    open_page: App, placed: tuple[Path, dict[str, Any]]
) -> None:
    store, printed = placed
    at = open_page(store, "placement", plan="twenty")
    assert metric(at, "Replicas") == str(sum(r["replicas"] for r in printed["replicas"]))
    assert metric(at, "USD an hour") == f"{printed['usd_per_hour']:.2f}"
    table = next(d.value for d in at.dataframe if "95 %" in d.value)
    low = printed["classes"][0]["low"]
    assert f"{low * 100:.1f}" in table["95 %"][0] or low == 1.0
    told = "\n".join(str(m.value) for m in at.markdown)
    assert "What would break it" in told
    assert "runs a second" in told


def test_loads_of_the_curve_begin_at_what_was_asked_for(placed: tuple[Path, dict[str, Any]]) -> None:
    curve = placed[1]["curve"]
    loads = [at["per_s"] for at in curve]
    assert loads == sorted(loads)
    assert loads[0] == 20.0
    assert len(loads) > 1
    assert curve[0]["met"]
    assert all(at["low"] <= at["attained"] <= at["high"] for at in curve)
    if (breaks := placed[1]["breaks"])["per_s"] is not None:
        assert min(at["per_s"] for at in curve if not at["met"]) == pytest.approx(breaks["per_s"])


def test_each_decision_has_its_reason_and_the_sum_that_it_was_made_by(
    open_page: App, placed: tuple[Path, dict[str, Any]]
) -> None:
    store, _ = placed
    kept = next(k for k in plans_in(store) if k.name == "twenty")
    found = decisions_of(kept)
    assert len(found) >= 50
    for decision in found:
        assert decision.reason
        for one in decision.candidates:
            assert one.l_est == pytest.approx(one.l_x + one.l_q + one.l_r)
    at = open_page(store, "placement", plan="twenty", call=str(found[0].call))
    detail = next(d.value for d in at.dataframe if "chance to be in time" in d.value)
    assert len(detail) == len(found[0].candidates)
    assert list(detail[""]).count("→") == (found[0].replica is not None)


def test_an_answer_of_no_is_kept_and_says_why(open_page: App, placed: tuple[Path, dict[str, Any]]) -> None:
    at = open_page(placed[0], "placement", plan="too-tight")
    assert "cannot be met by any number of replicas" in at.error[0].value
    assert not at.metric


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is no JSON"), ('{"met": 1}', "is no plan of redecode place"), ("[1]", "is no plan")]
)
def test_a_file_that_is_no_plan_is_a_sentence(open_page: App, tmp_path: Path, text: str, said: str) -> None:
    Store(tmp_path / "store").drain()
    planned(tmp_path / "store")
    (tmp_path / "store" / "plans" / "zz.json").write_text(text)
    at = open_page(tmp_path / "store", "placement", plan="zz")
    assert said in at.error[0].value.replace("\\", "")
    assert metric(open_page(tmp_path / "store", "placement", plan="a-plan"), "Replicas") == "3"


def test_decisions_that_are_none_are_a_sentence_beside_the_plan(open_page: App, tmp_path: Path) -> None:
    Store(tmp_path / "store").drain()
    path = planned(tmp_path / "store")
    log = path.with_name("a-plan.decisions.jsonl")
    log.write_text(log.read_text() + "{}\n")
    with pytest.raises(CannotRead, match="line 4"):
        decisions_of(plans_in(tmp_path / "store")[0])
    at = open_page(tmp_path / "store", "placement")
    assert "line 4" in at.warning[0].value
    assert metric(at, "Replicas") == "3"


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden", "x" * 81])
def test_a_name_that_is_no_files_is_refused(tmp_path: Path, name: str) -> None:
    Store(tmp_path / "store").drain()
    words = ["place", "--slo", "1s@p90", "--load", "1rps", "--name", name, "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "cannot be called" in done.output


def test_it_is_in_the_menu_only_where_something_was_planned(open_page: App, tmp_path: Path) -> None:
    Store(tmp_path / "store").drain()
    assert PLACEMENT not in shown(str(tmp_path / "store"))
    assert "redecode place" in open_page(tmp_path / "store", "placement").info[0].value
    planned(tmp_path / "store")
    assert PLACEMENT in shown(str(tmp_path / "store"))
