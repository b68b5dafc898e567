"""Where things stand on a waterfall."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.dashboards.data import LoadedRun, Source, source
from redecode.dashboards.waterfall import KINDS, NO_FLOAT, Stretches, lay_out, pre_order
from redecode.tracer import Span, SpanKind
from tests.dashboards.conftest import STEPS

MS = 1_000_000


@pytest.fixture
def here(filled: Path) -> Source:
    return source(str(filled))


def test_rows_floats_and_path_of_a_known_run(here: Source) -> None:
    drawn = lay_out(here.load(STEPS))
    names = [drawn.names[n] for n in drawn.name]
    assert names == ["brancher", "a", "m", "b", "c", "slow", "d"]
    assert drawn.depth == [0, 1, 2, 1, 1, 2, 1]
    assert drawn.below == [7, 3, 3, 4, 6, 6, 7]
    row = {name: n for n, name in enumerate(names)}
    assert drawn.slack[row["b"]] == 30 * MS  # it could end when c does
    assert drawn.slack[row["c"]] == 0
    assert [drawn.barrier[row[n]] for n in "abcd"] == [1, 1, 1, 0]
    assert drawn.on_path[row["b"]] == 0
    assert drawn.on_path[row["slow"]] == 42 * MS
    assert [drawn.status[row[n]] for n in ("slow", "b")] == [1, 0]
    gaps = drawn.gaps
    at = gaps.first[row["d"]]
    assert (gaps.start[at], gaps.end[at]) == (80 * MS, 85 * MS)


def test_the_path_tiles_every_recorded_run(here: Source) -> None:
    runs = here.runs()
    for run_id in runs.run_id:
        loaded = here.load(run_id)
        drawn = lay_out(loaded)
        path = drawn.path
        assert path.start[0] == 0
        assert path.end[-1] == drawn.end
        assert path.start[1:] == path.end[:-1]
        assert sum(drawn.on_path) == drawn.end == sum(ns for _, ns in drawn.split)
        assert all(0 <= row < len(drawn.id) for row in path.row)
        assert drawn.parts.first[-1] == len(drawn.parts.start) > 0
        assert json.loads(json.dumps(drawn.to_json()))["kinds"] == list(KINDS)


def test_a_run_without_an_analysis_is_still_drawn(here: Source) -> None:
    recorded = here.load(STEPS).recorded
    drawn = lay_out(LoadedRun(recorded, None, None, "no reason"))
    assert len(drawn.id) == 7
    assert drawn.path.row == []
    assert set(drawn.slack) == {NO_FLOAT}


def span(number: int, parent: int | None, start: int) -> Span:
    return Span(
        run_id="r", span_id=f"{number:02}", parent_span_id=None if parent is None else f"{parent:02}",
        kind=SpanKind.RUN if number == 0 else SpanKind.NODE, name="n", step_key="k", start_ns=start, end_ns=None,
        status="open",
    )  # fmt: skip


@given(st.lists(st.tuples(st.none() | st.integers(0, 14), st.integers(0, 5)), max_size=14))
@settings(max_examples=200, deadline=None)
def test_any_parents_make_a_pre_order(parents: list[tuple[int | None, int]]) -> None:
    """Rings, strays and several roots too."""
    spans = [span(0, None, 0), *(span(n + 1, parent, start) for n, (parent, start) in enumerate(parents))]
    order, depth, below = pre_order(spans)
    assert sorted(s.span_id for s in order) == sorted(s.span_id for s in spans)
    assert order[0].span_id == "00"
    assert below[0] == len(spans)
    at = {s.span_id: n for n, s in enumerate(order)}
    for n, s in enumerate(order):
        assert n < below[n] <= len(order)
        assert all(depth[inner] > depth[n] for inner in range(n + 1, below[n]))
        parent = s.parent_span_id
        if parent in at and at[parent] < n < below[at[parent]]:
            assert depth[n] > depth[at[parent]]


def test_stretches_are_found_by_row() -> None:
    found = Stretches.by_row(3, [(2, 5, 6, 1), (0, 3, 4, 1), (0, 1, 2, 1), (1, 7, 7, 1)])
    assert found.first == [0, 2, 2, 3]
    assert found.start == [1, 3, 5]
