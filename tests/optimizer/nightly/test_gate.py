"""Whether a decision is carried out."""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import Any

import pytest

from redecode.optimizer.nightly.gate import Rejected, gate
from redecode.optimizer.nightly.history import config_id
from redecode.optimizer.nightly.tuning import clusters_of
from redecode.optimizer.nightly.window import Evidence
from redecode.optimizer.objectives import Goals, Outcome
from redecode.optimizer.preparing import goals_json
from redecode.optimizer.promotion.decide import Margins, Verdict, decide
from redecode.optimizer.spec import Case

NOW, BETTER, ALSO = {"wording": "now"}, {"wording": "better"}, {"wording": "also"}
GOALS = Goals(slo_s=10.0, percentile=80)
EVIDENCE = Evidence(which="since-last", recorded=180, held_out=1 / 3)


def outcomes(wrong: float, seconds: float, seed: int, count: int) -> list[Outcome]:
    rng = random.Random(seed)
    return [
        Outcome(case=f"c{n}", run_id=None, quality=float(rng.random() >= wrong), latency_s=seconds * rng.gauss(1, 0.05))
        for n in range(count)
    ]


def tuned(count: int = 60, **lanes: list[Outcome]) -> dict[str, Any]:
    """What `tuning.kept` gives, of cases that were recorded at 0, 1, 2... ns."""
    whole = {"incumbent": outcomes(0.5, 1.0, 1, count), **lanes}
    decision = decide(whole, range(count), GOALS, margins=Margins(cost=9, latency=2))
    return {
        "report": {"decision": decision.to_json()},
        "verdict": decision.verdict.value,
        "chosen": decision.chosen,
        "why": decision.why,
        "more_runs": decision.more,
        "searched": 5,
        "stopped": "enough",
        "incumbent": NOW,
        "finalists": {"better": BETTER, "also": ALSO},
        "cases": [{"id": f"c{n}", "started_ns": n, "cluster": n, "block": n} for n in range(count)],
        "lanes": {name: [o.to_json() for o in lane] for name, lane in whole.items()},
        "goals": goals_json(GOALS),
        "margins": asdict(Margins(cost=9, latency=2)),
        "seed": 0,
    }


def back(context: dict[str, Any], at_ns: int) -> Rejected:
    return Rejected(config=config_id(context), at_ns=at_ns, context=context)


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    """A finalist that is surely better."""
    return tuned(better=outcomes(0.0, 1.0, 2, 60))


def test_what_is_surely_better_is_promoted(one: dict[str, Any]) -> None:
    found = gate(one, [], hold=None, evidence=EVIDENCE)
    assert (found.verdict, found.config, found.context) == (Verdict.PROMOTE, config_id(BETTER), BETTER)


@pytest.mark.parametrize(
    ("at", "verdict"),
    [
        pytest.param(59, Verdict.UNSURE, id="no run since"),
        pytest.param(52, Verdict.UNSURE, id="too few since"),
        pytest.param(10, Verdict.PROMOTE, id="enough since"),
    ],
)
def test_what_was_rolled_back_from_wants_evidence_of_its_own(one: dict[str, Any], at: int, verdict: Verdict) -> None:
    found = gate(one, [back(BETTER, at)], hold=None, evidence=EVIDENCE)
    assert found.verdict is verdict
    if verdict is Verdict.PROMOTE:
        assert "49 held-out runs since it was rolled back from" in found.why
    else:
        assert found.config == config_id(NOW) and found.rejected.keys() == {"better"}
        assert found.more is not None and found.more > 0 and f"{59 - at} held-out runs since" in found.why
        assert (
            found.wanted
            == f"{59 - at + found.more} held-out runs recorded since the rollback in one night ({59 - at} tonight)"
        )
        assert f"(that needs {found.wanted}, that is about " in found.why


@pytest.mark.parametrize(
    ("runs", "way"),
    [
        ("since-last", "tonight's are not looked at again, so a night wants a longer window (`runs`)"),
        ("last-24h", "runs older than 24h are not looked at again, so a night wants a longer window (`runs`)"),
        ("last-299", '`runs = "last-299"` has no room for these, "last-300" has'),
        ("last-300", "tonight's are looked at again, together with those that come"),
        ("all", "tonight's are looked at again, together with those that come"),
    ],
)
def test_what_is_lacking_is_said_of_one_night(runs: str, way: str) -> None:
    """The runs of this one may well not be looked at in the next."""
    lacking = {**tuned(count=40), "verdict": Verdict.UNSURE.value, "more_runs": 60}
    found = gate(lacking, [], hold=None, evidence=Evidence(which=runs, recorded=120, held_out=1 / 3))
    assert (found.more, found.wanted) == (60, "100 held-out runs in one night (40 tonight)")
    about = "that is about 300 recorded runs in its window (120 tonight)"
    assert found.why == f"{lacking['why']}; a decision needs {found.wanted}, {about}: {way}"


