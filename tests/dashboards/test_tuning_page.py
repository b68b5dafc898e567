"""The Tuning page: what studies came to, those under way, and those that cannot be read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from redecode.dashboards import tuned
from redecode.dashboards.forest import forests, points
from redecode.dashboards.menu import PLACEMENT, TUNING, shown
from redecode.dashboards.parallel import axes_of
from redecode.dashboards.tuned import Report, changes, opened, studies_in
from redecode.tracer import Store
from tests.dashboards import studies
from tests.dashboards.conftest import HOSTILE_NAME, App


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A store with a decided study, and recorded runs of two of its trials."""
    store = tmp_path_factory.mktemp("tuned") / "store"
    Store(store).drain()
    made = studies.tuned(store)
    studies.trial_runs(store, made.study, 3, 2)
    studies.trial_runs(store, made.study, 4, 1)
    return store, made


def words(at: Any) -> str:
    return "\n".join(str(m.value) for m in [*at.markdown, *at.caption, *at.info, *at.error, *at.warning])


def test_a_decision_is_told_with_its_evidence(open_page: App, decided: tuple[Path, Any]) -> None:
    store, made = decided
    at = open_page(store, "tuning")
    told = words(at).replace("\\", "")
    assert made.decision.chosen is not None
    assert f"Promote {made.decision.chosen}" in told
    for reason in made.decision.compared[0].why:
        assert reason.replace("%", "") in told.replace("%", "")
    diff = next(d.value for d in at.dataframe if "becomes" in d.value)
    rows = {row["knob"]: (row["in use"], row["becomes"]) for _, row in diff.iterrows()}
    assert rows["wording"] == ("plain", "brief")
    assert rows["rounds"] == ("2", "–"), "a knob that does not matter there any more"
    lanes = next(d.value for d in at.dataframe if "lane" in d.value)
    assert list(lanes["lane"]) == ["as observed", "incumbent, run again", made.decision.chosen]
    assert list(lanes["runs"]) == [80, 80, 80]


def test_bounds_and_margins_are_drawn_on_the_scale_that_is_written(decided: tuple[Path, Any]) -> None:
    store, made = decided
    (study,) = studies_in(store)
    assert study.report is not None
    charts = {f.name: f for f in forests(study.report)}
    assert [charts[n].unit for n in ("error", "cost", "latency")] == ["points", "%", "%"]
    assert charts["error"].margin == pytest.approx(5.0)
    assert charts["cost"].margin == pytest.approx(5.0)
    (row,) = charts["cost"].rows
    assert row["estimate"] == pytest.approx(-50, abs=1)  # log(0.5) as per cent
    assert row["low"] <= row["estimate"] <= row["high"] < 0
    assert row["is"] == "better"
    effect = made.decision.compared[0].effects["error"]
    assert charts["error"].rows[0]["high"] == pytest.approx(effect.high * 100)


def test_every_trial_stands_somewhere_and_the_front_is_of_feasible_ones(decided: tuple[Path, Any]) -> None:
    store, _ = decided
    report = studies_in(store)[0].report
    assert report is not None
    stands = {t.number: report.standing(t) for t in report.trials}
    assert stands[0] == "incumbent"
    assert {n for n, s in stands.items() if s == "misses the SLO"} == {
        t.number for t in report.trials if not t.feasible
    }
    assert "misses the SLO" in stands.values(), "or this tells nothing"
    for number in report.front:
        mine = next(t for t in report.trials if t.number == number)
        values = [mine.measured.value(o) or 0.0 for o in tuned.OBJECTIVES]
        for other in report.trials:
            theirs = [other.measured.value(o) or 0.0 for o in tuned.OBJECTIVES]
            if other.feasible and other.out is None:
                assert not (all(b <= a for a, b in zip(values, theirs, strict=True)) and theirs != values)
    assert len(points(report, "cost", "latency_s")) == len(report.trials)


def test_lines_pass_where_the_trial_is_and_below_where_a_knob_does_not_matter(decided: tuple[Path, Any]) -> None:
    report = studies_in(decided[0])[0].report
    assert report is not None
    axes = {a.name: a for a in axes_of(report, [("error", "error")])}
    assert set(axes) == {"wording", "rounds", "heat", "error"}
    assert [a.knob for a in axes.values()][-1] is False
    for n, trial in enumerate(report.trials):
        rounds = axes["rounds"]
        if trial.candidate["wording"] == "brief":
            assert (rounds.at[n], rounds.said[n]) == (None, "does not matter")
        else:
            low, high = rounds.ticks[0][1], rounds.ticks[-1][1]
            assert rounds.at[n] == (int(str(trial.candidate["rounds"])) - int(low)) / (int(high) - int(low))
        place = axes["wording"].at[n]
        assert (place, trial.candidate["wording"]) in axes["wording"].ticks


def test_runs_of_a_trial_are_found_by_its_labels(open_page: App, decided: tuple[Path, Any]) -> None:
    store, made = decided
    at = open_page(store, q=f"tune.study={made.study} tune.trial=3")
    assert next(m.value for m in at.metric if m.label == "Runs") == "2"
    at = open_page(store, q=f"tune.study={made.study}")
    assert next(m.value for m in at.metric if m.label == "Runs") == "3"
    at = open_page(store, q="tune.trial=99")
    assert "None of the 3 runs" in str(at.info[0].proto)


def test_a_trial_in_the_address_is_shown(open_page: App, decided: tuple[Path, Any]) -> None:
    number = next(d.number for d in decided[1].done if not d.feasible)
    at = open_page(decided[0], "tuning", trial=str(number))
    assert any(f"Trial {number}: misses the SLO" in str(m.value) for m in at.markdown)
    assert any(f"trial {number}" in d.value for d in at.dataframe)
    assert not any("Trial 77" in str(m.value) for m in open_page(decided[0], "tuning", trial="77").markdown)


