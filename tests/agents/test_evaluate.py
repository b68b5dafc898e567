"""Grading: what counts as wrong, as malformed, as cut, and a world that answers tool calls by the rules."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import pytest

from redecode.agents.contacts_desk import prompts as desk
from redecode.agents.contacts_desk.policy import World, desk_cases, expected_turns

evaluate = pytest.importorskip("redecode.agents.fm.evaluate")
speakers = pytest.importorskip("redecode.agents.fm.speakers")


class Says:
    """A speaker with one thing to say."""

    def __init__(self, text: str, *, cut: bool = False) -> None:
        self._said = speakers.Said(text, cut=cut)

    def say(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> Any:
        return self._said


def shares(marks: Any) -> dict[str, Any]:
    return {r.group: r for r in evaluate.rows(marks)}


def test_nonsense_is_malformed_and_wrong() -> None:
    graded = shares(evaluate.grade(Says("one\ntwo"), "heldout", 2, seed=0))
    assert set(evaluate.tasks()) <= set(graded)
    assert all(r.right == 0 and r.malformed == 1 for r in graded.values())


def test_a_loop_is_an_error_of_its_own() -> None:
    graded = shares(evaluate.grade(Says("one", cut=True), "heldout", 2, seed=0))
    assert all(r.right == 0 and r.cut == 1 for r in graded.values())


def test_the_world_answers_calls_as_the_policy_expects() -> None:
    for case in islice(desk_cases("heldout", 11), 50):
        world, turns = World(case), expected_turns(case)
        for call, result in zip(turns[::2], turns[1::2], strict=False):
            function = call["tool_calls"][0]["function"]
            assert world.answer(function["name"], function["arguments"]) == result


def test_the_world_refuses_other_calls() -> None:
    world = World(next(desk_cases("heldout", 1)))
    assert "no such tool" in world.answer("call_mother", "{}")["content"]
    assert "no such tool" in world.answer(desk.FIND_PERSON, '{"address": "1"}')["content"]


def test_tool_calls_are_read_from_text() -> None:
    split = speakers._split_call
    assert split('<tool_call>\n{"name": "f", "arguments": {"x": "1"}}\n</tool_call>').call == ("f", '{"x": "1"}')
    assert split('<tool_call>\n{"name": "f"\n</tool_call>').call is None
    assert split("plain words").text == "plain words"


def test_the_table_has_a_row_per_group() -> None:
    graded = evaluate.rows(evaluate.grade(Says("x"), "heldout", 1, seed=0))
    assert evaluate.table(graded).count("\n") == len(graded) + 2
