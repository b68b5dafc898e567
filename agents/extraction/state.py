"""The state and the context the four architectures share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field as Bounded
from typing_extensions import TypedDict

from redecode.agents.contact import FIELDS, Contact, Field
from redecode.agents.context import AgentContext
from redecode.agents.extraction.formats import Format, MalformedAnswer, parse
from redecode.agents.extraction.prompts import Layout, Prompt, Wording
from redecode.agents.extraction.trimming import Reading, trimmed


class ExtractionContext(AgentContext):
    """Knobs of an extraction: the answer's format, the prompt, and for debates how long they may go on.

    Attributes:
        article: whole, or without the sentences that cannot have what is asked for.
        judge_model: who judges a debate; by default who solves.
    """

    format: Format = "json"
    wording: Wording = "plain"
    layout: Layout = "article_first"
    system: bool = False
    article: Reading = "whole"
    judge_model: str | None = None
    max_rounds: int = Bounded(default=2, ge=1, le=5)
    debate_temperature: float = Bounded(default=0.7, ge=0.0, le=2.0)

    def prompt(self) -> Prompt:
        """Return how to ask."""
        return Prompt(self.wording, self.layout, self.system)

    def read(self, article: str) -> str:
        """Return as much of an article as is put into the prompt."""
        return article if self.article == "whole" else trimmed(article)


def merged(old: dict[Field, str], new: dict[Field, str]) -> dict[Field, str]:
    """Join answers to different fields, given in any order or at once."""
    return {**old, **new}


class ExtractionState(TypedDict, total=False):
    """`article` goes in; `contact` comes out, or None and `error`."""

    article: str
    fields: Annotated[dict[Field, str], merged]
    first: str
    second: str
    judgement: str
    round: int
    contact: dict[Field, str] | None
    error: str | None


def outcome(text: str, fmt: Format) -> ExtractionState:
    """Read an answer into the output keys."""
    try:
        return {"contact": as_dict(parse(text, fmt)), "error": None}
    except MalformedAnswer as err:
        return {"contact": None, "error": str(err)}


def as_dict(contact: Contact) -> dict[Field, str]:
    """Return a contact as it stands in the state."""
    return {f: contact.value(f) for f in FIELDS}
