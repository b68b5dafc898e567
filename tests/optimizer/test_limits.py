"""What a candidate must keep by itself: few misses, few errors, and runs that come by the conversation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from redecode.optimizer.objectives import Goals, Outcome, Usage
from redecode.optimizer.promotion.decide import Verdict, decide
from redecode.optimizer.promotion.limits import Level, Misses
from redecode.optimizer.promotion.statistics import Counted


def lane(rng: Any, n: int, loss: float = 0.0, seconds: float = 1.0) -> list[Outcome]:
    return [
        Outcome(
            case=str(i),
            run_id=None,
            quality=1.0 - float(rng.random() < loss),
            latency_s=seconds * math.exp(rng.normal(0, 0.2)),
            usage={"m": Usage(calls=1, engine_s=math.exp(rng.normal(0, 0.1)))},
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3])
@pytest.mark.parametrize("runs", [1, 5, 10])
@pytest.mark.parametrize("conversations", [40, 60, 100])
def test_misses_that_come_by_the_conversation_are_counted_by_it(conversations: int, runs: int, alpha: float) -> None:
    """A true rate of exactly what is allowed, of which whole conversations miss: at most alpha are let through."""
    clusters = [i // runs for i in range(conversations * runs)]
    let = 0.0
    for k in range(conversations):
        found = Misses.of([c < k for c in clusters], clusters, 0.05)
        let += (found.p <= alpha) * math.comb(conversations, k) * 0.05**k * 0.95 ** (conversations - k)
        if found.p > alpha:
            break
    assert let <= alpha


def test_a_bad_conversation_is_no_proof_that_the_slo_is_missed() -> None:
    clusters = [i // 10 for i in range(200)]
    one = Misses.of([c == 3 for c in clusters], clusters, 0.02)
    assert (one.misses, one.runs, one.share) == (10, 200, 0.05) and one.low < 0.02 < one.high
    alone = Misses.of([i < 10 for i in range(200)], range(200), 0.02)
    assert alone.low > 0.02 and alone.high < one.high


def test_as_many_conversations_more_as_are_said_do_keep_the_slo() -> None:
    rng = np.random.default_rng(2)
    base = lane(rng, 1000)
    fast = [replace(o, latency_s=o.latency_s / 3) for o in base]
    clusters = [i // 5 for i in range(1000)]

    def after(n: int) -> Any:
        return decide({"incumbent": base[:n], "new": fast[:n]}, clusters[:n], Goals(slo_s=9.0), resamples=1000)

    few = after(150)
    assert few.verdict is Verdict.UNSURE and 145 <= (few.more or 0) <= 160  # 59 conversations of 5 runs
    assert "the SLO is not certain: 0 of 150 runs missed it, up to 9.5% may be missing" in few.why
    assert after(150 + (few.more or 0)).verdict is Verdict.PROMOTE


def test_the_interval_of_a_sure_gain_does_not_reach_none() -> None:
    rng = np.random.default_rng(1)
    new = lane(rng, 100)
    base = [replace(o, quality=float(i >= 30)) for i, o in enumerate(new)]
    found = decide({"incumbent": base, "new": new}, range(100), Goals(), resamples=1000)
    error = found.compared[0].effects["error"]
    assert found.verdict is Verdict.PROMOTE and error.low < -0.3 < error.high < -0.2
    assert "better: error -29.7 points" in found.why and "+0.0" not in found.why
    assert Counted(worse=0, better=30, n=100).upper() == -1.0 < Counted(worse=0, better=2, n=100).upper()


def test_what_is_not_sure_shows_in_its_interval() -> None:
    rng = np.random.default_rng(1)
    base = lane(rng, 25)
    fast = [replace(o, latency_s=o.latency_s / 2) for o in base]
    found = decide({"incumbent": base, "new": fast}, range(25), Goals(most_error=0.1), resamples=1000)
    assert "at most the error that is allowed (0.1): 0.000 (0.000 to 0.113)" in found.why
    graded = Level.of([0.0] * 24 + [0.5], range(25), 0.1, seed=0, resamples=1000)
    assert graded.p > 0.05 and graded.seen.high > 0.1


def test_a_number_that_is_beyond_a_margin_by_luck_is_not_called_hopeless() -> None:
    rng = np.random.default_rng(5)
    base = lane(rng, 40)
    new = [replace(o, latency_s=o.latency_s / 2, quality=float(i >= 3)) for i, o in enumerate(base)]
    found = decide({"incumbent": base, "new": new}, range(40), Goals(), resamples=1000)
    assert (found.verdict, found.more) == (Verdict.UNSURE, None)
    assert str(found) == "not enough evidence: more runs would tell only if they look otherwise"


@pytest.mark.parametrize(("long", "share"), [(10, 0.1), (20, 0.1), (5, 0.3)])
def test_long_conversations_that_are_slow_as_wholes_count_by_their_runs(long: int, share: float) -> None:
    """Of all runs exactly what is allowed is slow, of conversations far less."""
    rng, let = np.random.default_rng(3), 0
    for _ in range(200):
        sizes = np.where(rng.random(120) < share, long, 1)
        clusters = np.repeat(np.arange(120), sizes)
        slow = 0.05 * (share * long + 1 - share) / (share * long)
        missed = ((rng.random(120) < slow) & (sizes > 1))[clusters]
        let += Misses.of([bool(m) for m in missed], [int(c) for c in clusters], 0.05).p <= 0.05
    assert let <= 24  # of 200; by shares of conversations alone it is a third and more


def test_an_error_of_long_conversations_is_that_of_their_runs() -> None:
    """Short ones are never wrong: by conversations 6 % are, by runs a quarter."""
    sizes = [1] * 80 + [5] * 20
    clusters = [i for i, size in enumerate(sizes) for _ in range(size)]
    losses = [float(size == 5 and nth < 2) for size in sizes for nth in range(size)]
    assert sum(losses) / len(losses) > 0.2
    found = Level.of(losses, clusters, 0.15, seed=0, resamples=1000)
    assert found.p > 0.5 and found.clusters_for(0.15, 0.05) is None
    assert Level.of(losses, clusters, 0.4, seed=0, resamples=1000).p < 0.05