@pytest.mark.parametrize(("cut", "told"), [(None, "; more runs would tell only if they look otherwise"), ("late", "")])
def test_that_no_number_of_runs_would_do_is_said(cut: str | None, told: str) -> None:
    lacking = {**tuned(count=40), "verdict": Verdict.UNSURE.value, "more_runs": None, "cut": cut}
    assert gate(lacking, [], hold=None, evidence=EVIDENCE).why == f"{lacking['why']}{told}"


def test_another_finalist_takes_its_place() -> None:
    both = tuned(better=outcomes(0.0, 0.8, 2, 60), also=outcomes(0.0, 1.0, 3, 60))
    assert both["chosen"] == "better"
    found = gate(both, [back(BETTER, 59)], hold=None, evidence=EVIDENCE)
    assert (found.verdict, found.finalist) == (Verdict.PROMOTE, "also") and "better" in found.rejected


def test_a_night_can_be_held_back(one: dict[str, Any]) -> None:
    found = gate(one, [], hold="the mix has changed", evidence=EVIDENCE)
    assert found.verdict is Verdict.UNSURE and found.context == NOW and "the mix has changed" in found.why


def test_what_is_no_better_stays_as_it_is() -> None:
    same = tuned(better=outcomes(0.9, 1.0, 2, 60))
    assert gate(same, [], hold=None, evidence=EVIDENCE).verdict is Verdict.KEEP


def test_nothing_tried_is_no_verdict_on_the_candidates() -> None:
    skipped = gate({"skipped": "the time is used up", "incumbent": NOW}, [], hold=None, evidence=EVIDENCE)
    assert skipped.verdict is Verdict.UNSURE and "the time is used up" in skipped.why
    none = tuned()
    alone = gate({**none, "searched": 1, "stopped": "the time is used up"}, [], hold=None, evidence=EVIDENCE)
    assert none["verdict"] == Verdict.KEEP.value and alone.verdict is Verdict.UNSURE


def test_what_belongs_together_is_what_the_studys_decision_took_together() -> None:
    """Runs of one conversation, and runs on the same input, which a cache has kept in."""
    given = [("a", None), ("b", "talk"), ("a", None), ("c", "talk"), ("d", None)]
    cases = [
        Case(id=f"c{n}", input={"text": text}, expected=None, started_ns=n, conversation=talk)
        for n, (text, talk) in enumerate(given)
    ]
    assert clusters_of(cases) == ["c0", "c1", "c0", "c1", "c4"]


USUAL = {"temperature": 0.0, "style": "short", "placement.replicas": 2}


@pytest.mark.parametrize(
    ("rejected", "finalist", "same"),
    [
        ({"wording": "better"}, {"wording": "better", "temperature": 0.0}, True),
        ({"wording": "better"}, {"wording": "better", "temperature": 0.5}, False),
        ({"wording": "better", "style": "short"}, {"wording": "better"}, True),
        ({"wording": "better", "gone": 3}, {"wording": "better", "style": "short"}, True),
        ({"wording": "better", "style": "long"}, {"wording": "better"}, False),
        ({"style": "short"}, {"wording": "better"}, True),  # what it was asked with then nobody knows
        ({"wording": "better"}, {"wording": "better", "placement.replicas": 3}, False),
        ({"wording": "better"}, {"wording": "better", "placement.replicas": 2}, True),
        ({"wording": "better", "temperature": False}, {"wording": "better"}, False),
    ],
)
def test_what_does_the_same_is_rejected_under_another_id_too(
    one: dict[str, Any], rejected: dict[str, Any], finalist: dict[str, Any], same: bool
) -> None:
    night = {**one, "finalists": {"better": finalist}, "usual": USUAL}
    found = gate(night, [back(rejected, 1_000)], hold=None, evidence=EVIDENCE)
    assert (found.verdict is Verdict.UNSURE) == same
    assert not same or f"configuration {config_id(rejected)} was rolled back from" in found.why


def test_one_whose_file_is_gone_is_known_by_its_id(one: dict[str, Any]) -> None:
    gone = Rejected(config=config_id(BETTER), at_ns=1_000, context=None)
    assert gate({**one, "usual": USUAL}, [gone], hold=None, evidence=EVIDENCE).verdict is Verdict.UNSURE
    with_more = {**one, "finalists": {"better": {**BETTER, "temperature": 0.0}}, "usual": USUAL}
    assert gate(with_more, [gone], hold=None, evidence=EVIDENCE).verdict is Verdict.PROMOTE
