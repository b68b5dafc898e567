"""What a graph was given besides its input: LangGraph's context, what is configurable, limits, and a history.

A tenant, a user, a region: without it a run cannot be made again. Only plain values are kept, and what is made of them;
connections and the like are the program's own, and keys are never written down.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from redecode.tracer import conventions as c
from redecode.tracer.privacy.keys import public_fields
from redecode.tracer.records import JsonObject

_RUNTIME = "__pregel_runtime"
# Whose conversation it is, and where in it: a run of its own has others.
_PLACES = frozenset({"thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map", "run_id"})
_LIMITS = ("recursion_limit", "max_concurrency")
_PLAIN = (str, int, float, bool, type(None), Enum, date, time, timedelta, Decimal, UUID, PurePath)
_JSON = frozenset({str, int, float, bool, type(None), list, dict, tuple})  # checkpoints have tuples as lists
_DEEPEST = 20
_MOST = 1 << 16  # bytes of what is said anew in each turn


def besides(loop: Any, *, first: bool = False) -> JsonObject:
    """By "context" and "configurable", of LangGraph's own state of a graph that begins, and by "left_out" the names of
    what of a context cannot be kept, but for what it has by default; by "limits" its config's recursion_limit and
    max_concurrency, where they are not LangGraph's own; by "history", where its checkpointer knew the thread before,
    what it knew (`_history`), or true where that cannot be told. What is empty is left out.

    Args:
        first: the graph has not been given its input yet.
    """
    config = getattr(loop, "config", None) or {}
    configurable = config.get("configurable") or {}
    context = getattr(configurable.get(_RUNTIME), "context", None)
    own = {k: v for k, v in configurable.items() if isinstance(k, str) and not k.startswith("__") and k not in _PLACES}
    fields = _fields(context) or {}
    kept = _kept(fields)
    lost = sorted(n for n, v in fields.items() if n not in kept and isinstance(n, str) and not _usual(context, n, v))
    lost += getattr(context, "model_extra", None) or ()
    found = {
        "context": kept,
        "configurable": _kept(own),
        "left_out": lost,
        "limits": _limits(config),
        "history": _history(loop, first=first),
    }
    return {name: told for name, told in found.items() if told}


def _history(loop: Any, *, first: bool) -> JsonObject | bool:
    """What a thread's last checkpoint left: by "digest" the output of the run that left it (`conventions.digest`), by
    "rest" what of the state is in no output, by "objects" of which kind values are that are no plain data.
    """
    if getattr(loop, "step", 0) <= 0:  # steps are counted on from it
        return False
    keys, outputs, channels = (getattr(loop, name, None) for name in ("stream_keys", "output_keys", "channels"))
    if not first or not isinstance(keys, list | tuple) or not isinstance(channels, Mapping):
        return True  # of a function, say, what is kept need not be what came out
    if any(getattr(channel, "seen", None) for name, channel in channels.items() if name not in keys):
        return True  # one of several that a node waits for has come
    state = {key: channels[key].get() for key in keys if channels[key].is_available()}
    left = {key: value for key, value in state.items() if key in (outputs or ())}
    rest = c.plain({key: value for key, value in state.items() if key not in left})
    if len(c.to_json(rest)) > _MOST or public_fields(rest) != rest:
        return True
    objects = {key: kind for key, value in state.items() if (kind := kind_of(value)) is not None}
    return {
        "digest": c.digest(c.plain(left)),
        **({"rest": rest} if rest else {}),
        **({"objects": objects} if objects else {}),
    }


def kind_of(value: Any) -> str | None:
    """The class of a value, or those of the items of a list, as "module:name", and of messages "message"; `None` of
    plain data.
    """
    names = {_class_of(item) for item in (value if isinstance(value, list) else [value])}
    return ", ".join(sorted(name or "plain" for name in names)) if names - {None} else None


def _class_of(value: Any) -> str | None:
    kind = type(value)
    if kind in _JSON:
        return None
    if any(base.__name__ == "BaseMessage" for base in kind.__mro__):
        return "message"
    return f"{kind.__module__}:{kind.__qualname__}"


def memory_of(loop: Any) -> tuple[str, str] | None:
    """Where the memory of a graph within another one is: its thread, and its name there; `None` if it has none."""
    configurable = (getattr(loop, "config", None) or {}).get("configurable") or {}
    thread = configurable.get("thread_id")
    if thread is None or getattr(loop, "checkpointer", None) is None:
        return None
    return str(thread), str(configurable.get("checkpoint_ns", ""))


def _limits(config: Mapping[str, Any]) -> JsonObject:
    """What of a config says how far a run may go, and how wide."""
    defaults = sys.modules.get("langgraph._internal._config")  # nothing public says what it would be
    usual = {"recursion_limit": getattr(defaults, "DEFAULT_RECURSION_LIMIT", None)}
    said = {name: config.get(name) for name in _LIMITS}
    return {n: int(value) for n, value in said.items() if isinstance(value, int) and value != usual.get(n)}


def _kept(values: Mapping[str, Any]) -> JsonObject:
    """What can be kept as it is."""
    out: JsonObject = {}
    for name, value in values.items():
        if _is_plain(value) and public_fields(kept := {name: c.plain(value)}) == kept:
            out |= kept
    return out


def _usual(context: Any, name: str, value: Any) -> bool:
    """Whether a field has what it has if nobody says otherwise; an object of the kind that is its default is that."""
    if dataclasses.is_dataclass(context):
        field: Any = next(f for f in dataclasses.fields(context) if f.name == name)
        factory = field.default_factory is not dataclasses.MISSING
    else:
        field = getattr(type(context), "model_fields", {}).get(name)
        factory = getattr(field, "default_factory", None) is not None
    default = getattr(field, "default", dataclasses.MISSING)
    if isinstance(value, str | Mapping | list | tuple):
        return not factory and bool(value == default)
    return factory or value is default or type(value) is type(default)


def _fields(value: Any) -> Mapping[str, Any] | None:
    """Of a mapping, a dataclass or a model of pydantic's."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    names = getattr(type(value), "model_fields", None)
    return {name: getattr(value, name) for name in names} if isinstance(names, Mapping) else None


def _is_plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, _PLAIN) or depth > _DEEPEST:
        return depth <= _DEEPEST
    if isinstance(value, list | tuple | set | frozenset):
        return all(_is_plain(item, depth + 1) for item in value)
    fields = _fields(value)
    return fields is not None and all(isinstance(k, str) and _is_plain(v, depth + 1) for k, v in fields.items())
