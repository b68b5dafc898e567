"""Profiles from a store: quantiles by step, part and FM; a run judged by the others; structures read in bulk."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redecode import tracer
from redecode.replay.analysis.activities import activities_of
from redecode.replay.analysis.profiles import Profiles, Quantiles, profiles_of, stored_profiles
from redecode.replay.analysis.runs import analyze_recorded, analyze_run
from redecode.tracer import Dataset, RecordedRun, Store, publish_runs


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The recordings that come with redecode: five architectures on vLLM."""
    recordings = Path(str(files("redecode.agents"))) / "recordings"
    store = Store(tmp_path_factory.mktemp("shipped") / "store")
    name = json.loads((recordings / "demo.json").read_text())["journal"]
    shutil.copy(recordings / "demo.journal", store.spool / name)
    return store


def same_shape(store: Store | Dataset, run: RecordedRun) -> None:
    (thin,) = store.structures(run_ids=[run.run.run_id])
    assert thin.run == run.run
    one, whole = activities_of(thin), activities_of(run)
    assert sorted(one.activities, key=repr) == sorted(whole.activities, key=repr)
    assert sorted(one.edges, key=repr) == sorted(whole.edges, key=repr)
    assert one.tpot_ns == whole.tpot_ns
    for brief, full in zip(thin.decodes, run.decodes, strict=True):
        assert (brief.e2e_ns, brief.ttft_ns, brief.tpot_ns) == (full.e2e_ns, full.ttft_ns, full.tpot_ns)
        assert (brief.model, brief.input_tokens, brief.cached_tokens, brief.output_tokens, brief.error) == (
            full.model, full.input_tokens, full.cached_tokens, full.output_tokens, full.error,
        )  # fmt: skip


def test_a_run_without_its_content_hangs_together_the_same(shipped: Store, tmp_path: Path) -> None:
    for run in shipped.runs():
        same_shape(shipped, shipped.load(run.run_id))
    publish_runs(shipped, str(tmp_path / "dataset"))
    dataset = Dataset(tmp_path / "dataset")
    assert len(dataset.structures()) == len(shipped.runs())
    newest = dataset.runs(limit=1)[0].run_id
    same_shape(dataset, dataset.load(newest))
    assert [s.run.run_id for s in shipped.structures(limit=2)] == [r.run_id for r in shipped.runs(limit=2)]


def test_an_open_run_and_its_open_edges_are_among_them(recording: Path) -> None:
    with tracer.run("agent"):
        with tracer.step("one"):
            pass
        with tracer.step("two"):
            store = Store(recording)
            (run,) = store.runs()
            same_shape(store, store.load(run.run_id))
            (thin,) = store.structures()
            assert [s.end_ns is None for s in thin.spans] == [True, False, True]
            assert analyze_recorded(thin).status == "open"


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200))
def test_quantiles_are_values_that_so_many_do_not_exceed(values: list[int]) -> None:
    found = Quantiles.of(values)
    assert found.n == len(values)
    for part, value in ((0.5, found.p50_ns), (0.95, found.p95_ns), (0.99, found.p99_ns)):
        assert value in values
        assert sum(v <= value for v in values) >= part * len(values)
        assert sum(v < value for v in values) < part * len(values)


def test_a_run_is_judged_by_what_the_others_took(shipped: Store) -> None:
    runs = [r for r in shipped.runs() if r.agent == "sequential"]
    assert len(runs) > 1
    judged = runs[0].run_id
    profiles = stored_profiles(shipped, agent="sequential", without=judged)
    assert profiles.runs == len(runs) - 1
    run = analyze_run(shipped, judged, slo_s=0.4, profiles=profiles, quantile="p50")
    others = [activities_of(s) for s in shipped.structures(run_ids=[r.run_id for r in runs[1:]])]
    by_key = {key: sorted(a.duration_ns for o in others for a in o.activities if a.profile_key == key)
              for o in others for key in {a.profile_key for a in o.activities}}  # fmt: skip
    for row in run.activities:
        known = by_key.get(row.activity.profile_key)
        assert row.profile_ns == (known[(len(known) - 1) // 2] if known else None)
    assert run.budgets_from in ("profiles", "both")
    told = {name.rsplit(" ", 1)[0] if " " in name else name for name in run.no_profile}
    assert told <= {row.activity.step_key for row in run.activities if row.profile_ns is None}


def test_a_new_step_has_no_profile_and_is_named(shipped: Store) -> None:
    (some,) = shipped.structures(limit=1)
    run = analyze_recorded(some, slo_s=1.0, profiles=Profiles())
    assert run.budgets_from == "recorded"
    worked = {" ".join(filter(None, r.activity.profile_key)) for r in run.activities if r.duration_ns}
    assert set(run.no_profile) == worked
    assert all(r.profile_ns is None for r in run.activities)


def test_fms_have_the_times_of_all_their_calls(shipped: Store) -> None:
    whole = [shipped.load(r.run_id) for r in shipped.runs()]
    profiles = profiles_of(shipped.structures())
    calls = [d for run in whole for d in run.decodes]
    models = {d.model for d in calls}
    assert {m for m, _ in profiles.fms} == models
    for model in models:
        for time in ("ttft", "e2e", "prefill"):
            values = [v for d in calls if d.model == model and (v := getattr(d, f"{time}_ns")) is not None]
            assert profiles.fms[model, time] == Quantiles.of(values)
    plain = json.loads(json.dumps(profiles.to_json()))
    assert plain["runs"] == len(whole) and len(plain["fms"]) == len(profiles.fms)
    spans = [s for run in whole for s in run.spans if s.step_key == "run"]
    assert profiles.steps["run"] == Quantiles.of([s.duration_ns or 0 for s in spans])
