"""Format and repair as knobs of a node: two lines in it, whatever asks the model.

    contact = Answers(Contact, knobs.format, repair=knobs.repair)
    return {"contact": contact.ask(fm, prompt).record}

`fm` is a LangChain chat model, or a function from messages to an answer.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

from redecode.optimizer.formats.endings import cut_off, reason_of
from redecode.optimizer.formats.errors import FormatError
from redecode.optimizer.formats.form import Format, Reading
from redecode.optimizer.formats.named import format_named
from redecode.optimizer.formats.reask import Answer, Message, conversation

M = TypeVar("M", bound=BaseModel)
Repair = Literal["none", "repair", "reask"]
REPAIRS: tuple[Repair, ...] = ("none", "repair", "reask")


class Answers(Generic[M]):
    """A model's answers as records of one kind.

    Args:
        model: of the record.
        format: a name, or a format.
        repair: what is done about an answer that is not as it should be: nothing, mending it where there is but one way
            to understand it, or that and, where there is none, asking again.
        asks_again: at most so often.
        instructions: what the model is told of the format, behind the last message; "" if the prompt says it already.
        example: a record to show it.

    Raises:
        UnknownFormat, FormatError: there is no such format, or repair.
        CannotExpress: the format cannot express the model.
    """

    def __init__(
        self,
        model: type[M],
        format: str | Format = "json",
        *,
        repair: Repair = "repair",
        asks_again: int = 1,
        instructions: str | None = None,
        example: M | None = None,
    ) -> None:
        if repair not in REPAIRS:
            raise FormatError(f"repair is {', '.join(REPAIRS)}, not {repair!r}")
        self.form = format if isinstance(format, Format) else format_named(format)
        told = self.form.instructions(model, example)  # also where it is not told: it must fit
        self.instructions = told if instructions is None else instructions
        self._model, self._repair, self._asks_again = model, repair, asks_again

    def ask(self, fm: Any, messages: str | Sequence[Any]) -> Reading[M]:
        """Ask, and read.

        Raises:
            MalformedAnswer: the answer cannot be read, nor that to asking again.
        """
        steps = self._steps(messages)
        sent = next(steps)
        call = fm.invoke if hasattr(fm, "invoke") else fm
        while True:
            try:
                sent = steps.send(answer_of(call(sent)))
            except StopIteration as stop:
                reading: Reading[M] = stop.value
                return reading

    async def aask(self, fm: Any, messages: str | Sequence[Any]) -> Reading[M]:
        """As `ask`, awaited."""
        steps = self._steps(messages)
        sent = next(steps)
        call = fm.ainvoke if hasattr(fm, "ainvoke") else fm
        while True:
            try:
                sent = steps.send(answer_of(await call(sent)))
            except StopIteration as stop:
                reading: Reading[M] = stop.value
                return reading

    def _steps(self, messages: str | Sequence[Any]) -> Generator[list[Message], Answer, Reading[M]]:
        sent = _told(messages, self.instructions)
        if self._repair == "none":
            return self._once(sent)
        again = self._asks_again if self._repair == "reask" else 0
        return conversation(sent, self.form, self._model, asks_again=again)

    def _once(self, sent: list[Message]) -> Generator[list[Message], Answer, Reading[M]]:
        answer = yield sent
        cut_off(answer.finish_reason, shows_its_end=self.form.shows_its_end)
        return Reading(self.form.parse(answer.text, self._model))


def answer_of(reply: Any) -> Answer:
    """What a chat model, or a function, returned: its text, and why it ended where that is known."""
    if isinstance(reply, Answer):
        return reply
    if isinstance(reply, str):
        return Answer(reply)
    text = getattr(reply, "text", None)
    if callable(text) and not isinstance(text, str):
        text = text()
    if not isinstance(text, str):
        text = str(getattr(reply, "content", reply))
    return Answer(str(text), reason_of(getattr(reply, "response_metadata", None) or {}))


def _told(messages: str | Sequence[Any], instructions: str) -> list[Any]:
    """The messages, the last with the instructions behind it."""
    sent = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    if not instructions:
        return sent
    last = sent[-1] if sent else None
    user, content = None, getattr(last, "content", None)
    if isinstance(last, Mapping) and last.get("role") == "user":
        user, content = dict(last), last.get("content")
    elif getattr(last, "type", None) == "human":
        user = {"role": "user"}
    if user is not None and isinstance(content, str):
        return [*sent[:-1], {**user, "content": f"{content}\n\n{instructions}"}]
    return [*sent, {"role": "user", "content": instructions}]
