"""What a graph was given and what it answered, where a run's trace tells it otherwise than the graph has it.

Other tracers write a run down for people to read: a state of one field as the field's value alone, a list of messages
without the state around it, a state as a message of JSON text (docs/foreign-traces.md has who does which). A graph
takes its state, and every candidate would fail on anything else, which is no candidate's fault. So such a value is made
what it must have been where that follows from the graph's schema and the trace, and the run is left out where it does
not: a guess would be an input that nobody ever gave.

And a recording is plain data: what was an object in an input is one again just before a graph gets it (`as_given`).

The schema is read from the graph's builder, whose words are LangGraph's; a graph without one (a function with
`@entrypoint`, one that runs elsewhere) and one whose state is no mapping take what was recorded, as it is.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, TypeAdapter

from redecode.optimizer.errors import BadSpec
from redecode.optimizer.spec import Spec
from redecode.tracer import Run
from redecode.tracer import conventions as c

UNTOLD = "whose trace does not say the graph's input (docs/foreign-traces.md says who tells what)"
"""Why a run is no case."""
_TRACED_BY, _MESSAGES = "traced_by", "messages"
_WHOLE = ("input", "output")
"""Fields of which OpenInference has the value alone though it be no text."""
_ROOT = "__root__"
ROLES = frozenset({"user", "human", "assistant", "ai", "system", "developer", "tool"})
"""Of who says a message."""
_PARTS = frozenset({"text", "image_url", "input_audio"})
_PLAIN = (int, float, bool, str)
_AROUND = {list, Sequence, type(None), types.UnionType}


@dataclass(frozen=True, slots=True)
class Fields:
    """What a state is made of, on its way into a graph or out of it.

    Attributes:
        required: those that the schema wants.
        strict: the graph raises where one of these is missing; a state that is merely a TypedDict does not.
        separate: the schema is of the input alone, and so says what is given; that of a state has all that nodes write.
    """

    types: Mapping[str, Any]
    required: tuple[str, ...] = ()
    strict: bool = False
    separate: bool = False

    def value(self, name: str, told: Any) -> Any:
        """The value of a field, where a trace may have a number as text.

        Raises:
            LookupError: it is no value of this field.
        """
        kind = self.types[name]
        if isinstance(told, str):
            if _takes(kind, json.dumps(told)) or not _takes(kind, told):
                return told
            return json.loads(told)
        if isinstance(told, int | float) and not _takes(kind, json.dumps(told)):
            raise LookupError(name)
        if isinstance(told, list | Mapping) and name not in _WHOLE:
            raise LookupError(name)
        return told


def _takes(kind: Any, text: str) -> bool:
    """Whether a JSON text is a value of a type; any is one of a type that pydantic does not know."""
    try:
        adapter = TypeAdapter(kind)
    except Exception:  # whatever somebody's annotations are
        return True
    try:
        adapter.validate_json(text, strict=True)
    except Exception:  # a validator of somebody's may raise anything
        return False
    return True


def fields_of(graph: Any, which: str) -> Fields | None:
    """The fields of a graph's "input" or "output"; `None` where it is no mapping, or nobody can say."""
    builder = getattr(graph, "builder", None)
    schema = getattr(builder, f"{which}_schema", None)
    known = getattr(builder, "schemas", None)
    channels = known.get(schema) if isinstance(known, Mapping) and schema is not None else None
    # What LangGraph manages itself (steps that remain) is no channel, and is never given.
    names = [name for name, kind in (channels or {}).items() if hasattr(kind, "from_checkpoint")]
    if not names or _ROOT in names:
        return None
    hints = _hints(schema)
    required, strict = _required(schema)
    return Fields(
        types={name: hints.get(name, Any) for name in names},
        required=tuple(name for name in names if name in required),
        strict=strict,
        separate=schema is not getattr(builder, "state_schema", None),
    )


def _required(schema: Any) -> tuple[frozenset[str], bool]:
    """What a schema wants, and whether it holds to it."""
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return frozenset(n for n, f in schema.model_fields.items() if f.is_required()), True
    if dataclasses.is_dataclass(schema):
        missing = dataclasses.MISSING
        bare = [f for f in dataclasses.fields(schema) if f.default is missing and f.default_factory is missing]
        return frozenset(f.name for f in bare), True
    wanted = set(getattr(schema, "__required_keys__", ()))
    for name, hint in _hints(schema, marks=True).items():  # text annotations, of which these keys do not know
        bare = hint.__origin__ if typing.get_origin(hint) is typing.Annotated else hint
        if typing.get_origin(bare) is typing.NotRequired:
            wanted.discard(name)
    return frozenset(wanted), False


