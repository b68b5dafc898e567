"""The shape of a pydantic model, as far as formats care: records, lists, keyed values, leaves.

What a format can express depends on the shape alone, and so does how a bare word is read: `01234` is a text in a
field for text and nothing in a field for whole numbers. Guessing types from looks is what makes YAML's `no` false.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, RootModel, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from redecode.optimizer.formats.errors import CannotExpress

Kind = Literal["text", "int", "float", "bool"]
NULLS = frozenset({"", "~", "null", "none", "nil"})
"""Words for nothing, in small letters."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value.

    Attributes:
        choices: the only ones there are, if the type names them.
        spelled: a text that says something else, a date say: no word for nothing can be one.
    """

    kind: Kind
    nullable: bool = False
    choices: tuple[str | int, ...] = ()
    spelled: bool = False

    @property
    def any_text(self) -> bool:
        """Whether it may say anything, also `null`."""
        return self.kind == "text" and not self.choices and not self.spelled


@dataclass(frozen=True, slots=True)
class Items:
    """Any number of the same."""

    item: Shape
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Keyed:
    """Values under keys that the model chooses."""

    value: Shape
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Anything:
    """What only JSON can say, and only pydantic can read: unions, tuples of fixed length. `what`: the type's name."""

    what: str
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """Named fields, always in the same order."""

    model: type[BaseModel]
    nullable: bool = False

    @property
    def fields(self) -> dict[str, Member]:
        """By the name on the wire (the alias, where there is one)."""
        return _members(self.model)

    @property
    def open(self) -> bool:
        """Whether the model keeps fields that it does not name."""
        return self.model.model_config.get("extra") == "allow"


@dataclass(frozen=True, slots=True)
class Member:
    """A field of a record."""

    shape: Shape
    required: bool
    description: str | None = None


Shape = Leaf | Items | Keyed | Anything | Record


@cache
def record_of(model: type[BaseModel]) -> Record:
    """The shape of a model.

    Raises:
        CannotExpress: it has no named fields.
    """
    if issubclass(model, RootModel) or not model.model_fields:
        raise CannotExpress(f"{model.__name__} has no named fields; give a model that has")
    return Record(model)


@cache
def _members(model: type[BaseModel]) -> dict[str, Member]:
    out = {}
    for name, field in model.model_fields.items():
        written, read = field.serialization_alias or name, field.validation_alias or name
        if written != read:
            raise CannotExpress(
                f"{model.__name__}.{name} is written as {written!r} and read as {read!r}; use one alias"
            )
        out[written] = Member(shape_of(field.annotation), field.is_required(), field.description)
    return out


def shape_of(annotation: Any) -> Shape:
    """The shape of a type."""
    if hasattr(annotation, "__value__"):  # type X = ...
        annotation = annotation.__value__
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return shape_of(arguments[0])
    if origin in (Union, types.UnionType):
        return _union(annotation, arguments)
    if origin is Literal or (isinstance(annotation, type) and issubclass(annotation, Enum)):
        return _choice(annotation)
    if origin in (list, set, frozenset, Sequence) or (origin is tuple and arguments[1:] == (...,)):
        return Items(shape_of(arguments[0]))
    if origin in (dict, Mapping) and arguments[0] is str:
        return Keyed(shape_of(arguments[1]))
    if isinstance(annotation, type):
        if issubclass(annotation, BaseModel) and not issubclass(annotation, RootModel):
            return Record(annotation)
        plain: dict[type, Kind] = {str: "text", bool: "bool", int: "int", float: "float"}
        if annotation in plain:
            return Leaf(plain[annotation])
    return _by_schema(annotation)


def _union(annotation: Any, arguments: tuple[Any, ...]) -> Shape:
    some = [a for a in arguments if a is not type(None)]
    nullable = len(some) < len(arguments)
    if len(some) == 1:
        return replace(shape_of(some[0]), nullable=True)
    return Anything(str(annotation), nullable)


def _choice(annotation: Any) -> Shape:
    named = isinstance(annotation, type) and issubclass(annotation, Enum)
    values = tuple(m.value for m in annotation) if named else get_args(annotation)
    some = tuple(v for v in values if v is not None)
    nullable = len(some) < len(values)
    if all(type(v) is str for v in some):
        return Leaf("text", nullable, some)
    if all(type(v) is int for v in some):
        return Leaf("int", nullable, some)
    return Anything(str(annotation), nullable)


def _by_schema(annotation: Any) -> Shape:
    """Dates, decimals, addresses of mail and the like: what pydantic writes them as."""
    try:
        adapter = TypeAdapter(annotation)
        schema = adapter.json_schema(mode="serialization")
    except (PydanticSchemaGenerationError, PydanticUserError):
        return Anything(str(annotation))
    kinds: dict[str, Kind] = {"string": "text", "integer": "int", "number": "float", "boolean": "bool"}
    kind = kinds.get(str(schema.get("type")))
    if kind is None:
        return Anything(str(annotation))
    return Leaf(kind, spelled=kind == "text" and not any(_takes(adapter, text) for text in NULLS))


def _takes(adapter: TypeAdapter[Any], text: str) -> bool:
    try:
        adapter.validate_python(text)
    except Exception:  # whatever a type of the user's raises
        return False
    return True


def names_in(shape: Shape, seen: frozenset[type] = frozenset()) -> dict[str, list[Shape]]:
    """Every field name in a shape, at any depth, with the shapes it has."""
    out: dict[str, list[Shape]] = {}
    if isinstance(shape, Record) and shape.model not in seen:
        for name, member in shape.fields.items():
            out.setdefault(name, []).append(member.shape)
            for inner, shapes in names_in(member.shape, seen | {shape.model}).items():
                out.setdefault(inner, []).extend(shapes)
    elif isinstance(shape, Items):
        return names_in(shape.item, seen)
    elif isinstance(shape, Keyed):
        return names_in(shape.value, seen)
    return out


def why_not(
    shape: Shape, allowed: tuple[type, ...], where: str = "it", seen: frozenset[type] = frozenset()
) -> str | None:
    """Why a shape is more than these kinds of shape; `None` if it is not. A leaf is always allowed."""
    if isinstance(shape, Leaf):
        return None
    if not isinstance(shape, allowed):
        kind = {Items: "a list", Keyed: "a dict", Record: "a record"}
        what = f"of type {shape.what}" if isinstance(shape, Anything) else kind[type(shape)]
        return f"{where} is {what}"
    if isinstance(shape, Items):
        return why_not(shape.item, allowed, f"an item of {where}", seen)
    if isinstance(shape, Keyed):
        return why_not(shape.value, allowed, f"a value of {where}", seen)
    assert isinstance(shape, Record)
    if shape.open:
        return f"{where} may have fields that its model does not name"
    if shape.model in seen:
        return None
    found = (why_not(m.shape, allowed, f"'{name}'", seen | {shape.model}) for name, m in shape.fields.items())
    return next((why for why in found if why), None)
