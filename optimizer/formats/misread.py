"""What pydantic takes for a value without a word, and no model means: 2024 for seconds since 1970, `true` for 1."""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, RootModel

from redecode.optimizer.formats.errors import MalformedAnswer, short

_MOMENTS = (datetime.date, datetime.time, datetime.timedelta)
_HALF = re.compile("[\ud800-\udfff]")
Path = tuple[str | int, ...]


def refuse_misread(data: Any, record: BaseModel) -> None:
    """Compare what was said with what was made of it.

    Args:
        data: what pydantic was given for the record.

    Raises:
        MalformedAnswer: a value is another one than an answer can have meant; names the field.
    """
    for path, given, value in _pairs(data, record, ()):
        why = _misread(given, value)
        if why is not None and not (isinstance(value, _MOMENTS) and _number(_written(record, path))):
            raise MalformedAnswer(f"{'.'.join(map(str, path))}: {short(str(given))} {why}")


def refuse_halves(data: Any) -> None:
    """Half a character (a surrogate without the other) can be escaped in JSON, and be written nowhere.

    Raises:
        MalformedAnswer: there is one, in a value or a name.
    """
    left = [data]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str) and _HALF.search(one):
            raise MalformedAnswer(f"half a character: {short(one)}")


def _misread(given: Any, value: Any) -> str | None:
    if isinstance(value, _MOMENTS):
        kind = type(value).__name__
        return f"is a number, which no {kind} is written as; write it in ISO 8601" if _number(given) else None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    if isinstance(given, bool):
        return "is no number" if value == given else None
    if isinstance(given, str) and "_" in given and _number(given) and float(given) == value:
        return "is no number"
    if isinstance(value, float) and not math.isfinite(value):
        return "is no number that can be written: no format here has infinity or not-a-number"
    return None


def _number(given: Any) -> bool:
    """A number, or a text that says one."""
    if isinstance(given, str):
        try:
            float(given)
        except ValueError:
            return False
        return True
    return isinstance(given, int | float | Decimal)


def _pairs(given: Any, read: Any, path: Path) -> Iterator[tuple[Path, Any, Any]]:
    """Values as they were given and as they were read, as far as these have the same structure."""
    if isinstance(read, RootModel):
        read = read.root
    if isinstance(given, Mapping):
        if isinstance(read, Mapping):
            yield from (((*path, key), key, other) for key, other in zip(given, read, strict=False))
        inner = _by_name(read)
        for key, value in given.items():
            if key in inner:
                yield from _pairs(value, inner[key], (*path, key))
    elif not isinstance(given, list):
        yield path, given, read
    elif isinstance(read, set | frozenset):  # whose order says nothing
        yield from (((*path, 0), one, other) for one in given for other in read)
    elif isinstance(read, list | tuple):
        for n, (one, other) in enumerate(zip(given, read, strict=False)):
            yield from _pairs(one, other, (*path, n))


def _by_name(read: Any) -> Mapping[Any, Any]:
    if isinstance(read, BaseModel):
        named = {f.serialization_alias or name: getattr(read, name) for name, f in type(read).model_fields.items()}
        return named | (read.model_extra or {})
    if dataclasses.is_dataclass(read):
        return {f.name: getattr(read, f.name) for f in dataclasses.fields(read)}
    return read if isinstance(read, Mapping) else {}


def _written(record: BaseModel, path: Path) -> Any:
    """What we write there; `None` if that cannot be known."""
    try:
        at: Any = record.model_dump(mode="json", by_alias=True)
        for key in path:
            at = at[key]
    except (ValueError, TypeError, LookupError):
        return None
    return at
