"""A cache replayed over recorded calls knows what it could have known then, and nothing else."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.optimizer.caching import Call, HashedNgrams, exact_hits, same_fields, semantic_hits
from redecode.optimizer.caching.replayed import nearest, noise
from tests.optimizer.caching.made import call

VECTORS = HashedNgrams(dimensions=256)
WORDS = ["where is my order", "where is my orders", "where's my parcel", "cancel it", "cancel them", "hello"]

calls_of_a_day = st.lists(
    st.builds(
        lambda text, answer, at, took, tenant, scope: call(text, answer, at, took_s=took, tenant=tenant, scope=scope),
        st.sampled_from(WORDS),
        st.sampled_from("xy"),
        st.floats(0, 50),
        st.floats(0.01, 20),
        st.sampled_from(["", "acme"]),
        st.sampled_from(["m1", "m2"]),
    ),
    max_size=25,
).map(lambda calls: sorted(calls, key=lambda c: (c.sent_ns, c.span_id)))


def hits(calls: list[Call], threshold: float | None, ttl_s: float | None = None) -> list[tuple[str, str, bool]]:
    found = (
        exact_hits(calls, ttl_s=ttl_s)
        if threshold is None
        else semantic_hits(calls, VECTORS.of([c.text for c in calls]), threshold, ttl_s=ttl_s)
    )
    return [(h.call.span_id, h.source.span_id, h.false) for h in found]


@given(calls=calls_of_a_day, threshold=st.sampled_from([None, 0.5, 0.9, 1.0]), ttl_s=st.none() | st.floats(1, 40))
@settings(max_examples=50, deadline=None)
def test_every_hit_could_have_been_one(calls: list[Call], threshold: float | None, ttl_s: float | None) -> None:
    by_id = {c.span_id: c for c in calls}
    found = hits(calls, threshold, ttl_s)
    answered = {hit for hit, _, _ in found}
    for hit, source, false in found:
        asked, entry = by_id[hit], by_id[source]
        assert entry.done_ns <= asked.sent_ns
        assert (entry.tenant, entry.scope) == (asked.tenant, asked.scope)
        assert ttl_s is None or asked.sent_ns - entry.done_ns <= ttl_s * 1e9
        assert source not in answered  # what was answered from the cache is not in it a second time
        assert false == (entry.answer != asked.answer)
        if threshold in (None, 1.0):
            assert entry.text == asked.text


@given(calls=calls_of_a_day, threshold=st.sampled_from([None, 0.5, 0.9]), data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_future_changes_nothing(calls: list[Call], threshold: float | None, data: st.DataObject) -> None:
    until = data.draw(st.integers(0, len(calls)))
    now = {c.span_id for c in calls[:until]}
    assert hits(calls[:until], threshold) == [h for h in hits(calls, threshold) if h[0] in now]


def test_a_call_in_flight_has_no_answer_to_give() -> None:
    both = [call("q", "x", 0, took_s=5), call("q", "x", 1), call("q", "x", 6)]
    expected = [(both[2].span_id, both[1].span_id, False)]
    assert hits(both, None) == expected == hits(both, 0.99)


def test_a_smaller_threshold_hits_at_least_the_first_alike_call() -> None:
    day = [call(w, "x", n * 10) for n, w in enumerate(WORDS)]
    counts = [len(hits(day, t)) for t in (0.2, 0.5, 0.9, 1.0)]
    assert counts[-1] == 0 < counts[0] and all(a >= b for a, b in pairwise(counts))
    found = nearest(day, VECTORS.of(WORDS))
    assert found is not None and len(hits(day, found)) > 0 == len(hits(day, found + 0.001))


def test_answers_can_be_judged_by_some_of_their_fields() -> None:
    def said(**fields: str) -> str:
        return json.dumps([{"role": "assistant", "content": json.dumps(fields)}])

    one, other = said(name="Ann", why="because"), said(name="Ann", why="since")
    day = [call("q", one, 0), call("q", other, 5), call("q", said(name="Bea"), 9), call("q", "no JSON", 12)]
    assert [h.false for h in exact_hits(day)] == [True, True, True]
    assert [h.false for h in exact_hits(day, judge=same_fields("name"))] == [False, True, True]


def test_nothing_is_alike_to_an_empty_text() -> None:
    day = [call("", "x", 0), call("", "y", 5)]
    assert hits(day, 0.1) == []
    assert np.array_equal(VECTORS.of([""]), np.zeros((1, 256), dtype=np.float32))


def test_noise_is_counted_on_pairs_that_share_no_call() -> None:
    same = [call("q", answer, n) for n, answer in enumerate("xxxyx")] + [call("p", "x", 9)]
    assert noise(same) == (2, 1)


def test_hashed_vectors_are_the_same_in_any_order_and_of_length_one() -> None:
    rows = VECTORS.of(WORDS)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1)
    assert np.array_equal(VECTORS.of(WORDS[::-1])[::-1], rows)
    assert float(rows[0] @ rows[1]) > 0.8 > float(rows[0] @ rows[3])
