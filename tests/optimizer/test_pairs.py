"""What pairs of runs say: of runs that fail, and of times that were measured together."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from redecode.optimizer.errors import BadSpec
from redecode.optimizer.objectives import Goals, Outcome, Usage
from redecode.optimizer.promotion.decide import Decision, Verdict, decide
from redecode.optimizer.promotion.pairs import block_size, blocks_of, of_pairs, timed
from redecode.replay.prices import Price

BLOCKS = blocks_of(96, {"concurrency": 4})
PRICED = Goals(prices={"m": Price(input=1, output=1)})


def ran(n: int, seconds: float, *, tokens: int = 1000, error: str | None = None, quality: float = 1.0) -> Outcome:
    usage = {"m": Usage(calls=1, input_tokens=tokens, engine_s=seconds)}
    known = None if error else quality
    return Outcome(case=f"c{n}", run_id=f"r{n}", quality=known, latency_s=seconds, usage=usage, error=error)


def noisy(rng: np.random.Generator, runs: int, *, moment: float, single: float, block: int = 8) -> list[float]:
    """Log latencies of a lane on a machine that does something else now and then: so much in a block, and in a run."""
    blocks = rng.normal(0, moment, runs // block + 1)
    return [float(blocks[i // block] + rng.normal(0, single)) for i in range(runs)]


def test_equal_candidates_are_not_faster_because_the_machine_was_busy_for_some_moments() -> None:
    """In 300 nights of 96 pairs each, at 5 %."""
    rng, alone, together = np.random.default_rng(1), 0, 0
    for night in range(300):
        a, b = (noisy(rng, 96, moment=0.15, single=0.1) for _ in range(2))
        alone += timed(a, b, range(96), None, seed=night, resamples=400).p_not_above(0.0) <= 0.05
        together += timed(a, b, range(96), BLOCKS, seed=night, resamples=400).p_not_above(0.0) <= 0.05
    assert alone / 300 > 0.15  # so it was
    assert together / 300 <= 0.075


def test_a_quiet_machine_costs_little_evidence() -> None:
    rng, alone, together = np.random.default_rng(2), 0, 0
    for night in range(100):
        a, b = (noisy(rng, 96, moment=0.0, single=0.25) for _ in range(2))
        faster = [x - 0.1 for x in a]
        alone += timed(faster, b, range(96), None, seed=night, resamples=400).p_not_above(0.0) <= 0.05
        together += timed(faster, b, range(96), BLOCKS, seed=night, resamples=400).p_not_above(0.0) <= 0.05
    assert alone >= 70 and together >= 0.8 * alone


def test_needed_runs_are_counted_in_conversations_where_blocks_are_less_sure() -> None:
    rng = np.random.default_rng(3)
    a, b = (noisy(rng, 96, moment=0.5, single=0.05) for _ in range(2))
    alone = timed(a, b, range(96), None, seed=0, resamples=1000)
    found = timed(a, b, range(96), BLOCKS, seed=0, resamples=1000)
    assert (alone.clusters, alone.drawn, found.clusters, found.drawn) == (96, 96, 96, 12)
    assert 4 < (found.clusters_for(0.2, 0.05) or 0) / (alone.clusters_for(0.2, 0.05) or 1) < 12  # of eight
    assert found.estimate == pytest.approx(alone.estimate)


def test_a_few_turns_that_are_far_from_a_margin_are_sure_enough_for_several_finalists() -> None:
    rng, few = np.random.default_rng(5), blocks_of(12, {"concurrency": 4})
    a, b = (noisy(rng, 12, moment=0.05, single=0.02, block=4) for _ in range(2))
    assert timed(a, b, range(12), few, seed=0, resamples=4000).p_not_above(math.log(9)) < 0.05 / 3
    assert timed(a, b, range(12), few, seed=0, resamples=4000).p_not_above(0.01) > 0.05
    wrong = 0
    for night in range(400):  # at a true difference of exactly the margin
        a, b = (noisy(rng, 12, moment=0.3, single=0.05, block=4) for _ in range(2))
        wrong += timed(a, b, range(12), few, seed=night, resamples=400).p_not_above(0.0) <= 0.05
    assert wrong / 400 <= 0.075


def test_a_block_of_a_lane_is_of_the_runs_that_go_on_at_a_time_and_never_larger_than_any() -> None:
    assert blocks_of(5, {"concurrency": 2}) == [0, 0, 1, 1, 2] and blocks_of(3, {"concurrency": 1}) == [0, 1, 2]
    assert blocks_of(20, {"concurrency": 2}) == [i // 4 for i in range(20)]  # two turns, where there are ten
    assert blocks_of(19, {"concurrency": 2}) == [i // 2 for i in range(19)]
    assert [block_size(s) for s in ({}, {"concurrency": 64}, {"concurrency": 0})] == [8, 8, 1]


@pytest.mark.parametrize("goals", [Goals(), PRICED], ids=["seconds", "prices"])
def test_runs_that_fail_at_once_are_no_gain(goals: Goals) -> None:
    """A share of a candidate's runs that the margin of errors allows; else it is as the incumbent."""
    rng = np.random.default_rng(4)
    base = [ran(i, float(np.exp(rng.normal(0, 0.1)))) for i in range(600)]
    same = [replace(o, latency_s=float(o.latency_s * np.exp(rng.normal(0, 0.1)))) for o in base]
    fails = [ran(i, 0.003, tokens=0, error="ValueError: no") if i % 50 == 7 else o for i, o in enumerate(same)]
    found = decide({"incumbent": base, "new": fails}, range(600), goals)
    assert found.verdict is Verdict.KEEP, found.why
    # Nor is it one of the incumbent's that it fails: what ends it is worth more than what it costs.
    mended = decide({"incumbent": fails, "new": same}, range(600), goals)
    assert mended.verdict is Verdict.PROMOTE and mended.why.startswith("better: error")


