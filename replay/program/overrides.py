"""What a fork changes in the calls that it lets go live."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from redecode.replay.errors import ReplayError

_SYSTEM = ("system", "developer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What is sent in place of what the program asks, after the fork point.

    Attributes:
        model: of every live FM call.
        prompt: the system prompt of every live FM call (a text completion's whole prompt).
        messages: of the FM call that is the fork point alone: place (0 is the first, -1 the last) → content.
        sampling: parameters of every live FM call, as the API names them; `None` leaves one out.
        base_url: the engine of every live FM call of the OpenAI client; the client's own key goes there.
        context: fields of the LangGraph context of every task from the fork point on.
    """

    model: str | None = None
    prompt: str | None = None
    messages: Mapping[int, str] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    base_url: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict)

    def body(self, body: dict[str, Any], *, here: bool) -> dict[str, Any]:
        """The request body to send in place of one.

        Args:
            here: the call is the fork point.

        Raises:
            ReplayError: the call has no such message.
        """
        changed = dict(body)
        if self.model is not None:
            changed["model"] = self.model
        for name, value in self.sampling.items():
            if value is None:
                changed.pop(name, None)
            else:
                changed[name] = value
        for place, text in self.messages.items() if here else ():  # places as the program has them
            _set_message(changed, place, text)
        if self.prompt is not None:
            _set_prompt(changed, self.prompt)
        return changed

    def of_context(self, context: Any) -> Any:
        """The context to give in place of one.

        Raises:
            ReplayError: it has no such field, or not that value.
        """
        given = dict(self.context)
        if isinstance(context, dict):
            return {**context, **given}
        if isinstance(context, BaseModel):
            known: Sequence[str] = list(type(context).model_fields)
        elif dataclasses.is_dataclass(context) and not isinstance(context, type):
            known = [f.name for f in dataclasses.fields(context) if f.init]
        elif context is None:
            raise ReplayError("the graph was run without a context, so there is none to change: run it with one")
        else:
            raise ReplayError(f"a context of class {type(context).__name__} cannot be changed field by field")
        if unknown := sorted(set(given) - set(known)):
            raise ReplayError(f"the context has no field {unknown[0]}; it has {', '.join(known)}")
        if isinstance(context, BaseModel):
            try:
                return type(context).model_validate({**{name: getattr(context, name) for name in known}, **given})
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                raise ReplayError(f"context {where}: {first['msg']}, not {first['input']!r}") from None
        return dataclasses.replace(context, **given)

    def to_json(self) -> dict[str, Any]:
        """What was changed, as plain data."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: {str(n): x for n, x in v.items()} if isinstance(v, Mapping) else v for k, v in given.items() if v}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Overrides:
        """Inverse of `to_json`."""
        return cls(**{**data, "messages": {int(n): text for n, text in data.get("messages", {}).items()}})


def _set_prompt(body: dict[str, Any], prompt: str) -> None:
    if "messages" in body:
        messages = [*body["messages"]]
        if messages and _role(messages[0]) in _SYSTEM:
            messages[0] = {**messages[0], "content": prompt}
        else:
            messages.insert(0, {"role": "system", "content": prompt})
        body["messages"] = messages
    elif "input" in body or "instructions" in body:
        body["instructions"] = prompt
    else:
        body["prompt"] = prompt


def _set_message(body: dict[str, Any], place: int, text: str) -> None:
    name = "messages" if "messages" in body else "input" if "input" in body else "prompt"
    held = body.get(name)
    if not isinstance(held, list) and place in (0, -1):
        body[name] = text
        return
    count = len(held) if isinstance(held, list) else 1
    if not isinstance(held, list) or not -count <= place < count:
        raise ReplayError(f"the FM call at the fork point has no message {place}: it has {count}")
    messages = [*held]
    messages[place] = {**messages[place], "content": text} if isinstance(messages[place], dict) else text
    body[name] = messages


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else getattr(message, "role", None)
