"""When runs begin, and which waits are scaled."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.support.chains import chain
from redecode.replay.closed_loop.arrivals import Arrivals, BadArrivals, given_offsets, poisson_offsets, recorded_offsets
from redecode.replay.closed_loop.options import ReplayOptions
from redecode.replay.closed_loop.scaling import Scaling, UnknownStep, parse_steps
from redecode.replay.errors import ReplayError
from redecode.tracer import RecordedRun, Span, SpanKind


def test_recorded_arrivals_are_scaled_by_speed() -> None:
    started = [5_000_000_000, 3_000_000_000, 4_500_000_000]
    assert recorded_offsets(started) == [2.0, 0.0, 1.5]
    assert recorded_offsets(started, 2) == [1.0, 0.0, 0.75]
    assert recorded_offsets(started, 0) == [0.0, 0.0, 0.0]
    with pytest.raises(BadArrivals, match="above 0"):
        recorded_offsets(started, -1)


def test_poisson_arrivals_are_reproducible_and_come_at_their_rate() -> None:
    assert poisson_offsets(5, 2.0, 7) == poisson_offsets(5, 2.0, 7) != poisson_offsets(5, 2.0, 8)
    assert poisson_offsets(3, 2.0, 7) == poisson_offsets(5, 2.0, 7)[:3]
    many = poisson_offsets(20_000, 4.0, 1)
    gaps = [b - a for a, b in pairwise(many)]
    assert many[0] == 0
    assert min(gaps) > 0
    assert fmean(gaps) == pytest.approx(0.25, rel=0.03)
    assert fmean(g > 0.25 for g in gaps) == pytest.approx(0.3679, abs=0.01)  # 1/e: exponential, not just any gaps
    assert poisson_offsets(0, 1.0, 1) == []
    with pytest.raises(BadArrivals, match="--rate"):
        poisson_offsets(3, 0.0, 1)


@pytest.mark.parametrize(
    ("text", "offsets"),
    [("[0, 0.5, 2]", [0.0, 0.5, 2.0]),
     ("at_s,who\n1.5,a\n2,b\n\n4,c\n", [0.0, 0.5, 2.5]), ("3\n1\n2\n9\n", [2.0, 0.0, 1.0])],
    ids=["json", "csv with a header", "csv without, more than needed"],
)  # fmt: skip
def test_given_arrivals(tmp_path: Path, text: str, offsets: list[float]) -> None:
    file = tmp_path / "arrivals"
    file.write_text(text)
    assert given_offsets(file, 3) == offsets
    assert given_offsets(file, 3, 2.0) == [at / 2 for at in offsets]


@pytest.mark.parametrize(
    ("text", "words"),
    [
     ("[0, 1]", "2 arrivals for 3 runs"), ("[0, 1", "no JSON"), ('{"at": 1}', "JSON list"),
     ("[0, true, 2]", "JSON list"),
     ("0\nx\n2", "not 'x'"), ("[0, -1, 2]", "from 0 on, not -1"), ("[0, NaN, 2]", "not nan"), ("", "0 arrivals")],
)  # fmt: skip
def test_arrivals_that_make_no_sense_are_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "arrivals"
    file.write_text(text)
    with pytest.raises(BadArrivals, match=words):
        given_offsets(file, 3)
    with pytest.raises(BadArrivals, match="cannot be read"):
        given_offsets(tmp_path / "none", 3)


def test_options_of_one_kind_of_arrivals_do_not_go_with_another() -> None:
    with pytest.raises(BadArrivals, match="--rate"):
        ReplayOptions(arrivals=Arrivals.POISSON)
    with pytest.raises(BadArrivals, match="--rate"):
        ReplayOptions(rate_per_s=1.0)
    with pytest.raises(BadArrivals, match="--speed"):
        ReplayOptions(arrivals=Arrivals.POISSON, rate_per_s=1.0, speed=2.0)
    with pytest.raises(BadArrivals, match="--arrivals-file"):
        ReplayOptions(arrivals=Arrivals.GIVEN)
    options = ReplayOptions(arrivals=Arrivals.POISSON, rate_per_s=1.5, seed=3, scaling=Scaling(2.0, {"a": 0.5}))
    assert ReplayOptions.from_json(options.to_json()) == options


def tree() -> dict[str, Span]:
    rows = [
        ("run", None, SpanKind.RUN, "run"),
        ("node", "run", SpanKind.NODE, "run/work@1[pull:work]"),
        ("tool", "node", SpanKind.TOOL, "run/work@1[pull:work]/tool:0:search"),
        ("again", "node", SpanKind.TOOL, "run/work@1[pull:work]/tool:0:search#1"),
        ("chat", "node", SpanKind.DECODE, "run/work@1[pull:work]/chat"),
        ("get", "run", SpanKind.RETRIEVAL, "run/get"),
    ]
    names = {"tool": "execute_tool search", "again": "execute_tool search"}
    return {
        i: Span(run_id="r", span_id=i, parent_span_id=p, kind=k, name=names.get(i, i), step_key=key, start_ns=0,
                end_ns=1, status="ok")
        for i, p, k, key in rows
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tool_speed", "steps", "factors"),
    [
        (1.0, {}, {}),
        (2.0, {}, {"tool": 0.5, "again": 0.5, "get": 0.5}),
        (0.0, {}, {"tool": 0.0, "again": 0.0, "get": 0.0}),
        (1.0, {"search": 0.1}, {"tool": 0.1, "again": 0.1}),
        (1.0, {"execute_tool search": 0.1}, {"tool": 0.1, "again": 0.1}),
        (1.0, {"tool:0:search#1": 3.0}, {"again": 3.0}),
        (1.0, {"run/work@1[pull:work]/tool:0:search": 0.0}, {"tool": 0.0}),
        (4.0, {"work": 0.5}, {"node": 0.5, "tool": 0.5, "again": 0.5, "chat": 0.5, "get": 0.25}),
        (1.0, {"work": 0.5, "tool:0:search#1": 2.0}, {"node": 0.5, "tool": 0.5, "again": 2.0, "chat": 0.5}),
        (4.0, {"search": 1.0}, {"get": 0.25}),
    ],
)
def test_which_waits_are_scaled(tool_speed: float, steps: dict[str, float], factors: dict[str, float]) -> None:
    assert Scaling(tool_speed, steps).factors(tree()) == factors


def runs() -> list[RecordedRun]:
    return [chain("f" * 32, [(1,)], [(2,)], [1000], stream=False)]


def test_an_unknown_step_is_refused_with_the_nearest() -> None:
    Scaling(1.0, {"wait": 0.5}).check(runs())
    with pytest.raises(UnknownStep, match=r"no step 'wiat' .*nearest: .*wait"):
        Scaling(1.0, {"wiat": 0.5}).check(runs())
    with pytest.raises(ReplayError, match="is an FM call"):
        Scaling(1.0, {"chat#0": 0.5}).check(runs())


def test_steps_on_the_command_line() -> None:
    assert parse_steps(["a=0.5", "run/x@1[k=v]=0"]) == {"a": 0.5, "run/x@1[k=v]": 0.0}
    for wrong in ("a", "=1", "a=", "a=fast"):
        with pytest.raises(ReplayError, match="STEP=FACTOR"):
            parse_steps([wrong])
    with pytest.raises(ReplayError, match="from 0 on"):
        Scaling(1.0, {"a": -1.0})
    with pytest.raises(ReplayError, match="--tool-speed"):
        Scaling(-1.0)