def test_a_run_that_fails_late_and_dear_counts_with_all_that_it_took() -> None:
    ours, theirs = of_pairs([ran(0, 9.0, error="late"), ran(1, 1.0)], [ran(0, 1.0), ran(1, 2.0, error="no")], _seconds)
    assert (ours, theirs) == ([9.0, 1.0], [1.0, 2.0])
    both = of_pairs([ran(0, 0.1, error="no")], [ran(0, 3.0, error="no")], _seconds)
    assert both == ([3.0], [3.0])


def _seconds(outcome: Outcome) -> float:
    return outcome.latency_s


def test_what_costs_something_where_it_cost_nothing_is_said_in_words() -> None:
    base = [ran(i, 1.0, tokens=0) for i in range(100)]
    found = decide({"incumbent": base, "new": [ran(i, 1.0) for i in range(100)]}, range(100), PRICED)
    assert found.why.endswith("worse than the margin: cost from nothing")
    back = decide({"incumbent": [ran(i, 1.0) for i in range(100)], "new": base}, range(100), PRICED)
    assert back.why == "better: cost to nothing"
    many = decide({"incumbent": [ran(i, 1.0, tokens=1) for i in range(100)], "new": base}, range(100), Goals())
    dear = [ran(i, 40.0) for i in range(100)]
    assert (
        "latency 40 times (40 times to 40 times)"
        in decide({"incumbent": [ran(i, 1.0) for i in range(100)], "new": dear}, range(100), PRICED).why
    )
    assert many.verdict is Verdict.KEEP


def test_any_error_is_allowed_where_all_is() -> None:
    base = [ran(i, 1.0) for i in range(100)]
    fast = [ran(i, 0.5) for i in range(100)]
    assert decide({"incumbent": base, "new": fast}, range(100), Goals(most_error=1.0)).verdict is Verdict.PROMOTE


def test_a_share_of_less_than_a_percent_is_told_as_it_is() -> None:
    base = [ran(i, 1.0) for i in range(100)]
    slow = [ran(i, 5.0 if i < 9 else 0.5) for i in range(100)]
    found = decide({"incumbent": base, "new": slow}, range(100), Goals(slo_s=2.0, percentile=99.9))
    assert "9 of 100 runs, 0.1% may" in found.why


def test_a_budget_that_ended_before_anything_was_compared_decides_nothing() -> None:
    keep = Decision(verdict=Verdict.KEEP, chosen=None, more=None, pairs=0, why="nothing is better")
    for evaluated, told in ((0, "not even the incumbent"), (1, "nothing but the incumbent")):
        found = keep.unsearched("9 FM calls were made", evaluated)
        assert (found.verdict, found.cut) == (Verdict.UNSURE, "9 FM calls were made") and told in found.why
        assert str(found) == "not enough evidence: a budget was used up"
    assert keep.unsearched("the time is used up", 5).verdict is Verdict.KEEP
    assert "of 5 that were evaluated until the time is used up" in keep.unsearched("the time is used up", 5).why


def test_calls_whose_tokens_nobody_told_have_no_price() -> None:
    streamed = Usage(calls=1, engine_s=1.0, uncounted=1)
    both = Usage(calls=1, input_tokens=10).plus(streamed)
    assert (both.calls, both.uncounted) == (2, 1)
    outcome = Outcome(case="c", run_id="r123", quality=1.0, latency_s=1.0, usage={"m": both})
    with pytest.raises(BadSpec, match=r"1 of 2 FM calls of run r123 .*include_usage.*no price at all"):
        PRICED.cost(outcome)
    assert Goals().cost(outcome) == 1.0
    assert Goals(prices={"m": Price(input=0, output=0)}).cost(outcome) == 0.0  # whatever they were
    assert math.isfinite(PRICED.cost(Outcome.from_json(replace(outcome, usage={"m": Usage(calls=1)}).to_json())))
