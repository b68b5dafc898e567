"""Nights whose candidates have a placement, simulated at a load on an engine profile."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redecode.replay.simulator import catalogue
from tests.optimizer.nightly.conftest import Job
from tests.optimizer.test_at_load import profile

PLACED = (
    "trials = 3",
    'trials = 3\nload = "2rps"\nreplicas = 3\nreplica_price = 3.6\nknobs = ["placement.replicas=1..3"]',
)
POLITE = 'fix = { wording = "Please name the capital of", temperature = 0.0 }'


@pytest.fixture
def placed(job: Job, store: Path) -> Job:
    """A load that one replica carries easily, and three of them in use."""
    job.configure(
        (PLACED[0], f"{PLACED[1]}\n{POLITE}"),
        ("[goals]", "[goals]\nmargin_error = 0.5"),
        ("trials", "finalists = 1\ntrials"),
    )
    return job


def in_use(job: Job) -> Any:
    return tomllib.loads(job.home.current.read_text())


def test_a_night_takes_replicas_away_and_a_rollback_brings_them_back(
    placed: Job, more: Callable[[int], None], agent: Any, recorded: Any, store: Path
) -> None:
    more(26)
    refused = placed.run()
    assert refused.exit_code == 2 and "no engine profile" in refused.stderr and "`redecode profile" in refused.stderr
    assert recorded.requests == [] and not placed.home.nights()[0].finished
    catalogue.keep(store, profile().model_copy(update={"model": "m"}))
    found = placed.json()
    assert found["promoted"] and len(placed.home.nights()) == 1, found["why"]
    assert in_use(placed)["placement"] == found["placement"] == {"replicas": 1}
    assert found["incumbent_placement"] == {"replicas": 3} and "placement.replicas" not in found["context"]
    assert agent.Context(**in_use(placed)["context"]).wording.startswith("Please")
    night = placed.home.nights()[0].path
    assert tomllib.loads((night / "tuned.toml").read_text()) == in_use(placed)
    lanes = found["tuning"]["lanes"]
    # At 2 runs a second a run's share of three replicas is 1.5 s of them, at 3.6 USD an hour.
    assert lanes["incumbent"]["cost"] == pytest.approx(0.0015) and found["tuning"]["goals"]["cost_unit"] == "USD"
    told = (night / "report.md").read_text()
    assert "| placement.replicas | 3 | 1 |" in told and "3.6 USD an hour each" in told and "simulated-2rps-x3" in told
    # What the night itself has spent is what was asked, and not what the replicas would cost.
    assert found["budget"]["used"]["fm_calls"] == len(recorded.requests)
    assert found["budget"]["used"]["cost"] > 0 and found["budget"]["used"]["cost_unit"] == "engine s"

    assert placed("rollback", str(placed.file)).exit_code == 0 and in_use(placed)["placement"] == {"replicas": 3}
    again = placed.json("--again")
    assert not again["promoted"] and "was rolled back from" in again["why"]
    assert again["config"] == found["config_before"] and in_use(placed)["placement"] == {"replicas": 3}


def test_a_placement_in_use_stays_when_it_is_not_searched(job: Job, store: Path) -> None:
    """Somebody has put it into `current.toml`, or a night whose knobs were others."""
    catalogue.keep(store, profile().model_copy(update={"model": "m"}))
    job.configure(("trials = 3", 'trials = 1\nknobs = ["wording"]'))
    first = job.json()
    text = job.home.current.read_text()
    job.home.current.write_text(text + '\n[placement]\nreplicas = 2\nrouting = "turns"\n')
    job.configure(("trials = 3", 'trials = 2\nload = "2rps"\nknobs = ["wording", "temperature=0,0.25"]'))
    found = job.json("--again")
    assert found["incumbent_placement"] == {"replicas": 2, "routing": "turns"} and first["incumbent_placement"] == {}
    assert found["tuning"]["fidelity"] == "simulated-2rps-x2" and found["config_before"] != first["config"]
    # Tonight's further knob is none that the configuration in use has: that is no change of hands.
    assert "come into use" not in found["why"]
    assert in_use(job)["placement"] == found["placement"] == {"replicas": 2, "routing": "turns"}
