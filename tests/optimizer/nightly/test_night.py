"""A night from end to end, on a foreign agent that was recorded."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any

from tests.optimizer.nightly.conftest import Job


def test_a_night_promotes_what_is_better_and_a_second_start_says_that_it_is_over(
    job: Job, more: Callable[[int], None], agent: Any, recorded: Any
) -> None:
    more(40)
    first = job.run("--json")
    found = json.loads(first.stdout)
    assert (first.exit_code, found["verdict"]) == (0, "promote"), first.output
    in_use = tomllib.loads(job.home.current.read_text())["context"]
    assert agent.Context(**in_use).wording == "Please name the capital of"
    assert in_use == found["context"] == tomllib.loads((job.home.nights()[0].path / "tuned.toml").read_text())["context"]
    (night,) = job.home.nights()
    assert {p.name for p in night.path.iterdir()} >= {"report.html", "report.md", "report.json", "tuned.toml"}
    assert json.loads((night.path / "report.json").read_text())["config"] == found["config"]
    assert "| wording | Capital of | Please name the capital of |" in (night.path / "report.md").read_text()
    asked, before = len(recorded.requests), (night.path / "report.json").read_bytes()
    assert asked == found["budget"]["used"]["fm_calls"]
    second = job.run("--json")
    assert second.exit_code == 0 and json.loads(second.stdout)["already"] is True
    assert len(recorded.requests) == asked and (night.path / "report.json").read_bytes() == before
    assert len(job.home.nights()) == 1
