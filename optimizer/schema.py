"""Knobs read from a context schema (pydantic model, dataclass or TypedDict), and from the command line."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, Required, get_args, get_origin

from pydantic import BaseModel, ValidationError
from typing_extensions import ReadOnly, is_typeddict

from redecode.optimizer.errors import BadSpec
from redecode.optimizer.knobs import Choice, Fixed, Knob, Range, label

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?::(log|{_NUMBER}))?")
_MISSING: Any = dataclasses.MISSING


@dataclass(frozen=True, slots=True)
class SchemaField:
    """One field of a context.

    Attributes:
        marks: what stands beside its type in `Annotated`.
        default: `dataclasses.MISSING` if it has none.
    """

    name: str
    type: Any
    marks: tuple[Any, ...]
    default: Any

    @property
    def has_default(self) -> bool:
        """Whether it may be left out."""
        return self.default is not _MISSING

    @property
    def whole(self) -> bool:
        """Whether it is a whole number, or None."""
        return _is(self.type, int)

    @property
    def values(self) -> tuple[Any, ...]:
        """Those that can be listed: what its type and its marks say, and its default."""
        marked = [v for m in self.marks if isinstance(m, Choice) for v in m.values]
        return (*marked, *(_listed(self.type) or ()), *((self.default,) if self.has_default else ()))

    def knob(self) -> Knob | None:
        """How it may vary; `None` if nothing says that it may.

        Raises:
            BadSpec: its marks contradict each other, or its type.
        """
        explicit = [m for m in self.marks if isinstance(m, Choice | Range | Fixed)]
        if len(explicit) > 1:
            raise BadSpec(f"field {self.name} is marked twice as a knob")
        integer = self.whole
        if explicit:
            found = explicit[0]
            if isinstance(found, Fixed):
                return None
            if isinstance(found, Range) and found.integer is None:
                found = dataclasses.replace(found, integer=integer)
            return whole_if(self.name, found)
        values = _listed(self.type)
        if values is not None:
            return Choice(*values)
        if not (integer or _is(self.type, float)) or self.default is None:  # nothing lies between None and a number
            return None
        low, high, step = _bounds(self.marks, integer=integer)
        if low is None or high is None or low > high:
            return None
        return whole_if(self.name, Range(low, high, step=step, integer=integer))


def fields_of(schema: Any) -> Iterator[SchemaField]:
    """The fields of a context schema.

    Raises:
        BadSpec: it is none that has fields.
    """
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        for name, info in schema.model_fields.items():
            default = _MISSING if info.is_required() else info.get_default(call_default_factory=True, validated_data={})
            kind, marks = _bare(info.annotation)
            yield SchemaField(name, kind, (*info.metadata, *marks), default)
        return
    try:
        hints = typing.get_type_hints(schema, include_extras=True)
    except (NameError, TypeError) as error:
        raise BadSpec(f"the context schema {_name(schema)} cannot be read: {error}") from error
    defaults: dict[str, Any] = {}
    if dataclasses.is_dataclass(schema):
        hints = {f.name: hints[f.name] for f in dataclasses.fields(schema) if f.init}
        for f in dataclasses.fields(schema):
            factory: Any = f.default_factory
            defaults[f.name] = f.default if factory is _MISSING else factory()
    elif not is_typeddict(schema):
        raise BadSpec(f"the context schema {_name(schema)} is no pydantic model, dataclass or TypedDict")
    for name, hint in hints.items():
        kind, marks = _bare(hint)
        yield SchemaField(name, kind, marks, defaults.get(name, _MISSING))


def _name(schema: Any) -> str:
    return getattr(schema, "__qualname__", None) or repr(schema)


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without the names (`type X = ...`) and marks around it, and these marks; those within a union too."""
    if type(hint).__name__ == "TypeAliasType":  # Python's or typing_extensions'
        return _bare(hint.__value__)
    origin, args = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        kind, within = _bare(args[0])
        return kind, (*within, *_flat(args[1:]))
    if origin in (NotRequired, Required, ReadOnly):
        return _bare(args[0])
    if origin in (typing.Union, types.UnionType):
        parts = [_bare(part) for part in args]
        return typing.Union[tuple(kind for kind, _ in parts)], tuple(m for _, marks in parts for m in marks)  # noqa: UP007
    return hint, ()


def _is(kind: Any, number: type) -> bool:
    """Whether it is this kind of number, or that and None."""
    return kind is number or (
        get_origin(kind) in (typing.Union, types.UnionType) and {*get_args(kind)} == {number, type(None)}
    )


def _flat(marks: Sequence[Any]) -> Iterator[Any]:
    """Marks, and what pydantic's `Field(...)` has among them."""
    for mark in marks:
        inner = getattr(mark, "metadata", None)
        if isinstance(inner, list):
            yield from inner
        else:
            yield mark


def _listed(kind: Any) -> tuple[Any, ...] | None:
    """Every value of a type, if they can be listed."""
    if kind is bool:
        return (False, True)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return tuple(kind)
    origin = get_origin(kind)
    if origin is typing.Literal:
        return get_args(kind)
    if origin in (typing.Union, types.UnionType):
        parts = [(None,) if part is type(None) else _listed(part) for part in get_args(kind)]
        if all(part is not None for part in parts):
            return tuple(v for part in parts if part is not None for v in part)
    return None


