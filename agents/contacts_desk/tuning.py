"""What may be tuned of the desk, as plain data that `redecode tune redecode.agents.contacts_desk:spec` reads.

Its tools answer as they had in the recorded run. Where a candidate asks them something else, it has mistaken a name or
an address, and gets what the desk's world has for such: nobody of that name, no such address to correct.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redecode.agents.contacts_desk import prompts
from redecode.agents.contacts_desk.graph import build
from redecode.agents.contacts_desk.service import Verdict
from redecode.agents.contacts_desk.state import DeskContext
from redecode.agents.context import close_clients


def spec() -> dict[str, Any]:
    """Return the knobs of the desk's context; the truth is the run's label `expected`."""
    return {
        "name": "contacts_desk",
        "graph": build(),
        "context": DeskContext,
        "knobs": {
            # Copying gains nothing from sampling; to search it all the same: --knob temperature=0..1:0.1.
            "temperature": None,
            "stream": None,
            "tool_wait_s": None,
            "max_turns": {"low": 3, "high": 6},
        },
        "fixed": {"seed": 0},
        "score": share,
        "needs_expected": True,
        "stand_in": answered,
        "close": close_clients,
    }


def share(output: Mapping[str, Any], case: Any) -> float:
    """Return the share of the expected fields that are right, 0 to 1; an answer with more than those is none."""
    expected = {k: v for k, v in case.expected.items() if v is not None}
    answer = output.get("answer") or {}
    if set(answer) - set(expected):
        return 0.0
    return sum(bool(answer.get(k) == v) for k, v in expected.items()) / len(expected)


def answered(tool: str, arguments: Any, case: Any) -> str:
    """Return what the world has for a name or an address that nobody had asked about.

    Raises:
        LookupError: there is no such tool.
    """
    if tool == prompts.FIND_PERSON:
        return prompts.person_result(None)
    if tool == prompts.VERIFY_ADDRESS:
        return prompts.address_result(Verdict())
    raise LookupError(tool)
