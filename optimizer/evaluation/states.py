"""The state that a graph's nodes see first, made of a recorded input: by its channels, in the form of its schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from pydantic import BaseModel


def schema_of(graph: Any) -> Any:
    """What a graph's state is; `None` of one that has none (a function with `@entrypoint`)."""
    return getattr(getattr(graph, "builder", None), "state_schema", None)


def state_of(graph: Any, given: Any, known: Mapping[str, Any] | None = None) -> Any:
    """What a node is given after an input, if no other has run: reducers applied (so messages are messages), defaults
    there, and an instance where the schema is a class. An input that is no state stays as it is.

    Args:
        known: what channels have of turns before.

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
        channel = kind.from_checkpoint((known or {}).get(name, kind.checkpoint()))
        if name in taken:
            channel.update([taken[name]])
        if channel.is_available():
            state[name] = channel.get()
    if isinstance(schema, type) and (issubclass(schema, BaseModel) or is_dataclass(schema)):
        return schema(**{name: value for name, value in state.items() if name in schemas[schema]})
    return state
