"""Two runs side by side, without a browser."""

from __future__ import annotations

from pathlib import Path

from tests.dashboards.conftest import HOSTILE, STEPS, App


def metric(at, label: str) -> str:  # type: ignore[no-untyped-def]
    return next(str(m.value) for m in at.metric if m.label == label)


def test_a_run_is_set_against_its_newest_replay(open_page: App, filled: Path) -> None:
    at = open_page(filled, "compare", run=STEPS)
    assert at.selectbox(key="against").value in ("d" * 32, "e" * 32)
    assert at.query_params["with"] == at.selectbox(key="against").value


def test_the_address_names_the_other_and_the_first_difference_is_told(open_page: App, filled: Path) -> None:
    at = open_page(filled, "compare", run=STEPS, **{"with": "d" * 12})
    assert at.selectbox(key="against").value == "d" * 32
    assert metric(at, "Recorded") == "100 ms"
    assert metric(at, "Candidate") == "150 ms"
    assert "token" in at.warning[0].value
    steps = at.dataframe[0].value
    assert list(steps.loc[steps["step"] == "run/slow", "difference"]) == ["+21.0 ms"]


def test_an_equal_replay_is_said_to_be_equal(open_page: App, filled: Path) -> None:
    at = open_page(filled, "compare", run=STEPS, **{"with": "e" * 32})
    assert "answered the same" in at.success[0].value


def test_a_run_with_nothing_beside_it_says_what_to_do(open_page: App, filled: Path) -> None:
    at = open_page(filled, "compare", run=HOSTILE)
    assert "redecode replay" in at.info[0].value


def test_a_step_that_one_run_has_not_is_said_to_be_missing_there(open_page: App, filled: Path) -> None:
    there = open_page(filled, "compare", run=STEPS, **{"with": HOSTILE})
    assert "only in the candidate: the recorded run has no such step" in there.warning[0].value
    told = there.expander[0].dataframe[0].value
    known = {
        "only recorded": "the candidate has no such step",
        "only in the candidate": "the recorded run has no such step",
    }
    rows = told[told["what"].isin(list(known))]
    assert set(rows["what"]) == set(known)
    assert list(rows["details"]) == [known[what] for what in rows["what"]]
