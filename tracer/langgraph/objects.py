"""Values of the host's as JSON that they can be made from again: what tools return is not always text.

What JSON has stays itself; everything else is an object with one key that begins with `__`. What cannot be made again
(an open file, a client) is named and no more, and a playback says so instead of handing out something else.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any
from uuid import UUID

from langchain_core.messages import BaseMessage, message_to_dict, messages_from_dict
from pydantic import BaseModel

from redecode.tracer.records import JsonObject

_DEEPEST = 50
# Classes that their own text makes again.
_SPELLED: dict[str, tuple[type, Callable[[str], Any]]] = {
    "datetime": (datetime, datetime.fromisoformat),
    "date": (date, date.fromisoformat),
    "time": (time, time.fromisoformat),
    "decimal": (Decimal, Decimal),
    "uuid": (UUID, UUID),
}


class Lost(Exception):
    """A recorded value cannot be made again; the message says of what class it was."""


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether JSON gives the value back as it is."""
    if value is None or isinstance(value, str | bool | int | float):
        return type(value) in (str, bool, int, float, type(None))
    if depth > _DEEPEST:
        return False
    if type(value) is dict:
        return all(type(k) is str and not k.startswith("__") and is_plain(v, depth + 1) for k, v in value.items())
    return type(value) is list and all(is_plain(v, depth + 1) for v in value)


def written(value: Any, depth: int = 0) -> Any:
    """The value as JSON that `made` makes it from again."""
    if is_plain(value):
        return value
    if depth > _DEEPEST:
        return lost(value)
    below = depth + 1
    if type(value) is list:
        return [written(v, below) for v in value]
    if type(value) is dict:
        if all(type(k) is str and not k.startswith("__") for k in value):
            return {k: written(v, below) for k, v in value.items()}
        return {"__items__": [[written(k, below), written(v, below)] for k, v in value.items()]}
    if isinstance(value, BaseMessage):
        return {"__message__": written(message_to_dict(value), below)}
    kind = type(value)
    if kind in (tuple, set, frozenset):
        return {f"__{kind.__name__}__": [written(v, below) for v in value]}
    if kind is bytes:
        return {"__bytes__": base64.b64encode(value).decode()}
    if kind is timedelta:
        return {"__timedelta__": value.total_seconds()}
    for name, (spelled, _) in _SPELLED.items():
        if kind is spelled:
            return {f"__{name}__": value.isoformat() if hasattr(value, "isoformat") else str(value)}
    return _of_a_class(value, below)


def _of_a_class(value: Any, below: int) -> Any:
    kind = type(value)
    name = f"{kind.__module__}:{kind.__qualname__}"
    if isinstance(value, enum.Enum):
        return {"__enum__": [name, value.name]}
    if isinstance(value, PurePath):
        return {"__path__": [name, str(value)]}
    if isinstance(value, BaseModel):
        fields = {k: written(v, below) for k, v in vars(value).items()}
        return {"__model__": [name, fields, sorted(value.model_fields_set)]}
    if dataclasses.is_dataclass(value):
        fields = {f.name: written(getattr(value, f.name), below) for f in dataclasses.fields(value) if f.init}
        return {"__dataclass__": [name, fields]}
    if kind.__module__ == "langgraph.types" and kind.__name__ == "Send":
        return {"__send__": [value.node, written(value.arg, below)]}
    return lost(value)


def lost(value: Any) -> JsonObject:
    """What stands for a value that cannot be made again."""
    return {"__lost__": f"{type(value).__module__}:{type(value).__qualname__}"}


def made(value: Any) -> Any:
    """Inverse of `written`.

    Raises:
        Lost: it cannot be made again here.
    """
    if isinstance(value, list):
        return [made(v) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (key,) = value
        if key.startswith("__") and key.endswith("__"):
            return _made(key.strip("_"), value[key])
    return {k: made(v) for k, v in value.items()}


def _made(kind: str, held: Any) -> Any:
    if kind in _SPELLED:
        return _SPELLED[kind][1](held)
    match kind:
        case "items":
            return {made(k): made(v) for k, v in held}
        case "message":
            return messages_from_dict([made(held)])[0]
        case "tuple":
            return tuple(made(v) for v in held)
        case "set":
            return {made(v) for v in held}
        case "frozenset":
            return frozenset(made(v) for v in held)
        case "bytes":
            return base64.b64decode(held)
        case "timedelta":
            return timedelta(seconds=held)
        case "send":
            from langgraph.types import Send  # it is there, or nobody had sent one

            return Send(held[0], made(held[1]))
        case "enum":
            return _class(held[0], enum.Enum)[held[1]]
        case "path":
            return _class(held[0], PurePath)(held[1])
        case "model":
            return _class(held[0], BaseModel).model_construct(set(held[2]), **made(held[1]))
        case "dataclass":
            return _class(held[0], None)(**made(held[1]))
    raise Lost(str(held))


def _class(name: str, below: type | None) -> Any:
    """A class that the program has imported: below another one, or (`None`) a dataclass; a recording names no other."""
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    fits = isinstance(found, type) and (dataclasses.is_dataclass(found) if below is None else issubclass(found, below))
    if not fits:
        raise Lost(name)
    return found
