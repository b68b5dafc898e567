"""Slot-filling: only what varies is generated, the frame is ours.

Two ways. `Slots`, a format like the others: the answer is the values alone, a line each, in the order of the fields.
And `fill`: a record in JSON is written by us up to a value, the model writes that value, we go on; so no name, opening
quote or bracket costs a decode step, and none can be wrong. It needs an engine that continues a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel

from redecode.optimizer.formats.endings import cut_off
from redecode.optimizer.formats.errors import CannotExpress, MalformedAnswer, short
from redecode.optimizer.formats.form import FENCE, Format, Mended, Reading
from redecode.optimizer.formats.json_format import Json
from redecode.optimizer.formats.layout import Layout
from redecode.optimizer.formats.reask import Answer
from redecode.optimizer.formats.scalars import Scalar, Tree, in_place, stands_bare
from redecode.optimizer.formats.shapes import Leaf, Record, Shape
from redecode.optimizer.formats.text_format import leaf_on_line
from redecode.optimizer.formats.value_repairs import on_line
from redecode.optimizer.formats.wrapping import out_of_fence

M = TypeVar("M", bound=BaseModel)


Path = tuple[str, ...]
NAMES, NUMBERS, BULLETS = "names before values taken off", "numbers before values taken off", "bullets taken off"
_NUMBER = re.compile(r"\(?([0-9]{1,4})(?:\)\s*|[.:]\s+)(?=\S)")
_BULLET = re.compile(r"[-*•+]\s+(?=\S)")


def leaves_of(shape: Shape, path: Path = (), seen: frozenset[type] = frozenset()) -> list[tuple[Path, Leaf]]:
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
        out += leaves_of(member.shape, (*path, name), seen | {shape.model})
    return out


class Slots(Format):
    """The values alone, a line each."""

    name = "slots"
    title = "the values alone, one on each line, in this order"
    rules = "A value with a line break goes in double quotes, the break as \\n; no value: null."

    def unfit(self, shape: Record) -> str | None:
        """Only records of a fixed number of values."""
        try:
            leaves_of(shape)
        except CannotExpress as error:
            return str(error)
        return None

    def lay_out(self, data: Mapping[str, Any], shape: Record) -> Layout:
        """A line for each value; a text that begins as a name or a number of a line might is in quotes."""
        out, marks = Layout(), _marks(shape)
        for n, (path, leaf) in enumerate(leaves_of(shape)):
            value: Any = data
            for name in path:
                value = value[name]
            out.fixed("\n" if n else "")
            leaf_on_line(out, value, leaf, marks.bare)
        return out

    def tree(self, text: str, shape: Record) -> Tree:
        """As many lines as there are values, and nothing before these."""
        lines = _lines(text, shape)
        _, steps = _marks(shape).taken_off(lines)
        if steps:
            raise MalformedAnswer(f"names, numbers or bullets before the values: {short(text)}")
        return _framed(lines, shape, in_place)

    def mend(self, text: str, shape: Record) -> Mended:
        """A fence taken off, and what all lines have before their values (names, numbers, bullets); then the values."""
        inner, fenced = out_of_fence(text)
        lines, marks = _marks(shape).taken_off(_lines(inner, shape))
        steps = dict.fromkeys(((FENCE,) if fenced else ()) + marks)
        tree = _framed(lines, shape, lambda line: on_line(line, steps))
        return Mended(tree, tuple(steps))


def _lines(text: str, shape: Record) -> list[str]:
    slots = leaves_of(shape)
    lines = text.removesuffix("\n").split("\n")
    if len(lines) != len(slots):
        raise MalformedAnswer(f"{len(lines)} lines where there are {len(slots)} values: {short(text)}")
    return [line.strip(" ") for line in lines]


def _framed(lines: list[str], shape: Record, read: Callable[[str], Scalar]) -> Tree:
    out: dict[str, Any] = {}
    for line, (path, _) in zip(lines, leaves_of(shape), strict=True):
        at = out
        for name in path[:-1]:
            at = at.setdefault(name, {})
        at[path[-1]] = read(line)
    return out


class _Marks:
    """What models put before values: `city: `, `1. `, `- `. Where one line alone begins so, it is a part of its value.

    To be read back as they are, texts of ours that begin so are in quotes.
    """

    def __init__(self, shape: Record) -> None:
        self._slots: dict[str, set[int]] = {}
        for n, (path, _) in enumerate(leaves_of(shape)):
            for name in (path[-1], ".".join(path)):
                self._slots.setdefault(_spoken(name), set()).add(n)
        names = "|".join(re.escape(n).replace(r"\ ", "[ _]") for n in sorted(self._slots, key=len, reverse=True))
        sign = r"\*\*|__|[`']"
        begins = rf"(?P<open>{sign})?(?P<a>{names})(?P<closed>{sign})?\s*[:=](?!//)(?(open)(?P<behind>\*\*|__)?)\s*"
        self._name = re.compile(rf"{begins}|<(?P<b>{names})>\s*(?=\S)", re.IGNORECASE)

    def bare(self, text: str) -> bool:
        """Whether a text needs no quotes."""
        return stands_bare(text) and not self._marked(text)

    def _marked(self, text: str) -> bool:
        return any(mark.match(text) for mark in (_NUMBER, _BULLET, self._name))

    def taken_off(self, lines: list[str]) -> tuple[list[str], tuple[str, ...]]:
        """The values alone, in order, and what was done for that.

        Raises:
            MalformedAnswer: some lines are marked and some are not, or their marks do not tell the order.
        """
        steps = []
        for step, take_off in ((NUMBERS, _unnumbered), (BULLETS, _unbulleted), (NAMES, self._unnamed)):
            bare = take_off(lines)
            if bare is not None:
                lines = bare
                steps.append(step)
        if steps and any(self._marked(line) for line in lines):
            raise MalformedAnswer("what is before a value, and where it begins, is not clear")
        return lines, tuple(steps)

    def _unnamed(self, lines: list[str]) -> list[str] | None:
        found = [self._name.match(line) for line in lines]
        slots = [self._slots.get(_spoken(m["a"] or m["b"]), set()) if m else set() for m in found]
        own = [n in names for n, names in enumerate(slots)]
        if not any(own) and sum(map(bool, slots)) < 2:  # a city that says `city: c` is none: that alone is a mark
            return None
        each_once = all(slots) and sorted(n for names in slots for n in names) == list(range(len(lines)))
        if not all(own) and not each_once:
            raise MalformedAnswer("names before some values, or not each one's")
        out = list(lines)
        for n, (line, m, names) in enumerate(zip(lines, found, slots, strict=True)):
            assert m is not None
            if bool(m["open"]) != bool(m["closed"] or m["behind"]):
                raise MalformedAnswer(f"where the name ends is not clear: {short(line)}")
            value = line[m.end() :]
            if m["b"]:
                value = value.removesuffix(f"</{m['b']}>")
            out[n if n in names else min(names)] = value.strip()
        return out


def _unnumbered(lines: list[str]) -> list[str] | None:
    found = [_NUMBER.match(line) for line in lines]
    first = 0 if found[0] and int(found[0][1]) == 0 else 1
    numbered = sum(m is not None and int(m[1]) == n for n, m in enumerate(found, first))
    if len(lines) == 1 or (numbered < 2 and not all(found)):
        return None
    if numbered < len(lines):
        raise MalformedAnswer("numbers before some values, or not in order")
    return [line[m.end() :] for line, m in zip(lines, found, strict=True) if m]


def _unbulleted(lines: list[str]) -> list[str] | None:
    found = [_BULLET.match(line) for line in lines]
    if sum(m is not None for m in found) < 2:
        return None
    if not all(found):
        raise MalformedAnswer("bullets before some values")
    return [line[m.end() :] for line, m in zip(lines, found, strict=True) if m]


def _spoken(name: str) -> str:
    """A name as models write it before a value, in small letters."""
    return name.lower().replace("_", " ")


@cache
def _marks(shape: Record) -> _Marks:
    return _Marks(shape)


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


def fill(model: type[M], *, spaced: bool = False) -> Generator[Slot, str | Answer, Reading[M]]:
    """Have a record filled in, value by value, in a frame of JSON.

    Yields what is to be continued; send it what the engine wrote (without the stop), as an `Answer` if it may have run
    into a limit: half a value cannot be told from a whole one. Returns the record (`StopIteration`'s value). The same
    for engines that are awaited and engines that are not.

    Args:
        spaced: a space behind commas and colons, for models that know JSON so.

    Raises:
        CannotExpress: the number of values is not fixed.
        MalformedAnswer: a value is none, or was cut off.
    """
    form = Json(spaced=spaced)
    shape = form.shape(model)
    leaves = dict(leaves_of(shape))
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
            value = _written((yield Slot(path, out, ('"',))))
            while _odd_backslashes(value):  # it stopped at an escaped quote
                value += '"' + _written((yield Slot(path, out + value + '"', ('"',))))
            out += f'{_one_line(value)}"'
        else:
            out += _written((yield Slot(path, out, (",", "}", "\n")))).strip()
        previous = path
    out += "}" * len(previous)
    return Reading(form.parse(out, model))


def _written(answer: str | Answer) -> str:
    if isinstance(answer, str):
        return answer
    cut_off(answer.finish_reason, shows_its_end=False)
    return answer.text


def _one_line(text: str) -> str:
    """What is in the quotes of a JSON text, its line breaks escaped, which a frame on one line needs."""
    return "".join(ch if ch >= " " else json.dumps(ch)[1:-1] for ch in text)


def _odd_backslashes(text: str) -> bool:
    return (len(text) - len(text.rstrip("\\"))) % 2 == 1
