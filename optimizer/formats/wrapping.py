"""What stands around a record in an answer: code fences, words."""

from __future__ import annotations

import re

from redecode.optimizer.formats.errors import MalformedAnswer

_FENCE = re.compile(r"^[ \t]*```[^\n`]*$", re.MULTILINE)


def out_of_fence(text: str) -> tuple[str, bool]:
    """What is in a code fence, if there is one; and whether there was.

    Raises:
        MalformedAnswer: there are several, or one that does not close (so the answer was cut off).
    """
    marks = list(_FENCE.finditer(text))
    if not marks:
        return text, False
    if len(marks) == 1:
        raise MalformedAnswer("a code fence opens and does not close")
    if len(marks) > 2:
        raise MalformedAnswer("there are several code fences, so it is not clear which is the answer")
    return text[marks[0].end() + 1 : marks[1].start()].removesuffix("\n").removesuffix("\r"), True
