"""Which candidates of a study the decision is about."""

from __future__ import annotations

from dataclasses import replace

import pytest

from redecode.optimizer.evaluation.racing import breaks_slo
from redecode.optimizer.finalists import finalists
from redecode.optimizer.objectives import Goals, Measured, Outcome, Usage, measured
from redecode.optimizer.promotion.decide import Margins
from redecode.optimizer.spec import Spec
from redecode.optimizer.study.search import Done, Evaluated, Ran
from redecode.optimizer.tuning import _odd


def trial(number: int, values: tuple[float, float, float], *, se: float = 0.0, median_s: float | None = None) -> Done:
    error, cost, latency_s = values
    median_s = latency_s if median_s is None else median_s
    found = Measured(
        runs=8, scored=8, failed=0, missed=0, live=8, memo=0,
        error=error, error_se=se, cost=cost, cost_se=se, latency_s=latency_s, median_s=median_s,
    )  # fmt: skip
    return Done(number=number, config={"k": number}, measured=found, outcomes={}, violation=0.0, pruned=False)


def chosen(*done: Done) -> list[int]:
    return [d.number for d in finalists(done, {"k": 0}, Margins())]


def test_those_within_the_margins_and_better_in_something() -> None:
    now = trial(0, (0.5, 1.0, 1.0))
    assert chosen(now, trial(1, (0.2, 1.04, 1.0)), trial(2, (0.6, 0.5, 0.5)), trial(3, (0.5, 1.0, 1.0))) == [1]


def test_where_none_is_those_within_the_noise_of_the_incumbent() -> None:
    better = trial(1, (0.0, 1.3, 1.5))
    assert chosen(trial(0, (0.5, 1.0, 1.0)), better) == []
    assert chosen(trial(0, (0.5, 1.0, 1.0), se=0.2, median_s=0.5), better) == [1]
    assert chosen(trial(0, (0.5, 1.0, 1.0), se=0.2), better) == [], "its latency is sure"
    sure = trial(2, (0.4, 1.0, 1.0))
    assert chosen(trial(0, (0.5, 1.0, 1.0), se=0.2, median_s=0.5), better, sure) == [2], "noise is a last resort"


def test_noise_of_a_candidate_counts_too() -> None:
    """A p95 of forty runs is one run: of a fifth of the cost and a faster median the decision is to tell."""
    now = trial(0, (0.0, 7.5e-5, 0.141), median_s=0.0878)
    assert chosen(
        now, trial(1, (0.0, 1.5e-5, 0.413), median_s=0.184), trial(2, (0.0, 1.5e-5, 0.208), median_s=0.0863)
    ) == [2]


def test_what_is_just_within_a_margin_is_within() -> None:
    assert chosen(trial(0, (0.1, 0.0, 0.9)), trial(1, (0.1, 0.0, 0.3))) == [1], "nothing is as cheap as nothing"
    assert chosen(trial(0, (0.1, 0.0, 0.9)), trial(1, (0.1, 0.1, 0.3))) == []
    same = finalists([trial(0, (0.1, 1.0, 0.9)), trial(1, (0.1, 1.0, 0.3))], {"k": 0}, Margins(cost=1.0))
    assert [d.number for d in same] == [1]


def ran(number: int, *outcomes: Outcome) -> Done:
    goals = Goals()
    return Done(
        number=number, config={"k": number}, measured=measured(outcomes, goals), violation=0.0, pruned=False,
        outcomes={o.case: Ran(o.run_id, o.loss, o.seconds, goals.cost(o), o.error is not None) for o in outcomes},
    )  # fmt: skip


def one(case: int, cost: float, *, fails: bool = False) -> Outcome:
    usage = {"m": Usage(calls=1, engine_s=cost)} if cost else {}
    return Outcome(
        case=f"c{case}", run_id=None, quality=None if fails else 1.0, latency_s=0.01 if fails else 1.0,
        error="500" if fails else None, usage=usage,
    )  # fmt: skip


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_an_incumbent_that_fails_is_neither_cheap_nor_fast(share: float) -> None:
    """A run that failed at once has cost nothing, and what mends it costs as much as those that did not fail."""
    many = 40
    failing = [one(n, 0.0 if n < share * many else 1.0, fails=n < share * many) for n in range(many)]
    mended = ran(1, *(one(n, 1.0) for n in range(many)))
    dear = ran(2, *(one(n, 1.3) for n in range(many)))
    fails_more = ran(3, *(one(n, 0.0, fails=True) for n in range(many)))
    assert chosen(ran(0, *failing), mended, dear, fails_more) == [1]
    fine = ran(0, *(one(n, 1.0) for n in range(many)))
    assert chosen(fine, ran(1, *failing)) == [], "nor is a candidate"


def test_of_those_that_mend_it_the_cheap_one_is_no_worse_for_being_beside_it() -> None:
    """Beside the incumbent both are as dear as it would have been; beside each other they are not."""
    failing = ran(0, *(one(n, 0.0 if n < 16 else 1.0, fails=n < 16) for n in range(40)))
    quick = [replace(o, latency_s=0.999) for o in (one(n, 10.0 if n < 16 else 1.0) for n in range(40))]
    assert 1 in chosen(failing, ran(1, *(one(n, 1.0) for n in range(40))), ran(2, *quick))


def test_runs_that_fail_are_told_as_failed_and_not_only_as_late() -> None:
    missing = [
        Outcome(case=f"c{n}", run_id=None, quality=None, latency_s=0.1, error="404: no such model") for n in range(3)
    ]
    fine = [Outcome(case=f"d{n}", run_id=None, quality=1.0, latency_s=0.1) for n in range(9)]
    outcomes = (*missing, *fine)
    said = _odd(Evaluated(outcomes=outcomes), Spec(name="a", build=lambda _: None))
    assert said is not None and said.startswith(
        "3 of 12 runs of the incumbent failed, mostly with 404: no such model (inputs of c0"
    )
    late = breaks_slo(outcomes, Goals(slo_s=1.0))
    assert late is not None and "3 of 12 runs missed the SLO (3 failed: 404: no such model)" in late
    assert _odd(Evaluated(outcomes=tuple(fine)), Spec(name="a", build=lambda _: None)) is None
