"""Instrumenting works whatever the program imports first, and says nothing on stderr."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from redecode.tracer import Store

pytest.importorskip("langgraph")

_PROGRAM = """
import sys
from redecode.tracer import instrument
if sys.argv[2] == "before":
    instrument(sys.argv[1])
import {first}
if sys.argv[2] == "after":
    instrument(sys.argv[1])
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
model = GenericFakeChatModel(messages=iter([AIMessage("hi")]))
(ChatPromptTemplate.from_messages([("user", "x")]) | model).invoke({{}})
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "first",
    [
        "langgraph.graph",
        "langchain_openai",
        "langchain_core.tools",
        "langchain_core.runnables",
        "langchain_core.runnables.config",
        "langchain_core.callbacks",
        "langchain_core.messages",
        "langchain_core.tracers",
    ],
)
def test_whatever_is_imported_first(store: Path, first: str, when: str) -> None:
    command = [sys.executable, "-c", _PROGRAM.format(first=first), str(store), when]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    (run,) = Store(store).runs()
    assert run.decodes == 1
