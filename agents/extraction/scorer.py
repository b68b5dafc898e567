"""Grades an extraction against the article's contact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redecode.agents.contact import FIELDS, Contact
from redecode.agents.score import Score


def score(output: Mapping[str, Any], truth: Contact) -> Score:
    """Compare a graph's output state (its `contact`) with the truth, exactly."""
    answer = output.get("contact")
    if answer is None:
        return Score(dict.fromkeys(FIELDS, False), error=str(output.get("error") or "no answer"))
    return Score({f: answer[f] == truth.value(f) for f in FIELDS})
