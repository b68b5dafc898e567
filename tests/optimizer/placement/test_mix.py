"""The integer programme finds what trying all mixes finds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.optimizer.placement.errors import PlacementError
from redecode.optimizer.placement.mix import Bucket, cheapest_mix

BUCKETS = st.lists(
    st.builds(
        Bucket,
        name=st.just("runs"),
        per_s=st.floats(0.1, 5.0),
        rates=st.tuples(*[st.one_of(st.just(0.0), st.floats(0.3, 4.0))] * 2),
    ),
    min_size=1,
    max_size=3,
)


def serves(counts: tuple[int, ...], buckets: list[Bucket], slack: float = 1e-6) -> bool:
    """Whether these replicas of two kinds can, split at best: by the ratio of rates (a fractional knapsack)."""
    first = second = 0.0
    shared = []
    for b in buckets:
        if not b.rates[0] and not b.rates[1]:
            return False
        if not b.rates[1]:
            first += b.per_s / b.rates[0]
        elif not b.rates[0]:
            second += b.per_s / b.rates[1]
        else:
            shared.append((b.rates[0] / b.rates[1], b.per_s / b.rates[0], b.per_s / b.rates[1]))
    left = counts[0] - first
    if left < -slack:
        return False
    for _, on_first, on_second in sorted(shared, reverse=True):  # what the first kind is best at goes there first
        part = min(1.0, max(0.0, left) / on_first)
        left -= part * on_first
        second += (1.0 - part) * on_second
    return second <= counts[1] + slack


@settings(max_examples=60, deadline=None)
@given(buckets=BUCKETS, costs=st.tuples(st.floats(0.5, 5.0), st.floats(0.5, 5.0)))
def test_as_cheap_as_the_cheapest_of_all_mixes(buckets: list[Bucket], costs: tuple[float, float]) -> None:
    most = (6, 6)
    every = itertools.product(range(most[0] + 1), range(most[1] + 1))
    able = [c for c in every if serves(c, buckets)]
    if not able:
        with pytest.raises(PlacementError):
            cheapest_mix(buckets, costs, most)
        return
    best = min(a * costs[0] + b * costs[1] for a, b in able)
    found = cheapest_mix(buckets, costs, most)
    assert serves(found.replicas, buckets, 1e-4)
    assert found.cost == pytest.approx(best, rel=1e-5)
    for bucket, shares in zip(buckets, found.shares, strict=True):
        assert sum(shares) == pytest.approx(1.0)
        assert all(not share or rate for share, rate in zip(shares, bucket.rates, strict=True))


def test_small_requests_go_to_cheap_hardware_and_large_ones_to_what_can_serve_them() -> None:
    small, large = Bucket("small", 10.0, (10.0, 5.0)), Bucket("large", 2.0, (2.0, 0.0))
    found = cheapest_mix([small, large], (4.0, 1.0), (10, 10))
    assert found.replicas == (1, 2)
    assert found.cost == 6.0


def test_what_nothing_serves_is_named() -> None:
    with pytest.raises(PlacementError, match="no hardware serves long runs of agents"):
        cheapest_mix([Bucket("long runs of agents", 1.0, (0.0, 0.0))], (1.0, 1.0), (9, 9))


def test_too_much_for_all_that_there_may_be_is_said() -> None:
    with pytest.raises(PlacementError, match="cannot serve this load"):
        cheapest_mix([Bucket("runs", 9.0, (1.0,))], (1.0,), (8,))
