"""FM calls of which nobody told how many tokens they had: they are not free."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from redecode import tracer
from redecode.cli.main import app
from redecode.optimizer.cases import of_runs
from redecode.optimizer.evaluation.session import Block, InProcess, Settings
from redecode.optimizer.objectives import Usage
from redecode.tracer import Store

PROGRAM = """
from typing import Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from openai import OpenAI
from pydantic import BaseModel
from redecode.optimizer import Spec
from typing_extensions import TypedDict

client = OpenAI()

class State(TypedDict, total=False):
    question: str
    answer: str

class Context(BaseModel):
    way: Literal["whole", "counted", "streamed"] = "whole"
    reads: Literal["all", "first"] = "all"

def answer(state: State, runtime: Runtime[Context]) -> State:
    had = runtime.context
    asked = {"model": "m", "messages": [{"role": "user", "content": state["question"]}], "temperature": 0}
    if had.way == "whole":
        return {"answer": client.chat.completions.create(**asked).choices[0].message.content}
    if had.way == "counted":
        asked["stream_options"] = {"include_usage": True}
    said = ""
    with client.chat.completions.create(**asked, stream=True) as stream:
        for chunk in stream:
            said += chunk.choices[0].delta.content if chunk.choices else ""
            if had.reads == "first":
                break
    return {"answer": said}

builder = StateGraph(State, context_schema=Context)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
builder.add_edge("answer", END)
graph = builder.compile(name="streams")
spec = Spec(graph=graph, score=lambda output, case: 1.0, slo_s=9.0)
"""
ANSWER = "a long answer"
WHOLE = Usage(calls=1, input_tokens=3, output_tokens=len(ANSWER))


@pytest.fixture
def streams(tmp_path: Path, store: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An agent that streams if it is told to, of an engine that tells tokens only if it is asked; eight runs of it."""
    (tmp_path / "streams.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OPENAI_BASE_URL", serve(lambda _: ANSWER, chunk_s=0.01).base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    module = importlib.import_module("streams")
    tracer.instrument(store)
    for n in range(8):
        module.graph.invoke({"question": f"question {n}"}, context=module.Context())
    tracer.uninstrument()
    yield store
    sys.modules.pop("streams", None)


def test_a_candidate_that_cannot_be_priced_is_out_and_says_what_to_ask_for(streams: Path) -> None:
    options = ["--store", str(streams), "--runs", "all", "--json", "--workers", "0", "--price", "m=1,1"]
    command = ["tune", "streams:spec", "--knob", "way=whole,streamed", "--held-out", "0", *options]
    found = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    (trial,), (failure,) = found["trials"], found["failures"]
    assert (trial["candidate"]["way"], failure["candidate"]["way"]) == ("whole", "streamed")
    assert trial["measured"]["cost"] == pytest.approx((3 + len(ANSWER)) / 1e6) and "include_usage" in failure["why"]
    unpriced = CliRunner().invoke(app, command[:-2], catch_exceptions=False).stdout
    assert len(json.loads(unpriced)["trials"]) == 2


def test_an_answer_of_the_memo_that_is_not_read_to_its_end_costs_what_it_cost(streams: Path) -> None:
    cases = of_runs(Store(streams).runs())[:2]
    here = InProcess(Settings(spec="streams:spec", store=streams, source=streams, concurrency=1))
    try:

        def usage(way: str, reads: str, **more: Any) -> list[Usage]:
            outcomes = here.evaluate(Block(values={"way": way, "reads": reads}, cases=cases, labels={}, **more))
            assert all(o.error is None for o in outcomes)
            return [replace(o.usage["m"], engine_s=0.0) for o in outcomes]

        given_up = Usage(calls=1, uncounted=1)
        assert usage("counted", "first", memo=False) == [given_up, given_up]
        assert usage("counted", "all") == [WHOLE, WHOLE]
        assert usage("counted", "first") == [WHOLE, WHOLE]
    finally:
        here.close()
