"""Slot-filling: only what varies is generated, the frame is ours.

Two ways. `Slots`, a format like the others: the answer is the values alone, a line each, in the order of the fields.
And `fill`: a record in JSON is written by us up to a value, the model writes that value, we go on; so no name, opening
quote or bracket costs a decode step, and none can be wrong. It needs an engine that continues a text.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from redecode.optimizer.formats.errors import CannotExpress, MalformedAnswer, short
from redecode.optimizer.formats.form import FENCE, Format, Mended, Reading
from redecode.optimizer.formats.json_format import Json
from redecode.optimizer.formats.layout import Layout
from redecode.optimizer.formats.scalars import Tree, in_place
from redecode.optimizer.formats.shapes import Leaf, Record, Shape
from redecode.optimizer.formats.text_format import leaf_on_line
from redecode.optimizer.formats.wrapping import out_of_fence

M = TypeVar("M", bound=BaseModel)


Path = tuple[str, ...]


def _leaves(shape: Shape, path: Path = (), seen: frozenset[type] = frozenset()) -> list[tuple[Path, Leaf]]:
    """Every value that a record of fixed structure has, in order.

    Raises:
        CannotExpress: its structure is not fixed.
    """
    if isinstance(shape, Leaf):
        return [(path, shape)]
    where = ".".join(path) or "it"
    if not isinstance(shape, Record) or shape.nullable or shape.open or shape.model in seen:
        raise CannotExpress(f"{where} has no fixed number of values, so there is no frame for it")
    out = []
    for name, member in shape.fields.items():
        out += _leaves(member.shape, (*path, name), seen | {shape.model})
    return out


class Slots(Format):
    """The values alone, a line each."""

    name = "slots"
    title = "the values alone, one on each line, in this order"
    rules = "A value with a line break goes in double quotes, the break as \\n; no value: null."

    def unfit(self, shape: Record) -> str | None:
        """Only records of a fixed number of values."""
        try:
            _leaves(shape)
        except CannotExpress as error:
            return str(error)
        return None

    def lay_out(self, data: Mapping[str, Any], shape: Record) -> Layout:
        """A line for each value."""
        out = Layout()
        for n, (path, leaf) in enumerate(_leaves(shape)):
            value: Any = data
            for name in path:
                value = value[name]
            out.fixed("\n" if n else "")
            leaf_on_line(out, value, leaf)
        return out

    def tree(self, text: str, shape: Record) -> Tree:
        """As many lines as there are values."""
        slots = _leaves(shape)
        lines = text.removesuffix("\n").split("\n")
        if len(lines) != len(slots):
            raise MalformedAnswer(f"{len(lines)} lines where there are {len(slots)} values: {short(text)}")
        out: dict[str, Any] = {}
        for line, (path, _) in zip(lines, slots, strict=True):
            at = out
            for name in path[:-1]:
                at = at.setdefault(name, {})
            at[path[-1]] = in_place(line.strip(" "))
        return out

    def mend(self, text: str, shape: Record) -> Mended:
        """A fence taken off; nothing else can be known for sure where no line says what it is."""
        inner, fenced = out_of_fence(text)
        return Mended(self.tree(inner, shape), (FENCE,) if fenced else ())


@dataclass(frozen=True, slots=True)
class Slot:
    """What the engine is to write next.

    Attributes:
        prefix: the answer so far; the model continues it.
        stop: the value ends before the first of these.
    """

    path: tuple[str, ...]
    prefix: str
    stop: tuple[str, ...]


def fill(model: type[M], *, spaced: bool = False) -> Generator[Slot, str, Reading[M]]:
    """Have a record filled in, value by value, in a frame of JSON.

    Yields what is to be continued; send it what the engine wrote (without the stop). Returns the record
    (`StopIteration`'s value). The same for engines that are awaited and engines that are not.

    Args:
        spaced: a space behind commas and colons, for models that know JSON so.

    Raises:
        CannotExpress: the number of values is not fixed.
        MalformedAnswer: a value is none.
    """
    form = Json(spaced=spaced)
    shape = form.shape(model)
    leaves = dict(_leaves(shape))
    comma, colon = (", ", ": ") if spaced else (",", ":")
    out = ""
    previous: tuple[str, ...] = ()
    for n, (path, leaf) in enumerate(leaves.items()):
        shared = next((i for i, (a, b) in enumerate(zip(previous, path, strict=False)) if a != b), 0)
        out += "}" * max(len(previous) - shared - 1, 0) + (comma if n else "{")
        for at, name in enumerate(path[shared:], shared):
            out += f'"{name}"{colon}' + ("{" if at < len(path) - 1 else "")
        if leaf.kind == "text" and not leaf.nullable:
            out += '"'
            value = yield Slot(path, out, ('"',))
            while _odd_backslashes(value):  # it stopped at an escaped quote
                value += '"' + (yield Slot(path, out + value + '"', ('"',)))
            out += f'{_one_line(value)}"'
        else:
            out += (yield Slot(path, out, (",", "}", "\n"))).strip()
        previous = path
    out += "}" * len(previous)
    return Reading(form.parse(out, model))


def _one_line(text: str) -> str:
    """What is in the quotes of a JSON text, its line breaks escaped, which a frame on one line needs."""
    return "".join(ch if ch >= " " else json.dumps(ch)[1:-1] for ch in text)


def _odd_backslashes(text: str) -> bool:
    return (len(text) - len(text.rstrip("\\"))) % 2 == 1
