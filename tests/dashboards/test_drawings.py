"""Token strip, difference bars, the graph, and words for a screen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redecode.dashboards.bars import cascade, window
from redecode.dashboards.data import Source, source
from redecode.dashboards.flow import END, START, flow_of, to_dot
from redecode.dashboards.sameness import sameness
from redecode.dashboards.strip import strip_of
from redecode.dashboards.words import duration, plain, share, signed, visible
from redecode.replay.comparison.lanes import Share
from redecode.tracer import Decode, Fidelity, TimeSource
from tests.dashboards.conftest import HOSTILE, STEPS, branches, replayed

MS = 1_000_000


@pytest.fixture
def here(filled: Path) -> Source:
    return source(str(filled))


def call(**more: object) -> Decode:
    fields: dict[str, object] = {
        "run_id": "r", "span_id": "s", "step_key": "k", "model": "m", "fidelity": Fidelity.ENGINE, "sent_ns": 0,
        "first_chunk_ns": None, "done_ns": 100 * MS,
    }  # fmt: skip
    return Decode(**{**fields, **more})  # type: ignore[arg-type]


def test_a_stall_is_a_gap_over_three_times_the_median() -> None:
    times = tuple(ms * MS for ms in (20, 25, 30, 35, 60, 65))
    laid = strip_of(call(token_times_ns=times, token_time_source=TimeSource.ENGINE, sampled_ids=tuple(range(6))))
    assert laid.gaps_ns == (None, 5 * MS, 5 * MS, 5 * MS, 25 * MS, 5 * MS)
    assert laid.stalls == (4,)
    assert laid.stalled_ns == 20 * MS
    assert laid.itl_ns == (5 * MS, 25 * MS, 25 * MS, 25 * MS)


def test_unlikely_tokens_are_those_below_what_was_asked() -> None:
    laid = strip_of(call(logprobs=(-0.1, -3.0, float("nan"))), 0.2)
    assert laid.low == (1, 2)
    assert strip_of(call(logprobs=(-0.1, -3.0)), 0.0).low == ()


def test_the_phases_of_a_call_tile_it(here: Source) -> None:
    phases = 0
    for run_id in here.runs().run_id:
        for decode in here.load(run_id).recorded.decodes:
            laid = strip_of(decode)
            phases += len(laid.phases)
            assert laid.phases[0].start_ns == 0
            assert laid.phases[-1].end_ns == decode.e2e_ns
            assert all(a.end_ns == b.start_ns for a, b in zip(laid.phases, laid.phases[1:], strict=False))
    assert phases > 20


def test_a_call_without_times_has_one_phase_and_no_tokens() -> None:
    laid = strip_of(call())
    assert [(p.kind, p.start_ns, p.end_ns) for p in laid.phases] == [("fm", 0, 100 * MS)]
    assert (laid.times_ns, laid.stalls, laid.itl_ns) == ((), (), None)


def test_chunks_stand_in_for_tokens_that_have_no_times() -> None:
    laid = strip_of(call(chunk_times_ns=(10 * MS, 12 * MS), first_chunk_ns=10 * MS))
    assert laid.per == "chunk"
    assert [p.kind for p in laid.phases] == ["fm", "decode"]


@given(st.lists(st.integers(-(10**9), 10**9), max_size=40), st.integers(2, 12))
def test_difference_bars_add_up(deltas: list[int], most: int) -> None:
    shares = sorted(
        (Share(f"step {n % 5}", "work", max(0, -d), max(0, d)) for n, d in enumerate(deltas)),
        key=lambda s: -abs(s.delta_ns),
    )
    recorded = 10**11
    bars = cascade(recorded, recorded + sum(deltas), shares, most=most, names=("then", "now"))
    assert (bars[0].to_ns, bars[-1].to_ns) == (recorded, recorded + sum(deltas))
    inner = bars[1:-1]
    assert len(inner) <= most
    assert sum(b.delta_ns for b in inner) == sum(deltas)
    at = recorded
    for bar in inner:
        assert bar.from_ns == at
        at = bar.to_ns
    assert len({b.label for b in bars}) == len(bars)
    low, high = window(bars)
    assert low <= min(b.to_ns for b in bars) <= max(b.to_ns for b in bars) < high


def test_the_graph_of_a_known_run(here: Source) -> None:
    loaded = here.load(STEPS)
    flow = flow_of(loaded.recorded, loaded.analysis)
    assert list(flow.nodes) == ["a", "b", "c", "d"]
    # The barrier held d up until b was done, but c's data led there.
    assert set(flow.edges) == {(START, "a"), ("a", "b"), ("a", "c"), ("c", "d"), ("b", END), ("d", END)}
    assert flow.nodes["b"].path_ns == 0
    assert flow.nodes["c"].path_ns == 44 * MS


def test_names_in_a_graph_are_strings_never_markup(here: Source) -> None:
    loaded = here.load(HOSTILE)
    recorded = replace(loaded.recorded, spans=[replace(s, name='<b>"x"</b>\\') for s in loaded.recorded.spans])
    dot = to_dot(flow_of(recorded, None), dark=False)
    assert '[label="<b>\\"x\\"</b>\\\\\\n' in dot
    assert "label=<" not in dot


def test_sameness_counts_replays_by_mode() -> None:
    run = branches()
    found = sameness(run, [replayed(run, "1" * 32), replayed(run, "2" * 32, tokens=False)])
    assert [(s.mode, s.compared, s.same) for s in found] == [("force", 2, 1)]
    assert found[0].differs == ("2" * 32, "run/ask")


@pytest.mark.parametrize(
    ("ns", "words"),
    [(None, "–"), (0, "0 ms"), (812_000, "812 µs"), (12_340_000, "12.3 ms"), (412 * MS, "412 ms"),
     (2_140 * MS, "2.14 s"), (200_000 * MS, "200 s")],
)  # fmt: skip
def test_durations_are_said_as_people_do(ns: int | None, words: str) -> None:
    assert duration(ns) == words


def test_differences_and_parts() -> None:
    assert [signed(5 * MS), signed(-5 * MS), signed(0), signed(None)] == ["+5.0 ms", "-5.0 ms", "0 ms", "–"]
    assert [share(0.0), share(1.0), share(0.5), share(None)] == ["0 %", "100 %", "50.0 %", "–"]


def test_nothing_of_a_name_is_markup() -> None:
    assert plain("a*b* [x](y) <b> :red[z]\n$q$") == r"a\*b\* \[x\]\(y\) \<b\> \:red\[z\] \$q\$"
    assert visible("\x1b[31m\u202ea\n") == "\\x1b[31m\\u202ea\n"
    assert len(plain("x" * 500, 20)) == 20
