"""What the models propose: always a new candidate of the space, the same for the same seed, and a good one soon."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from redecode.optimizer.knobs import Choice, Config, Range, Space
from redecode.optimizer.study import proposing
from redecode.optimizer.study.gaussian import Process, distances
from redecode.optimizer.study.proposing import LEAST, drawn, propose
from redecode.optimizer.study.search import PROPOSING, Evaluated, Search
from redecode.optimizer.study.storage import opened
from tests.optimizer.test_search import GOALS, about, run, values

SPACE = Space(
    {
        "kind": Choice("a", "b", "c"),
        "on": Choice(True, False),
        "size": Range(1, 100, log=True, integer=True),
        "heat": Range(0.0, 1.0, step=0.25, when={"on": [True]}),
        "far": Range(-1, 1),
    }
)


def truth(config: Config) -> tuple[float, float]:
    worse = {"a": 0.0, "b": 0.4, "c": 0.8}[str(config["kind"])] + abs(float(config["far"] or 0) - 0.3)
    return worse + float(config.get("heat") or 0), float(config["size"] or 1) / 100


def over(config: Config) -> float:
    return 0.5 - 0.02 * float(config["size"] or 1)  # at least 25


def known(count: int, seed: int) -> list[Config]:
    rng = random.Random(seed)
    return [drawn(SPACE, rng) for _ in range(count)]


def asked(configs: list[Config], pending: list[Config], seed: int) -> Config | None:
    found = [truth(c) for c in configs]
    return propose(SPACE, configs, found, [[over(c)] for c in configs], pending, random.Random(seed))


@pytest.mark.parametrize("seed", range(4))
def test_it_is_a_new_candidate_of_the_space_and_the_same_for_the_same_seed(seed: int) -> None:
    configs = known(20, seed)
    pending: list[Config] = []
    for _ in range(3):
        found = asked(configs, pending, seed)
        assert found is not None and SPACE.canonical(found) == found == asked(configs, pending, seed)
        assert found not in configs and found not in pending
        pending.append(found)


def test_too_few_trials_no_knobs_and_an_exhausted_space_propose_nothing() -> None:
    assert asked(known(LEAST - 1, 0), [], 0) is None
    configs: list[Config] = [{} for _ in range(LEAST)]
    assert propose(Space({}), configs, [(1.0,)] * LEAST, [[]] * LEAST, [], random.Random(0)) is None
    little = Space({"n": Range(1, LEAST, integer=True)})
    every = list(little.candidates())
    assert propose(little, every, [(float(c["n"] or 0),) for c in every], [[]] * LEAST, [], random.Random(0)) is None


def test_what_could_not_be_measured_is_not_proposed_again_and_spoils_nothing() -> None:
    configs = known(20, 1)
    values = [truth(c) for c in configs]
    values[3], values[7] = (math.nan, 1.0), (1.0, math.inf)
    found = propose(SPACE, configs, values, [[over(c)] for c in configs], [], random.Random(0))
    assert found is not None and found not in configs
    assert propose(SPACE, configs, [(math.nan, 1.0)] * 20, [[0.0]] * 20, [], random.Random(0)) is None


def test_a_study_evaluates_the_very_candidate_that_was_proposed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposed: list[Config | None] = []

    def noted(*given: Any) -> Config | None:
        proposed.append(propose(*given))
        return proposed[-1]

    monkeypatch.setattr("redecode.optimizer.study.search.propose", noted)
    search = Search(opened(tmp_path / "j"), about(sampler="gp", space_digest=SPACE.digest), SPACE, GOALS)
    made: list[Config] = []
    for _ in range(PROPOSING + 6):
        (one,) = search.ask(1)
        error, cost = truth(one.config)
        found = replace(values({"a": "x", "b": 0.0}), error=min(1.0, error / 3), cost=cost, latency_s=0.1 + cost)
        search.tell(one, Evaluated(measured=found))
        made.append(one.config)
    assert len(proposed) >= 6 and made[-len(proposed) :] == proposed


def test_without_any_that_keeps_the_constraints_it_looks_for_one() -> None:
    configs = [{**c, "size": min(20, int(c["size"] or 1))} for c in known(24, 5)]
    assert all(over(c) > 0 for c in configs)
    found = asked(configs, [], 1)
    assert found is not None and over(found) <= 0


def test_after_some_proposals_it_is_nearer_to_the_front_than_chance() -> None:
    """The best is kind a, far at 0.3, no heat, size 25: the least error at the least size that is allowed."""

    def best(configs: list[Config]) -> float:
        return min(sum(truth(c)) for c in configs if over(c) <= 0)

    configs = known(10, 0)
    while len(configs) < 26:
        found = asked(configs, [], 0)
        assert found is not None
        configs.append(found)
    assert best(configs) < min(best(known(200, 100)), 0.4)


def test_a_process_is_surest_where_it_has_measured() -> None:
    configs = known(40, 3)
    process = Process(SPACE, distances(SPACE, configs, configs), [truth(c)[0] for c in configs])
    here = process.at(distances(SPACE, configs, configs))[1]
    there = process.at(distances(SPACE, configs, known(100, 4)))[1]
    assert here.max() < there.min() * 3 and here.mean() < 0.5 * there.mean()


def test_what_costs_nothing_to_find_out_comes_before_what_may_add_a_little_more() -> None:
    configs = known(30, 6)
    found, kept = [truth(c) for c in configs], [[over(c)] for c in configs]
    dear = propose(SPACE, configs, found, kept, [], random.Random(1))
    assert dear is not None
    near = [{**dear, "far": float(dear["far"] or 0) + by} for by in (-0.1, 0.1)]  # promise about as much
    assert propose(SPACE, configs, found, kept, [], random.Random(1), near) in near
    hopeless = [{**c, "kind": "c", "size": 1} for c in known(20, 9)]
    assert propose(SPACE, configs, found, kept, [], random.Random(1), hopeless) not in hopeless


def test_placements_of_what_ran_are_tried_before_more_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = Range(1, 20, integer=True)
    space = Space({"n": Range(0, 99, integer=True), "placement.replicas": replicas})

    def ran(journal: str) -> int:
        search = Search(opened(tmp_path / journal), about(sampler="gp", space_digest=space.digest), space, GOALS)
        told: list[Config] = []
        for _ in range(PROPOSING + 20):
            (asked,) = search.ask(1)
            n, many = float(asked.config["n"] or 0), float(asked.config["placement.replicas"] or 0)
            found = replace(values({"a": "x", "b": n / 99}), cost=many, latency_s=0.2 + n / 200 / many)
            search.tell(asked, Evaluated(measured=found))
            told.append(asked.config)
        assert len({str(c) for c in told}) == len(told)
        return len({str(c["n"]) for c in told[PROPOSING:]})

    with_them = ran("free")
    monkeypatch.setattr(proposing, "CHEAPER", 1.0)
    assert with_them < 0.7 * ran("as dear as others")


def test_a_study_proposes_the_same_after_a_kill(tmp_path: Path) -> None:
    def search(name: str) -> Search:
        return Search(opened(tmp_path / name), about(sampler="gp"), SEARCHED, GOALS)

    from tests.optimizer.test_search import SPACE as SEARCHED

    whole = run(search("whole"), PROPOSING + 6)
    first = search("cut")
    begun = run(first, PROPOSING + 2)
    (under_way,) = first.ask(1)
    again = search("cut")
    (then,) = again.ask(1)
    assert then.config == under_way.config
    again.tell(then, Evaluated(measured=values(then.config)))
    assert begun == whole[: PROPOSING + 2] and then.config == whole[PROPOSING + 2]
