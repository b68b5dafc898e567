"""Keys of caches: what tells one question from another, of values that a state or a scope may hold.

A recording may show an object by its text; a key must not. The text of an object may be its address, which the next
one gets, or leave out its middle (a table, a tensor). So a value counts by its type and all that it holds, or there is
no key (`NoKey`): then the cache is not asked, and keeps nothing. Of plain data the key is that of a recording.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np
from pydantic import BaseModel

from redecode.optimizer.caching.calls import digest, shown
from redecode.optimizer.caching.errors import CachingError, NoKey

_log = logging.getLogger("redecode")
_DEEPEST = 100
_TYPE = "\0"
"""The name under which a key has the type of a value that is more than plain data."""
_BY_TEXT = (PurePath, UUID, Decimal, Fraction, complex, date, time, timedelta, range, IPv4Address, IPv6Address)
_KINDS_OF_MESSAGES = frozenset({"human", "ai", "system", "tool", "function", "chat", "remove"})
_OF_ONE_CALL = frozenset({"id", "response_metadata", "usage_metadata"})
"""Of a message: another each time that the same is said."""
_OF_ONE_CALL_BESIDES = frozenset(
    {"usage", "token_usage", "__openai_function_call_ids__", "__gemini_function_call_thought_signatures__"}
)
"""Likewise in its `additional_kwargs`, and below in those of their parts that have a format of a provider's."""
_OF_ONE_CALL_WITHIN = {
    "audio": frozenset({"id", "expires_at"}),
    "reasoning": frozenset({"id", "encrypted_content"}),
    "thinking": frozenset({"signature"}),
}


class _Unknown:
    """In the place of what no key can hold."""

    def __init__(self, what: str) -> None:
        self.what = what


def keyed(value: Any) -> Any:
    """A value as plain data for a digest: equal for what holds the same, and only for that.

    Raises:
        NoKey: it holds something of which nobody knows what it holds.
    """
    return _known(_plain(value, ()))


def parts_of(state: Any) -> list[Any]:
    """What a state's messages hold that is no text, as `keyed`; whatever else it holds does not matter here.

    Raises:
        NoKey: as `keyed`.
    """
    found: list[Any] = _known(shown(_plain(state, ())))
    return found


def words_of(text: Any) -> str:
    """What is compared, which is a text.

    Raises:
        NoKey: it is something else: a field that is missing would be the same question each time.
    """
    if not isinstance(text, str):
        raise NoKey(f"what it compares is no text but a {type(text).__name__}; see that `text` returns a str")
    return text


def name_of(tenant: Any) -> str:
    """A tenant's name.

    Raises:
        NoKey: it is an object without one.
    """
    keyed(tenant)
    return str(tenant)


def exact_key(*fields: str, also: Callable[[], Any] | None = None) -> Callable[..., str]:
    """A key function for LangGraph's `CachePolicy`.

    Where something has no key (`NoKey`) the node is never answered from the cache, and a line in the log says so once.

    Args:
        fields: of the state that the node's answer depends on; by default all. Messages count by what they say.
        also: what else it depends on and the state does not tell: model, prompt, sampling, tools. Asked each time.

    Raises:
        CachingError: by the key function: none of the fields is in the state, or one is not in a state whose fields
            are always there (a dataclass's, a model's).
    """

    def key(*given: Any, **named: Any) -> str:
        one = len(given) == 1 and not named  # a graph's node has its state, a function of the functional API all this
        read = _read(given[0], fields) if fields and given else given[0] if one else [given, named]
        try:
            return digest([_what_it_says(keyed(read)), None if also is None else keyed(also())])
        except NoKey as why:
            say_once(f"redecode: nothing is cached of a node whose key is to hold what it cannot: {why}")
            # An exception would end the run; nothing is ever found under this. A playback pins `random` and `uuid`.
            return os.urandom(16).hex()

    return key


@lru_cache(maxsize=1000)
def say_once(line: str) -> None:
    """A warning in the log, once in a process: what cannot be cached comes with every question."""
    _log.warning("%s", line)


def _read(state: Any, fields: tuple[str, ...]) -> dict[str, Any]:
    """Fields of a state."""
    mapping = isinstance(state, Mapping)
    missing = [f for f in fields if not (f in state if mapping else hasattr(state, f))]
    has = ", ".join(map(str, state if mapping else _fields(state) or ())) or "no fields"
    if missing and (not mapping or len(missing) == len(fields)):  # every question would have the same key
        raise CachingError(f"the key's {_listed(missing)} not in the state, which has {has}")
    if missing:  # it may be one that is not always there
        say_once(f"redecode: of a cache's key, {_listed(missing)} not in the state, which has {has}")
    return {f: state.get(f) if isinstance(state, Mapping) else getattr(state, f) for f in fields}


def _listed(fields: list[str]) -> str:
    return ", ".join(f"'{f}'" for f in fields) + (" is" if len(fields) == 1 else " are")


