"""Training conversations: every task the agents ask of a model, in every wording they use.

A `Sample` is a conversation and the positions in the model's own words where a decision is taken (which
value to copy, which tool to call, A or B); training weighs those more, since all that follows is copying.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from redecode.agents.contact import FIELDS, Contact, Field, is_field
from redecode.agents.contacts_desk import policy
from redecode.agents.contacts_desk import prompts as desk
from redecode.agents.extraction import prompts
from redecode.agents.extraction.formats import FORMATS, Format, render
from redecode.agents.extraction.prompts import LAYOUTS, Prompt, Wording
from redecode.agents.fm import values
from redecode.agents.fm.articles import Article, article
from redecode.agents.fm.phrases import Split

Message = dict[str, Any]
Task = Literal["all", "one", "judge", "desk"]

_WORDINGS: tuple[Wording, ...] = ("brief", "brief", "plain", "plain", "careful", "careful", "few_shot")
# Where a value begins in any of the answer forms: after `: `, `: "`, `="`, `>`; a tool's name is one too.
_DECISION = re.compile(r'(?<=: ")(?=\S)|(?<=: )(?=[^\s"{])|(?<==")|(?<=>)(?=[^<\s])')


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation to learn from, with its tool definitions."""

    task: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()


def decisions(answer: str) -> list[int]:
    """Return the character positions in one of the model's answers where it has to choose."""
    found = {0, *(m.start() for m in _DECISION.finditer(answer))}
    if answer.endswith(("\nA", "\nB")):
        found.add(len(answer) - 1)
    return sorted(found)


def _roughness(split: Split) -> float:
    return 0.3 if split == "train" else 0.0


def random_prompt(rng: random.Random, *, article_first: float = 0.5) -> Prompt:
    """Return a way to ask; `article_first` is the share of prompts in which the question comes last."""
    layout = LAYOUTS[0] if rng.random() < article_first else LAYOUTS[1]
    return Prompt(rng.choice(_WORDINGS), layout, rng.random() < 0.3)


def extraction_sample(
    rng: random.Random,
    split: Split,
    first: Format | Field,
    *,
    level: int = 2,
    turns: int = 1,
    prompt: Prompt | None = None,
) -> Sample:
    """Return a conversation that asks for the whole contact (a format) or for one field, then for more."""
    art = article(rng, split, level=level, roughness=_roughness(split))
    # One field asked before the article is what models learn last: it is asked more often.
    prompt = prompt or random_prompt(rng, article_first=0.3 if is_field(first) else 0.5)
    messages = [
        *(prompts.ask_one(art.text, first, prompt) if is_field(first) else prompts.ask_all(art.text, first, prompt)),
        _said(_answer(art.contact, first)),
    ]
    for _ in range(turns - 1):
        wanted = _next_question(rng)
        messages += [_asked(wanted, prompt), _said(_answer(art.contact, wanted))]
    return Sample(f"{'one' if is_field(first) else 'all'}/{first}", tuple(messages))


def sequential_sample(rng: random.Random, split: Split, *, level: int = 2, prompt: Prompt | None = None) -> Sample:
    """Return name, then email, then address, as the sequential architecture asks for them."""
    art = article(rng, split, level=level, roughness=_roughness(split))
    prompt = prompt or random_prompt(rng)
    earlier = tuple((f, art.contact.value(f)) for f in FIELDS[:-1])
    messages = prompts.ask_one(art.text, FIELDS[-1], prompt, earlier)
    return Sample("one/sequential", (*messages, _said(art.contact.value(FIELDS[-1]))))


def judge_sample(
    rng: random.Random, split: Split, fmt: Format, *, level: int = 2, prompt: Prompt | None = None
) -> Sample:
    """Return a judgement: the right answer in full, then the letter of the better candidate."""
    art = article(rng, split, level=level, roughness=_roughness(split))
    prompt = prompt or random_prompt(rng)
    better = art.contact if rng.random() < 0.9 else corrupted(rng, art, art.contact)
    worse = corrupted(rng, art, better)
    while rng.random() < 0.25:
        worse = corrupted(rng, art, worse)
    letter = rng.choice("AB")
    first, second = (better, worse) if letter == "A" else (worse, better)
    messages = prompts.ask_judge(art.text, render(first, fmt), render(second, fmt), prompt)
    return Sample(f"judge/{fmt}", (*messages, _said(judgement(art.contact, fmt, letter))))


def desk_sample(rng: random.Random, split: Split, *, level: int = 2) -> Sample:
    """Return a whole conversation at the contacts desk, tools and all."""
    case = policy.desk_case(rng, split, level=level, service_seed=rng.randrange(1 << 30), roughness=_roughness(split))
    opening = desk.start(case.article.text, case.request, rng.choice(desk.WORDINGS), system=rng.random() < 0.8)
    turns = policy.expected_turns(case)
    return Sample(f"desk/{case.request}", (*opening, *turns), desk.TOOLS)


def random_sample(
    rng: random.Random, split: Split, weights: Sequence[float], *, level: int = 2, turns: int = 1
) -> Sample:
    """Return a sample of a task drawn with `weights` for all, one, judge, desk."""
    tasks: tuple[Task, ...] = ("all", "one", "judge", "desk")
    task = rng.choices(tasks, weights)[0]
    if task == "all":
        return extraction_sample(rng, split, rng.choice(FORMATS), level=level, turns=turns)
    if task == "judge":
        return judge_sample(rng, split, rng.choice(FORMATS), level=level)
    if task == "desk":
        return desk_sample(rng, split, level=level)
    if rng.random() < 0.4:
        return sequential_sample(rng, split, level=level)
    return extraction_sample(rng, split, rng.choice(FIELDS), level=level, turns=turns)


def judgement(right: Contact, fmt: Format, letter: str) -> str:
    """Write a judge's answer."""
    return f"{render(right, fmt)}\n{letter}"


def corrupted(rng: random.Random, art: Article, contact: Contact) -> Contact:
    """Return `contact` with one mistake of the kinds models make: a decoy, a typo, a cut, a fancy."""
    with_decoys = [f for f in FIELDS if any(d != contact.value(f) for d in art.decoys[f])]
    if with_decoys and rng.random() < 0.5:
        field = rng.choice(with_decoys)
        return contact.replaced(field, rng.choice([d for d in art.decoys[field] if d != contact.value(field)]))
    field = rng.choice(FIELDS)
    value = contact.value(field)
    kind = rng.choice(("typo", "cut", "fancy"))
    if kind == "cut" and len(value.split()) > 1:
        return contact.replaced(field, " ".join(value.split()[:-1]).rstrip(","))
    if kind == "fancy":
        fresh = {"name": values.person, "email": values.email, "address": values.address}[field]
        return contact.replaced(field, fresh(rng))
    return contact.replaced(field, values.typo(rng, value))


def _next_question(rng: random.Random) -> Format | Field:
    return rng.choice(FORMATS) if rng.random() < 0.45 else rng.choice(FIELDS)


def _asked(wanted: Format | Field, prompt: Prompt) -> Message:
    if is_field(wanted):
        return {"role": "user", "content": prompts.one_question(wanted, prompt)}
    return {"role": "user", "content": prompts.all_question(wanted, prompt)}


def _answer(contact: Contact, wanted: Format | Field) -> str:
    return contact.value(wanted) if is_field(wanted) else render(contact, wanted)


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}
