"""One task, four cognitive architectures: take a contact's name, email and address from an article.

`graphs` has the architectures, `prompts` their words, `formats` the languages of their answers, `scorer`
the grade, `tuning` what may be tuned (`spec`). Nothing is imported here: the words and formats are also used
where LangGraph is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "spec":
        return import_module("redecode.agents.extraction.tuning").spec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
