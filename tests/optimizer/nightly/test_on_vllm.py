"""A night on a real vLLM, which it measures before it simulates candidates at a load on what it has measured."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from redecode import tracer
from redecode.agents.catalogue import make_agent
from redecode.agents.runner import Job, run_awaited
from redecode.cli.main import app
from redecode.replay.simulator.catalogue import profiles_in

pytestmark = pytest.mark.vllm
FM = "redecode-fm-xs"
CONFIG = """
spec = "redecode.agents.extraction:spec"
engine = "{url}/v1"
runs = "all"

[profile]
source = "engine"
seconds = "1s"

[tune]
incumbent = "incumbent.toml"
knobs = ["wording=plain,brief", "placement.replicas=1,2"]
load = "2rps"
trials = 2
finalists = 1
held_out = 0.5
workers = 0

[trends]
otava = "off"
"""


def test_the_engine_is_measured_and_candidates_are_simulated_on_it(
    engine_url: str, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")  # the configuration has another one
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    agent = make_agent("single", seed=3, count=4)
    context = agent.context_type(base_url=f"{engine_url}/v1", model=FM)
    tracer.instrument(store)
    try:
        asyncio.run(
            run_awaited([Job(number=i, agent=agent, case=c, context=context) for i, c in enumerate(agent.cases)], 2)
        )
    finally:
        tracer.uninstrument()
    (tmp_path / "incumbent.toml").write_text(f'[context]\narchitecture = "single"\nmodel = "{FM}"\n')
    (tmp_path / "nightly.toml").write_text(CONFIG.format(url=engine_url))
    words = ["nightly", str(tmp_path / "nightly.toml"), "--store", str(store), "--json", "--ok-if-kept"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    (profile,) = profiles_in(store)
    assert (profile.model, profile.source) == (FM, "sweep")
    assert found["profile"]["made"] == [profile.key] and found["profile"]["fm_calls"] > 0
    # What measuring took counts, with what the study asked.
    asked = found["tuning"]["fm_calls"]
    assert found["budget"]["used"]["fm_calls"] == found["profile"]["fm_calls"] + asked["made"] + asked["to_decide"]
    assert asked["made"] > 0 and found["tuning"]["fidelity"] == "simulated-2rps-x1"
    assert found["tuning"]["trials"][0]["measured"]["cost"] == pytest.approx(1 / 2)
