"""Every word of the contacts desk: its tools, its request, the form of tool results and of its answer.

Shared by the agent, the scorer and the training of the bundled models. The wordings are short because
those models read 1,024 tokens at most.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from redecode.agents.contacts_desk.service import NOT_FOUND, TEMPORARY_ERROR, Entry, Verdict

Message = dict[str, Any]
Request = Literal["file", "mail"]
REQUESTS: tuple[Request, ...] = ("file", "mail")
Wording = Literal["brief", "plain", "careful"]
WORDINGS: tuple[Wording, ...] = ("brief", "plain", "careful")

SYSTEM = "You are the contacts desk."
UNKNOWN = "unknown"

_REQUESTS: dict[tuple[Request, Wording], str] = {
    ("file", "brief"): "File the contact.",
    ("mail", "brief"): "Give the contact's email.",
    ("file", "plain"): "Please file the contact of this article with a checked address.",
    ("mail", "plain"): "Who is the contact of this article, and what is the email?",
    ("file", "careful"): (
        "File the person in charge: look the person up, check the postal address, try again if the check "
        "is busy, then answer in JSON."
    ),
    ("mail", "careful"): (
        "Name the person in charge and the email: look the person up, leave the address alone, then answer in JSON."
    ),
}


def _tool(name: str, description: str, argument: str, meaning: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {argument: {"type": "string", "description": meaning}},
                "required": [argument],
            },
        },
    }


FIND_PERSON = "find_person"
VERIFY_ADDRESS = "verify_address"
TOOLS: tuple[dict[str, Any], ...] = (
    _tool(FIND_PERSON, "look up a person", "name", "full name"),
    _tool(VERIFY_ADDRESS, "check a postal address", "address", "postal address"),
)


@dataclass(frozen=True, slots=True)
class DeskAnswer:
    """What the desk answers; `address` and `checked` are None when only the email was asked for."""

    name: str
    email: str
    known: bool
    address: str | None = None
    checked: bool | None = None


class MalformedDeskAnswer(ValueError):
    """The desk's last word is not an answer in the agreed form."""


def start(article: str, request: Request, wording: Wording, *, system: bool = True) -> list[Message]:
    """Return the conversation's opening."""
    opening: list[Message] = [{"role": "system", "content": SYSTEM}] if system else []
    text = f"Article: {article}\n{_REQUESTS[request, wording]}"
    return [*opening, {"role": "user", "content": text}]


def person_result(entry: Entry | None) -> str:
    """Write what `find_person` found."""
    if entry is None:
        return _dump({"error": NOT_FOUND})
    return _dump({"email": entry.email, "address": entry.address})


def address_result(verdict: Verdict | None) -> str:
    """Write what `verify_address` found; None is a temporary error."""
    if verdict is None:
        return _dump({"error": TEMPORARY_ERROR})
    return _dump({"ok": True} if verdict.corrected is None else {"corrected": verdict.corrected})


def render_answer(answer: DeskAnswer) -> str:
    """Write the desk's answer."""
    data: dict[str, Any] = {"name": answer.name, "email": answer.email, "known": answer.known}
    if answer.address is not None:
        data |= {"address": answer.address, "checked": bool(answer.checked)}
    return _dump(data)


def parse_answer(text: str) -> DeskAnswer:
    """Read the desk's answer; raise `MalformedDeskAnswer` for anything else."""
    try:
        data: Any = json.loads(text)
    except ValueError as err:
        raise MalformedDeskAnswer(f"not json ({err}): {text[:120]!r}") from err
    shapes = ({"name", "email", "known"}, {"name", "email", "known", "address", "checked"})
    if not isinstance(data, dict) or set(data) not in shapes:
        raise MalformedDeskAnswer(f"wrong fields: {text[:120]!r}")
    for key, value in data.items():
        if not isinstance(value, bool if key in ("known", "checked") else str):
            raise MalformedDeskAnswer(f"field {key} has the wrong type: {text[:120]!r}")
    return DeskAnswer(**data)


def _dump(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False)