def _what_it_says(value: Any) -> Any:
    """Plain data without what differs from one call to the next though the messages say the same."""
    if isinstance(value, list):
        return [_what_it_says(v) for v in value]
    if not isinstance(value, dict):
        return value
    if not _is_message(value):
        return {k: _what_it_says(v) for k, v in value.items()}
    said = {k: _what_it_says(v) for k, v in value.items() if k not in _OF_ONE_CALL and k != "additional_kwargs"}
    besides = value.get("additional_kwargs")
    if isinstance(besides, dict):
        besides = {
            k: _without(_what_it_says(v), _OF_ONE_CALL_WITHIN.get(k, frozenset()))
            for k, v in besides.items()
            if k not in _OF_ONE_CALL_BESIDES
        }
    return {**said, "additional_kwargs": besides} if besides else said


def _is_message(fields: Mapping[str, Any]) -> bool:
    kind = fields.get("type")
    return isinstance(kind, str) and kind in _KINDS_OF_MESSAGES and "content" in fields


def _without(value: Any, names: frozenset[str]) -> Any:
    """An object, or each of a list of objects, without some of its members."""
    if isinstance(value, list):
        return [_without(v, names) for v in value]
    return {k: v for k, v in value.items() if k not in names} if isinstance(value, dict) else value


# -- plain data of any value --


def _known(value: Any) -> Any:
    """Plain data in which nothing is unknown."""
    if isinstance(value, _Unknown):
        raise NoKey(
            f"{value.what} has no text that is all of it; give what counts of it as plain data (its id, its text, a "
            "digest of its bytes)"
        )
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _known(inner)
    return value


def _plain(value: Any, inside: tuple[int, ...]) -> Any:
    """A value as plain data, with an `_Unknown` for what is none.

    Args:
        inside: ids of what it is in.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _typed(value, value.name)
    if isinstance(value, str):
        return str.__str__(value)  # of a subclass, too
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if id(value) in inside or len(inside) > _DEEPEST:
        return _unknown("what is nested in itself, or too deeply,")
    try:
        return _held(value, (*inside, id(value)))
    except Exception:  # an object of the host's may do anything when it is looked at
        return _unknown(f"a {_name(value)}")


def _held(value: Any, inside: tuple[int, ...]) -> Any:
    """All that a value holds."""

    def each(values: Iterable[Any]) -> list[Any]:
        return [_plain(v, inside) for v in values]

    if isinstance(value, Mapping):
        if all(type(k) is str for k in value) and _TYPE not in value:
            return {k: _plain(v, inside) for k, v in value.items()}
        return _typed(value, sorted(([_plain(k, inside), _plain(v, inside)] for k, v in value.items()), key=digest))
    if isinstance(value, list | tuple):
        return _typed(value, each(value)) if hasattr(value, "_fields") else each(value)
    if isinstance(value, deque):
        return _typed(value, each(value))
    if isinstance(value, set | frozenset):
        return _typed(value, sorted(each(value), key=digest))
    if isinstance(value, bytes | bytearray | memoryview):
        return _typed(value, _of_bytes(value))
    if isinstance(value, _BY_TEXT):
        return _typed(value, str(value))
    if isinstance(value, re.Pattern):  # whose text is cut
        return _typed(value, [value.pattern if isinstance(value.pattern, str) else value.pattern.hex(), value.flags])
    if type(value) is np.ndarray or isinstance(value, np.generic):
        # Of objects the bytes are addresses.
        numbers = each(value.tolist()) if value.dtype.hasobject else _of_bytes(value.tobytes())
        return _typed(value, [str(value.dtype), list(value.shape), numbers])
    fields = _fields(value)
    if fields is None:
        return _unknown(f"a {_name(value)}")
    held = {k: _plain(v, inside) for k, v in fields.items()}
    return held if _is_message(held) else {**held, _TYPE: _name(value)}


def _fields(value: Any) -> Mapping[str, Any] | None:
    """The fields of a model or a dataclass, or what an object says itself that it is made of."""
    if isinstance(value, type):
        return None
    if isinstance(value, BaseModel):  # not as it would be dumped: a field's declared type may have less than its value
        own = vars(value)
        return {**{k: own[k] for k in type(value).model_fields if k in own}, **(value.__pydantic_extra__ or {})}
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    for way in ("model_dump", "dict"):
        if callable(method := getattr(value, way, None)):
            said = method()
            return said if isinstance(said, Mapping) else None
    return None


def _typed(value: Any, held: Any) -> dict[str, Any]:
    return {_TYPE: [_name(value), held]}


def _unknown(what: str) -> dict[str, Any]:
    """As an object with a member that nobody knows: what is said of messages leaves none of those out."""
    return {_TYPE: _Unknown(what)}


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _of_bytes(value: bytes | bytearray | memoryview) -> str:
    return hashlib.blake2b(value, digest_size=16).hexdigest()
