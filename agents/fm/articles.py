"""Short articles about one contact person, with other people and addresses around them to mislead.

An article is a function of a `random.Random` that the caller seeds, and of a split: `train` and `heldout`
share no sentence template (see `phrases`). `cases(split, seed)` is what programs use: article number i of a
seed is the same in every process.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from redecode.agents.contact import FIELDS, Contact, Field
from redecode.agents.fm import values
from redecode.agents.fm.phrases import Phrases, Split, phrases

# Words that may be disturbed: lower case, outside slots and choices, and no pronoun.
_PLAIN_WORD = re.compile(r"(?<![\w{\[|])[a-z]{2,}(?![\w}|\]])")
_REMARKS = ("Please note:", "Note:", "Good news:", "News:", "By the way:", "Reminder:")
_AFTERTHOUGHTS = ("as always", "again", "this week", "for now", "these days", "as usual", "from now on")
_CHOICE = re.compile(r"\[([^\]]*)\]")
_PRONOUNS = (
    {"p": "her", "s": "she", "P": "She", "Q": "Her", "q": "her"},
    {"p": "him", "s": "he", "P": "He", "Q": "His", "q": "his"},
)
# Decoy sentences per article, inclusive range, by difficulty.
DECOYS: dict[int, tuple[int, int]] = {0: (0, 0), 1: (1, 2), 2: (2, 4), 3: (4, 6)}


@dataclass(frozen=True, slots=True)
class Article:
    """A text, the contact it names, and the misleading values it also contains."""

    text: str
    contact: Contact
    decoys: dict[Field, tuple[str, ...]]
    has_address: bool = True


def article(
    rng: random.Random,
    split: Split = "train",
    *,
    level: int = 2,
    with_address: bool = True,
    roughness: float = 0.0,
) -> Article:
    """Return a fresh article; `level` 0 to 3 sets how many sentences mislead.

    `roughness` is the share of sentences disturbed by a made-up word or a stray remark. Training uses it so
    that a model learns what words mean together instead of whole sentences by heart.
    """
    name = values.person(rng)
    contact = Contact(name, values.email(rng, name), values.address(rng))
    facts = {
        "n": contact.name,
        "e": contact.email,
        "a": contact.address,
        "ev": values.event(rng),
        "org": values.organisation(rng),
        "d": values.day(rng),
        "m": values.month(rng),
        **rng.choice(_PRONOUNS),
    }
    bank = phrases(split)
    templates = _contact_sentences(rng, bank, with_address=with_address)
    sentences = [_fill(rng, _roughened(rng, t, roughness), facts) for t in templates]
    decoys: dict[Field, list[str]] = {f: [] for f in FIELDS}
    for _ in range(rng.randint(*DECOYS[level])):
        sentence, used, names_someone = _decoy(rng, bank, roughness)
        for field, value in used:
            decoys[field].append(value)
        # A sentence about someone else never stands between the contact's name and "her" or "his".
        places = (0, len(sentences)) if names_someone else range(len(sentences) + 1)
        sentences.insert(rng.choice(places), sentence)
    return Article(" ".join(sentences), contact, {f: tuple(decoys[f]) for f in FIELDS}, has_address=with_address)


def cases(split: Split, seed: int, *, level: int = 2) -> Iterator[Article]:
    """Yield articles without end; the i-th depends on split, seed and i only."""
    number = 0
    while True:
        yield article(random.Random(f"article/{split}/{seed}/{number}"), split, level=level)
        number += 1


def _contact_sentences(rng: random.Random, bank: Phrases, *, with_address: bool) -> list[str]:
    shape = rng.random()
    if not with_address:
        return [rng.choice(bank.name), rng.choice(bank.email)] if shape < 0.7 else [rng.choice(bank.name_email)]
    if shape < 0.5:
        rest = [rng.choice(bank.email), rng.choice(bank.address)]
        rng.shuffle(rest)
        return [rng.choice(bank.name), *rest]
    if shape < 0.7:
        return [rng.choice(bank.name_email), rng.choice(bank.address)]
    if shape < 0.85:
        return [rng.choice(bank.name), rng.choice(bank.email_address)]
    return [rng.choice(bank.name_address), rng.choice(bank.email)]


def _decoy(rng: random.Random, bank: Phrases, roughness: float) -> tuple[str, list[tuple[Field, str]], bool]:
    template = rng.choice(rng.choice((bank.decoy_name, bank.decoy_email, bank.decoy_address, bank.filler)))
    facts = {
        "n": values.person(rng),
        "e": values.email(rng),
        "a": values.address(rng),
        "ev": values.event(rng),
        "org": values.organisation(rng),
        "t": values.phone(rng),
        "d": values.day(rng),
        "m": values.month(rng),
        "k": str(rng.randint(20, 900)),
    }
    slots: tuple[tuple[Field, str], ...] = (("name", "n"), ("email", "e"), ("address", "a"))
    used = [(field, facts[slot]) for field, slot in slots if f"{{{slot}}}" in template]
    return _fill(rng, _roughened(rng, template, roughness), facts), used, "{n}" in template


def _roughened(rng: random.Random, template: str, roughness: float) -> str:
    if rng.random() >= roughness:
        return template
    kind = rng.random()
    if kind < 0.25:
        return f"{rng.choice(_REMARKS)} {template}"
    if kind < 0.4:
        return f"{template.removesuffix('.')} {rng.choice(_AFTERTHOUGHTS)}."
    words = [m.span() for m in _PLAIN_WORD.finditer(template)]
    if not words:
        return template
    start, end = rng.choice(words)
    return template[:start] + values.syllables(rng) + template[end:]


def _fill(rng: random.Random, template: str, facts: dict[str, str]) -> str:
    chosen = _CHOICE.sub(lambda m: rng.choice(m.group(1).split("|")), template)
    return chosen.format(**facts)
