"""Playback: each branch gets its own recorded answer, tools do not run, nothing goes live."""

from __future__ import annotations

import asyncio
import operator
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest

pytest.importorskip("langgraph")

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from pydantic import SecretStr

from redecode.replay import ReplayDivergence, playback
from redecode.tracer import RecordedRun, Store, instrument, uninstrument

Serve = Callable[..., Any]


class State(TypedDict):
    out: Annotated[list[str], operator.add]


class Fixture:
    """A graph: eight branches with equal prompts and different answers, then a tool that counts its runs."""

    def __init__(self, url: str, *, asynchronous: bool, prompt: str = "the same") -> None:
        self.llm = ChatOpenAI(base_url=url, api_key=SecretStr("none"), model="m")
        self.asynchronous, self.tool_runs = asynchronous, 0

        @tool
        def look(text: str) -> str:
            """Look something up."""
            self.tool_runs += 1
            if text == "bad":
                raise KeyError("no such thing")
            return f"looked {text}"

        def ask(state: State) -> dict[str, list[str]]:
            return {"out": [str(self.llm.invoke(prompt).content)]}

        async def ask_async(state: State) -> dict[str, list[str]]:
            return {"out": ["".join([str(c.content) async for c in self.llm.astream(prompt)])]}

        def use(state: State) -> dict[str, list[str]]:
            with pytest.raises(KeyError, match="no such thing"):
                look.invoke({"text": "bad"})
            return {"out": [look.invoke({"text": "good"})]}

        graph = StateGraph(State)
        graph.add_node("ask", ask_async if asynchronous else ask)
        graph.add_node("use", use)
        graph.add_conditional_edges(START, lambda s: [Send("ask", s) for _ in range(8)], ["ask"])
        graph.add_edge("ask", "use")
        graph.add_edge("use", END)
        self.graph: Any = graph.compile()

    def run(self, value: str) -> list[str]:
        start = {"out": [value]}

        async def once() -> Any:
            try:
                return await self.graph.ainvoke(start)
            finally:
                await self.llm.root_async_client.close()

        result = asyncio.run(once()) if self.asynchronous else self.graph.invoke(start)
        self.llm.root_client.close()
        return list(result["out"])


def record(store: Path, fixture: Fixture, value: str) -> tuple[list[str], RecordedRun]:
    instrument(store)
    out = fixture.run(value)
    uninstrument()
    opened = Store(store)
    return out, opened.load(opened.runs()[0].run_id)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async and streamed"])
def test_every_branch_gets_its_own_answer_without_engine_or_tools(
    tmp_path: Path, serve: Serve, *, asynchronous: bool
) -> None:
    numbers = count()
    server = serve(lambda _: f"answer {next(numbers)}", delay_s=0.01)
    out, recorded = record(tmp_path / "a", Fixture(server.base_url, asynchronous=asynchronous), "x")
    assert len(set(out)) == 10
    server.close()
    for n in range(5):
        again = Fixture(server.base_url, asynchronous=asynchronous)
        with playback(recorded, into=tmp_path / f"p{n}", pace=0.0) as player:
            assert again.run("x") == out
        assert again.tool_runs == 0
        assert player.unasked() == []
        (replayed,) = Store(tmp_path / f"p{n}").runs()
        assert (replayed.source_run_id, replayed.replay_mode) == (recorded.run.run_id, "playback")
        whole = Store(tmp_path / f"p{n}").load(replayed.run_id)
        assert sorted(s.step_key for s in whole.spans) == sorted(s.step_key for s in recorded.spans)


def test_a_changed_prompt_is_named_and_nothing_goes_live(tmp_path: Path, serve: Serve) -> None:
    server = serve()
    _, recorded = record(tmp_path / "a", Fixture(server.base_url, asynchronous=False), "x")
    asked = len(server.requests)
    with (
        pytest.raises(
            ReplayDivergence, match=r"messages\[0\].content: recorded “the same”, asked “the other”"
        ) as caught,
        playback(recorded, into=tmp_path / "p"),
    ):
        Fixture(server.base_url, asynchronous=False, prompt="the other").run("x")
    assert len(server.requests) == asked
    (difference,) = caught.value.differences
    assert (difference.path, difference.recorded, difference.asked) == ("messages[0].content", "the same", "the other")
    assert str(caught.value.location).startswith(f"{__file__}:")


def test_an_input_that_was_not_recorded_is_named(tmp_path: Path, serve: Serve) -> None:
    server = serve()
    _, recorded = record(tmp_path / "a", Fixture(server.base_url, asynchronous=False), "x")
    with (
        pytest.raises(
            ReplayDivergence, match=r"(?s)LangGraph has this run's input.*input.out\[0\]: recorded “x”, asked “y”"
        ),
        playback(recorded, into=tmp_path / "p"),
    ):
        Fixture(server.base_url, asynchronous=False).run("y")


def test_a_program_is_played_back_from_the_command_line(tmp_path: Path, serve: Serve) -> None:
    numbers = count()
    server = serve(lambda _: f"answer {next(numbers)}")
    program = tmp_path / "app.py"
    program.write_text(
        "import sys, openai\n"
        "from redecode.tracer import run\n"
        f"client = openai.OpenAI(base_url={server.base_url!r}, api_key='x', max_retries=0)\n"
        "with run('mine'):\n"
        "    for _ in range(3):\n"
        "        print(client.chat.completions.create(model='m', messages=[]).choices[0].message.content)\n"
        "sys.exit(3)\n"
    )
    store = str(tmp_path / "store")

    def redecode(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "redecode.cli", *arguments, "--", sys.executable, str(program)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    first = redecode("record", "--store", store)
    assert (first.returncode, first.stdout) == (3, "answer 0\nanswer 1\nanswer 2\n")
    (run_id,) = [r.run_id for r in Store(Path(store)).runs()]
    server.close()
    again = redecode("replay", run_id[:12], "--store", store, "--mode", "playback", "--speed", "0")
    assert (again.returncode, again.stdout) == (first.returncode, first.stdout)
    assert "played back 1 of 1 recorded run;" in again.stderr
