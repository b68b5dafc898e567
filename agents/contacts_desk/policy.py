"""What the desk should do, as plain code: the truth its answers are scored against and trained on.

The rules: look the person up. Asked only for the email, answer. Asked to file, check the article's address,
or the stored one where the article has none; where neither exists say "unknown". A temporary error is tried
once more. A stored email beats the article's, a corrected address beats the one asked about.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from redecode.agents.contacts_desk import prompts
from redecode.agents.contacts_desk.prompts import REQUESTS, DeskAnswer, Message, Request
from redecode.agents.contacts_desk.service import AddressService, Entry, TemporaryError, Verdict
from redecode.agents.fm import values
from redecode.agents.fm.articles import Article, article
from redecode.agents.fm.phrases import Split

MAX_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class DeskCase:
    """One job for the desk: an article, what is asked, and what the world knows."""

    article: Article
    request: Request
    entry: Entry | None
    service: AddressService


def desk_case(
    rng: random.Random,
    split: Split,
    *,
    level: int = 2,
    service_seed: int = 0,
    roughness: float = 0.0,
) -> DeskCase:
    """Return a fresh case: 3 in 10 people are unknown, half of the known have a newer email on file."""
    art = article(rng, split, level=level, with_address=rng.random() < 0.8, roughness=roughness)
    entry = None
    if rng.random() < 0.7:
        stored_email = art.contact.email if rng.random() < 0.5 else values.email(rng, art.contact.name)
        same_address = art.has_address and rng.random() < 0.6
        entry = Entry(stored_email, art.contact.address if same_address else values.address(rng))
    request = REQUESTS[0] if rng.random() < 0.7 else REQUESTS[1]
    return DeskCase(art, request, entry, AddressService(service_seed))


class World:
    """Answers the tool calls of one conversation about a case, as the agent's own tools would."""

    def __init__(self, case: DeskCase) -> None:
        self._case = case
        self._asked: Counter[str] = Counter()

    def answer(self, tool: str, arguments: str) -> Message:
        """Return the tool's message; a call of anything but the two tools, or with other arguments, is refused."""
        content = json.dumps({"error": "no such tool"})
        match tool, json.loads(arguments):
            case prompts.FIND_PERSON, {"name": str(name)}:
                known = name == self._case.article.contact.name
                content = prompts.person_result(self._case.entry if known else None)
            case prompts.VERIFY_ADDRESS, {"address": str(address)}:
                verdict = _verify(self._case.service, address, self._asked[address])
                self._asked[address] += 1
                content = prompts.address_result(verdict)
        return {"role": "tool", "tool_call_id": "call_0", "content": content}


def desk_cases(split: Split, seed: int, *, level: int = 2) -> Iterator[DeskCase]:
    """Yield cases without end; the i-th depends on split, seed and i only."""
    number = 0
    while True:
        rng = random.Random(f"desk/{split}/{seed}/{number}")
        yield desk_case(rng, split, level=level, service_seed=seed)
        number += 1


def expected_answer(case: DeskCase) -> DeskAnswer:
    """Return the right final answer."""
    return prompts.parse_answer(expected_turns(case)[-1]["content"])


def expected_turns(case: DeskCase) -> list[Message]:
    """Return the right conversation after the opening: calls, their results, the answer."""
    contact = case.article.contact
    turns = _call(prompts.FIND_PERSON, "name", contact.name, prompts.person_result(case.entry))
    email = contact.email if case.entry is None else case.entry.email
    known = case.entry is not None
    if case.request == "mail":
        return [*turns, _answer(DeskAnswer(contact.name, email, known))]
    address = _address_to_check(case)
    if address is None:
        return [*turns, _answer(DeskAnswer(contact.name, email, known, prompts.UNKNOWN, checked=False))]
    verdict = None
    for attempt in range(MAX_ATTEMPTS):
        verdict = _verify(case.service, address, attempt)
        turns += _call(prompts.VERIFY_ADDRESS, "address", address, prompts.address_result(verdict))
        if verdict is not None:
            break
    final = address if verdict is None or verdict.corrected is None else verdict.corrected
    return [*turns, _answer(DeskAnswer(contact.name, email, known, final, checked=verdict is not None))]


def _address_to_check(case: DeskCase) -> str | None:
    if case.article.has_address:
        return case.article.contact.address
    return None if case.entry is None else case.entry.address


def _verify(service: AddressService, address: str, attempt: int) -> Verdict | None:
    try:
        return service.verify(address, attempt)
    except TemporaryError:
        return None


def _call(tool: str, argument: str, value: str, result: str) -> list[Message]:
    function = {"name": tool, "arguments": json.dumps({argument: value}, ensure_ascii=False)}
    return [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_0", "content": result},
    ]


def _answer(answer: DeskAnswer) -> Message:
    return {"role": "assistant", "content": prompts.render_answer(answer)}
