"""What every format can do, and reading an answer: strictly first, mended if that fails, by pydantic always."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from redecode.optimizer.formats.endings import cut_off
from redecode.optimizer.formats.errors import CannotExpress, MalformedAnswer, short
from redecode.optimizer.formats.layout import Layout
from redecode.optimizer.formats.misread import refuse_halves, refuse_misread
from redecode.optimizer.formats.scalars import Tree, typed
from redecode.optimizer.formats.shapes import Items, Keyed, Leaf, Record, Shape, record_of
from redecode.optimizer.formats.wrapping import ENDS_A_THOUGHT, out_of_fence, out_of_thought, words_behind_fence

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Mended:
    """What a repair made of an answer.

    Attributes:
        steps: what it did, in words, in order.
        behind: the words behind the record.
    """

    tree: Tree
    steps: tuple[str, ...]
    behind: str = ""


@dataclass(frozen=True, slots=True)
class Reading(Generic[M]):
    """A record that was read. `repairs`: what had to be mended; empty of an answer that was as it should be."""

    record: M
    repairs: tuple[str, ...] = ()


class Format(ABC):
    """A way to write records.

    Attributes:
        name: what a knob calls it.
        title: what a model is told.
        rules: sentences for the model.
        shows_its_end: whether a text that was cut off can be told from a whole one.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    rules: ClassVar[str] = ""
    shows_its_end: ClassVar[bool] = False

    # -- what formats differ in --

    @abstractmethod
    def unfit(self, shape: Record) -> str | None:
        """Why it cannot express records of a shape, in words; `None` if it can."""

    @abstractmethod
    def lay_out(self, data: Mapping[str, Any], shape: Record) -> Layout:
        """Write plain data."""

    @abstractmethod
    def tree(self, text: str, shape: Record) -> Tree:
        """Read an answer that is as it should be.

        Raises:
            MalformedAnswer: it is not.
        """

    @abstractmethod
    def mend(self, text: str, shape: Record) -> Mended:
        """Read an answer that is not as it should be, where there is but one way to understand it.

        Raises:
            MalformedAnswer: there is none, or several.
        """

    def rules_for(self, shape: Record) -> str:
        """`rules`, and what records of this shape need besides."""
        return self.rules

    # -- what they have in common --

    def fits(self, model: type[BaseModel]) -> bool:
        """Whether it can express every record of a model."""
        return self.unfit(record_of(model)) is None

    def shape(self, model: type[BaseModel]) -> Record:
        """The shape of a model.

        Raises:
            CannotExpress: it is more than this format can express.
        """
        shape = record_of(model)
        why = self.unfit(shape)
        if why is not None:
            raise CannotExpress(f"{self.name} cannot express {model.__name__}: {why}; JSON can")
        return shape

    def render(self, record: BaseModel | Mapping[str, Any]) -> str:
        """Write a record; of a plain one the shape is taken from its values.

        Raises:
            CannotExpress: the format has no way to write it.
        """
        return self.laid_out(record).text

    def laid_out(self, record: BaseModel | Mapping[str, Any]) -> Layout:
        """As `render`, with what in it is forced."""
        if not isinstance(record, BaseModel):
            record = model_of(record).model_validate(dict(record))
        return self.lay_out(record.model_dump(mode="json", by_alias=True), self.shape(type(record)))

    def instructions(self, model: type[BaseModel], example: BaseModel | None = None) -> str:
        """What to tell a model that is to answer in this format.

        Args:
            example: a record to show; by default one that has its fields' names for values.
        """
        shape = self.shape(model)
        lines = [f"Answer in {self.title} and add nothing else. {self.rules_for(shape)}".strip()]
        told = [f"- {name}: {m.description}" for name, m in shape.fields.items() if m.description]
        shown = self.render(example) if example is not None else self.lay_out(_specimen(shape), shape).text
        return "\n".join([*lines, *told, "Example:" if example is not None else "Form:", shown])

    def parse(self, text: str, model: type[M]) -> M:
        """Read an answer that is as it should be; forgives nothing.

        Raises:
            MalformedAnswer: it is not.
        """
        return _judged(self.tree(text, self.shape(model)), self.shape(model), model)

    def read(self, text: str, model: type[M], *, finish_reason: str | None = "stop") -> Reading[M]:
        """Read an answer, mending it if need be. Never guesses: what could mean two records is refused.

        Args:
            finish_reason: of the FM call, in its provider's words. An answer that was cut off (`None`: the stream broke
                off; or any word but those for a good end, see `endings.py`) is read only in a format whose end can be
                seen: in another its last value may be half a value. Nor is it read if it went on behind the record:
                that may have been a draft.

        Raises:
            MalformedAnswer: it cannot be read, or only by guessing. Ask again (`reask`).
        """
        shape = self.shape(model)
        cut = cut_off(finish_reason, shows_its_end=self.shows_its_end)
        try:
            return Reading(_judged(self.tree(text, shape), shape, model))
        except MalformedAnswer as error:
            first = error
        answer, thought = out_of_thought(text)
        inner, fenced = out_of_fence(answer)
        around = ((PROSE,) if thought else ()) + ((FENCE,) if fenced else ())
        _last_word(words_behind_fence(answer), cut=cut)
        if around:
            with suppress(MalformedAnswer):
                return Reading(_judged(self.tree(inner, shape), shape, model), around)
        try:
            mended = self.mend(answer, shape)
        except RecursionError as error:
            raise MalformedAnswer("it is nested too deeply") from error
        _last_word(mended.behind, cut=cut)
        steps = tuple(dict.fromkeys((*around, *mended.steps)))
        if not steps:
            raise first
        loosened = any(step not in WRAPPINGS for step in steps)
        return Reading(_judged(mended.tree, shape, model, complete=loosened), steps)


