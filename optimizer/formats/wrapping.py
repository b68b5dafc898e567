"""What stands around a record in an answer: code fences, words, thoughts."""

from __future__ import annotations

import re

from redecode.optimizer.formats.errors import MalformedAnswer, short

_FENCE = re.compile(r"^[ \t]*```[^\n`]*$", re.MULTILINE)
_THOUGHT = re.compile(r"\s*<(think|thinking|reasoning)>", re.IGNORECASE)
ENDS_A_THOUGHT = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)


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


def words_behind_fence(text: str) -> str:
    """What is behind the last fence, if there is one."""
    marks = list(_FENCE.finditer(text))
    return text[marks[-1].end() :].strip() if marks else ""


def out_of_thought(text: str) -> tuple[str, bool]:
    """What is behind the thought that an answer begins with, if it does; and whether it did.

    Raises:
        MalformedAnswer: it does not end: what looks like a record in it is a draft.
    """
    begins = _THOUGHT.match(text)
    if begins is None:
        return text, False
    ends = re.compile(f"</{begins[1]}>\\s*", re.IGNORECASE).search(text, begins.end())
    if ends is None:
        raise MalformedAnswer(f"a thought begins and does not end: {short(text)}")
    return text[ends.end() :], True
