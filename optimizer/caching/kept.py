"""How a node's result becomes bytes, and comes back as what it was."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol


class Serializer(Protocol):
    """As LangGraph's `JsonPlusSerializer`."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """The kind of encoding, and bytes."""

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """What it was."""


class SameSerializer:
    """Plain data as JSON, and what that cannot hold (messages, models, enums) by LangGraph's own serializer.

    What would come back as something else is refused (`TypeError`): a tuple, say, or an object with a state of its own.
    """

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """As `Serializer`."""
        try:
            made = "json", json.dumps(obj, ensure_ascii=False).encode("utf-8", "surrogatepass")
            if _same(self.loads_typed(made), obj):
                return made
        except (TypeError, ValueError):  # no plain data
            pass
        if (other := _langgraphs()) is None:
            raise TypeError(f"a {type(obj).__name__} is no plain data throughout; {_WAY_OUT}")
        kind, data = other.dumps_typed(obj)
        if not _same(other.loads_typed((kind, data)), obj):
            raise TypeError(f"a part of it would come back as something else; {_WAY_OUT}")
        return _THEIRS + kind, data

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """As `Serializer`."""
        if not data[0].startswith(_THEIRS):
            return json.loads(data[1].decode("utf-8", "surrogatepass"))
        other = _langgraphs()
        if other is None:
            raise TypeError("it was kept by LangGraph's serializer, which is not imported here")
        return other.loads_typed((data[0].removeprefix(_THEIRS), data[1]))


_THEIRS = "langgraph/"
_WAY_OUT = "give the cache a `serde`, or let the node return plain data, messages, models or enums"


def _langgraphs() -> Serializer | None:
    """LangGraph's serializer, where somebody uses LangGraph."""
    module = sys.modules.get("langgraph.checkpoint.serde.jsonplus")
    return None if module is None else module.JsonPlusSerializer()


def _same(one: Any, other: Any) -> bool:
    """Equal, and of the same types throughout: an enum's member equals its value, and 1 is equal to true."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(map(_same, one.items(), other.items()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def keepable(result: Any) -> Any:
    """The result, if a cache may give it to another run.

    Raises:
        TypeError: it says which messages to remove, by ids that no other run has.
    """
    if any(type(part).__name__ == "RemoveMessage" for part in _messages(result)):
        raise TypeError("it removes messages by their ids, which no other run has")
    return result


def renewed(result: Any) -> Any:
    """A kept result as another run gets it: messages without the ids that they had.

    A reducer of messages puts one in the place of another of the same id: the second hit in one conversation would
    stand where the first one did.
    """
    for message in _messages(result):
        message.id = None
    return result


def _messages(result: Any) -> Iterator[Any]:
    if any(base.__name__ == "BaseMessage" for base in type(result).__mro__):
        yield result
        return
    for part in _parts(result):
        yield from _messages(part)


def _parts(result: Any) -> Iterable[Any]:
    if isinstance(result, dict):
        return result.values()
    if isinstance(result, list | tuple | deque):
        return result
    if dataclasses.is_dataclass(result):
        return [getattr(result, field.name) for field in dataclasses.fields(result)]
    return vars(result).values() if hasattr(type(result), "model_fields") else ()
