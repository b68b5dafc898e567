"""`python -m redecode.agents`: what a user sees."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from redecode.agents import AGENTS, BUNDLED_MODELS, UnknownModel, build, model_dir
from redecode.agents.__main__ import main
from redecode.agents.catalogue import UnknownAgent, make_agent
from redecode.agents.extraction.formats import render
from redecode.agents.fm.articles import cases

from .conftest import ChatEngine, Reply

SEED = 7


def knows_all(request: dict[str, Any]) -> Reply:
    text = request["messages"][0]["content"]
    number = next(i for i, a in zip(range(20), cases("heldout", SEED), strict=False) if a.text in text)
    article = [a for _, a in zip(range(number + 1), cases("heldout", SEED), strict=False)][-1]
    return Reply(render(article.contact, "yaml"))


@pytest.mark.parametrize("mode", ["--sync", "--stream", "--json"])
def test_runs_are_made_and_scored(chat_engine: ChatEngine, capsys: pytest.CaptureFixture[str], mode: str) -> None:
    chat_engine.model = knows_all
    arguments = ["--runs", "3", "--base-url", chat_engine.url, "--seed", str(SEED), "--format", "yaml", mode]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    if mode == "--json":
        document = json.loads(out)
        assert [r["exact"] for r in document["runs"]] == [True] * 3
        assert document["summary"][0]["exact"] == 3
    else:
        assert "single: 3 of 3 exact, 100% of fields" in out


def test_all_agents_take_turns(chat_engine: ChatEngine, capsys: pytest.CaptureFixture[str]) -> None:
    chat_engine.model = lambda request: Reply("x")
    assert main(["--agent", "all", "--runs", str(len(AGENTS) + 1), "--base-url", chat_engine.url, "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [r["agent"] for r in runs] == [*AGENTS, "single"]


@pytest.mark.parametrize("mode", [[], ["--sync"]], ids=["async", "sync"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--base-url", "http://127.0.0.1:9/v1"], "no engine answers at http://127.0.0.1:9/v1"),
        (["--model", "missing"], "refused model 'missing' (404)"),
        (["--temperature", "9"], "temperature: Input should be less than or equal to 2, not 9.0"),
    ],
    ids=["no engine", "no such model", "bad knob"],
)
def test_bad_input_is_one_clear_line_and_exit_2(
    chat_engine: ChatEngine,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
    mode: list[str],
) -> None:
    def refuses(request: dict[str, Any]) -> Reply:
        raise LookupError("no such model")

    chat_engine.model = refuses
    assert main(["--base-url", chat_engine.url, *arguments, *mode]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert expected in err
    assert err.count("\n") == 1


def test_every_agent_is_built_by_name() -> None:
    assert [build(name).name for name in AGENTS] == list(AGENTS)
    with pytest.raises(UnknownAgent, match="there are: single, parallel"):
        build("other")


def test_the_same_arguments_make_the_same_cases() -> None:
    first, second = (make_agent("contacts_desk", seed=3, count=5) for _ in range(2))
    assert [c.input for c in first.cases] == [c.input for c in second.cases]


def test_an_unknown_model_is_named() -> None:
    assert [model_dir(name).name for name in BUNDLED_MODELS] == list(BUNDLED_MODELS)
    with pytest.raises(UnknownModel, match="redecode-fm-xs"):
        model_dir("gpt")


def test_importing_the_agents_is_cheap() -> None:
    program = (
        "import sys, redecode.agents, redecode.agents.fm.dialogues; "
        "print([m for m in ('langgraph', 'langchain_core', 'torch', 'transformers', 'duckdb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
