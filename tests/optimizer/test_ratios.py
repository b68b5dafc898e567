"""Cost and latency are ratios of sums: rare and dear runs, and typical times that say nothing of the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest

from redecode.optimizer.objectives import Goals, Outcome, Usage
from redecode.optimizer.promotion.decide import Decision, Margins, Verdict, decide
from redecode.optimizer.promotion.statistics import Effect, paired

MARGIN = math.log(1.05)


def lane(seconds: np.ndarray, costs: np.ndarray) -> list[Outcome]:
    return [
        Outcome(case=str(n), run_id=None, quality=1.0, latency_s=s, usage={"m": Usage(calls=1, engine_s=c)})
        for n, (s, c) in enumerate(zip(seconds.tolist(), costs.tolist(), strict=True))
    ]


def decided(base: list[Outcome], other: list[Outcome], margins: Margins | None = None) -> Decision:
    lanes = {"incumbent": base, "trial-1": other}
    return decide(lanes, range(len(base)), Goals(percentile=50), margins=margins or Margins(), resamples=1000)


def loops(rng: np.random.Generator, n: int, share: float) -> Effect:
    """A tenth cheaper, but for a share of runs that loop: in truth dearer by just the margin."""
    many = 1 + (1.05 / 0.9 - 1) / share
    cost = np.exp(rng.normal(0, 0.4, n))
    ours = cost * 0.9 * np.where(rng.random(n) < share, many, 1)
    return paired(ours.tolist(), cost.tolist(), range(n), seed=int(rng.integers(1000)), ratio=True, resamples=500)


@pytest.mark.parametrize(("n", "share"), [(60, 0.05), (100, 0.05), (60, 0.1)])
def test_runs_that_loop_seldom_and_dearly_are_not_taken_for_cheap(n: int, share: float) -> None:
    rng, sure, bounds = np.random.default_rng(1), 0, 0
    for _ in range(300):
        e = loops(rng, n, share)
        sure += e.p_not_above(MARGIN) <= 0.05
        bounds += e.high < MARGIN
    unseen = (1 - share) ** n  # of what did not happen no test knows
    assert sure / 300 <= 0.05 + unseen + 0.03 and bounds == pytest.approx(sure, abs=6)


def test_even_costs_lose_little_by_it() -> None:
    rng, wrong, right = np.random.default_rng(2), 0, 0
    for n in range(300):
        theirs = np.exp(rng.normal(0, 0.4, 60))
        ours = theirs * np.exp(rng.normal(0, 0.3, 60))
        for factor in (1.05, 0.9):
            scaled = ours * factor / math.exp(0.045)
            e = paired(scaled.tolist(), theirs.tolist(), range(60), seed=n, ratio=True, resamples=500)
            wrong += factor > 1 and e.p_not_above(MARGIN) <= 0.05
            right += factor < 1 and e.p_not_above(MARGIN) <= 0.05
    assert wrong / 300 <= 0.08 and right / 300 >= 0.9


def test_of_nothing_against_nothing_and_against_something() -> None:
    def of(ours: float, theirs: float) -> Effect:
        return paired([ours] * 40, [theirs] * 40, range(40), seed=0, ratio=True, resamples=200)

    assert of(0.0, 0.0).p_not_above(MARGIN) < 0.01 and of(0.0, 0.0).p_not_above(0.0) > 0.9
    assert of(1.0, 0.0).p_not_above(MARGIN) > 0.9 and of(1.0, 0.0).p_not_below(MARGIN) < 0.01
    assert of(0.0, 1.0).p_not_above(0.0) < 0.01 and of(0.0, 1.0).high < 0
    e = of(0.9, 1.0)
    assert e.low == pytest.approx(math.log(0.9), abs=1e-4) and e.high == pytest.approx(math.log(0.9), abs=1e-4)


def test_a_fast_path_that_pays_with_slower_runs_is_not_faster() -> None:
    """A third of the runs hit a cache, the others take twice as long: the typical ratio is far below one."""
    rng = np.random.default_rng(3)
    base = np.exp(rng.normal(0, 0.1, 120))
    hits = rng.random(120) < 0.33
    found = decided(lane(base, base), lane(np.where(hits, base / 100, base * 2), base * 0.5))
    (compared,) = found.compared
    assert found.verdict is not Verdict.PROMOTE
    assert compared.effects["latency"].estimate > 0.2 and any(
        "worse than the margin: latency" in w for w in compared.why
    )


def test_one_run_that_waits_no_more_makes_no_configuration_faster() -> None:
    rng = np.random.default_rng(4)
    base = np.exp(rng.normal(0, 0.1, 120))
    slower = base * 1.2
    base[7] = 20.0
    (compared,) = decided(lane(base, base), lane(slower, base)).compared
    assert any("worse than the margin: latency +1" in why for why in compared.why)


def test_the_very_same_cost_is_within_a_margin_of_nothing() -> None:
    rng = np.random.default_rng(5)
    base = np.exp(rng.normal(0, 0.1, 80))
    found = decided(lane(base, base), lane(base * 0.5, base), Margins(cost=1.0))
    assert found.verdict is Verdict.PROMOTE and "latency -50" in found.why
    dearer = decided(lane(base, base), lane(base * 0.5, base * 1.001), Margins(cost=1.0))
    assert dearer.verdict is not Verdict.PROMOTE
    cheaper = decided(lane(base, base), lane(base * 0.5, base), Margins(cost=0.9))
    assert cheaper.verdict is Verdict.KEEP


def test_what_lies_on_its_margin_asks_for_no_number_of_runs() -> None:
    rng = np.random.default_rng(6)
    base = np.exp(rng.normal(0, 0.1, 80))
    nearly = base * np.exp(rng.normal(0, 0.02, 80))
    nearly *= 1.0499 * base.sum() / nearly.sum()
    found = decided(lane(base, base), lane(nearly, base * 0.5))
    assert (found.verdict, found.more) == (Verdict.UNSURE, None)


def test_one_long_run_of_the_incumbents_leaves_what_all_others_say() -> None:
    """Each run costs the candidate half; one of the incumbent's took a hundred times as long as usual."""
    rng = np.random.default_rng(7)
    theirs = np.exp(rng.normal(0, 0.1, 40))
    ours = theirs * 0.5
    theirs[3] *= 100
    e = paired(ours.tolist(), theirs.tolist(), range(40), seed=0, ratio=True, resamples=1000)
    assert e.p_not_above(MARGIN) < 0.01 and e.p_not_above(0.0) < 0.01
    back = paired(theirs.tolist(), ours.tolist(), range(40), seed=0, ratio=True, resamples=1000)
    assert back.p_not_below(MARGIN) < 0.01 and back.p_not_above(MARGIN) > 0.5


@pytest.mark.parametrize("odd", [1, 2, 5])
@pytest.mark.parametrize("dear", [1.0, 0.9], ids=["as dear", "less dear"])
def test_runs_that_are_odd_and_no_dearer_leave_a_clear_gain(odd: int, dear: float) -> None:
    """Without them all others are alike, and nothing by nothing is as far as any."""
    ours = [dear] * odd + [0.5] * (100 - odd)
    e = paired(ours, [1.0] * 100, range(100), seed=0, ratio=True, resamples=1000)
    assert e.p_not_above(MARGIN) < 0.01 and e.p_not_above(0.0) < 0.01 and e.high < math.log(dear) + 1e-5
    above = paired([2.0] * 100, ours, range(100), seed=0, ratio=True, resamples=1000)
    assert above.p_not_below(0.0) < 0.01 and above.low > math.log(2 / dear) - 1e-5