def _bounds(marks: Sequence[Any], *, integer: bool) -> tuple[float | None, float | None, float | None]:
    """The least and greatest value, and the step, that constraints allow (`annotated_types`)."""
    low = high = step = None
    for mark in marks:
        if (at := getattr(mark, "ge", None)) is not None:
            low = at
        if (at := getattr(mark, "le", None)) is not None:
            high = at
        if (at := getattr(mark, "gt", None)) is not None:
            low = at + 1 if integer else math.nextafter(at, math.inf)
        if (at := getattr(mark, "lt", None)) is not None:
            high = at - 1 if integer else math.nextafter(at, -math.inf)
        if (at := getattr(mark, "multiple_of", None)) is not None:
            step = at
    if step is not None and low is not None and high is not None:  # only its multiples are taken
        low, high = _multiple(math.ceil(low / step - 1e-9), step), _multiple(math.floor(high / step + 1e-9), step)
        low = low + step if any((at := getattr(m, "gt", None)) is not None and low <= at for m in marks) else low
        high = high - step if any((at := getattr(m, "lt", None)) is not None and high >= at for m in marks) else high
    return low, high, step


def _multiple(count: int, step: float) -> float:
    """Without the noise of floats: 3 times 0.1 is 0.3."""
    return count * step if isinstance(step, int) else round(count * step, 12)


def made(schema: Any, values: Mapping[str, Any], brought: Collection[str] = ()) -> Any:
    """A context of these values.

    Args:
        brought: fields that no file has to name, so that an alias will do.

    Raises:
        BadSpec: the schema does not take them.
    """
    if schema is None:
        return None
    known = {f.name for f in fields_of(schema)}
    given = {k: v for k, v in values.items() if k in known}
    if is_typeddict(schema):
        return given
    try:
        context = schema(**{_alias(schema, k) if k in brought else k: v for k, v in given.items()})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadSpec(f"{_name(schema)}.{place}: {first['msg']}, not {first['input']!r}") from error
    except (TypeError, ValueError) as error:
        raise BadSpec(f"{_name(schema)}: {error}") from error
    if isinstance(context, BaseModel) and (lost := given.keys() - context.model_fields_set):
        raise BadSpec(
            f"{_name(schema)}.{min(lost)} is not taken by that name, but by an alias: give the model's config "
            "populate_by_name=True, so that `tuned.toml` can name it"
        )
    return context


def _alias(schema: Any, name: str) -> str:
    """What a model of pydantic's takes a field by."""
    field = schema.model_fields[name] if isinstance(schema, type) and issubclass(schema, BaseModel) else None
    alias = None if field is None else field.validation_alias or field.alias
    return alias if isinstance(alias, str) else name


def parse_value(text: str) -> Any:
    """A value of the command line: JSON if it is, else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_fix(text: str) -> tuple[str, Any]:
    """NAME=VALUE.

    Raises:
        BadSpec: it is none.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise BadSpec(f"--fix {text}: want NAME=VALUE, as in --fix model=my-model")
    return name.strip(), parse_value(value.strip())


def parse_knob(text: str) -> tuple[str, Knob | None]:
    """NAME (as it is annotated), NAME=a,b,c or NAME=LOW..HIGH[:STEP|:log].

    Raises:
        BadSpec: it is none of these.
    """
    name, equals, values = (part.strip() for part in text.partition("="))
    if not name or (equals and not values):
        raise BadSpec(f"--knob {text}: want NAME, NAME=a,b,c or NAME=0..1:0.1")
    if not equals:
        return name, None
    found = _RANGE.fullmatch(values)
    if found is None:
        return name, Choice(*(parse_value(v.strip()) for v in values.split(",")))
    low, high, how = found.groups()
    if how == "log":
        return name, Range(float(low), float(high), log=True)
    return name, Range(float(low), float(high), step=None if how is None else float(how))


def whole_if(name: str, knob: Knob) -> Knob:
    """The knob, whose bounds and step are whole if its values are.

    Raises:
        BadSpec: they are not.
    """
    if not isinstance(knob, Range) or not knob.integer:
        return knob
    off = [n for n in (knob.low, knob.high, knob.step) if n is not None and n != round(n)]
    if not off:
        return knob
    low, high = math.ceil(knob.low), math.floor(knob.high)
    how = ":log" if knob.log else f":{knob.step:g}" if knob.step is not None and knob.step == round(knob.step) else ""
    way_out = f"say {name}={low}..{high}{how}" if low <= high else "there is none between its bounds"
    raise BadSpec(f"knob {name} takes whole numbers, and {', '.join(f'{n:g}' for n in off)} is none: {way_out}")


def typed(knob: Knob, like: SchemaField | None) -> Knob:
    """A knob of the command line with the values of its field: the members of an Enum, whole numbers.

    Raises:
        BadSpec: the field has whole numbers, and the bounds or the step are none.
    """
    if like is None:
        return knob
    if isinstance(knob, Range):
        return whole_if(like.name, dataclasses.replace(knob, integer=like.whole))
    known = {label(v): v for v in _listed(like.type) or ()}
    return Choice(*(known.get(label(v), v) for v in knob.values), when=knob.when)
