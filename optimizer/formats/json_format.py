"""Compact JSON: every shape, cheap on nested records, and its end can be seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from redecode.optimizer.formats import json_repairs
from redecode.optimizer.formats.errors import MalformedAnswer, short
from redecode.optimizer.formats.form import Format, Mended
from redecode.optimizer.formats.layout import Layout
from redecode.optimizer.formats.scalars import Tree, fraction, word
from redecode.optimizer.formats.shapes import Items, Keyed, Leaf, Record, Shape


class Json(Format):
    """JSON on one line, without spaces; `spaced`: with a space after commas and colons, as Python writes it."""

    name = "json"
    title = "JSON on one line"
    rules = "No spaces between keys and values."
    shows_its_end = True

    def __init__(self, *, spaced: bool = False) -> None:
        self._comma, self._colon = (", ", ": ") if spaced else (",", ":")

    def unfit(self, shape: Record) -> str | None:
        """JSON can express everything."""
        return None

    def lay_out(self, data: Mapping[str, Any], shape: Record) -> Layout:
        """Without spaces."""
        out = Layout()
        self._write(out, data, shape)
        return out

    def tree(self, text: str, shape: Record) -> Tree:
        """Exactly one JSON document, no key twice."""
        return strict(text)

    def mend(self, text: str, shape: Record) -> Mended:
        """As `json_repairs.mend`."""
        return json_repairs.mend(text, shape)

    def _write(self, out: Layout, value: Any, shape: Shape | None) -> None:
        if value is None or isinstance(value, bool | int | float | str):
            self._leaf(out, value, shape)
            return
        if shape is not None and shape.nullable:
            out.choice()
        record = shape.fields if isinstance(shape, Record) else None
        if isinstance(value, Mapping):
            out.fixed("{")
            for n, (key, inner) in enumerate(value.items()):
                if record is None:
                    out.choice()
                out.fixed(self._comma if n else "")
                if record is not None and key in record:
                    out.fixed(f"{_text(key)}{self._colon}")
                    self._write(out, inner, record[key].shape)
                else:
                    out.fixed('"')
                    out.free(_text(key)[1:], goes_on=False)
                    out.fixed(self._colon)
                    self._write(out, inner, shape.value if isinstance(shape, Keyed) else None)
            if record is None or (isinstance(shape, Record) and shape.open):
                out.choice()
            out.fixed("}")
            return
        item = shape.item if isinstance(shape, Items) else None
        out.fixed("[")
        for n, inner in enumerate(value):
            out.choice()
            if n:
                out.fixed(self._comma)
            self._write(out, inner, item)
        out.choice()
        out.fixed("]")

    def _leaf(self, out: Layout, value: Any, shape: Shape | None) -> None:
        nullable = shape is None or shape.nullable
        if isinstance(shape, Leaf) and (shape.choices or shape.kind == "bool"):
            forms = [_text(c) if isinstance(c, str) else word(c) for c in shape.choices] or ["true", "false"]
            out.one_of(_text(value) if isinstance(value, str) else word(value), [*forms, *["null"][: int(nullable)]])
        elif value is None:
            out.free("n", goes_on=False)
            out.fixed("ull")
        elif isinstance(value, str):
            if nullable:
                out.choice()
            out.fixed('"')
            out.free(_text(value)[1:], goes_on=False)
        else:
            out.free(word(value))


def strict(text: str) -> Tree:
    """One JSON document.

    Raises:
        MalformedAnswer: it is not one, or a key is there twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_once, parse_float=fraction, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise MalformedAnswer(f"not JSON ({error or 'nested too deeply'}): {short(text)}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MalformedAnswer(f"{short(twice)} is there twice")
    return found


def _no_number(name: str) -> Any:
    raise MalformedAnswer(f"{name} is no JSON")


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
