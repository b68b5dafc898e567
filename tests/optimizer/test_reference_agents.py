"""The reference agents are tunable as they are: the desk and the clerk, their tools answered from the record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from redecode import tracer
from redecode.agents.catalogue import make_agent
from redecode.agents.contacts_desk.state import DeskContext
from redecode.agents.contacts_desk.tuning import answered
from redecode.agents.runner import Job, run_awaited
from redecode.cli.main import app
from redecode.optimizer.cases import MODE
from redecode.optimizer.spec import load, space_of
from redecode.tracer import ANSWERED_BY, Store

JOBS = 4


class Desk:
    """A model that does the desk's job when it is asked at length, and mistakes the name when it is asked briefly."""

    def __init__(self, agent: Any) -> None:
        self.cases = {case.input["article"]: case for case in agent.cases}

    def __call__(self, body: dict[str, Any]) -> Any:
        messages = body["messages"]
        asked = next(m["content"] for m in messages if m["role"] == "user")
        case = next(c for a, c in self.cases.items() if a in asked)
        said = [m for m in messages if m["role"] == "tool"]
        name = (
            "Nobody" if "File the contact." in asked or "Give the contact's email." in asked else case.expected["name"]
        )
        if not said:
            call = {"name": "find_person", "arguments": json.dumps({"name": name})}
            return {"content": None, "tool_calls": [{"id": "c", "type": "function", "function": call}]}
        return json.dumps({k: v for k, v in {**case.expected, "name": name}.items() if v is not None})


@pytest.fixture
def desk(store: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    agent = make_agent("contacts_desk", count=JOBS)
    server = serve(Desk(agent))
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    tracer.instrument(store)
    context = DeskContext(base_url=server.base_url, tool_wait_s=0.0)
    jobs = [Job(number=n, agent=agent, case=case, context=context) for n, case in enumerate(agent.cases)]
    try:
        asyncio.run(run_awaited(jobs, 2))
    finally:
        tracer.uninstrument()
    return server


def test_the_desk_is_tuned_with_its_tools_answered_from_the_record(desk: Any, store: Path) -> None:
    options = (
        "--runs",
        "all",
        "--workers",
        "0",
        "--held-out",
        "0",
        "--store",
        str(store),
        "--json",
        "--knob",
        "wording",
    )
    result = CliRunner().invoke(app, ["tune", "redecode.agents.contacts_desk:spec", *options], catch_exceptions=False)
    found = {t["candidate"]["wording"]: t["measured"] for t in json.loads(result.stdout)["trials"]}
    assert set(found) == {"brief", "plain", "careful"}
    assert found["plain"]["error"] == found["careful"]["error"] == 0.0 and found["plain"]["failed"] == 0
    assert 0 < found["brief"]["error"] < 1 and found["brief"]["failed"] == 0
    # Whoever is asked about that had not been recorded gets what the desk's world has for such.
    own = [r.run_id for r in Store(store).runs() if MODE in r.labels and "fills" not in r.labels[MODE]]
    runs = [Store(store).load(run_id) for run_id in own]
    by = {s.attributes.get(ANSWERED_BY) for r in runs for s in r.spans if s.kind == "tool"}
    assert by == {"recording", "stand-in"}
    stand_ins = [t for r in runs for t in r.tools if t.arguments == {"name": "Nobody"}]
    assert len(stand_ins) == JOBS and all(json.loads(t.result)["error"] == "not found" for t in stand_ins)


def test_nobody_stands_in_for_a_tool_of_another_name() -> None:
    with pytest.raises(LookupError):
        answered("send_mail", {}, None)


CACHED = Path(__file__).parents[2] / "docs" / "examples" / "cached_extraction.py"


@pytest.mark.parametrize("agent", ["extraction", "contacts_desk", "clerk", str(CACHED)])
def test_their_knobs_can_be_searched(agent: str) -> None:
    spec = load(f"{agent}:spec" if agent.endswith(".py") else f"redecode.agents.{agent}:spec")
    space, incumbent = space_of(spec)
    assert space.fits(incumbent) and space.size() >= 4
    for config, _ in zip(space.candidates(), range(200), strict=False):
        values = space.decoded(config)
        spec.context_of(values)
        assert spec.built(values) is not None
