"""The contacts desk: one agent that reads an article and decides itself which tools to call.

`graph` is the agent, `directory` and `service` the world it asks, `prompts` its words, `policy` what it
should do, `scorer` the grade, `tuning` what may be tuned (`spec`). Nothing is imported here: the words and the policy
are also used where LangGraph is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "spec":
        return import_module("redecode.agents.contacts_desk.tuning").spec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
