"""The search: the same seed gives the same study, kills lose nothing, hypervolume is exact."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.optimizer.errors import BadStudy
from redecode.optimizer.evaluation.racing import breaks_slo, dominated
from redecode.optimizer.knobs import Choice, Config, Range, Space
from redecode.optimizer.objectives import Goals, Measured, Outcome, Usage, measured
from redecode.optimizer.study.hypervolume import dominates, front, hypervolume, subset
from redecode.optimizer.study.search import Done, Evaluated, Search, warm_starts
from redecode.optimizer.study.stopping import Budget, stagnant
from redecode.optimizer.study.storage import About, find, opened, studies

SPACE = Space({"a": Choice("x", "y", "z"), "b": Range(0, 1), "c": Range(1, 4, integer=True, when={"a": ["x"]})})
GOALS = Goals(slo_s=1.0)


def about(**changes: object) -> About:
    base = About(
        spec="s", agent="agent", fidelity="engine", space={n: k.described() for n, k in SPACE.knobs.items()},
        space_digest=SPACE.digest, base={}, incumbent={"a": "x", "b": 0.5, "c": 2}, search=("r1",), decide=("r2",),
        goals={}, sampler="tpe", seed=0, versions={}, settings={}, made_ns=1,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def values(config: Config) -> Measured:
    a, b = str(config["a"]), float(config["b"] or 0)
    error, seconds = {"x": 0.3, "y": 0.2, "z": 0.1}[a] + 0.1 * b, {"x": 0.3, "y": 0.6, "z": 1.4}[a] * (1.2 - b)
    return Measured(
        runs=20, scored=20, failed=0, missed=20 if seconds > 1 else 0, error=error, error_se=0.05, cost=1 + b,
        cost_se=0.1, latency_s=seconds, median_s=seconds, live=1, memo=0,
    )  # fmt: skip


def run(search: Search, batches: int, size: int = 1) -> list[Config]:
    out = []
    for _ in range(batches):
        for asked in search.ask(size):
            search.tell(asked, Evaluated(measured=values(asked.config)))
            out.append(asked.config)
    return out


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "studies.journal"


@pytest.mark.parametrize("size", [1, 3])
def test_the_same_seed_gives_the_same_study_also_when_it_is_interrupted(
    journal: Path, tmp_path: Path, size: int
) -> None:
    whole = run(Search(opened(journal), about(), SPACE, GOALS), 12, size)
    parts = []
    for _ in range(3):  # opened anew each time, as after a kill between two batches
        parts += run(Search(opened(tmp_path / "other.journal"), about(), SPACE, GOALS), 4, size)
    assert parts == whole
    assert run(Search(opened(journal), about(seed=1), SPACE, GOALS), 12, size) != whole
    assert len({json.dumps(c, sort_keys=True) for c in whole}) > 10


def test_what_a_kill_had_left_running_is_asked_again_first(journal: Path) -> None:
    search = Search(opened(journal), about(), SPACE, GOALS)
    run(search, 2)
    lost = [a.config for a in search.ask(2)]
    again = Search(opened(journal), about(), SPACE, GOALS)
    assert again.resumed == 2
    assert [a.config for a in again.ask(2)] == lost
    states = [t.state.name for t in optuna.load_study(storage=opened(journal), study_name=again.name).trials]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "FAIL", "RUNNING", "RUNNING"]


def test_the_incumbent_is_first_and_nothing_is_enqueued_twice(journal: Path) -> None:
    search = Search(opened(journal), about(), SPACE, GOALS)
    incumbent: Config = {"a": "x", "b": 0.5, "c": 2}
    assert search.enqueue(incumbent) and not search.enqueue(incumbent)
    assert run(search, 1) == [incumbent]
    assert not Search(opened(journal), about(), SPACE, GOALS).enqueue(incumbent)


def test_the_incumbent_is_first_again_after_a_kill_though_others_wait(journal: Path) -> None:
    search = Search(opened(journal), about(), SPACE, GOALS)
    configs: list[Config] = [{"a": "x", "b": b, "c": 2} for b in (0.5, 0.25, 0.75)]
    incumbent, *warm = configs
    assert all(search.enqueue(config) for config in (incumbent, *warm))
    assert search.ask_for(incumbent).config == incumbent  # and is left running by a kill
    again = Search(opened(journal), about(), SPACE, GOALS)
    assert again.ask_for(incumbent).config == incumbent
    assert [a.config for a in again.ask(2)] == warm
    assert again.ask_for(incumbent).config not in (incumbent, *warm)  # it waits no more


def test_constraints_are_told_and_a_pruned_candidate_keeps_its(journal: Path) -> None:
    search = Search(opened(journal), about(), SPACE, GOALS)
    (asked,) = search.ask(1)
    bad = values({"a": "z", "b": 0.0})
    search.tell(asked, Evaluated(measured=bad, out="misses", infeasible=True))
    (trial,) = optuna.load_study(storage=opened(journal), study_name=search.name).trials
    assert trial.state.name == "PRUNED"
    assert trial.constraints == {"slo": pytest.approx((1.0 - 0.05) / 0.05)}
    (done,) = search.done()
    assert not done.feasible and done.why == "misses" and done.measured == bad


def test_other_runs_other_goals_or_other_knobs_make_another_study(journal: Path) -> None:
    names = {
        about(**c).name for c in ({}, {"search": ("r3",)}, {"goals": {"slo_s": 2}}, {"space_digest": "0"}, {"seed": 2})
    }
    assert len(names) == 5
    assert about().name == about(made_ns=99, settings={"workers": 3}).name


def test_a_later_study_begins_with_what_did_well_before_but_not_with_its_values(journal: Path) -> None:
    storage = opened(journal)
    first = Search(storage, about(), SPACE, GOALS)
    run(first, 15)
    wider = Space({**SPACE.knobs, "a": Choice("x", "y", "z", "w"), "d": Choice(1, 2)})
    later = about(space_digest=wider.digest, incumbent={"a": "x", "b": 0.5, "c": 2, "d": 1}, made_ns=2)
    warm = warm_starts(storage, later, wider)
    assert warm and all(c["d"] == 1 and values(c).missed == 0 for c in warm)
    second = Search(storage, later, wider, GOALS)
    assert second.enqueue(warm[0]) and second.done() == []
    assert wider.changes_from(about().space) == ["d is new", "a gained w"]


def test_studies_are_found_by_the_beginning_of_their_name(journal: Path) -> None:
    storage = opened(journal)
    with pytest.raises(BadStudy, match="no study here"):
        find(storage, "last")
    for seed in (0, 1):
        Search(storage, about(seed=seed, made_ns=seed), SPACE, GOALS)
    assert [a.seed for _, a in studies(storage)] == [1, 0]
    assert find(storage, "last")[1].seed == 1 and find(storage, about(seed=0).name)[1] == about(seed=0, made_ns=0)
    with pytest.raises(BadStudy, match="2 studies begin with agent"):
        find(storage, "agent")


point = st.tuples(*[st.integers(0, 6).map(float)] * 3)


@settings(max_examples=80, deadline=None)
@given(st.lists(point, max_size=6))
def test_hypervolume_is_the_number_of_dominated_cells(points: list[tuple[float, ...]]) -> None:
    cells = itertools.product(range(6), repeat=3)
    counted = sum(any(all(p[i] <= c[i] for i in range(3)) for p in points) for c in cells)
    assert hypervolume(points, (6.0, 6.0, 6.0)) == counted
    best = [points[i] for i in front(points)]
    assert hypervolume(best, (6.0, 6.0, 6.0)) == counted
    assert not any(dominates(a, b) for a in best for b in best)


def test_a_subset_covers_much() -> None:
    rng = random.Random(0)
    points = [(rng.random(), rng.random(), rng.random()) for _ in range(12)]
    reference = (1.0, 1.0, 1.0)
    chosen = subset(points, reference, 3)
    most = max(hypervolume([points[i] for i in c], reference) for c in itertools.combinations(range(12), 3))
    assert hypervolume([points[i] for i in chosen], reference) >= 0.9 * most
    assert subset([(2.0, 0.0, 0.0)], reference, 3) == []


def outcomes(seconds: list[float], loss: float = 0.0, cost: float = 1.0) -> list[Outcome]:
    return [
        Outcome(case=str(i), run_id=None, quality=1 - loss, latency_s=s, usage={"m": Usage(engine_s=cost)})
        for i, s in enumerate(seconds)
    ]


def test_a_candidate_that_surely_misses_the_slo_is_out_and_one_that_may_not_stays() -> None:
    assert "95 % sure" in (breaks_slo(outcomes([2.0, 2.0, 2.0, 0.1]), GOALS) or "")
    assert breaks_slo(outcomes([2.0] + [0.1] * 7), GOALS) is None
    assert breaks_slo(outcomes([9.0] * 8), Goals()) is None


def test_a_candidate_is_out_only_when_it_is_beaten_at_its_best() -> None:
    better = measured(outcomes([0.1] * 20), GOALS)
    worse = outcomes([0.5 + 0.01 * i for i in range(12)], loss=0.9, cost=3.0)
    assert "trial 7" in (dominated(worse, [(7, better)], GOALS) or "")
    assert dominated(worse[:4], [(7, better)], GOALS) is None
    cheaper = outcomes([0.5 + 0.01 * i for i in range(12)], loss=0.9, cost=0.5)
    assert dominated(cheaper, [(7, better)], GOALS) is None


def test_a_study_on_which_nothing_is_gained_ends(journal: Path) -> None:
    search = Search(opened(journal), about(), SPACE, GOALS)
    run(search, 6)
    done = search.done()
    flat = [replace(done[0], number=i, config={"n": i}) for i in range(40)]
    assert stagnant(flat, 10) is not None
    assert stagnant(flat[:15], 10) is None
    placed = [replace(d, config={"n": d.number // 4, "placement.replicas": d.number % 4}) for d in flat]
    assert stagnant(placed, 10) is None and stagnant(placed, 5) is not None  # ten of them ran

    def at(number: int, error: float) -> Done:
        better = replace(flat[0].measured, error=error, missed=0)
        return replace(flat[number], measured=better, violation=0.0)

    assert stagnant([at(i, 0.9 - 0.02 * i) for i in range(40)], 10) is None


def test_budgets_say_which_of_them_is_used_up(tmp_path: Path) -> None:
    now = [0.0]
    clock: Callable[[], float] = lambda: now[0]  # noqa: E731 - shorter than a def
    budget = Budget(now=clock, seconds=10, calls=5, cost=1.0, stop_file=tmp_path / "stop")
    assert budget.over() is None
    budget.spend(4, 0.1)
    assert budget.over() is None
    now[0] = 7.0
    assert "time" in (budget.over(0.7) or "") and budget.over() is None
    budget.spend(1, 0.0)
    assert budget.over() == "5 FM calls were made, of at most 5"
    (tmp_path / "stop").touch()
    assert "stop says stop" in (budget.over() or "")


REST = "the rest is for the decision"


@pytest.mark.parametrize(
    ("caps", "said"),
    [
        ({"calls": 20}, f"17 FM calls were made, of the 14 that the search may make of 20 ({REST})"),
        ({"calls": 17}, f"17 FM calls were made, of the 12 that the search may make of 17 ({REST})"),
        ({"calls": 100_000, "cost": 0.5}, f"0.4 were spent, of the 0.35 that the search may spend of 0.5 ({REST})"),
        ({"seconds": 5}, f"the search's time is used up (3.9 s, of the 3.5 s that it may take of 5 s; {REST})"),
        # A night's, of which two seconds had gone by when the study began: 70 % of the other three are the search's.
        (
            {"seconds": 5, "used": 2},
            f"the search's time is used up (5.9 s, of the 4.1 s that it may take of 5 s; {REST})",
        ),
        ({"seconds": 5, "used": 6}, "the time is used up (9.9 s of 5 s)"),
    ],
)
def test_a_limit_that_nobody_has_set_is_told_as_the_searchs_share_of_the_one_that_was(
    caps: dict[str, float], said: str
) -> None:
    now = [0.0]
    budget = Budget(now=lambda: now[0], **caps)  # type: ignore[arg-type]
    now[0] = 3.9
    budget.spend(17, 0.4)
    assert budget.over(0.7) == said
