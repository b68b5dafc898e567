"""Forks of reference agents on a real vLLM: what stays recorded does so token for token, the rest is recorded whole."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langgraph")

from redecode.agents.catalogue import make_agent
from redecode.agents.context import AgentContext
from redecode.agents.runner import Job, run_awaited, run_job
from redecode.replay import fork
from redecode.tracer import Fidelity, RecordedRun, Store, instrument, uninstrument

pytestmark = pytest.mark.vllm


def one(name: str, url: str) -> Job:
    agent = make_agent(name, count=1)
    context: AgentContext = agent.context_type(base_url=f"{url}/v1", model="redecode-fm-xs", seed=1)
    return Job(number=0, agent=agent, case=agent.cases[0], context=context)


def newest(store: Path) -> RecordedRun:
    opened = Store(store)
    return opened.load(opened.runs()[0].run_id)


def by(run: RecordedRun) -> dict[str, str]:
    answered = "redecode.answered_by"
    return {s.step_key: s.attributes[answered] for s in run.spans if answered in s.attributes}


def test_one_branch_of_a_fan_out(tmp_path: Path, engine_url: str) -> None:
    job = one("parallel", engine_url.removesuffix("/v1"))
    instrument(tmp_path / "a")
    run_job(job)
    uninstrument()
    source = newest(tmp_path / "a")
    until = "run/ask_email@1[pull:ask_email]/chat"
    with fork(source, until=until, into=tmp_path / "f", pace=0, temperature=1.8, sampling={"seed": 5}):
        run_job(job)
    forked = newest(tmp_path / "f")
    assert {key for key, how in by(forked).items() if how == "live"} == {until}
    assert set(by(forked)) == {d.step_key for d in source.decodes}
    then, now = ({d.step_key: d for d in run.decodes} for run in (source, forked))
    for key in then:
        if key != until:
            assert (now[key].prompt_ids, now[key].sampled_ids) == (then[key].prompt_ids, then[key].sampled_ids)
    live = now[until]
    assert (live.fidelity, live.seed, live.sampling["temperature"]) == (Fidelity.ENGINE, 5, 1.8)
    assert live.prompt_ids == then[until].prompt_ids
    assert live.sampled_ids != then[until].sampled_ids


def test_the_rest_of_a_conversation_with_tools(tmp_path: Path, engine_url: str) -> None:
    job = one("contacts_desk", engine_url.removesuffix("/v1"))
    instrument(tmp_path / "a")
    (first,) = asyncio.run(run_awaited([job], 1))
    uninstrument()
    source = newest(tmp_path / "a")
    last = [d.step_key for d in sorted(source.decodes, key=lambda d: d.sent_ns)][-1]
    with fork(source, until=last, into=tmp_path / "f", pace=0) as player:
        (again,) = asyncio.run(run_awaited([job], 1))
    forked = newest(tmp_path / "f")
    assert player.until == last
    assert {key for key, how in by(forked).items() if how == "live"} == {last}
    (then,), (now,) = ([d for d in run.decodes if d.step_key == last] for run in (source, forked))
    assert (now.prompt_ids, now.sampled_ids) == (then.prompt_ids, then.sampled_ids)  # the same seed, the same engine
    assert again.score == first.score


def test_a_knob_of_the_context(tmp_path: Path, engine_url: str) -> None:
    job: Any = one("parallel", engine_url.removesuffix("/v1"))
    instrument(tmp_path / "a")
    run_job(job)
    uninstrument()
    source = newest(tmp_path / "a")
    with fork(source, until="ask_name@1[pull:ask_name]", into=tmp_path / "f", pace=0, context={"wording": "brief"}):
        run_job(job)
    then, now = ({d.step_key: d.messages for d in run.decodes} for run in (source, newest(tmp_path / "f")))
    changed = {key for key in then if then[key] != now[key]}
    assert changed == {"run/ask_name@1[pull:ask_name]/chat"}
