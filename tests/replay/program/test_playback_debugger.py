"""A playback under a debugger: stepping over its calls changes neither what they answer nor the pinned clock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langgraph")

from redecode.tracer import Store

Serve = Callable[..., Any]
PROGRAM = '''
import operator, time
from typing import Annotated, TypedDict
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph

llm = ChatOpenAI(base_url=URL, api_key="none", model="m", max_retries=0)


class State(TypedDict):
    out: Annotated[list[str], operator.add]


@tool
def look(text: str) -> str:
    """Look."""
    print("LOOKED")
    return text + "!"


def ask(state: State):
    before = time.time()
    STOP
    answer = llm.invoke("who?").content
    found = look.invoke({"text": answer})
    took = time.time() - before
    return {"out": [answer, found, f"clock went on {took < 60}"]}


graph = StateGraph(State)
graph.add_node("ask", ask)
graph.add_edge(START, "ask")
graph.add_edge("ask", END)
for line in graph.compile().invoke({"out": []})["out"]:
    print("OUT", line)
'''


def redecode(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "redecode.cli", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=120)


def test_stepping_over_an_fm_call_and_a_tool(tmp_path: Path, serve: Serve) -> None:
    numbers = count()
    server = serve(lambda _: f"answer {next(numbers)}", delay_s=0.1)
    store, plain, stopping = str(tmp_path / "store"), tmp_path / "app.py", tmp_path / "stopping.py"
    text = PROGRAM.replace("URL", repr(server.base_url))
    plain.write_text(text.replace("STOP", "pass"))
    stopping.write_text(text.replace("STOP", "breakpoint()"))
    first = redecode("record", "--store", store, "--", sys.executable, str(plain))
    assert first.returncode == 0, first.stderr
    recorded = [line for line in first.stdout.splitlines() if line.startswith("OUT")]
    server.close()
    (summary,) = Store(Path(store)).runs()
    over = ["next", "p ('SAW', answer)", "next", "p ('SAW', found)", "p __import__('time').sleep(0.3)", "continue"]
    at = next(n for n, code in enumerate(plain.read_text().splitlines(), start=1) if "answer = llm" in code)
    for program, typed in (
        ([sys.executable, str(stopping)], ["next", *over]),
        ([sys.executable, "-m", "pdb", str(plain)], [f"break {at}", "continue", *over, "quit"]),
    ):
        playing = ["replay", summary.run_id, "--store", store, "--mode", "playback", "--pin", "clock", "--", *program]
        again = redecode(*playing, stdin="\n".join(typed) + "\n")
        assert "('SAW', 'answer 0')" in again.stdout, again.stdout + again.stderr
        assert "('SAW', 'answer 0!')" in again.stdout
        shown = [line.removeprefix("(Pdb) ") for line in again.stdout.splitlines()]
        assert [line for line in shown if line.startswith("OUT")] == recorded
        assert "LOOKED" not in again.stdout
        assert "played back 1 of 1 recorded run;" in again.stderr
