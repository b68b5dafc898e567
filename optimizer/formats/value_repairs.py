"""Values on lines and in cells that are not as they should be: quotes not escaped, bare texts that need some.

What begins with a quote is quoted, and half of a text in quotes may end with one, as may a value with a word about it.
So a bare text that our own formats would have quoted is itself only where its quotes are all parts of it.
"""

from __future__ import annotations

import re

from redecode.optimizer.formats.errors import MalformedAnswer
from redecode.optimizer.formats.inner_quotes import belong
from redecode.optimizer.formats.scalars import Scalar, in_place, stands_bare, unquoted
from redecode.optimizer.formats.shapes import NULLS

INSIDE, OTHER, COMMA = "quotes inside of a text", "other quotes", "trailing comma"
ITSELF = "quotes and backslashes taken for themselves"
_ESCAPE = re.compile(r"\\(?:[^A-Za-z1-9]|$|[nrt]|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{2})")
"""A backslash that may begin an escape, in JSON, Markdown or Python: `\\n` is a line break that lacks its quotes."""
_NAMED = re.compile(r"[^:=\"'`]*[:=]\s*([\"'`])[^\"`]*\1")
_INCH = re.compile(r"(?<![0-9])[0-9]{1,3}\"$")
_APOSTROPHE = re.compile(r"(?:^|[\s(\[{/–—-])'\S.*'$|[sS0-9]'$")


def itself(text: str) -> bool:
    """Whether a bare text that is never written bare (`stands_bare`) can be meant in one way only: as it stands.

    Not one that begins with a quote or a bracket or ends with a comma, has a tab (it may part two values) or what may
    be an escape in it, or is a name with a value in quotes behind it.
    """
    return (
        text.isprintable()
        and text == text.strip()
        and text.lower() not in NULLS
        and text[:1] not in ("", *"\"'`[{")
        and text[-1] != ","
        and not _ESCAPE.search(text)
        and not _NAMED.fullmatch(text)
        and all(belong(text, quote) for quote in "\"'")
        and "`" not in re.sub(r"`[^`]+`", "", text)
        and (text[-1] != '"' or not belong(text[:-1], '"') or _INCH.search(text) is not None)
        and (text[-1] != "'" or _APOSTROPHE.search(text) is not None)
    )


def bare(text: str, steps: dict[str, None]) -> Scalar:
    """As `scalars.in_place`, but for a bare text that is itself.

    Raises:
        MalformedAnswer: quotes that do not close, or a bare text that may be something else.
    """
    if text and not stands_bare(text) and itself(text):
        steps[ITSELF] = None
        return Scalar(text)
    return in_place(text)


def on_line(text: str, steps: dict[str, None]) -> Scalar:
    """As `bare`; also with quotes in a text in quotes, other quotes, and a comma behind these.

    Raises:
        MalformedAnswer: it may be two texts, or half of one.
    """
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" and "\\" not in text:
        try:
            return in_place(text)
        except MalformedAnswer:
            if not belong(text[1:-1], text[0]):
                raise
            steps[INSIDE if text[0] == '"' else OTHER] = None
            return Scalar(text[1:-1], quoted=True)
    if text[:1] == '"' and text[-2:] == '",':
        steps[COMMA] = None
        return Scalar(unquoted(text[:-1]), quoted=True)
    return bare(text, steps)
