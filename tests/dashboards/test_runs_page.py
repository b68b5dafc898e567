"""The list of runs, without a browser."""

from __future__ import annotations

from pathlib import Path

from redecode.tracer import Store
from tests.dashboards.conftest import STEPS, App


def listed(at) -> list[str]:  # type: ignore[no-untyped-def]
    return list(at.dataframe[0].value["run"])


def metric(at, label: str) -> str:  # type: ignore[no-untyped-def]
    return next(str(m.value) for m in at.metric if m.label == label)


def test_an_empty_store_says_how_to_record(open_page: App, tmp_path: Path) -> None:
    Store(tmp_path / "empty").drain()
    at = open_page(tmp_path / "empty")
    assert "redecode demo" in at.info[0].value
    assert not at.dataframe


def test_a_missing_store_is_a_sentence(open_page: App, tmp_path: Path) -> None:
    at = open_page(tmp_path / "nothing")
    assert "no store at" in at.error[0].value.replace("\\", "")


def test_every_run_is_listed_newest_first(open_page: App, filled: Path) -> None:
    at = open_page(filled)
    assert metric(at, "Runs") == "14"
    runs = Store(filled).runs()
    assert sorted(listed(at)) == sorted(r.run_id[:12] for r in runs)
    started = list(at.dataframe[0].value["started (UTC)"])
    assert started == sorted(started, reverse=True)


def test_the_address_filters_and_sorts(open_page: App, filled: Path) -> None:
    at = open_page(filled, q="brancher", mode="force", sort="slowest")
    assert metric(at, "Runs") == "2"
    assert listed(at) == ["d" * 12, "e" * 12]
    assert at.text_input(key="q").value == "brancher"
    assert at.multiselect(key="mode").value == ["force"]


def test_facets_and_order_change_the_list(open_page: App, filled: Path) -> None:
    at = open_page(filled)
    at.multiselect(key="mode").set_value(["force"]).run()
    at.selectbox(key="sort").set_value("fastest").run()
    assert listed(at) == ["e" * 12, "d" * 12]
    assert not at.exception


def test_a_target_judges_runs_without_an_slo(open_page: App, filled: Path) -> None:
    at = open_page(filled, q=STEPS)
    assert metric(at, "SLO met") == "–"
    at.number_input(key="target").set_value(0.12).run()
    assert metric(at, "Runs") == "3"
    assert metric(at, "SLO met") == "66.7 %"  # 100, 100 and 150 ms
    at.multiselect(key="slo").set_value(["missed"]).run()
    assert listed(at) == ["d" * 12]


def test_a_target_in_the_address_judges_from_the_first_look_on(open_page: App, filled: Path) -> None:
    at = open_page(filled, q="brancher", target="0.12", slo="missed")
    assert listed(at) == ["d" * 12]
    assert metric(at, "SLO met") == "0 %"


def test_a_facet_in_the_address_stays_though_nothing_has_it_now(open_page: App, filled: Path) -> None:
    at = open_page(filled, q="brancher", agent="sequential")
    assert at.multiselect(key="agent").value == ["sequential"]
    assert metric(at, "Runs") == "0"


def test_a_search_without_hits_says_so(open_page: App, filled: Path) -> None:
    at = open_page(filled, q="nothing like this")
    assert "facet" in at.info[0].value
    assert not at.dataframe
