"""Asking again: the last resort, a bounded number of times."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from redecode.optimizer.formats.errors import MalformedAnswer
from redecode.optimizer.formats.form import Format, Reading

M = TypeVar("M", bound=BaseModel)
Message = dict[str, Any]
_QUOTED = 400


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said. `finish_reason`: why it stopped, in the provider's words; `None`: the stream broke off."""

    text: str
    finish_reason: str | None = "stop"


def reask(answer: Answer, why: MalformedAnswer, form: Format, model: type[BaseModel]) -> list[Message]:
    """The messages to add to a conversation whose last answer could not be read: that answer, and what was wrong."""
    said = answer.text if len(answer.text) <= _QUOTED else answer.text[:_QUOTED] + "…"
    again = f"That could not be read: {why}.\n{form.instructions(model)}"
    return [{"role": "assistant", "content": said}, {"role": "user", "content": again}]


def conversation(
    messages: Sequence[Message], form: Format, model: type[M], *, asks_again: int = 1
) -> Generator[list[Message], Answer, Reading[M]]:
    """Ask, read, mend, and ask again, at most `asks_again` times.

    Yields the messages to send; send it the `Answer`. Returns the reading (`StopIteration`'s value), whose `repairs`
    say how often it was asked again. The same for calls that are awaited and calls that are not:

        steps = conversation(messages, form, Contact)
        reading = drive(steps, lambda messages: Answer(ask(messages)))

    Raises:
        MalformedAnswer: the last answer could not be read either.
    """
    sent = list(messages)
    for asked in range(asks_again + 1):
        answer = yield sent
        try:
            reading = form.read(answer.text, model, finish_reason=answer.finish_reason)
        except MalformedAnswer as error:
            if asked == asks_again:
                raise
            sent = [*messages, *reask(answer, error, form, model)]
            continue
        again = (f"asked again {asked} time{'s' if asked > 1 else ''}",) if asked else ()
        return Reading(reading.record, (*again, *reading.repairs))
    raise AssertionError("unreachable")


def drive(steps: Generator[Any, Any, Reading[M]], answer: Any) -> Reading[M]:
    """Run a conversation, or a `fill`, with a function that answers what it yields."""
    wanted = next(steps)
    while True:
        try:
            wanted = steps.send(answer(wanted))
        except StopIteration as stop:
            reading: Reading[M] = stop.value
            return reading
