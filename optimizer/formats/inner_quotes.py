"""Quotes inside of a text in quotes: a part of it (`he said "no" to it`), or the ends of two (`"a" + "b"`).

A quote that is a part of a text opens behind a blank or a bracket and closes before one, or before a sign; what stands
between two texts (`+`, `or`, nothing) has it the other way round.
"""

from __future__ import annotations

import re

CLOSING = {'"': '"', "'": "'", "“": "”", "‘": "’"}
_OPENS_BEHIND = "([{</=:–—-"
_JOINS = "+.&%"


def belong(body: str, opening: str) -> bool:
    """Whether all quotes in a text can be parts of it.

    Args:
        body: what is between the quotes; those of another kind, and behind a backslash, are of no interest.
        opening: the quote before it.
    """
    closing = CLOSING[opening]
    begun: int | None = None
    stray = False
    for found in re.finditer(rf"\\.|[{opening}{closing}]", body, re.DOTALL):
        at, before, after = found.end(), body[: found.start()][-1:], body[found.end() :][:1]
        apostrophe = found[0] in "'’"
        if len(found[0]) > 1 or (apostrophe and before.isalnum() and after.isalnum()):
            continue
        opens, closes = found[0] == opening, found[0] == closing
        if opens and closes:
            opens = (not before or before.isspace() or before in _OPENS_BEHIND) and bool(after.strip())
            closes = bool(before.strip()) and not after.isalnum()
        if begun is not None and closes:
            inner = body[begun : found.start()]
            if inner[:1] == inner[-1:] and inner[:1] in _JOINS:  # "Dear " + name + "!"
                return False
            begun = None
        elif begun is None and opens and not stray:
            begun = at
        elif begun is None and closes and (apostrophe or before.isdigit()):  # the dogs' bowl; 5'10"
            stray = True
        else:
            return False
    return begun is None or opening in "'‘"
