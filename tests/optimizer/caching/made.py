"""Calls as they could have been recorded, made by hand."""

from __future__ import annotations

from itertools import count
from typing import Any

from redecode.optimizer.caching import Call
from redecode.optimizer.caching.calls import digest

_NUMBERS = count()


def call(text: str, answer: str, at_s: float, *, took_s: float = 1.0, **more: Any) -> Call:
    """A call of a text, made at a second."""
    given = {"kind": "fm", "agent": "a", "node": "run/ask", "tenant": "", "scope": "s", "run_id": f"{at_s}", **more}
    sent = round(at_s * 1e9)
    exact = digest([given["scope"], text])
    return Call(
        span_id=f"{next(_NUMBERS):09}",
        exact=exact,
        **given,
        text=text,
        answer=answer,
        sent_ns=sent,
        done_ns=sent + round(took_s * 1e9),
    )
