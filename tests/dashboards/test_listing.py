"""Filtering, counting and ordering runs; the same by brute force."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.dashboards.listing import FACETS, NONE, SORTS, Filter, Listing
from redecode.tracer.store import RunColumns

SECOND = 10**9


def columns(rows: list[dict[str, Any]]) -> RunColumns:
    defaults: dict[str, Any] = {
        "run_id": "a", "agent": "x", "agent_version": None, "status": "ok", "started_ns": 0, "ended_ns": SECOND,
        "fidelity": None, "replay_mode": None, "source_run_id": None, "conversation_id": None, "slo_s": None,
        "decodes": 0, "tools": 0, "tokens": 0, "prompt_tokens": 0, "lost": 0, "input": None, "error": None,
    }  # fmt: skip
    return RunColumns(**{name: [row.get(name, value) for row in rows] for name, value in defaults.items()})


def _ended(row: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """With an end, or without one."""
    took = st.none() | st.integers(1, 10**10)
    return took.map(lambda ns: {**row, "ended_ns": None if ns is None else row["started_ns"] + ns})


rows: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.fixed_dictionaries(
        {
            "agent": st.sampled_from(["x", "y", "z"]),
            "status": st.sampled_from(["ok", "error"]),
            "started_ns": st.integers(0, 10**6).map(lambda n: 1_800_000_000 * SECOND + n * SECOND),
            "slo_s": st.none() | st.floats(0.5, 5),
            "tokens": st.integers(0, 99),
            "input": st.none() | st.sampled_from(["find Ada", "find Bob", "sum"]),
        }
    ).flatmap(_ended),
    max_size=30,
)


@given(rows, st.sampled_from(["", "ada", "FIND ada", "nothing"]), st.sets(st.sampled_from(["x", "y"])))
@settings(max_examples=60, deadline=None)
def test_a_filter_picks_what_it_says(some: list[dict[str, Any]], search: str, agents: set[str]) -> None:
    listing = Listing(columns(some))
    picked = listing.pick(Filter(search=search, agent=tuple(agents)))
    text = [f"a {row['agent']} {row['input'] or ''}".lower() for row in some]
    wanted = [
        all(word in t for word in search.lower().split()) and (not agents or row["agent"] in agents)
        for t, row in zip(text, some, strict=True)
    ]
    assert picked.tolist() == wanted


@given(rows)
@settings(max_examples=60, deadline=None)
def test_counts_of_a_facet_leave_that_facet_out(some: list[dict[str, Any]]) -> None:
    listing = Listing(columns(some))
    facets = listing.facets(Filter(agent=("x",), status=("ok",)))
    assert set(facets) == set(FACETS)
    for agent in {"x", "y", "z"}:
        n = sum(row["agent"] == agent and row["status"] == "ok" for row in some)
        assert facets["agent"].get(agent, 0) == n
    assert facets["status"].get("error", 0) == sum(r["agent"] == "x" and r["status"] == "error" for r in some)


@given(rows)
@settings(max_examples=60, deadline=None)
def test_quantiles_and_attainment_are_those_of_the_ended_runs(some: list[dict[str, Any]]) -> None:
    listing = Listing(columns(some))
    took = sorted((r["ended_ns"] - r["started_ns"]) / 1e9 for r in some if r["ended_ns"] is not None)
    found = listing.quantiles(listing.pick(Filter()))
    assert found == tuple(took[math.ceil(q * len(took)) - 1] if took else None for q in (0.5, 0.95, 0.99))
    judged = [r for r in some if r["ended_ns"] is not None and r["slo_s"] is not None]
    met = [r for r in judged if (r["ended_ns"] - r["started_ns"]) / 1e9 <= r["slo_s"]]
    assert listing.attained(listing.pick(Filter())) == (len(met), len(judged))


@given(rows)
@settings(max_examples=60, deadline=None)
def test_stretches_of_time_hold_every_run_once(some: list[dict[str, Any]]) -> None:
    listing = Listing(columns(some))
    stretches = listing.over_time(listing.pick(Filter()), most=7)
    assert sum(s.runs for s in stretches) == len(some)
    assert [s.start_ns for s in stretches] == sorted({s.start_ns for s in stretches})
    assert len(stretches) <= 8
    if some:
        assert stretches[0].start_ns <= min(r["started_ns"] for r in some)


@given(rows, st.sampled_from(SORTS))
@settings(max_examples=60, deadline=None)
def test_an_order_loses_no_run(some: list[dict[str, Any]], sort: str) -> None:
    listing = Listing(columns(some))
    order = listing.order(listing.pick(Filter()), sort)
    assert sorted(order.tolist()) == list(range(len(some)))
    took = listing.duration_s[order]
    if sort == "slowest":
        ended = took[~np.isnan(took)]
        assert ended.tolist() == sorted(ended.tolist(), reverse=True)
        assert np.isnan(took[len(ended) :]).all()


def test_a_target_judges_runs_without_an_slo_alone() -> None:
    listing = Listing(columns([{}, {"slo_s": 0.5}, {"ended_ns": None}]), target_s=2.0)
    names, codes = listing.values["slo"]
    assert [names[n] for n in codes] == ["met", "missed", NONE]


def test_what_is_chosen_is_listed_though_no_run_has_it() -> None:
    listing = Listing(columns([{}]))
    assert listing.facets(Filter(agent=("gone",)))["agent"] == {"x": 1, "gone": 0}
