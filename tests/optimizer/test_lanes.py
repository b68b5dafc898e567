"""Candidates in turns on held-out cases: who cannot be evaluated there is out, and the others go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from redecode.optimizer.errors import BadSpec
from redecode.optimizer.evaluation.ladder import Ladder, lanes
from redecode.optimizer.evaluation.session import Block
from redecode.optimizer.knobs import Choice, Config, Space
from redecode.optimizer.objectives import Goals, Outcome
from redecode.optimizer.spec import Case

CASES = [Case(id=str(n), input=n) for n in range(10)]
SPACE = Space({"wording": Choice("a", "b", "c")}, {})
LANES: dict[str, Config] = {"incumbent": {"wording": "a"}, "one": {"wording": "b"}, "two": {"wording": "c"}}


@dataclass
class Runs:
    """Evaluates, but for one wording on one case."""

    never: tuple[str, str]
    turns: list[str] = field(default_factory=list)
    workers: int = 1

    def evaluate(self, block: Block) -> list[Outcome]:
        self.turns.append(block.values["wording"])
        if block.values["wording"] == self.never[0] and any(c.id == self.never[1] for c in block.cases):
            raise BadSpec("no such thing")
        return [Outcome(case=c.id, run_id=None, quality=1.0, latency_s=1.0, live=1) for c in block.cases]

    def close(self) -> None:
        """Nothing."""


def ladder(never: tuple[str, str], **options: Any) -> Ladder:
    return Ladder(evaluates=Runs(never), space=SPACE, goals=Goals(), cases=CASES, block=4, **options)


def test_a_candidate_that_fails_on_a_case_is_out_and_the_others_go_on() -> None:
    found = lanes(ladder(("b", "5")), LANES)
    assert {name: [o.case for o in ran] for name, ran in found.ran.items()} == {
        name: [c.id for c in CASES] for name in ("incumbent", "two")
    }
    assert (found.gone, found.cut) == ({"one": "no such thing"}, None)
    turns = lanes_of(ladder(("b", "5")))
    first, second, third = turns[:3], turns[3:6], turns[6:]
    assert sorted(first) == sorted(second) == ["a", "b", "c"] and sorted(third) == ["a", "c"]  # not asked again


def lanes_of(made: Ladder) -> list[str]:
    lanes(made, LANES)
    turns: list[str] = made.evaluates.turns  # type: ignore[attr-defined]
    return turns


def test_without_the_incumbent_there_is_nothing_to_compare_with() -> None:
    with pytest.raises(BadSpec, match="no such thing"):
        lanes(ladder(("a", "5")), LANES)


def test_a_candidate_that_cannot_be_simulated_is_out_too() -> None:
    def simulates(outcomes: Sequence[Outcome], config: Config) -> list[Outcome]:
        if config["wording"] == "c":
            raise BadSpec("too long for the engine")
        return [replace(o, simulated_s=2.0) for o in outcomes]

    found = lanes(ladder(("b", "none"), simulates=simulates), LANES)
    assert found.gone == {"two": "too long for the engine"} and list(found.ran) == ["incumbent", "one"]
    assert {o.simulated_s for ran in found.ran.values() for o in ran} == {2.0}


def test_a_budget_ends_all_of_them_after_the_same_cases() -> None:
    left = iter([None, "it is late"])
    found = lanes(ladder(("b", "none")), LANES, over=lambda: next(left))
    assert found.cut == "it is late" and {len(ran) for ran in found.ran.values()} == {4}


def test_who_is_first_in_a_turn_is_last_in_the_next_and_then_drawn_anew() -> None:
    many = replace(ladder(("b", "none")), cases=[Case(id=str(n), input=n) for n in range(400)])
    turns = lanes_of(many)
    begun = turns[::3]
    assert all(20 <= begun.count(name) <= 47 for name in "abc")
    assert all(turns[n : n + 3] == turns[n + 3 : n + 6][::-1] for n in range(0, len(turns) - 5, 6))  # ABC CBA
    lasts = list(zip(turns[5::6], turns[6::6], strict=False))
    assert 0.15 < sum(a == b for a, b in lasts) / len(lasts) < 0.55  # of three, a third
    assert lanes_of(replace(many, evaluates=Runs(("b", "none")))) == turns
