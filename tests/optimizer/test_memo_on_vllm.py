"""What answers of earlier calls serve: only calls that a real vLLM would answer so, whatever API they ask."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from redecode import tracer
from redecode.optimizer.cases import select
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.optimizer.spec import load
from redecode.tracer import Store

pytestmark = pytest.mark.vllm

MODEL = "redecode-fm-xs"
WAYS = ("chat", "logprobs", "streamed logprobs", "two", "responses", "text", "text with logprobs", "xargs")
AGENT = f'''
from typing import Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from openai import OpenAI
from pydantic import BaseModel

class State(TypedDict, total=False):
    said: str
    got: dict

class Context(BaseModel):
    way: Literal{list(WAYS)!r} = "chat"

def ask(state: State, runtime: Runtime[Context]) -> State:
    client, way = OpenAI(), runtime.context.way
    how = {{"model": "{MODEL}", "temperature": 0}}
    if way == "responses":
        found = client.responses.create(input=state["said"], max_output_tokens=5, **how)
        return {{"got": {{"text": found.output_text}}}}
    if way.startswith("text"):
        more = {{"logprobs": 0}} if "logprobs" in way else {{}}
        found = client.completions.create(prompt=state["said"], max_tokens=5, **how, **more)
    else:
        more = {{
            "two": {{"n": 2, "temperature": 1, "seed": 7}},
            "xargs": {{"extra_body": {{"vllm_xargs": {{"mine": 1}}}}}},
        }}.get(way, {{"logprobs": True}} if "logprobs" in way else {{}})
        how |= {{"max_tokens": 5, "stream": "streamed" in way}}
        asked = [{{"role": "user", "content": state["said"]}}]
        found = client.chat.completions.create(messages=asked, **{{**how, **more}})
    if "streamed" in way:
        parts = [c for chunk in found for c in chunk.choices]
        told = [t.model_dump() for c in parts if c.logprobs for t in c.logprobs.content]
        return {{"got": {{"text": "".join(c.delta.content or "" for c in parts), "logprobs": told}}}}
    told = [c.logprobs.model_dump() if c.logprobs else None for c in found.choices]
    texts = [getattr(c, "text", None) or c.message.content for c in found.choices]
    return {{"got": {{"texts": texts, "logprobs": told}}}}

builder = StateGraph(State, context_schema=Context)
builder.add_node("ask", ask)
builder.add_edge(START, "ask")
builder.add_edge("ask", END)
graph = builder.compile(name="asks")
'''


def test_every_way_to_ask_is_answered_as_it_was_and_none_as_another(
    engine_url: str, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asks.py").write_text(AGENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OPENAI_BASE_URL", f"{engine_url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    agent: Any = importlib.import_module("asks")
    tracer.instrument(store)
    try:
        agent.graph.invoke({"said": "Hello there"}, context=agent.Context())
    finally:
        tracer.uninstrument()
    cases = select(Store(store).runs(), load("asks:graph"), "all", now_ns=0, held_out=0).search
    session = InProcess(Settings(spec="asks:graph", store=store, source=store, concurrency=1))

    def evaluated(way: str) -> tuple[bool, Any]:
        (outcome,) = session.evaluate(Block(values={"way": way}, cases=cases))
        assert outcome.error is None, outcome.error
        return outcome.memo > 0, Store(store).load(str(outcome.run_id)).run.output["got"]

    try:
        evaluated("chat")  # the first tells which engine there is
        live = {way: evaluated(way) for way in WAYS}
        again = {way: evaluated(way) for way in WAYS}
    finally:
        session.close()
    assert [way for way in WAYS if live[way][0]] == ["chat"]
    assert [way for way in WAYS if not again[way][0]] == []
    for way in WAYS:
        assert json.dumps(again[way][1]) == json.dumps(live[way][1]), way
    tokens = again["logprobs"][1]["logprobs"][0]["content"]
    assert "".join(t["token"] for t in tokens) == again["logprobs"][1]["texts"][0] != ""
    assert again["chat"][1]["logprobs"] == [None]
