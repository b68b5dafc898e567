"""What `current.toml` says besides a configuration goes along when another one takes its place.

The file is edited as a person would: only values change, and comments, other tables and keys stay where they are.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from redecode.optimizer.configuration import TABLES, context_of, toml

_HEADING = re.compile(r"\A# configuration [0-9a-f]{8}\n(?:# (?:begun|promoted|rolled back|edited)\b.*\n)?\n?")
"""That `History` writes above a configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A file that takes the place of another.

    Attributes:
        data: of the new one.
        along: names of what was carried over; `left` of what was not, since the new one says it otherwise or the file
            could not be edited; `back` of what the old one did not say.
    """

    data: bytes
    along: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    back: tuple[str, ...] = ()


def carried(old: bytes, new: bytes) -> Carried:
    """A new file with what only the old one says besides a configuration."""
    was, now = _read(old), _read(new)
    if was is None or now is None:
        return Carried(data=new)
    lacking = tuple(n for n in was if n not in TABLES and n not in now)
    other = tuple(n for n in was if n not in TABLES and n in now and not _same(was[n], now[n]))
    back = tuple(n for n in now if n not in TABLES and n not in was)
    if not lacking and not _bare(new):
        return Carried(data=new, left=other, back=back)
    whole = {**now, **{n: was[n] for n in lacking}}
    text = new.decode("utf-8-sig")
    for made in (_edited(old.decode("utf-8-sig"), text, whole), _put_together(text, whole)):
        if made is not None and _same(_read(made), whole):
            return Carried(data=made, along=lacking, left=other, back=back)
    return Carried(data=new, left=(*other, *lacking), back=back)


def _bare(data: bytes) -> bool:
    """Whether a file says a configuration and nothing else, as `History` writes it."""
    return _HEADING.sub("", data.decode("utf-8-sig")) == toml(context_of(data, Path()))


def _edited(old: str, new: str, whole: Mapping[str, Any]) -> bytes | None:
    """The old text with the new values, below the new heading; `None` where that cannot be done."""
    heading, rest = _HEADING.match(new), _HEADING.sub("", old)
    try:
        document = tomlkit.parse(rest)
        _set(document, whole, only=TABLES)
        text = tomlkit.dumps(document)
    except Exception:  # tomlkit's own errors are not all it raises of a text that it cannot edit
        return None
    above = "" if heading is None else heading[0].rstrip("\n") + "\n"
    return (above + ("" if not above or text.startswith("[") else "\n") + text).encode()


def _put_together(new: str, whole: Mapping[str, Any]) -> bytes | None:
    """The new text with the old one's other values, though not in its words."""
    try:
        document = tomlkit.parse(new)
        for name in [n for n in whole if n not in document]:
            document.add(name, whole[name])
        return tomlkit.dumps(document).encode()
    except Exception:  # likewise
        return None


def _set(table: Any, values: Mapping[str, Any], only: Collection[str] | None = None) -> None:
    """Make a table say this, without touching what it says already.

    Args:
        only: these alone may be removed.
    """
    for name in [n for n in table if n not in values and (only is None or n in only)]:
        del table[name]
    for name, value in values.items():
        if name in table and isinstance(value, Mapping) and isinstance(table[name], Mapping):
            _set(table[name], value)
        elif name not in table or not _same(table[name], value):
            table[name] = value


def _same(one: Any, other: Any) -> bool:
    """Also of what is unlike itself (`nan`), or equal to what is another thing (`1` and `true`)."""
    return _text(one) == _text(other)


def _text(value: Any) -> str:
    plain = value.unwrap() if hasattr(value, "unwrap") else value
    return json.dumps(plain, sort_keys=True, default=repr)


def _read(data: bytes) -> dict[str, Any] | None:
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except ValueError:
        return None
