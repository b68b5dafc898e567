"""The clerk: one streamed FM call names a contact, and each field is looked up as soon as it is written.

`graph` is the agent, `fields` finds the fields in an answer that is being written, `tools` asks the world, `tuning`
says what may be tuned (`spec`). The job and its truth are the contacts desk's "file".
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "spec":
        return import_module("redecode.agents.clerk.tuning").spec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
