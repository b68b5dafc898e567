"""`name: value`, a line each; below a record `address.city: …`, of a list `tags[1]: …`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from redecode.optimizer.formats.errors import MalformedAnswer, short
from redecode.optimizer.formats.form import FENCE, PROSE, Format, Mended
from redecode.optimizer.formats.layout import Layout
from redecode.optimizer.formats.scalars import Scalar, Tree, in_place, quoted, stands_bare, word
from redecode.optimizer.formats.shapes import Items, Leaf, Record, Shape, names_in, why_not
from redecode.optimizer.formats.value_repairs import on_line
from redecode.optimizer.formats.wrapping import out_of_fence

_NAME = re.compile(r"[^\W\d][\w -]*")
_PATH = re.compile(r"[^\W\d][\w -]*(?:\[[0-9]{1,5}\])*(?:\.[^\W\d][\w -]*(?:\[[0-9]{1,5}\])*)*")
_STEP = re.compile(r"([^.\[\]]+)|\[([0-9]+)\]")
_ITEM = re.compile(r"(?<![\w.])([\w.]+)\[[0-9]+\][\w.\[\]]*\s*[:=]")
_LOOSE = re.compile(
    r"^\s*(?:[-*•]\s+)?(\*\*|__|`)?(?P<path>[^:=*`]+?)\s*(?(1)(?:\*\*|__|`)?)\s*[:=](?(1)(?:\*\*|__|`)?)(?P<rest>.*)$"
)


def leaf_on_line(out: Layout, value: Any, shape: Leaf, bare: Callable[[str], bool] = stands_bare) -> None:
    """A value that has the rest of a line, or a cell, to itself. `bare`: which texts need no quotes there."""
    if value == "" or (isinstance(value, str) and not bare(value)):
        written = quoted(value)
    else:
        written = value if isinstance(value, str) else word(value)
    nulls = ["null"] if shape.nullable else []
    if shape.kind == "bool" or (shape.choices and all(bare(str(c)) for c in shape.choices)):
        out.one_of(written, [*(str(c) for c in shape.choices), *nulls] if shape.choices else ["true", "false", *nulls])
    else:
        out.free(written, goes_on=written[0] != '"')


class Text(Format):
    """Lines of `name: value`."""

    name = "text"
    title = "lines of the form 'name: value'"
    rules = "One line for each value, nothing else. A value with a line break goes in double quotes, the break as \\n."
    _ALLOWED: ClassVar[tuple[type, ...]] = (Record, Items)

    def unfit(self, shape: Record) -> str | None:
        """Neither keys that a model makes up, nor names with signs, nor records that may hold themselves."""
        bad = next((name for name in names_in(shape) if not _NAME.fullmatch(name)), None)
        if bad is not None:
            return f"'{bad}' has signs that mean something here"
        return why_not(shape, self._ALLOWED) or _nullable(shape, "it")

    def lay_out(self, data: Mapping[str, Any], shape: Record) -> Layout:
        """Lines in the order of the fields."""
        out = Layout()
        if self._lines(out, data, shape, "", [], [_END]):
            out.choice()
        return out

    def tree(self, text: str, shape: Record) -> Tree:
        """Every line a known name and a value."""
        out: dict[str, Any] = {}
        for line in text.removesuffix("\n").split("\n"):
            path, separator, value = line.partition(":")
            if not separator or (value and value[0] != " ") or not _PATH.fullmatch(path):
                raise MalformedAnswer(f"no 'name: value': {short(line)}")
            _put(out, path, in_place(value.strip(" ")), shape)
        return _alone(_listed(out, shape), shape)

    def mend(self, text: str, shape: Record) -> Mended:
        """Lines with other marks: `name=value`, `- name: value`, `**Name:** value`; words before the first."""
        steps: dict[str, None] = {}
        inner, fenced = out_of_fence(text)
        if fenced:
            steps[FENCE] = None
        out: dict[str, Any] = {}
        names = {name.lower(): name for name in names_in(shape)}
        for line in inner.split("\n"):
            line = line.rstrip()
            if not line:
                continue
            found = _LOOSE.match(line)
            path = _known(found["path"], names) if found else None
            if found is None or path is None:
                if out:
                    raise MalformedAnswer(f"a line that names no field: {short(line)}")
                steps[PROSE] = None
                continue
            value = found["rest"].strip()
            if not line.startswith(f"{path}: "):
                steps["other marks around names"] = None
            _put(out, path, on_line(value, steps), shape)
        return Mended(_alone(_listed(out, shape), shape), tuple(steps))

    def _lines(
        self, out: Layout, value: Any, shape: Shape, path: str, instead: list[str], after: list[str]
    ) -> list[str]:
        """Write a value.

        Args:
            instead: beginnings of lines that could stand here as well; `after`: that can come behind it.

        Returns:
            Beginnings of lines of this value that could still have followed.
        """
        if isinstance(shape, Record):
            fields = list(shape.fields.items())
            for n, (name, member) in enumerate(fields):
                rest = next((_heads(m.shape, _below(path, other)) for other, m in fields[n + 1 :]), after)
                instead = self._lines(out, value[name], member.shape, _below(path, name), instead, rest)
            return instead
        if isinstance(shape, Items) and value:
            instead = [*instead, f"{path}: []"]
            for n, inner in enumerate(value, 1):
                more = _heads(shape.item, f"{path}[{n + 1}]")
                left = self._lines(out, inner, shape.item, f"{path}[{n}]", instead, [*more, *after])
                instead = [*left, *after]
            return [*left, *more]
        if out.text:
            if _END in instead:
                out.choice()
            out.fixed("\n")
        others = [head for head in instead if head != _END]
        if isinstance(shape, Items):
            out.one_of(f"{path}: []", [f"{path}: []", *others, *_heads(shape.item, f"{path}[1]")])
            return []
        assert isinstance(shape, Leaf)
        out.one_of(f"{path}: ", [f"{path}: ", *others])
        leaf_on_line(out, value, shape, _bare)
        return []


_END = ""
"""Among beginnings of lines: there may be none."""


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _heads(shape: Shape, path: str) -> list[str]:
    """How the first line of a value may begin."""
    if isinstance(shape, Record):
        return next((_heads(m.shape, _below(path, name)) for name, m in shape.fields.items()), [])
    if isinstance(shape, Items):
        return [f"{path}: []", *_heads(shape.item, f"{path}[1]")]
    return [f"{path}: "]


def _nullable(shape: Shape, where: str, above: frozenset[type] = frozenset()) -> str | None:
    """What has no line to say that it is null, or no end."""
    if isinstance(shape, Leaf):
        return None
    if shape.nullable:
        return f"{where} may be null, and has no line to say so"
    if isinstance(shape, Items):
        if isinstance(shape.item, Items):
            return f"{where} is a list of lists"
        return _nullable(shape.item, f"an item of {where}", above)
    if isinstance(shape, Record):
        if shape.model in above:
            return f"{where} may hold itself"
        inner = (_nullable(m.shape, f"'{n}'", above | {shape.model}) for n, m in shape.fields.items())
        return next((why for why in inner if why), None)
    return None


def _known(path: str, names: dict[str, str]) -> str | None:
    """A path with the names as they are written, if they are all known."""
    path = path.strip().strip("\"'")
    if not _PATH.fullmatch(path):
        return None
    parts = []
    for name, number in _STEP.findall(path):
        if number:
            parts.append(f"[{number}]")
            continue
        known = names.get(name.strip().lower().replace(" ", "_"), names.get(name.strip().lower()))
        if known is None:
            return None
        parts.append(f".{known}")
    return "".join(parts).lstrip(".")


def _put(out: dict[str, Any], path: str, value: Scalar, shape: Record) -> None:
    """Put a value where its path says; lists are dicts by number until all is there."""
    keys = [int(number) if number else name for name, number in _STEP.findall(path)]
    at: Any = out
    here: Shape | None = shape
    for n, key in enumerate(keys):
        if isinstance(key, int) != isinstance(here, Items):
            raise MalformedAnswer(f"{short(path)} names nothing")
        if isinstance(here, Record):
            if key not in here.fields:
                raise MalformedAnswer(f"{short(path)} names a field that is unknown")
            here = here.fields[key].shape
        elif isinstance(here, Items):
            here = here.item
        else:
            raise MalformedAnswer(f"{short(path)} names nothing")
        if n == len(keys) - 1:
            if key in at:
                raise MalformedAnswer(f"{short(path)} is there twice")
            at[key] = value
            continue
        at = at.setdefault(key, {})
        if not isinstance(at, dict):
            raise MalformedAnswer(f"{short(path)} is below a value")


def _listed(tree: Tree, shape: Shape) -> Tree:
    """Dicts by number made lists, if no number is missing."""
    if isinstance(shape, Items) and isinstance(tree, dict):
        if sorted(tree) != list(range(1, len(tree) + 1)):
            raise MalformedAnswer(f"items {sorted(tree)} are not all from 1 on")
        return [_listed(tree[n], shape.item) for n in sorted(tree)]
    if isinstance(shape, Record) and isinstance(tree, dict):
        return {name: _listed(inner, shape.fields[name].shape) for name, inner in tree.items()}
    return tree


def _bare(text: str) -> bool:
    """Whether a text needs no quotes: not if it might be two items of a list on one line."""
    return stands_bare(text) and _ITEM.search(text) is None


def _alone(tree: Tree, shape: Record) -> Tree:
    """The same, if no value seems to have another one behind it on its line (`name: Ann age: 30`).

    Raises:
        MalformedAnswer: it does: it names a field that is not there, or an item of a list.
    """
    names = names_in(shape)
    missing = "|".join(re.escape(name) for name in sorted(set(_missing(tree, shape)), key=len, reverse=True))
    field = re.compile(rf"(?<!\w)(?:{missing})(?:[.\[][\w.\[\]]*)?\s*[:=]", re.IGNORECASE) if missing else None
    for value in _bare_values(tree):
        item = _ITEM.search(value)
        if (item and item[1].rpartition(".")[2] in names) or (field and field.search(value)):
            raise MalformedAnswer(f"a value that seems to have another one behind it: {short(value)}")
    return tree


def _missing(tree: Tree, shape: Shape) -> Iterator[str]:
    """Names of fields that were not written, at any depth."""
    if isinstance(shape, Items) and isinstance(tree, list):
        for inner in tree:
            yield from _missing(inner, shape.item)
    elif isinstance(shape, Record) and isinstance(tree, dict):
        for name, member in shape.fields.items():
            if name in tree:
                yield from _missing(tree[name], member.shape)
            else:
                yield from (name, *names_in(member.shape))


def _bare_values(tree: Tree) -> Iterator[str]:
    if isinstance(tree, Scalar):
        if not tree.quoted:
            yield tree.text
    elif isinstance(tree, dict | list):
        for inner in tree.values() if isinstance(tree, dict) else tree:
            yield from _bare_values(inner)
