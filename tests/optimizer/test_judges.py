"""A scorer that asks an FM itself: what that takes counts in the budgets, and in nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from redecode.cli.main import app
from redecode.optimizer.objectives import Goals, Usage
from redecode.replay.prices import Price
from tests.optimizer.conftest import tuning_of_docs

JUDGED = '''
from langchain_openai import ChatOpenAI


def judged(output, case):
    """Right if it is; a judge is asked, too."""
    ChatOpenAI(model="judge", temperature=0).invoke(f"is {output['capital']} right for {case.id}")
    return right(output, case)


spec = spec.model_copy(update={"score": judged})
'''


@pytest.fixture
def tune(folder: Path, recorded: Any, store: Path) -> Callable[..., Any]:
    (folder / "tuning.py").write_text(tuning_of_docs() + JUDGED)

    def run(*options: str) -> Any:
        command = ["tune", "tuning:spec", "--runs", "all", "--held-out", "0", "--store", str(store), "--json"]
        return json.loads(CliRunner().invoke(app, [*command, *options], catch_exceptions=False).stdout)

    return run


def asked_of(recorded: Any, model: str) -> int:
    return sum(request["model"] == model for request in recorded.requests)


@pytest.mark.parametrize("workers", ["0", "1"], ids=["here", "process"])
def test_they_count_in_the_budget_of_calls_and_are_told(tune: Callable[..., Any], recorded: Any, workers: str) -> None:
    found = tune("--max-calls", "24", "--workers", workers)
    assert "of at most 24" in found["stopped"]
    judges = asked_of(recorded, "judge")
    assert judges >= 8 and found["fm_calls"]["by_scorer"] == judges
    assert 24 <= len(recorded.requests) < 24 + 16  # a block's, twice
    assert found["fm_calls"]["made"] <= len(recorded.requests) - judges


def test_their_cost_is_in_the_budget_and_in_no_candidates(tune: Callable[..., Any], recorded: Any) -> None:
    prices = ("--price", "m=1,1", "--price", "judge=1000000,0")
    found = tune(*prices, "--max-cost", "30")
    assert "were spent, of at most 30" in found["stopped"]
    assert all(t["measured"]["cost"] < 1 for t in found["trials"])


def test_a_judge_without_a_price_is_no_end_and_is_told_once(tune: Callable[..., Any], recorded: Any) -> None:
    found = tune("--price", "m=1,1", "--trials", "2")
    (note,) = [note for note in found["notes"] if "judge" in note]
    assert "the scorer's own calls of judge cost is not known" in note and "--price judge=" in note


def test_what_is_spent_on_models_without_a_price_is_not_known() -> None:
    goals = Goals(prices={"a": Price(input=1.0, output=2.0)}, provisioned=True)
    used = {"a": Usage(calls=1, input_tokens=1_000_000), "b": Usage(calls=1, input_tokens=5)}
    assert goals.spent(used) == (1.0, ["b"])
    assert goals.spent({"a": Usage(calls=2, uncounted=1)}) == (0.0, ["a"])
    assert Goals().spent({"b": Usage(calls=1, engine_s=2.5)}) == (2.5, [])
