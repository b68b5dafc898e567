"""What may be tuned of the clerk, as plain data that `redecode tune redecode.agents.clerk:spec` reads."""

from __future__ import annotations

from typing import Any

from redecode.agents.clerk.graph import ClerkContext, build
from redecode.agents.contacts_desk.tuning import answered, share
from redecode.agents.context import close_clients


def spec() -> dict[str, Any]:
    """Return whether look-ups wait for the whole answer, and how it is asked for; the truth is label `expected`."""
    return {
        "name": "clerk",
        "graph": build(),
        "context": ClerkContext,
        "knobs": {
            "temperature": None,
            "tool_wait_s": None,
            "service_wait_s": None,
            "stream": None,
            "wording": ["brief", "plain", "careful", "few_shot"],
        },
        "fixed": {"seed": 0},
        "score": share,
        "needs_expected": True,
        "stand_in": answered,
        "close": close_clients,
    }
