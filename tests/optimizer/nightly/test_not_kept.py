"""That the configuration in use does not keep what it must is said first; likewise that a budget ended the decision."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from redecode.optimizer.objectives import Goals, Outcome, Usage
from redecode.optimizer.promotion.decide import Margins, Verdict, decide
from redecode.optimizer.report import breaks, verdict_words, why_words
from tests.optimizer.nightly.conftest import Job

GOALS = Goals(most_error=0.35, slo_s=2.0, percentile=80)


def lane(wrong: int, cost: float, count: int = 60, seconds: float = 1.0) -> list[Outcome]:
    """So many in a hundred are wrong."""
    return [
        Outcome(case=f"c{n}", run_id=None, quality=float(n * 37 % 100 >= wrong), latency_s=seconds + n % 7 / 100,
                usage={"m": Usage(calls=1, engine_s=cost)})
        for n in range(count)
    ]  # fmt: skip


def tuned(incumbent: list[Outcome], candidate: list[Outcome], cut: str | None = None) -> Any:
    lanes = {"incumbent": incumbent, "trial-1": candidate}
    decision = decide(lanes, range(len(incumbent)), GOALS, margins=Margins(latency=2))
    prepared = SimpleNamespace(goals=GOALS, incumbent={}, cases=SimpleNamespace(decide=range(60)))
    return SimpleNamespace(decision=decision, prepared=prepared, done=[], cut=cut)


def test_what_in_use_does_not_keep_comes_first_and_which_margin_is_in_the_way() -> None:
    found = tuned(lane(67, 1.0), lane(5, 1.35))
    assert found.decision.verdict is Verdict.KEEP and "does not keep" not in found.decision.why
    broken = "the configuration in use does not keep error at most 0.35 (it has 0.6"
    assert verdict_words(found).startswith(f"keep, and {broken}")
    first, way, rest = why_words(found).split("; ", 2)
    assert first.startswith(broken) and rest == found.decision.why
    assert way == "trial-1 keeps it, and in its way is the margin of cost (+35.0%, +5.0% may be)"


def test_an_slo_that_is_missed_is_said_too_and_what_is_kept_is_not() -> None:
    assert breaks(tuned(lane(67, 1.0), lane(5, 1.0))) is None  # it is promoted
    slow = breaks(tuned(lane(5, 1.0, seconds=3.0), lane(5, 2.0)))
    assert slow == "the configuration in use does not keep 80 of 100 runs within 2 s (60 of 60 miss)"
    kept = tuned(lane(5, 1.0), lane(5, 2.0))
    assert breaks(kept) is None and why_words(kept) == kept.decision.why and verdict_words(kept) == "keep"


@pytest.mark.parametrize("count", [0, 8])
def test_where_the_runs_are_there_a_budget_is_named_and_no_number_of_runs(count: int) -> None:
    found = tuned(lane(30, 1.0, count), lane(0, 1.0, count))
    assert (
        "need" in verdict_words(found) and found.decision.more is not None and found.decision.verdict is Verdict.UNSURE
    )
    found.decision = found.decision.ended_by("the time is used up (9 s of 9 s)", 60)
    assert found.decision.more is None and verdict_words(found).startswith("not enough evidence: a budget was used up")
    assert f"the time is used up (9 s of 9 s), after {count} of 60 held-out runs; " in why_words(found)


def test_a_night_says_it_in_both_reports(job: Job) -> None:
    job.configure(("[goals]", "[goals]\nmax_error = 0.35"))
    found = job.json()
    broken = "the configuration in use does not keep error at most 0.35 (it has 1)"
    assert found["verdict_words"].endswith(f" tonight), and {broken}") and found["why"].startswith(broken)
    assert found["wanted"] in found["why"] and "(12 tonight): tonight's are looked at again" in found["why"]
    folder = job.home.nights()[0].path
    for report in (folder / "report.md", folder / "tuning" / "report.md"):
        lines = report.read_text().splitlines()
        assert lines[0].endswith(broken) and lines[2].lower().startswith(broken)
    text = (folder / "report.md").read_text()
    assert text.count(f"need {found['wanted']}") == 2 and " more runs" not in text
    assert found["more_runs"] > 0 and " more runs" not in (folder / "report.html").read_text()


def test_a_night_whose_calls_end_the_decision_names_them(job: Job, more: Callable[[int], None]) -> None:
    more(22)
    job.configure(('time = "10m"', "fm_calls = 28"), ("trials = 3", 'trials = 2\nknobs = ["wording"]'))
    found = job.json()
    assert found["more_runs"] is None and found["verdict_words"] == "not enough evidence: a budget was used up"
    assert "FM calls were made, of at most 28, after 4 of 13 held-out runs" in found["why"]
