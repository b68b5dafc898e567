"""Grades the desk against what it should have answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from redecode.agents.contacts_desk.policy import DeskCase, expected_answer
from redecode.agents.score import Score


def score(output: Mapping[str, Any], case: DeskCase) -> Score:
    """Compare a graph's output state (its `answer`) with the right answer, exactly, field by field."""
    expected = {k: v for k, v in asdict(expected_answer(case)).items() if v is not None}
    answer = output.get("answer")
    if answer is None:
        return Score(dict.fromkeys(expected, False), error=str(output.get("error") or "no answer"))
    fields = {k: answer.get(k) == v for k, v in expected.items()}
    if set(answer) - set(expected):
        return Score(fields | {"no more than asked": False})
    return Score(fields)
