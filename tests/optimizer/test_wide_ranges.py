"""A range of billions of values is counted and drawn from without being listed, and a small one as if it were."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.optimizer import knobs
from redecode.optimizer.knobs import Choice, Config, Label, Range, Space, count_of, nearest, values_of
from redecode.optimizer.study.proposing import drawn, propose

SEED = Range(0, 2**31 - 1, integer=True)
WIDE = [
    SEED,
    Range(1, 131072, integer=True),
    Range(1.0, 1e12, step=7.0, integer=True),
    Range(0, 2**63 - 1, integer=True),
    Range(1, 2**40, integer=True, log=True),
    Range(0, 1, step=1e-9),
    Range(0, 1000, step=1e-7),
    Range(-1e9, 1e9, step=1e-3),
]


def listed(knob: Range) -> list[float]:
    """All values, as they were listed before they were counted."""
    step = knob.step or 1
    values = [round(knob.low + i * step, 12) for i in range(math.floor((knob.high - knob.low) / step + 1e-9) + 1)]
    return [round(v) for v in values] if knob.integer else values


@st.composite
def small(draw: st.DrawFn) -> Range:
    low: float
    kind = draw(st.sampled_from(["integer", "log", "step", "odd"]))
    if kind == "log":
        low = draw(st.integers(1, 20))
        return Range(low, low + draw(st.integers(0, 300)), integer=True, log=True)
    if kind == "integer":
        low = draw(st.one_of(st.integers(-50, 50), st.integers(-50, 50).map(float)))
        return Range(low, low + draw(st.integers(0, 300)), draw(st.sampled_from([None, 1, 2, 3.0, 7])), integer=True)
    if kind == "step":
        low = draw(st.sampled_from([0, 0.1, 0.3, -1.5, 1 / 3]))
        return Range(
            low, low + draw(st.sampled_from([0, 0.1, 0.7, 1, 2.5])), draw(st.sampled_from([0.1, 0.05, 0.01, 1 / 3]))
        )
    low, step = draw(st.floats(-5, 5)), draw(st.floats(0.05, 3))
    return Range(low, low + draw(st.floats(0, 20)), step, integer=draw(st.booleans()))


@given(knob=small(), seed=st.integers(0, 2**32))
@settings(max_examples=400, deadline=None)
def test_arithmetic_comes_to_what_the_list_came_to(knob: Range, seed: int) -> None:
    want, rng = listed(knob), random.Random(seed)
    assert [(v, type(v)) for v in values_of(knob) or ()] == [(v, type(v)) for v in want]
    assert count_of(knob) == len(want)
    tried = [rng.uniform(knob.low - 1, knob.high + 1) for _ in range(6)]
    tried += [knob.low, knob.high, rng.choice(want), (rng.choice(want) + rng.choice(want)) / 2]
    for value in tried:
        near, found = min(want, key=lambda v: abs(v - value)), nearest(knob, value)
        assert (found, type(found)) == (near, type(near))


def test_the_same_seed_proposes_what_it_did_with_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space(
        {
            "kind": Choice("a", "b"),
            "heat": Range(0, 1, step=0.1),
            "most": Range(16, 512, step=16, integer=True),
            "rounds": Range(1, 9, integer=True, when={"kind": ["a"]}),
            "size": Range(1, 100, log=True, integer=True),
        }
    )

    def study(seed: int) -> list[Config | None]:
        rng = random.Random(seed)
        configs = [drawn(space, rng) for _ in range(8)]
        out: list[Config | None] = []
        for _ in range(3):
            values = [(float(c["heat"] or 0), float(c["most"] or 0) / 512) for c in configs]
            found = propose(space, configs, values, [[]] * len(configs), [], rng)
            out.append(found)
            configs += [] if found is None else [found]
        return [*configs[:8], *out]

    def by_list(knob: Range, value: float) -> float:
        return min(listed(knob), key=lambda v: abs(v - value))

    counted = [study(seed) for seed in range(3)]
    monkeypatch.setattr("redecode.optimizer.study.proposing.nearest", by_list)
    assert [study(seed) for seed in range(3)] == counted


@pytest.fixture
def unlisted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing is an error: it would take the memory of the machine before a test could fail."""

    def never(knob: Any) -> Sequence[Label] | None:
        raise AssertionError(f"{knob} was listed")

    monkeypatch.setattr(knobs, "values_of", never)
    monkeypatch.setattr("redecode.optimizer.study.proposing.values_of", never, raising=False)


@pytest.mark.usefixtures("unlisted")
def test_a_wide_range_is_counted_not_listed() -> None:
    assert Space({"seed": SEED}).size() == 2**31
    assert Space({"n": Range(1, 2**40, integer=True, log=True)}).size() == 2**40
    assert Space({"n": Range(0, 2**63 - 1, integer=True)}).size() == 2**63
    assert Space({"heat": Range(0, 1, step=1e-9), "kind": Choice("a", "b")}).size() == 2 * (10**9 + 1)
    many: dict[str, Any] = {f"n{i}": SEED for i in range(40)}
    assert Space(many).size() == 2 ** (31 * 40)
    assert Space({**many, "far": Range(0, 1)}).size() == math.inf
    assert Space({}).size() == 1


@pytest.mark.usefixtures("unlisted")
@pytest.mark.parametrize("knob", WIDE, ids=str)
def test_candidates_of_a_wide_range_are_of_it(knob: Range) -> None:
    space, rng = Space({"n": knob, "kind": Choice("a", "b")}), random.Random(0)
    configs = [drawn(space, rng) for _ in range(60)]
    found = propose(space, configs, [(rng.random(), rng.random()) for _ in configs], [[]] * 60, [], rng)
    assert found is not None and found not in configs
    for config in [*configs, found, *(drawn(space, rng, found) for _ in range(60))]:
        assert space.canonical(config) == config
        assert isinstance(config["n"], int if knob.integer else float)
    assert len({str(c["n"]) for c in configs}) > 50
    assert knob.high in knob and nearest(knob, knob.high * 2 + 1) in knob and nearest(knob, knob.low - 1) == knob.low