def _hints(schema: Any, *, marks: bool = False) -> dict[str, Any]:
    try:
        return typing.get_type_hints(schema, include_extras=marks)
    except Exception:  # a name that cannot be looked up, say
        return {}


@dataclass(frozen=True, slots=True)
class Told:
    """A run, as the graph has it.

    Attributes:
        known: whether the trace says what the graph was given; else `input` is as it was recorded.
        partly: fields of the input that the trace would not tell.
        scored: whether `output` is the whole of what came out, so that it can be compared.
    """

    input: Any
    output: Any
    known: bool = True
    partly: tuple[str, ...] = ()
    scored: bool = True


class Inputs:
    """Tells what the graph of a spec was given.

    Args:
        values: of the configuration in use, for a graph that is built; by default what the spec itself says.
    """

    def __init__(self, spec: Spec, values: Mapping[str, Any] | None = None) -> None:
        self._spec, self._values = spec, values
        self._fields: tuple[Fields | None, Fields | None] | None = None

    def of(self, run: Run) -> Told:
        """What it was in this run.

        Raises:
            BadSpec: the graph is to be built to know, and cannot be.
        """
        foreign = _TRACED_BY in run.labels
        if isinstance(run.input, Mapping) and not foreign:
            return Told(run.input, run.output)
        given, came = self._sides()
        output, whole = _came(run.output, came) if foreign and run.error is None else (run.output, True)
        if given is None:
            return Told(run.input, output, scored=whole)
        if isinstance(run.input, Mapping) and not _other(run.input, given):
            return Told(run.input, output, scored=whole)
        try:
            put_in, partly = _given(run.input, given, output)
        except LookupError:
            return Told(run.input, output, known=False, scored=whole)
        return Told(put_in, output, partly=partly, scored=whole)

    def _sides(self) -> tuple[Fields | None, Fields | None]:
        if self._fields is None:
            spec, values = self._spec, self._values
            if values is None:
                defaults = {n: f.default for n, f in spec.fields().items() if f.has_default} if spec.build else {}
                values = {**defaults, **spec.fixed, **spec.incumbent}
            try:
                graph = spec.built(spec.own(values))
            except BadSpec:
                if self._values is not None:
                    raise
                graph = None  # what the spec says is not all of what is in use
            self._fields = fields_of(graph, "input"), fields_of(graph, "output")
        return self._fields


def _other(value: Mapping[str, Any], fields: Fields) -> bool:
    """Whether a mapping is no state: it has nothing of one."""
    return bool(value) and not value.keys() & fields.types.keys()


