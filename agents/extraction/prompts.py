"""Every word the extraction agents say to a model, as plain functions.

The bundled models are trained on these same functions, so an agent never asks in a way its model has not
met. `Prompt` is what may be tuned: the wording (longer ones cost prefill, `few_shot` more so) and whether
the article stands before or after the question (before, it is a prefix that calls can share in the
engine's cache).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from redecode.agents.contact import Contact, Field
from redecode.agents.extraction.formats import Format, render

Message = dict[str, Any]
Wording = Literal["brief", "plain", "careful", "few_shot"]
Layout = Literal["article_first", "question_first"]
WORDINGS: tuple[Wording, ...] = ("brief", "plain", "careful", "few_shot")
LAYOUTS: tuple[Layout, ...] = ("article_first", "question_first")

SYSTEM = "You extract contact details."
_FORMAT_NAMES: dict[Format, str] = {
    "json": "JSON",
    "yaml": "YAML",
    "xml": "XML",
    "text": "tagged text",
}
_FIELD_NAMES: dict[Field, str] = {"name": "name", "email": "email address", "address": "postal address"}
_ALL: dict[Wording, str] = {
    "brief": "{format}: name, email, address.",
    "plain": "Give the name, email and address of the contact in {format}.",
    "careful": (
        "Find the person in charge, the email that reaches that person and the postal address. Ignore other "
        "people, old mailboxes, venues and phone numbers. Answer in {format} and add nothing else."
    ),
    "few_shot": "Give the name, email and address of the contact in {format}.",
}
_ONE: dict[Wording, str] = {
    "brief": "{field}?",
    "plain": "Give only the {field} of the contact.",
    "careful": ("Answer with the {field} of the person in charge. Ignore other people and add nothing else."),
    "few_shot": "Give only the {field} of the contact.",
}
_JUDGE: dict[Wording, str] = {
    "brief": "Right answer, then A or B:",
    "plain": "First give the right answer, then say A or B.",
    "careful": (
        "Two answers were given. Copy the right values from the article, then name the matching answer, A or B."
    ),
    "few_shot": "First give the right answer, then say A or B.",
}
# One worked example, for the wording `few_shot`.
EXAMPLE_ARTICLE = (
    "Press requests go to kilm@varn.org. Hana Brosk is in charge of the book sale this year. "
    "Write to her at hana.brosk@tuvel.net. Her office is at 41 Drimo Lane, Quell 30517."
)
EXAMPLE = Contact("Hana Brosk", "hana.brosk@tuvel.net", "41 Drimo Lane, Quell 30517")


@dataclass(frozen=True, slots=True)
class Prompt:
    """How to ask: the wording, the order of article and question, a system message or none."""

    wording: Wording = "plain"
    layout: Layout = "article_first"
    system: bool = False


def ask_all(article: str, fmt: Format, prompt: Prompt) -> list[Message]:
    """Ask for the whole contact."""
    question = _ALL[prompt.wording].format(format=_FORMAT_NAMES[fmt])
    return _conversation(article, question, render(EXAMPLE, fmt), prompt)


def ask_one(article: str, field: Field, prompt: Prompt, earlier: tuple[tuple[Field, str], ...] = ()) -> list[Message]:
    """Ask for one field; `earlier` are the fields already answered in this conversation, in order."""
    first = earlier[0][0] if earlier else field
    messages = _conversation(article, one_question(first, prompt), EXAMPLE.value(first), prompt)
    asked = [f for f, _ in earlier[1:]] + ([field] if earlier else [])
    for (_, answer), following in zip(earlier, asked, strict=True):
        messages.append({"role": "assistant", "content": answer})
        messages.append({"role": "user", "content": one_question(following, prompt)})
    return messages


def one_question(field: Field, prompt: Prompt) -> str:
    """Return the bare question for one field."""
    return _capitalised(_ONE[prompt.wording].format(field=_FIELD_NAMES[field]))


def all_question(fmt: Format, prompt: Prompt) -> str:
    """Return the bare question for the whole contact."""
    return _ALL[prompt.wording].format(format=_FORMAT_NAMES[fmt])


def ask_judge(article: str, first: str, second: str, prompt: Prompt) -> list[Message]:
    """Ask which of two answers is right; the model gives the right one, then A or B on a line."""
    body = f"{_JUDGE[prompt.wording]}\nA: {first}\nB: {second}"
    parts = (f"Article: {article}", body)
    return _with_system("\n".join(parts if prompt.layout == "article_first" else parts[::-1]), prompt)


def _conversation(article: str, question: str, example_answer: str, prompt: Prompt) -> list[Message]:
    example = ""
    if prompt.wording == "few_shot":
        example = f"Example article: {EXAMPLE_ARTICLE}\nExample answer: {example_answer}\n"
    if prompt.layout == "article_first":
        text = f"{example}Article: {article}\n{question}"
    else:
        text = f"{question}\n{example}Article: {article}"
    return _with_system(text, prompt)


def _with_system(text: str, prompt: Prompt) -> list[Message]:
    system: list[Message] = [{"role": "system", "content": SYSTEM}] if prompt.system else []
    return [*system, {"role": "user", "content": text}]


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]