def test_a_study_without_a_report_says_how_far_it_is(open_page: App, tmp_path: Path) -> None:
    store = tmp_path / "store"
    Store(store).drain()
    search = studies.search(store, studies.about(), 5)
    (asked,) = search.ask(1)  # under way
    before = (store / "studies" / "studies.journal").read_bytes()
    (study,) = studies_in(store)
    assert study.state == "not finished"
    report = opened(study).report
    assert report is not None
    assert [t.number for t in report.trials] == [d.number for d in search.done()]
    assert [f.why for f in report.failures] == ["ValueError: broken"]
    at = open_page(store, "tuning")
    assert f"--resume {search.name}" in words(at)
    assert "No decision yet" in str(at.info[0].proto)
    assert (store / "studies" / "studies.journal").read_bytes() == before, "reading tells the study nothing"
    search.give_up(asked)


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "is no JSON"), ("[]", "is no report of redecode tune"), ('{"study": 1}', "is no report of redecode tune")],
)
def test_a_report_that_is_none_is_a_sentence_and_the_others_are_there(
    open_page: App, decided: tuple[Path, Any], tmp_path: Path, text: str, said: str
) -> None:
    store = tmp_path / "store"
    shutil.copytree(decided[0], store)
    (store / "tuned" / "broken").mkdir()
    (store / "tuned" / "broken" / "report.json").write_text(text)
    at = open_page(store, "tuning", study="broken")
    assert said in at.error[0].value.replace("\\", "")
    assert len(at.selectbox(key="picked study").options) == 2
    assert any("Promote" in str(m.value) for m in open_page(store, "tuning", study=decided[1].study).markdown)


def test_a_damaged_journal_and_a_report_in_words_alone_are_sentences(open_page: App, tmp_path: Path) -> None:
    store = tmp_path / "store"
    Store(store).drain()
    (store / "studies").mkdir()
    (store / "studies" / "studies.journal").write_text('{"op_code": 0}\nnonsense\n')
    (store / "tuned" / "old").mkdir(parents=True)
    (store / "tuned" / "old" / "report.md").write_text("# Tuning: keep\n")
    found = {s.name: s for s in studies_in(store)}
    assert found["studies in progress"].state == "unreadable"
    assert "cannot be opened" in (found["studies in progress"].why or "")
    assert (found["old"].state, found["old"].report) == ("text only", None)
    at = open_page(store, "tuning", study="old")
    assert "in words alone" in at.error[0].value


def test_nights_are_listed_with_their_study(open_page: App, decided: tuple[Path, Any], tmp_path: Path) -> None:
    store = tmp_path / "store"
    Store(store).drain()
    whole = orjson.loads(next(decided[0].glob("tuned/*/report.json")).read_bytes())
    folder = store / "nightly" / "brancher" / "nights"
    for night, more in (
        ("2026-11-21", {"tuning": whole, "verdict": "promote", "verdict_words": "promoted trial-1"}),
        ("2026-11-22", {"tuning": None, "skipped": "only 3 runs were recorded", "verdict": "keep"}),
    ):
        (folder / night).mkdir(parents=True)
        told = {"job": "brancher", "night": night, "why": "", "drift": {"words": "as ever", "verdict": "same"}, **more}
        (folder / night / "report.json").write_bytes(orjson.dumps(told))
    assert [(s.state, s.verdict) for s in sorted(studies_in(store), key=lambda s: s.name)] == [
        ("decided", "promoted trial-1"), ("not searched", "keep"),
    ]  # fmt: skip
    at = open_page(store, "tuning", study="brancher night 2026-11-21")
    assert "promoted trial-1" in words(at).replace("\\", "")
    assert any("Trials" in str(m.value) for m in at.markdown)
    assert "only 3 runs" in words(open_page(store, "tuning", study="brancher night 2026-11-22"))


def test_it_is_in_the_menu_only_where_something_was_tuned(
    open_page: App, decided: tuple[Path, Any], tmp_path: Path
) -> None:
    assert TUNING in shown(str(decided[0]))
    assert PLACEMENT not in shown(str(decided[0]))
    Store(tmp_path / "store").drain()
    assert not {TUNING, PLACEMENT} & set(shown(str(tmp_path / "store")))
    assert "redecode tune" in open_page(tmp_path / "store", "tuning").info[0].value


def test_hostile_names_stay_words(open_page: App, tmp_path: Path) -> None:
    store = tmp_path / "store"
    Store(store).drain()
    studies.tuned(store, HOSTILE_NAME.replace("/", "|"), named="<b>x</b> :red[boo]")
    at = open_page(store, "tuning")
    assert "<b>" not in words(at).replace("\\<b\\>", "")
    assert ":red[" not in words(at)


def test_differences_come_first() -> None:
    assert changes({"a": 1, "b": 2.50, "c": True}, {"a": 1, "b": 2.75, "d": "x"}) == [
        ("b", "2.5", "2.75"), ("c", "True", "–"), ("d", "–", "x"), ("a", "1", "1"),
    ]  # fmt: skip


def test_what_is_not_finite_is_not_known() -> None:
    told = {"runs": 1, "error": None, "cost": 1.0, "latency_s": None}
    report = Report.model_validate(
        {"study": "s", "agent": "a", "knobs": {}, "goals": {}, "incumbent": {},
         "trials": [{"number": 0, "candidate": {}, "measured": told, "feasible": True}]}
    )  # fmt: skip
    assert points(report, "cost", "error") == []
    assert axes_of(report, [("error", "error")])[0].at == [None]
