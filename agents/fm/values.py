"""Random names, mail addresses, postal addresses and small facts.

Most names are made of random syllables. That is the point: a value seen never before can only be
answered by copying it from the article, so a model cannot do well by remembering names.
"""

from __future__ import annotations

import random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONSETS = _words("b br c ch cl d dr f fl g gr h j k kl l m n p pr r s sh st t tr v w y z th sk")
_VOWELS = _words("a e i o u a e i o ai ea ou ie")
_CODAS = ("", "", "", "n", "r", "l", "s", "t", "m", "k", "nd", "rt", "x", "ck", "ll", "sh")
_FIRST_NAMES = _words(
    "Anna Omar Lucia Peter Mei Ivan Fatima John Clara Raj Sofia Tomas "
    "Ingrid Paul Yuki Elena Mark Nadia Hugo Rosa Amir Greta Leo Dana"
)
_LAST_NAMES = _words(
    "Smith Novak Garcia Chen Okafor Rossi Tanaka Haddad Kowalski Brown Silva Jensen Dubois Patel Weber"
)
_STREETS = _words("Road Street Lane Avenue Way Drive Court Square Hill Row")
_DOMAINS = _words("com org net io edu example")
_MONTHS = _words("January February March April May June July August September October November December")
_ORGANISATIONS = (
    "library", "choir", "bakery", "museum", "chess club", "clinic", "school", "garden society", "theatre",
    "shelter", "market", "harbour office", "town archive", "bike shop", "film club",
)  # fmt: skip
_EVENTS = (
    "autumn fair", "open day", "book sale", "night walk", "summer concert", "repair cafe",
    "spring exhibition", "charity run", "lantern parade", "reading week", "pottery course", "seed swap",
)  # fmt: skip


def syllables(rng: random.Random, count: int | None = None) -> str:
    """Return a pronounceable lower-case word of `count` syllables (1 to 3 when not given)."""
    n = count or rng.choice((1, 2, 2, 2, 3))
    text = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(n))
    return text if len(text) > 2 else text + rng.choice(_ONSETS) + rng.choice(_VOWELS)


def person(rng: random.Random) -> str:
    """Return a full name."""
    first = rng.choice(_FIRST_NAMES) if rng.random() < 0.3 else syllables(rng, rng.choice((1, 2, 2))).title()
    last = rng.choice(_LAST_NAMES) if rng.random() < 0.2 else syllables(rng).title()
    if rng.random() < 0.1:
        return f"{first} {rng.choice('ABCDEFGHJKLMNPRSTVW')}. {last}"
    return f"{first} {last}"


def email(rng: random.Random, owner: str | None = None) -> str:
    """Return a mail address, often but not always made from the owner's name."""
    if owner is not None and rng.random() < 0.6:
        parts = owner.lower().replace(".", "").split()
        first, last = parts[0], parts[-1]
        local = rng.choice((f"{first}.{last}", f"{first[0]}.{last}", f"{first}{rng.randint(1, 99)}", f"{last}.{first}"))
    else:
        local = rng.choice(
            (
                syllables(rng),
                f"{syllables(rng)}{rng.randint(1, 999)}",
                f"{syllables(rng)}.{syllables(rng, 1)}",
            )
        )
    return f"{local}@{syllables(rng)}.{rng.choice(_DOMAINS)}"


def address(rng: random.Random) -> str:
    """Return a postal address in one of four shapes."""
    street = f"{rng.randint(1, 299)} {syllables(rng).title()} {rng.choice(_STREETS)}"
    city = syllables(rng).title()
    shape = rng.random()
    if shape < 0.4:
        return f"{street}, {city} {rng.randint(10000, 99999)}"
    if shape < 0.7:
        return f"{street}, {rng.randint(1000, 9999)} {city}"
    if shape < 0.85:
        return f"{street}, Flat {rng.randint(1, 40)}, {city} {rng.randint(10000, 99999)}"
    return f"{street}, {city}"


def phone(rng: random.Random) -> str:
    """Return a telephone number."""
    if rng.random() < 0.5:
        return f"{rng.randint(200, 999)}-{rng.randint(1000, 9999)}"
    return f"+{rng.randint(20, 99)} {rng.randint(100, 999)} {rng.randint(1000, 9999)}"


def day(rng: random.Random) -> str:
    """Return a day of the year."""
    return f"{rng.randint(1, 28)} {month(rng)}"


def month(rng: random.Random) -> str:
    """Return a month."""
    return rng.choice(_MONTHS)


def event(rng: random.Random) -> str:
    """Return an event an article may be about."""
    return rng.choice(_EVENTS)


def organisation(rng: random.Random) -> str:
    """Return an organisation that may stand behind it."""
    return rng.choice(_ORGANISATIONS)


def typo(rng: random.Random, text: str) -> str:
    """Return `text` with one letter or digit changed."""
    at = rng.choice([i for i, ch in enumerate(text) if ch.isalnum()])
    old = text[at]
    if old.isdigit():
        new = rng.choice([d for d in "0123456789" if d != old])
    else:
        new = rng.choice([c for c in "abcdefghiklmnoprstuvwz" if c != old.lower()])
        new = new.upper() if old.isupper() else new
    return text[:at] + new + text[at + 1 :]
