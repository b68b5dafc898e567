"""What can be wrong with a format or an answer."""

from __future__ import annotations

from redecode.tracer import RedecodeError


class FormatError(RedecodeError):
    """Something about a message format cannot be done; says what, and what can."""


class CannotExpress(FormatError):
    """A format has no way to write a record of this shape, or this value."""


class UnknownFormat(FormatError):
    """There is no format of that name."""


class MalformedAnswer(FormatError):
    """An answer cannot be read as the record it should be, or only by guessing; says where."""


def short(text: str, limit: int = 60) -> str:
    """A text for a message: quoted, on one line, cut."""
    return repr(text if len(text) <= limit else text[:limit] + "…")