def _given(told: Any, fields: Fields, output: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The state, and fields of which nothing is known.

    Raises:
        LookupError: it does not follow from what is told.
    """
    if isinstance(told, list):
        if (state := _written_out(told, fields)) is not None:
            return state, ()
        if _MESSAGES in fields.types and all(map(_is_message, told)):
            others = [name for name in fields.types if name != _MESSAGES]
            if (fields.strict or fields.separate) and {*fields.required} - {_MESSAGES}:
                raise LookupError(_MESSAGES)
            return {_MESSAGES: [{**message, "content": message["content"] or ""} for message in told]}, tuple(others)
    name = _only(told, fields, output)
    return {name: fields.value(name, told)}, ()


def _only(told: Any, fields: Fields, output: Any) -> str:
    """The one field of a state that has no other: the only one there is, or the only one that is required.

    A schema that nothing holds to may be wrong about it: an answer that has the value in other fields alone says so.

    Raises:
        LookupError: it may be any of several.
    """
    if len(fields.types) == 1:
        return next(iter(fields.types))
    if len(fields.required) != 1:
        raise LookupError(", ".join(fields.types))
    [wanted] = fields.required
    came = output if isinstance(output, Mapping) else {}
    again = {name for name in fields.types if name in came and _same(fields, name, told, came[name])}
    if again and wanted not in again and not fields.strict:
        raise LookupError(wanted)
    return wanted


def _same(fields: Fields, name: str, told: Any, came: Any) -> bool:
    try:
        return bool(fields.value(name, told) == came)
    except LookupError:
        return False


def _written_out(told: Sequence[Any], fields: Fields) -> dict[str, Any] | None:
    """The state that one user message has as JSON text, just as OpenTelemetry's instrumentation writes it."""
    message = told[0] if len(told) == 1 and isinstance(told[0], Mapping) else {}
    text = message.get("content")
    if message.get("role") not in ("user", "human") or not isinstance(text, str):
        return None
    try:
        state = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(state, dict) or not state or not state.keys() <= fields.types.keys() - {_MESSAGES}:
        return None
    if json.dumps(state, ensure_ascii=False) != text:  # somebody has said it
        return None
    if fields.strict and {*fields.required} - state.keys():  # a None is not written
        raise LookupError(text)
    return state


def _is_message(told: Any) -> bool:
    """Whether LangGraph makes of it the message that it was, and an FM takes that."""
    if not isinstance(told, Mapping) or "content" not in told or told.get("role", told.get("type")) not in ROLES:
        return False
    content, calls = told["content"], told.get("tool_calls") or []
    parts = content if isinstance(content, list) else []
    if any(not isinstance(part, Mapping) or part.get("type") not in _PARTS for part in parts):
        return False
    if told.get("role", told.get("type")) == "tool" and not isinstance(told.get("tool_call_id"), str):
        return False
    return isinstance(calls, list) and all(map(_is_call, calls))


def _is_call(told: Any) -> bool:
    if not isinstance(told, Mapping) or not isinstance(told.get("id"), str):
        return False
    function = told.get("function")
    if not isinstance(function, Mapping):
        return isinstance(told.get("name"), str) and isinstance(told.get("args"), Mapping)
    try:
        arguments = json.loads(function["arguments"])
    except (LookupError, TypeError, ValueError, RecursionError):
        return False
    return isinstance(function.get("name"), str) and isinstance(arguments, dict)


def _came(told: Any, fields: Fields | None) -> tuple[Any, bool]:
    """What came out, and whether that is all of it."""
    if fields is None or told is None:
        return told, told is not None
    if isinstance(told, Mapping) and not _other(told, fields):
        return told, True
    if isinstance(told, list) and _MESSAGES in fields.types and all(map(_is_message, told)):
        return {_MESSAGES: told}, False  # OpenTelemetry's has the last one
    if len(fields.types) == 1:
        [name] = fields.types
        try:
            return {name: fields.value(name, told)}, True
        except LookupError:
            return told, False
    return told, False


def as_given(graph: Any, given: Any) -> Any:
    """An input with the objects that were in it (messages, models, members of an Enum), by the hints of the schema.

    A value becomes an object only where that is recorded just as this one was, whatever the order of its keys, which
    each tracer has its own of; all else stays plain data.
    """
    return _of_hints(graph, "input", given)


def as_came(graph: Any, came: Any) -> Any:
    """A recorded output likewise."""
    return _of_hints(graph, "output", came)


def _of_hints(graph: Any, which: str, given: Any) -> Any:
    schema = getattr(getattr(graph, "builder", None), f"{which}_schema", None)
    if schema is None or not isinstance(given, Mapping):
        return given
    hints = _hints(schema)
    return {name: value_of(hints[name], told) if name in hints else told for name, told in given.items()}


def value_of(kind: Any, told: Any) -> Any:
    """A recorded value as the object of a type that it was; as it is, where it was none."""
    try:
        adapter, text = _adapter(kind, many=isinstance(told, list)), json.dumps(told)
        made = told if adapter is None else adapter.validate_json(text, strict=True)
        if type(made) in _PLAIN:
            return told
        again = c.plain(made)
        if json.dumps(again) == text:
            return made
        return _ordered(made, told) if _sorted(again) == _sorted(told) else told
    except Exception:  # no value of it, or a type that pydantic does not know, or whose own checks raise
        return told


def _sorted(value: Any) -> str:
    """Equal for values that are, whatever the order of their keys; 1, 1.0 and true are three."""
    return json.dumps(value, sort_keys=True)


def _ordered(made: Any, told: Any) -> Any:
    """Mappings that are no object keep the order of their keys: somebody may write them into a prompt."""
    if type(made) is dict:
        return {key: _ordered(made[key], value) for key, value in told.items()}
    return [_ordered(one, value) for one, value in zip(made, told, strict=True)] if type(made) is list else made


@lru_cache(maxsize=256)
def _adapter(kind: Any, *, many: bool) -> TypeAdapter[Any] | None:
    """What makes values of a type; of messages one of each kind, since a hint may have their base class alone."""
    if not any(_is_message_class(one) for one in _classes(kind)):
        return TypeAdapter(kind)
    if {one for one in _classes(kind) if not _is_message_class(one)} - _AROUND:
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


def _is_message_class(one: type) -> bool:
    return any(base.__name__ == "BaseMessage" and base.__module__.startswith("langchain_core.") for base in one.__mro__)
