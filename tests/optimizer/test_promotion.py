"""The statistics of a decision against known values and by their error rates, and the verdicts they lead to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.optimizer.evaluation.racing import least_quantile, lower_rate, upper_rate
from redecode.optimizer.objectives import Goals, Outcome, Usage, measured
from redecode.optimizer.promotion.decide import Margins, Verdict, decide
from redecode.optimizer.promotion.statistics import (
    Counted,
    Graded,
    few,
    holm,
    p_mean_above,
    p_rate_above,
    paired,
    runs_for_mean,
    runs_for_rate,
)


def outcome(case: int, loss: float, seconds: float, cost: float = 1.0, error: str | None = None) -> Outcome:
    usage = {"m": Usage(calls=1, engine_s=cost)}
    return Outcome(case=str(case), run_id=None, quality=1 - loss, latency_s=seconds, usage=usage, live=1, error=error)


def lane(rng: Any, n: int, *, loss: float = 0.1, seconds: float = 1.0, cost: float = 1.0) -> list[Outcome]:
    return [
        outcome(
            i, float(rng.random() < loss), seconds * math.exp(rng.normal(0, 0.2)), cost * math.exp(rng.normal(0, 0.1))
        )
        for i in range(n)
    ]


def test_exact_bounds_are_those_of_the_tables() -> None:
    # Clopper and Pearson, one-sided 95 %: the rule of three, and the classic 29 of 29.
    assert upper_rate(0, 29) == pytest.approx(1 - 0.05 ** (1 / 29))
    assert upper_rate(0, 29) < 0.10 < upper_rate(0, 28)
    assert lower_rate(5, 5) == pytest.approx(0.05 ** (1 / 5))
    assert upper_rate(3, 20) == pytest.approx(0.3437, abs=1e-4)
    assert (upper_rate(5, 5), lower_rate(0, 5)) == (1.0, 0.0)


def test_needed_runs_are_those_of_the_literature() -> None:
    assert [runs_for_rate(s, 0.10) for s in (0, 0.025, 0.05)] == [29, 46, 89]
    assert runs_for_rate(0, 0.01) == 299
    assert runs_for_rate(0.1, 0.1) is None
    # Normal approximation, power 0.8: margin of 5 points with a tenth of the pairs discordant; 5 % of latency.
    assert runs_for_mean(0.05, math.sqrt(0.1)) == 248
    assert runs_for_mean(math.log(1.05), 0.25) == 163
    assert runs_for_mean(-0.1, 1.0) is None


@given(st.integers(1, 400), st.floats(0.001, 0.2), st.floats(0.01, 0.5))
@settings(max_examples=50, deadline=None)
def test_so_many_runs_do_and_one_less_does_not(seed: int, share: float, allowed: float) -> None:
    n = runs_for_rate(share, allowed)
    if n is None:
        assert share >= allowed or share > 0.9 * allowed
        return
    assert p_rate_above(round(share * n), n, allowed) <= 0.05
    assert all(p_rate_above(round(share * k), k, allowed) > 0.05 for k in range(1, n))


def test_holm_against_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5]) == [0.5] and holm([]) == []


def test_bootstrap_bounds_of_normal_data_are_those_of_student() -> None:
    from scipy import stats  # type: ignore[import-untyped]

    x = np.random.default_rng(1).normal(0.3, 1, 25)
    e = paired(list(x), [0.0] * 25, range(25), seed=0, resamples=40_000)
    half = stats.t.ppf(0.95, 24) * x.std(ddof=1) / 5
    assert e.estimate == pytest.approx(x.mean())
    assert e.low == pytest.approx(x.mean() - half, abs=0.03)
    assert e.high == pytest.approx(x.mean() + half, abs=0.03)
    t = x.mean() / (x.std(ddof=1) / 5)
    assert e.p_not_below(0.0) == pytest.approx(stats.t.sf(t, 24), abs=0.02)


@pytest.mark.parametrize("per_cluster", [1, 4])
def test_bounds_hold_as_often_as_they_say(per_cluster: int) -> None:
    """Upper 95 % bounds over 400 samples of 20 conversations; of runs of one conversation, too, that are alike."""
    rng, held = np.random.default_rng(7), 0
    for trial in range(400):
        shared = rng.normal(0, 1, 20)
        x = [s + rng.normal(0, 0.3) for s in shared for _ in range(per_cluster)]
        e = paired(x, [0.0] * len(x), [i // per_cluster for i in range(len(x))], seed=trial, resamples=500)
        held += e.high >= 0.0
    assert 0.92 <= held / 400 <= 0.98


def test_runs_of_one_conversation_are_not_counted_as_so_many() -> None:
    rng = np.random.default_rng(3)
    x = [s for s in rng.normal(0, 1, 10) for _ in range(10)]
    together = paired(x, [0.0] * 100, [i // 10 for i in range(100)], seed=0)
    apart = paired(x, [0.0] * 100, range(100), seed=0)
    assert together.clusters == 10
    assert together.high - together.low > 2.5 * (apart.high - apart.low)


def test_few_pairs_without_any_difference_prove_nothing() -> None:
    def bound(n: int) -> float:
        return paired([0.0] * n, [0.0] * n, range(n), seed=0, shrink=1.0).high

    assert bound(12) > 0.05 and bound(200) < 0.02


def test_a_ratio_is_of_sums_and_not_a_mean_of_ratios() -> None:
    e = paired([1.0, 30.0] * 20, [2.0, 10.0] * 20, range(40), seed=0, ratio=True)
    assert math.exp(e.estimate) == pytest.approx(31 / 12)


def test_the_least_quantile_holds_whatever_the_distribution() -> None:
    rng, below = np.random.default_rng(5), 0
    truth = math.exp(1.0 * 1.6448536)
    for _ in range(500):
        below += least_quantile(sorted(np.exp(rng.normal(0, 1, 24))), 95.0) <= truth
    assert below / 500 >= 0.94
    assert least_quantile([1.0], 95.0) == 0.0


def verdict(lanes: dict[str, Sequence[Outcome]], **goals: Any) -> Any:
    n = len(lanes["incumbent"])
    return decide(lanes, range(n), Goals(**goals), margins=Margins())


def test_clearly_faster_and_as_right_is_promoted() -> None:
    rng = np.random.default_rng(0)
    base = lane(rng, 300)
    fast = [outcome(i, o.loss or 0.0, o.latency_s * 0.7, 1.0) for i, o in enumerate(base)]
    found = verdict({"incumbent": base, "trial-1": fast}, slo_s=2.0)
    assert (found.verdict, found.chosen, found.more) == (Verdict.PROMOTE, "trial-1", None)
    assert "latency -30" in found.why


def test_worse_than_the_margin_keeps_the_incumbent() -> None:
    rng = np.random.default_rng(0)
    base = lane(rng, 300)
    wrong = [outcome(i, float(rng.random() < 0.4), o.latency_s * 0.5) for i, o in enumerate(base)]
    found = verdict({"incumbent": base, "trial-1": wrong})
    assert found.verdict is Verdict.KEEP and "worse than the margin: error" in found.why


def test_a_candidate_that_misses_the_slo_is_not_promoted_however_cheap() -> None:
    rng = np.random.default_rng(0)
    base = lane(rng, 200)
    slow = [outcome(i, 0.0, 3.0 if i % 3 == 0 else 0.1, 0.2) for i in range(200)]
    found = verdict({"incumbent": base, "trial-1": slow}, slo_s=2.5)
    assert found.verdict is Verdict.KEEP and "it misses the SLO" in found.why


def test_too_few_runs_say_how_many_more() -> None:
    base = [outcome(i, float(i % 2), 1.0) for i in range(20)]
    fast = [outcome(i, 0.0, 0.6 + 0.001 * i) for i in range(20)]
    found = verdict({"incumbent": base, "trial-1": fast}, slo_s=2.0)
    # 59 runs without a miss are sure of at most 5 % (0.95^59 < 0.05 < 0.95^58).
    assert found.verdict is Verdict.UNSURE and found.more == 39
    assert str(found) == "not enough evidence: need 39 more runs"


@pytest.mark.parametrize("finalists", [1, 2, 3])
def test_so_many_more_runs_do_tell_however_many_finalists_there_are(finalists: int) -> None:
    """Holm asks more of each of several: all are surely better, and only the SLO, never missed, wants more runs."""
    rng = np.random.default_rng(3)
    base = lane(rng, 400, loss=0.0)
    names = [f"trial-{n}" for n in range(finalists)]
    lanes = {
        "incumbent": base,
        **{n: [replace(o, latency_s=o.latency_s * rng.uniform(0.5, 0.7)) for o in base] for n in names},
    }

    def after(runs: int) -> Any:
        goals = Goals(slo_s=10.0)
        return decide({n: o[:runs] for n, o in lanes.items()}, range(runs), goals, resamples=2000)

    more = after(33).more
    assert 1.0 <= more / {1: 26, 2: 39, 3: 47}[finalists] < 1.3  # exact for the SLO alone
    assert after(33 + more // 2).verdict is Verdict.UNSURE
    assert after(33 + more).verdict is Verdict.PROMOTE


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3])
@pytest.mark.parametrize("n", [12, 42, 60, 61, 150])
def test_few_errors_are_never_taken_for_none(n: int, alpha: float) -> None:
    """At a true error, or a true difference, of exactly what is allowed: at most alpha are let through, exactly."""
    chance = [math.comb(n, k) * 0.05**k * 0.95 ** (n - k) for k in range(n + 1)]
    margin = [Counted(worse=k, better=0, n=n).p_above(0.05) <= alpha for k in range(n + 1)]
    level = [p_mean_above(k, n, 0.05) <= alpha for k in range(n + 1)]
    assert sum(p for p, let in zip(chance, margin, strict=True) if let) <= alpha
    assert sum(p for p, let in zip(chance, level, strict=True) if let) <= alpha
    better = [
        math.comb(9, k) * 0.5**9 for k in range(10) if Counted(worse=k, better=9 - k, n=n).p_not_better() <= alpha
    ]
    assert sum(better) <= alpha


def test_an_error_of_none_wants_as_many_runs_as_an_slo_of_none() -> None:
    goals, rng = Goals(most_error=0.05), np.random.default_rng(1)
    base = lane(rng, 59, loss=0.0)
    fast = [replace(o, latency_s=o.latency_s * 0.6) for o in base]
    assert decide({"incumbent": base, "new": fast}, range(59), goals).verdict is Verdict.PROMOTE
    early = decide({"incumbent": base[:42], "new": fast[:42]}, range(42), goals)
    assert (early.verdict, early.more) == (Verdict.UNSURE, 17)
    assert few([], [], []) is None
    assert few([1.0, 0.0, 0.0], [0.0, 0.0, 1.0], "aab") == Counted(worse=0.5, better=1.0, n=2)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3])
@pytest.mark.parametrize("n", [42, 60, 100])
@pytest.mark.parametrize("gain", [0.0, 0.05, 0.1])
def test_what_goes_badly_wrong_seldom_is_expected_before_it_is_seen(gain: float, n: int, alpha: float) -> None:
    """Small gains of each run and a few that are all wrong, which together are exactly what is allowed."""

    def promoted(margin: float) -> float:
        share = (margin + gain) / (1 + gain)
        chance = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
        let = [Graded.of([0.999] * k + [-gain] * (n - k)).p_above(margin) <= alpha for k in range(n + 1)]
        return sum(p for p, yes in zip(chance, let, strict=True) if yes)

    most = {0.05: 0.065}.get(alpha, 0.04)
    assert promoted(0.05) <= most
    assert not gain or promoted(0.0) <= most


def test_graded_qualities_want_as_many_runs_as_counted_ones_where_none_differ() -> None:
    rng = np.random.default_rng(1)
    base = [replace(o, quality=0.75) for o in lane(rng, 60)]
    fast = [replace(o, latency_s=o.latency_s * 0.6) for o in base]
    early = decide({"incumbent": base[:42], "new": fast[:42]}, range(42), Goals())
    assert early.verdict is Verdict.UNSURE and "within the margin" in early.why and 10 <= (early.more or 0) <= 18
    assert decide({"incumbent": base, "new": fast}, range(60), Goals()).verdict is Verdict.PROMOTE
    found = decide({"incumbent": base, "new": fast}, range(60), Goals(most_error=0.26))
    assert found.verdict is Verdict.UNSURE and "most the error that is allowed (0.26): 0.250" in found.why
    many = [replace(o, quality=0.75) for o in lane(rng, 60 + (found.more or 0))]
    faster = [replace(o, latency_s=o.latency_s * 0.6) for o in many]
    told = decide({"incumbent": many, "new": faster}, range(len(many)), Goals(most_error=0.26))
    assert 150 < len(many) < 800 and told.verdict is Verdict.PROMOTE


def test_how_many_more_conversations_of_several_runs_are_needed() -> None:
    """No run is ever wrong, of either: so many conversations say so, of one run each or of five."""
    for runs in (1, 5):
        found = paired([0.0] * 20 * runs, [0.0] * 20 * runs, [i // runs for i in range(20 * runs)], seed=0, shrink=1.0)
        needed = found.clusters_for(0.05, 0.05) or 0
        many = paired(
            [0.0] * needed * runs, [0.0] * needed * runs, [i // runs for i in range(needed * runs)], seed=0, shrink=1.0
        )
        assert needed * runs < 140 and many.p_not_above(0.05) <= 0.05


def test_an_slo_that_nothing_keeps_is_why() -> None:
    found = decide({"incumbent": []}, [], Goals(slo_s=0.01, most_error=0.2), kept=False)
    assert (
        found.why
        == "no candidate of the search keeps the SLO (95 of 100 runs within 0.01 s) and the error of at most 0.2"
    )


def test_one_run_alone_says_how_many_are_needed_at_least() -> None:
    rng = np.random.default_rng(3)
    found = verdict({"incumbent": lane(rng, 1), "new": lane(rng, 1, seconds=0.5)}, slo_s=99.0)
    assert found.verdict is Verdict.UNSURE and found.more == 58


def test_of_two_runs_nobody_says_that_no_number_would_tell() -> None:
    """It looks dearer than it may be, and one of two misses the SLO; that is no knowledge yet."""
    base = [outcome(i, 1.0, 1.0 + 0.1 * i) for i in range(2)]
    better = [outcome(i, 0.0, 0.9 + 0.3 * i, cost=1.2) for i in range(2)]
    found = verdict({"incumbent": base, "new": better}, slo_s=1.0)
    assert found.verdict is Verdict.UNSURE and 8 <= found.more < 1000
    assert "2 held-out conversations are too few to tell; 10 are the least" in found.why
    base, better = ([o for lane in [outcomes] * 15 for o in lane] for outcomes in (base, better))
    assert "too few" not in verdict({"incumbent": base, "new": better}, slo_s=1.0).why


def test_without_any_quality_that_is_what_is_said() -> None:
    base = [replace(o, quality=None) for o in lane(np.random.default_rng(0), 30)]
    found = verdict({"incumbent": base, "new": [replace(o, latency_s=o.latency_s / 2) for o in base]})
    assert (found.verdict, found.more) == (Verdict.UNSURE, None) and "no held-out run has a quality" in found.why
    assert "error" not in found.why


def test_equal_candidates_are_hardly_ever_promoted() -> None:
    """Three finalists that are the incumbent again: a false promotion at most in one of twenty."""
    rng, promoted = np.random.default_rng(11), 0
    for _ in range(100):
        lanes = {"incumbent": lane(rng, 60), **{f"trial-{k}": lane(rng, 60) for k in range(3)}}
        found = decide(
            lanes, range(60), Goals(), margins=Margins(error=0.3, cost=2.0, latency=2.0), seed=1, resamples=300
        )
        promoted += found.verdict is Verdict.PROMOTE
    assert promoted / 100 <= 0.09


def test_failed_runs_are_wrong_and_miss_the_slo() -> None:
    goals = Goals(slo_s=2.0)
    found = measured([outcome(0, 0.0, 0.1, error="boom"), outcome(1, 0.0, 0.1)], goals)
    assert (found.error, found.missed, found.failed) == (0.5, 1, 1)


def test_without_finalists_the_incumbent_is_kept() -> None:
    found = decide({"incumbent": []}, [], Goals())
    assert found.verdict is Verdict.KEEP and "no candidate" in found.why


def test_without_held_out_runs_nothing_is_decided() -> None:
    found = decide({"incumbent": [], "trial-1": []}, [], Goals(slo_s=1.0))
    assert (found.verdict, found.more) == (Verdict.UNSURE, 59)


def test_an_error_that_is_above_what_is_allowed_is_never_promoted_and_one_that_may_be_asks_for_more() -> None:
    rng = np.random.default_rng(5)
    cheap = lane(rng, 400, loss=0.16, cost=0.3)
    lanes = {"incumbent": lane(rng, 400, loss=0.13), "cheap": cheap}

    def verdict(most: float | None) -> Any:
        return decide(lanes, range(400), Goals(most_error=most), margins=Margins(error=0.2)).compared[0]

    assert verdict(None).verdict is Verdict.PROMOTE and verdict(0.25).verdict is Verdict.PROMOTE
    wrong = verdict(0.10)
    assert wrong.verdict is Verdict.KEEP and "0.1 is allowed" in wrong.why[0]
    near = verdict(0.175)
    assert near.verdict is Verdict.UNSURE and "not sure to have at most the error" in near.why[0] and near.more
