"""The bundled model on a real vLLM: what it reads is what it was trained on, what it says is understood."""

from __future__ import annotations

import asyncio
import json
import random
import urllib.request
from typing import Any

import pytest

from redecode.agents import AGENTS
from redecode.agents.catalogue import make_agent
from redecode.agents.contacts_desk import prompts as desk
from redecode.agents.fm.dialogues import random_sample
from redecode.agents.runner import Job, run_awaited, run_in_threads

pytestmark = pytest.mark.vllm
MODEL = "redecode-fm-xs"


def tokenized(engine_url: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[int]:
    """Ask vLLM for the tokens it makes of a conversation."""
    body = {"model": MODEL, "messages": messages, "add_generation_prompt": False, "tools": tools or None}
    request = urllib.request.Request(
        engine_url + "/tokenize",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return list(json.load(response)["tokens"])


def test_vllm_reads_conversations_as_training_did(engine_url: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer_module = pytest.importorskip("redecode.agents.fm.tokenizer")
    from redecode.agents import model_dir

    encoder = tokenizer_module.Encoder(tokenizers.Tokenizer.from_file(str(model_dir(MODEL) / "tokenizer.json")))
    rng = random.Random(5)
    for _ in range(30):
        sample = random_sample(rng, "heldout", (1, 1, 1, 3), turns=rng.choice((1, 2)))
        assert tokenized(engine_url, list(sample.messages), list(sample.tools)) == encoder.encode(sample)[0]


def jobs(engine_url: str, name: str, count: int, **knobs: Any) -> list[Job]:
    agent = make_agent(name, seed=21, count=count)
    context = agent.context_type(base_url=f"{engine_url}/v1", model=MODEL, **knobs)
    return [Job(number=i, agent=agent, case=case, context=context) for i, case in enumerate(agent.cases)]


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_gets_something_right(engine_url: str, name: str) -> None:
    results = asyncio.run(run_awaited(jobs(engine_url, name, 12, seed=1), 6))
    assert sum(r.score.share for r in results) / len(results) > 0.2


def test_streamed_and_whole_answers_are_the_same(engine_url: str) -> None:
    whole = run_in_threads(jobs(engine_url, "contacts_desk", 8, tool_wait_s=0.0), 1)
    streamed = run_in_threads(jobs(engine_url, "contacts_desk", 8, tool_wait_s=0.0, stream=True), 1)
    calls = [[m.tool_calls for m in r.output["messages"] if m.type == "ai"] for r in whole]
    assert any(c["name"] == desk.FIND_PERSON for run in calls for turn in run for c in turn)
    assert [r.output["answer"] for r in whole] == [r.output["answer"] for r in streamed]
