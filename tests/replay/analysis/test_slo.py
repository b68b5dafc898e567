"""SLOs: what a file may say, and attainment against counting by hand."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redecode.replay.analysis.errors import BadSlo
from redecode.replay.analysis.slo import Measured, Slo, attainment, load_slos, measured, over_time
from redecode.tracer import SpanKind
from redecode.tracer.store import CallTimes, RunStructure
from tests.replay.analysis.recordings import recorded, span


def call(step_key: str, done: int | None, **more: object) -> CallTimes:
    known = dict.fromkeys(
        ("first_chunk_ns", "input_tokens", "output_tokens", "cached_tokens", "queue_ns", "prefill_ns", "decode_ns",
         "first_token_ns", "last_token_ns", "tpot_ns", "error")
    )  # fmt: skip
    return CallTimes(
        run_id="r",
        span_id=step_key,
        step_key=step_key,
        model="m",
        sent_ns=0,
        done_ns=done,
        **{**known, **more},  # type: ignore[arg-type]
    )


def test_a_file_of_slos(tmp_path: Path) -> None:
    path = tmp_path / "slo.toml"
    path.write_text(
        '[[slo]]\nagent = "desk"\nmetric = "e2e"\nthreshold_s = 2.5\nwindow = "15m"\n'
        '[[slo]]\nmetric = "ttft"\nstep = "chat"\npercentile = 99.9\nthreshold_s = 0.3\nwindow = 60\n'
    )
    one, two = load_slos(path)
    assert (one.agent, one.percentile, one.window, str(one)) == ("desk", 95, 900, "desk: p95 e2e ≤ 2.5 s")
    assert (two.window, str(two)) == (60, "chat: p99.9 ttft ≤ 0.3 s")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slo = 3", "slo: Input should be a valid list"),
        ("", "slo: Field required"),
        ("[[slo]\n", "is no TOML"),
        ('[[slo]]\nmetric = "p95"\nthreshold_s = 1', "slo.0.metric"),
        ('[[slo]]\nmetric = "e2e"\nthreshold_s = 0', "slo.0.threshold_s: Input should be greater than 0"),
        ('[[slo]]\nmetric = "e2e"\nthreshold_s = inf', "slo.0.threshold_s"),
        ('[[slo]]\nmetric = "e2e"\nthreshold_s = 1\npercentile = 101', "slo.0.percentile"),
        ('[[slo]]\nmetric = "e2e"\nthreshold_s = 1\nwindow = "1 week"', "'1 week' is no length of time; 30s, 15m"),
        ('[[slo]]\nmetric = "e2e"\nthreshold_s = 1\ntreshold = 1', "slo.0.treshold: Extra inputs"),
    ],
)
def test_a_file_that_says_something_else_is_refused_by_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "slo.toml"
    path.write_text(text)
    with pytest.raises(BadSlo) as caught:
        load_slos(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadSlo, match=r"cannot read .*none\.toml: No such file"):
        load_slos(tmp_path / "none.toml")


VALUES = st.lists(st.tuples(st.integers(0, 500), st.one_of(st.none(), st.integers(0, 30))), max_size=60)


@given(values=VALUES, threshold=st.integers(1, 30), percentile=st.sampled_from([50, 90, 95, 99.9, 100]))
def test_attainment_is_counted(values: list[tuple[int, int | None]], threshold: int, percentile: float) -> None:
    slo = Slo(metric="e2e", threshold_s=threshold / 1e9, percentile=percentile)
    found = attainment(slo, [Measured(at, v) for at, v in values])
    good = sum(v is not None and v <= threshold for _, v in values)
    assert (found.n, found.good) == (len(values), good)
    if not values:
        assert (found.met, found.value_s, found.burn_rate, found.attained) == (None, None, None, None)
        return
    bad = len(values) - good
    assert found.met == (bad * 1000 <= round((100 - percentile) * 10) * len(values))
    # The value at the percentile is within the threshold exactly if the SLO is met.
    assert found.met == (found.value_s is not None and found.value_s <= threshold / 1e9)
    if percentile == 100:
        assert found.burn_rate is None
    else:
        assert found.burn_rate is not None
        assert math.isclose(found.burn_rate, bad / len(values) / (1 - percentile / 100), rel_tol=1e-9)
        assert found.met == (found.burn_rate <= 1 + 1e-12)


@given(values=VALUES, window=st.integers(1, 200))
def test_windows_side_by_side_hold_everything_once(values: list[tuple[int, int | None]], window: int) -> None:
    slo = Slo(metric="e2e", threshold_s=10e-9, window=window / 1e9)
    windows = over_time(slo, [Measured(at, v) for at, v in values])
    assert sum(w.n for w in windows) == len(values)
    assert all(a.end_ns == b.start_ns for a, b in pairwise(windows))
    for w in windows:
        assert w.start_ns % window == 0 and w.end_ns == w.start_ns + window
        assert w.n == sum(w.start_ns <= at < w.end_ns for at, _ in values)
    if windows:
        assert windows[0].n and windows[-1].n


def test_what_an_slo_is_about() -> None:
    from dataclasses import replace

    root, node = span("root", None, 0, 100), span("a", "root", 10, 60, superstep=1)
    failed = span("b", "root", 60, 90, SpanKind.TOOL, status="error")
    run = replace(recorded([], []).run, agent="desk", ended_ns=100)
    calls = [
        call("run/ask@1[pull:ask]/chat", 50, first_chunk_ns=20, tpot_ns=3.4),
        call("run/ask@2[pull:ask]/chat#1", 80, first_token_ns=9, first_chunk_ns=30),
        call("run/x", 90, error="boom", first_chunk_ns=5),
        call("run/open", None, first_chunk_ns=5),
    ]
    one = RunStructure(run, [root, node, failed], [], calls)
    replay = RunStructure(replace(run, source_run_id="s"), [root], [], calls)
    broken = RunStructure(replace(run, status="error"), [root], [], [])
    unended = RunStructure(replace(run, status="open", ended_ns=None), [root], [], [])
    runs = [one, replay, broken, unended]

    def values(**slo: object) -> list[tuple[int, int | None]]:
        return [(m.at_ns, m.value_ns) for m in measured(Slo(threshold_s=1, **slo), runs)]

    assert values(metric="e2e") == [(100, 100), (100, None)]
    assert values(metric="e2e", agent="other") == []
    assert values(metric="e2e", step="a") == [(60, 50)]
    assert values(metric="e2e", step="run/b") == [(90, None)]
    assert values(metric="ttft") == [(50, 20), (80, 9), (90, None)]
    assert values(metric="ttft", step="chat") == [(50, 20), (80, 9)]
    assert values(metric="tpot", agent="desk") == [(50, 3), (90, None)]
