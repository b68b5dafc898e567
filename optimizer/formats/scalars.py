"""Values as words: when they may stand bare, when they must be quoted, how a word is read where a type is expected."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from redecode.optimizer.formats.errors import CannotExpress, MalformedAnswer, short
from redecode.optimizer.formats.shapes import NULLS, Anything, Items, Keyed, Leaf, Record, Shape

_ALWAYS_NULL = frozenset({"", "~", "null"})
BOOLEANS = {"true": True, "false": False}
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_INT = re.compile(r"-?(?:0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value as it stands in an answer; what it is, its place says. `quoted`: so it is a text, whatever it says."""

    text: str
    quoted: bool = False


class Rounded(float):
    """A number as a float, which is another one than was written; `text` is what was."""

    text: str


def fraction(text: str) -> float:
    """JSON's number with a fraction or an exponent, for a `Decimal` not to lose what a float does not hold."""
    number = Rounded(text)
    number.text = text
    return number if math.isfinite(number) and Decimal(repr(float(number))) != Decimal(text) else float(number)


Tree = Any
"""What a parser makes of an answer: dicts, lists, and leaves that are `Scalar` or already typed (JSON's)."""


def stands_bare(text: str) -> bool:
    """Whether a text can stand without quotes where a line, or a cell, holds one value."""
    return (
        text.isprintable()
        and text == text.strip()
        and text.lower() not in NULLS
        and text[0] not in "\"'`"
        and text[-1] not in "\"'`,"
        and "\\" not in text
    )


def quoted(text: str, *, astral: str = "\\u{:04x}\\u{:04x}") -> str:
    """A text in double quotes, JSON's escapes; what does not print is escaped, too.

    Args:
        astral: how to escape beyond U+FFFF: JSON's pair of surrogates; YAML has a way of its own.
    """
    out = []
    for ch in json.dumps(text, ensure_ascii=False):
        if ch.isprintable():
            out.append(ch)
        elif ord(ch) <= 0xFFFF:
            out.append(f"\\u{ord(ch):04x}")
        else:
            at = ord(ch) - 0x10000
            out.append(astral.format(0xD800 + (at >> 10), 0xDC00 + (at & 0x3FF)))
    return "".join(out)


def unquoted(text: str) -> str:
    """The text in double quotes.

    Raises:
        MalformedAnswer: it is not one text in double quotes, or says what cannot be said in Unicode.
    """
    try:
        found = json.loads(text, strict=False)
    except ValueError as error:
        raise MalformedAnswer(f"bad quoting: {short(text)}") from error
    if not isinstance(found, str) or any(0xD800 <= ord(ch) <= 0xDFFF for ch in found):
        raise MalformedAnswer(f"bad quoting: {short(text)}")
    return found


def word(value: float | None) -> str:
    """Anything but a text (a number, a truth value, nothing), written; the same in every format.

    Raises:
        CannotExpress: a number that JSON does not have.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise CannotExpress(f"{value} cannot be written: no format here has infinity or not-a-number")
    return json.dumps(value)


def in_place(text: str) -> Scalar:
    """The value on a line or in a cell: quoted if it begins with a double quote.

    Raises:
        MalformedAnswer: quotes that do not close, or a bare text that is never written bare (`stands_bare`).
    """
    if text.startswith('"'):
        return Scalar(unquoted(text), quoted=True)
    if text and not stands_bare(text) and text.lower() not in NULLS:
        raise MalformedAnswer(f"quotes or a comma where none belong: {short(text)}")
    return Scalar(text)


def typed(tree: Tree, shape: Shape, where: str = "the answer", *, complete: bool = False) -> Any:
    """Plain data of a shape, for pydantic to judge.

    Args:
        complete: also optional fields must have been written (after a repair, absence may be loss).

    Raises:
        MalformedAnswer: it is of another shape, lacks a field, or has one that is unknown.
    """
    if shape.nullable and _nothing(tree, shape, where):
        return None
    match shape:
        case Record():
            return _record(tree, shape, where, complete=complete)
        case Items():
            if tree == Scalar("[]"):
                return []
            if not isinstance(tree, list):
                raise MalformedAnswer(f"{where} is not a list")
            return [typed(t, shape.item, f"{where}[{n}]", complete=complete) for n, t in enumerate(tree)]
        case Keyed():
            if not isinstance(tree, dict):
                raise MalformedAnswer(f"{where} is not an object")
            return {k: typed(t, shape.value, f"{where}.{k}", complete=complete) for k, t in tree.items()}
        case Anything():
            return tree
        case Leaf():
            return _leaf(tree, shape, where)


def _record(tree: Tree, shape: Record, where: str, *, complete: bool) -> Any:
    if not isinstance(tree, dict):
        raise MalformedAnswer(f"{where} has no fields")
    unknown = [name for name in tree if name not in shape.fields]
    if unknown and not shape.open:
        raise MalformedAnswer(f"{where} has a field {short(str(unknown[0]))} that is unknown")
    out = {name: tree[name] for name in unknown}
    for name, member in shape.fields.items():
        if name in tree:
            out[name] = typed(tree[name], member.shape, name, complete=complete)
        elif member.required or complete:
            raise MalformedAnswer(f"{where} has no '{name}'")
    return out


def _null(scalar: Scalar) -> bool:
    return not scalar.quoted and scalar.text.lower() in NULLS


def _nothing(tree: Tree, shape: Shape, where: str) -> bool:
    """Whether there is no value where there need be none.

    A bare `null`, `~`, or no word at all, always says so, being what formats write (a choice of that name they quote).
    `none` and `nil` are a choice where there is one that is written the same.

    Raises:
        MalformedAnswer: `None` where a choice is `none`.
    """
    if not isinstance(tree, Scalar):
        return tree is None
    if not _null(tree):
        return False
    choices = shape.choices if isinstance(shape, Leaf) else ()
    if tree.text.lower() in _ALWAYS_NULL or all(tree.text.lower() != str(choice).lower() for choice in choices):
        return True
    if tree.text not in choices:
        raise MalformedAnswer(f"{where} may be one of its choices, or no value: {short(tree.text)}")
    return False


def _leaf(tree: Tree, shape: Leaf, where: str) -> Any:
    if isinstance(tree, dict | list):
        raise MalformedAnswer(f"{where} is not one value")
    if not isinstance(tree, Scalar):
        if isinstance(tree, bool) and shape.kind in ("int", "float"):
            raise MalformedAnswer(f"{where} is not a number: {tree}")
        return Decimal(tree.text) if isinstance(tree, Rounded) and shape.kind == "text" else tree
    if _null(tree) and (not tree.text or tree.text not in shape.choices):
        raise MalformedAnswer(f"{where} has no value")
    if shape.kind == "text":
        return tree.text
    if shape.kind == "bool" and tree.text.lower() in BOOLEANS:
        return BOOLEANS[tree.text.lower()]
    if shape.kind == "int" and _INT.fullmatch(tree.text):
        return int(tree.text)
    if shape.kind == "float" and NUMBER.fullmatch(tree.text):
        return float(tree.text)
    raise MalformedAnswer(f"{where} is no {shape.kind}: {short(tree.text)}")