FENCE, PROSE, ENVELOPE = "code fence taken off", "words around it taken off", "envelope taken off"
WRAPPINGS = frozenset({FENCE, PROSE})
"""Repairs that leave the record itself as it was written."""


def _last_word(behind: str, *, cut: bool) -> None:
    """Refuse a record that may have been a draft, by the words behind it."""
    if behind and cut:
        raise MalformedAnswer(f"it was cut off in words behind the record, which may be a draft: {short(behind)}")
    if ENDS_A_THOUGHT.search(behind):
        raise MalformedAnswer("the record is in a thought, and none is behind it")


def _judged(tree: Tree, shape: Record, model: type[M], *, complete: bool = False) -> M:
    data = typed(tree, shape, complete=complete)
    refuse_halves(data)
    try:
        record = model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the answer"
        raise MalformedAnswer(f"{where}: {first['msg']}") from error
    refuse_misread(data, record)
    return record


def opened(tree: Tree, shape: Record) -> tuple[Tree, list[str]]:
    """A record taken out of what models like to put around it: `{"contact": {…}}`, `[{…}]`."""
    steps = []
    if isinstance(tree, list) and len(tree) == 1 and isinstance(tree[0], dict):
        tree = tree[0]
        steps.append(ENVELOPE)
    if isinstance(tree, dict) and len(tree) == 1:
        ((name, inner),) = tree.items()
        if name not in shape.fields and isinstance(inner, dict):
            tree = inner
            steps.append(ENVELOPE)
    return tree, steps


@cache
def _model(name: str, fields: tuple[tuple[str, Any], ...]) -> type[BaseModel]:
    found: dict[str, Any] = {key: (kind, ...) for key, kind in fields}
    return create_model(name, __config__=ConfigDict(extra="forbid"), **found)


def model_of(record: Mapping[str, Any], name: str = "Record") -> type[BaseModel]:
    """A pydantic model that a plain record is of: texts, numbers, records, lists of one kind of thing.

    Raises:
        CannotExpress: a key that is no name, an item that is unlike the others, a value of another type.
    """
    fields = []
    for key, value in record.items():
        if not isinstance(key, str) or not key.isidentifier() or key.startswith("_"):
            raise CannotExpress(f"{key!r} is no name for a field; give a pydantic model with an alias")
        fields.append((key, _type_of(value, key)))
    if not fields:
        raise CannotExpress("a record without fields says nothing")
    return _model(name.capitalize(), tuple(fields))


def _type_of(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return model_of(value, key)
    if isinstance(value, list | tuple):
        kinds = {_type_of(item, key) for item in value}
        if len(kinds) > 1:
            raise CannotExpress(f"the items of '{key}' are not of one kind; give a pydantic model")
        return list[kinds.pop() if kinds else str]  # type: ignore[misc]
    if value is None:
        return str | None
    if type(value) in (str, int, float, bool):
        return type(value)
    raise CannotExpress(f"'{key}' is of type {type(value).__name__}; give a pydantic model")


def _specimen(shape: Shape, name: str = "…", seen: frozenset[type] = frozenset()) -> Any:
    """A record that shows the form: names for texts."""
    match shape:
        case Record():
            deeper = seen | {shape.model}
            if shape.model in seen:
                return None
            return {n: _specimen(m.shape, n, deeper) for n, m in shape.fields.items()}
        case Items():
            one = _specimen(shape.item, name, seen)
            return [] if one is None else [one]
        case Keyed():
            return {"key": _specimen(shape.value, name, seen)}
        case Leaf():
            if shape.choices:
                return shape.choices[0]
            samples: dict[str, Any] = {"text": f"<{name}>", "int": 0, "float": 0.5, "bool": True}
            return samples[shape.kind]
    return None
