"""What `current.toml` says besides a configuration: other tables and keys go along when another one takes its place.

Word for word, comments among them included. Whatever the text looks like, what comes out is read back, and used only if
it says exactly what both files say.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_OURS = ("context", "placement")


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A file that takes the place of another.

    Attributes:
        data: of the new one.
        along: names of what was carried over; `left` of what was not, since the new one says it otherwise or the text
            could not be told apart.
    """

    data: bytes
    along: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def carried(old: bytes, new: bytes) -> Carried:
    """A new file with what only the old one says besides a configuration."""
    was, now = _read(old), _read(new)
    if was is None or now is None:
        return Carried(data=new)
    lacking = tuple(n for n in was if n not in _OURS and n not in now)
    other = tuple(n for n in was if n not in _OURS and n in now and was[n] != now[n])
    if not lacking:
        return Carried(data=new, left=other)
    pieces = _pieces(old.decode("utf-8-sig"))
    tables = {name for name, _ in pieces}
    roots = [line for name, text in pieces if name == "" for line in text.splitlines() if line.strip()]
    root = "".join(f"{line}\n" for line in roots if not line.startswith("#")) if set(lacking) - tables else ""
    after = "".join(f"\n{text.strip()}\n" for name, text in pieces if name in lacking)
    made = (root + new.decode("utf-8-sig").rstrip("\n") + "\n" + after).encode()
    if _read(made) != {**now, **{n: was[n] for n in lacking}}:
        return Carried(data=new, left=(*other, *lacking))
    return Carried(data=made, along=lacking, left=other)


def _read(data: bytes) -> dict[str, Any] | None:
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except ValueError:
        return None


def _pieces(text: str) -> list[tuple[str, str]]:
    """The text in pieces, each with the top-level table it is of ("": before the first one)."""
    pieces: list[tuple[str, list[str]]] = [("", [])]
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if (name := _header(line)) is not None and _whole(lines[:number]):
            before = pieces[-1][1]
            said = 0  # comments right above belong to the table
            while said < len(before) and before[-said - 1].startswith("#") and _whole(lines[: number - said - 1]):
                said += 1
            at = len(before) - said
            pieces.append((name, before[at:]))
            del before[at:]
        pieces[-1][1].append(line)
    return [(name, "".join(of)) for name, of in pieces]


def _whole(lines: Sequence[str]) -> bool:
    """Whether what follows is within no text and no list."""
    return _read("".join(lines).encode()) is not None


def _header(line: str) -> str | None:
    """The top-level table that a line begins a part of."""
    if not line.lstrip().startswith("["):
        return None
    found = _read(line.encode())
    return None if found is None else next(iter(found), None)
