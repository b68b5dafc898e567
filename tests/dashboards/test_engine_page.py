"""What FM calls take, without a browser."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redecode.dashboards.calls import by_model, decode_points, in_flight, line_through, prefill_points
from redecode.dashboards.fits import points
from redecode.replay.simulator.catalogue import keep
from redecode.replay.simulator.profile import Sampled
from redecode.tracer import Store
from redecode.tracer.store import CallTimes
from tests.dashboards.conftest import HOSTILE_NAME, App
from tests.replay.simulator.made import made_profile

CALL = CallTimes(
    run_id="r", span_id="s", step_key="k", model="m", sent_ns=0, first_chunk_ns=None, done_ns=100, input_tokens=10,
    output_tokens=5, cached_tokens=4, queue_ns=1, prefill_ns=20, decode_ns=60, first_token_ns=21, last_token_ns=81,
    tpot_ns=15.0, error=None,
)  # fmt: skip


def test_calls_are_summed_up_by_fm(open_page: App, filled: Path) -> None:
    at = open_page(filled, "engine")
    rows = at.dataframe[0].value
    runs = [r for r in Store(filled).runs() if r.source_run_id is None]
    assert sum(rows["calls"]) == sum(r.decodes for r in runs)
    assert sum(rows["sampled tokens"]) == sum(r.tokens for r in runs)
    at = open_page(filled, "engine", **{"from": "replays"})
    assert sum(at.dataframe[0].value["calls"]) == 2


def test_engine_profiles_are_shown_with_their_residuals(open_page: App, filled: Path, tmp_path: Path) -> None:
    at = open_page(filled, "engine")
    assert any("redecode profile --engine URL" in c.value for c in at.caption)
    store = tmp_path / "with profiles"
    shutil.copytree(filled, store)
    steps = (
        Sampled(kind="decode, 1 call", measured_ms=8.0, predicted_ms=8.4),
        Sampled(kind="prefill, up to 64 tokens", measured_ms=30.0, predicted_ms=27.0),
    )
    m = keep(store, made_profile(HOSTILE_NAME, sample=steps, r2=0.97, cold_start_s=12.5)).profile
    n = keep(store, made_profile("n", left_out={"strange": 3}, sample=steps)).profile
    at = open_page(store, "engine", profile=m.key)
    listed, residuals, parts = (d.value for d in at.dataframe[-3:])
    assert list(listed["profile"]) == [m.key, n.key]
    assert list(listed["cold start"]) == ["12.50 s", "–"]
    assert list(residuals["|error| p50"]) == ["1.0%"]
    assert dict(zip(parts["takes"], parts["µs"], strict=True))["a step"] == 8000
    assert any("explains 97.0%" in c.value for c in at.caption)
    at = open_page(store, "engine", profile=n.key)
    assert any("3 steps were left out: strange" in c.value for c in at.caption)
    assert points(m)["error"] == pytest.approx([0.05, -0.1])
    (store / "profiles" / f"{m.key}.json").write_text("{")
    at = open_page(store, "engine")
    assert "is no engine profile" in at.warning[0].value
    assert list(at.dataframe[-3].value["profile"]) == [n.key]


def test_cached_tokens_are_not_prefilled() -> None:
    assert prefill_points([CALL, replace(CALL, cached_tokens=None), replace(CALL, prefill_ns=None)]) == [
        (6, 20),
        (10, 20),
    ]
    assert decode_points([CALL, replace(CALL, output_tokens=1), replace(CALL, error="x")]) == [(4, 60)]
    found = by_model([CALL, replace(CALL, error="broken"), replace(CALL, model="n", cached_tokens=None)])
    assert [(m.model, m.calls, m.failed, m.reused) for m in found] == [("m", 2, 1, 0.4), ("n", 1, 0, None)]


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.sets(st.integers(0, 1000), min_size=3, max_size=20))
def test_a_line_is_found_again(base: float, slope: float, tokens: set[int]) -> None:
    line = line_through([(x, round((base + slope * x) * 1e6)) for x in tokens])
    assert line is not None
    assert line.base_ns == pytest.approx(base * 1e6, abs=20)
    assert line.per_token_ns == pytest.approx(slope * 1e6, abs=2)


def test_no_line_goes_through_one_place() -> None:
    assert line_through([(5, 1), (5, 2), (5, 3)]) is None
    assert line_through([(1, 1), (2, 2)]) is None


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), max_size=20))
def test_calls_in_flight_are_those_sent_and_not_done(spans: list[tuple[int, int]]) -> None:
    calls = [replace(CALL, sent_ns=a, done_ns=a + d) for a, d in spans]
    steps = in_flight(calls)
    assert [at for at, _ in steps] == sorted({at for at, _ in steps})
    for at, n in steps:
        assert n == sum(a <= at < a + d for a, d in spans)
    assert not steps or steps[-1][1] == 0
