"""What a graph was given, and the state that its nodes see first, made of a recorded input, which is plain data."""

from __future__ import annotations

import importlib
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, TypeAdapter

from redecode.tracer import conventions as c


def schema_of(graph: Any) -> Any:
    """What a graph's state is; `None` of one that has none (a function with `@entrypoint`)."""
    return getattr(getattr(graph, "builder", None), "state_schema", None)


def state_of(graph: Any, given: Any) -> Any:
    """What a node is given after an input, if no other has run: reducers applied (so messages are messages), defaults
    there, and an instance where the schema is a class. An input that is no state stays as it is.

    Raises:
        Exception: whatever a reducer or the schema's own checks raise.
    """
    schema, channels = schema_of(graph), getattr(graph, "channels", {})
    if schema is None or not isinstance(given, Mapping):
        return given
    schemas = graph.builder.schemas
    taken = {n: v for n, v in given.items() if n in schemas.get(graph.builder.input_schema, schemas[schema])}
    state = {}
    for name, kind in channels.items():
        # What LangGraph manages itself (steps that remain) is no channel, and follows from no input.
        if not hasattr(kind, "from_checkpoint") or not (name in taken or name in schemas[schema]):
            continue
        channel = kind.from_checkpoint(kind.checkpoint())
        if name in taken:
            channel.update([taken[name]])
        if channel.is_available():
            state[name] = channel.get()
    if isinstance(schema, type) and (issubclass(schema, BaseModel) or is_dataclass(schema)):
        return schema(**{name: value for name, value in state.items() if name in schemas[schema]})
    return state


_PLAIN = (int, float, bool, str)
_AROUND = {list, Sequence, type(None), types.UnionType}


def as_given(graph: Any, given: Any) -> Any:
    """An input with the objects that were in it (messages, models, members of an Enum), by the hints of the schema.

    A value becomes an object only where that is recorded just as this one was; all else stays plain data.
    """
    schema = getattr(getattr(graph, "builder", None), "input_schema", None)
    if schema is None or not isinstance(given, Mapping):
        return given
    try:
        hints = typing.get_type_hints(schema)
    except Exception:  # a name that cannot be looked up, say
        return given
    return {name: _object(hints[name], told) if name in hints else told for name, told in given.items()}


def _object(kind: Any, told: Any) -> Any:
    try:
        adapter, text = _adapter(kind, many=isinstance(told, list)), json.dumps(told)
        made = told if adapter is None else adapter.validate_json(text, strict=True)
        return told if type(made) in _PLAIN or json.dumps(c.plain(made)) != text else made
    except Exception:  # no value of it, or a type that pydantic does not know, or whose own checks raise
        return told


@lru_cache(maxsize=256)
def _adapter(kind: Any, *, many: bool) -> TypeAdapter[Any] | None:
    """What makes values of a type; of messages one of each kind, since a hint may have their base class alone."""
    if not any(_is_message(one) for one in _classes(kind)):
        return TypeAdapter(kind)
    if {one for one in _classes(kind) if not _is_message(one)} - _AROUND:
        return None  # messages within something else
    message: Any = importlib.import_module("langchain_core.messages").AnyMessage
    of: Any = types.GenericAlias(list, (message,)) if many else message
    return TypeAdapter(of)


def _classes(kind: Any) -> Iterator[type]:
    """That a hint names, at any depth."""
    for one in (typing.get_origin(kind) or kind, *typing.get_args(kind)):
        if isinstance(one, type):
            yield one
        if one is not kind and typing.get_args(one):
            yield from _classes(one)


def _is_message(one: type) -> bool:
    return any(base.__name__ == "BaseMessage" and base.__module__.startswith("langchain_core.") for base in one.__mro__)
