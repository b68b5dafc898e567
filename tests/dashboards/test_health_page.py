"""The store's health, and what is kept of a store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from redecode import tracer
from redecode.dashboards.data import Source, Unreadable
from redecode.tracer import Store, publish_runs
from tests.dashboards.conftest import STEPS, App, branches
from tests.tracer.export.recorded_runs import keep


def metric(at, label: str) -> str:  # type: ignore[no-untyped-def]
    return next(str(m.value) for m in at.metric if m.label == label)


def test_sizes_and_that_nothing_was_lost(open_page: App, filled: Path) -> None:
    at = open_page(filled, "health")
    assert metric(at, "Runs") == "14"
    assert metric(at, "Spool backlog") == "0 B"
    assert "Nothing was lost" in at.success[0].value


def test_lost_events_are_told(open_page: App, tmp_path: Path) -> None:
    from dataclasses import replace

    run = branches()
    keep(tmp_path / "store", [replace(run, run=replace(run.run, lost=3))])
    at = open_page(tmp_path / "store", "health")
    assert metric(at, "Events lost when recorded") == "3"
    assert "were lost" in at.warning[0].value


def test_files_that_are_no_profile_plan_or_report_are_named(open_page: App, tmp_path: Path) -> None:
    store = tmp_path / "store"
    keep(store, [branches()])
    files = [store / "profiles" / "x.json", store / "plans" / "y.json", store / "tuned" / "z" / "report.json"]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("{")
    warned = [w.value.replace("\\", "") for w in open_page(store, "health").warning]
    assert [str(f) in w for f, w in zip(files, warned, strict=True)] == [True, True, True]


def test_answers_are_kept_until_something_is_recorded(tmp_path: Path) -> None:
    keep(tmp_path / "store", [branches()])
    here = Source(str(tmp_path / "store"))
    first = here.runs()
    assert here.runs() is first
    assert here.load(STEPS) is here.load(STEPS)
    tracer.instrument(tmp_path / "store")
    try:
        with tracer.run("another"):
            assert here.version() != ()
            assert sorted(here.runs().status) == ["ok", "open"]
            settled = here.runs()
            assert here.runs() is settled, "reading a store that somebody records into must not look like news"
        assert sorted(here.runs().status) == ["ok", "ok"]
    finally:
        tracer.uninstrument()


def test_a_published_dataset_is_looked_at_like_a_store(open_page: App, filled: Path, tmp_path: Path) -> None:
    publish_runs(Store(filled), tmp_path / "dataset")
    at = open_page(tmp_path / "dataset")
    assert metric(at, "Runs") == "14"
    at = open_page(tmp_path / "dataset", "run", run=STEPS)
    assert any("critical path is **100 ms**" in m.value for m in at.markdown)
    at = open_page(tmp_path / "dataset", "health")
    assert metric(at, "Runs") == "14"
    assert "Parquet" in open_page(tmp_path / "dataset", "sql").error[0].value
    here = Source(str(tmp_path / "dataset"))
    before = here.version()
    assert before == here.version() != ()
    more = branches("7" * 32)
    publish_runs(keep(tmp_path / "more", [more]), tmp_path / "dataset")
    assert here.version() != before


def test_rows_that_make_no_sense_are_a_sentence(filled: Path, tmp_path: Path) -> None:
    import duckdb

    store = tmp_path / "copy"
    shutil.copytree(filled, store)
    Store(store).drain()
    with duckdb.connect(str(store / "runs.duckdb")) as db:
        db.execute("UPDATE spans SET kind = 'nonsense' WHERE run_id = ?", [STEPS])
    with pytest.raises(Unreadable, match="cannot be read"):
        Source(str(store)).load(STEPS)
