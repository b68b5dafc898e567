"""A cleaner for YAML that models get wrong, run before the parser: no library has one.

It knows the names of the fields, so it knows what on a line is a value, and can quote one that has markup in it. What
it cannot know (whether a `#` begins a comment, whether a line without a name belongs to the value above) it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from redecode.optimizer.formats.errors import MalformedAnswer, short
from redecode.optimizer.formats.form import FENCE, PROSE, Mended, opened
from redecode.optimizer.formats.inner_quotes import belong
from redecode.optimizer.formats.scalars import NUMBER, Tree, quoted, stands_bare, unquoted
from redecode.optimizer.formats.shapes import NULLS, Items, Leaf, Record, names_in
from redecode.optimizer.formats.value_repairs import INSIDE, ITSELF, itself
from redecode.optimizer.formats.wrapping import out_of_fence

_BLOCK = re.compile(r"[|>][-+0-9]*")
_MEANT = re.compile(r"(?:&\S+|!\S*)(?:\s|$)|\*[^\s*]+$")
"""An anchor, a tag, or an alias: what YAML reads as something else than it says. Not `*bold*`, nor `& Sons`."""
_INDICATOR = re.compile(r"[-?:]\s|[,\[\]{}&*!|>%@`#]")
_OPENS_BLOCK = re.compile(r"^(\s*(?:-\s+)*)(\S.*?:\s+)?[|>][-+0-9]*\s*$")
_SINGLE = re.compile(r"'(?:[^']|'')*'")


def mend(text: str, shape: Record, parse: Callable[[str], Tree]) -> Mended:
    """The one record in an answer.

    Args:
        parse: of YAML that is as it should be.

    Raises:
        MalformedAnswer: there is none, or it can be understood in more than one way.
    """
    steps: dict[str, None] = {}
    inner, fenced = out_of_fence(text)
    if fenced:
        steps[FENCE] = None
    lines = _Lines(shape, steps)
    body = lines.cleaned(inner, fenced=fenced)
    tree, unwrapped = opened(parse(body), shape)
    return Mended(tree, (*steps, *unwrapped))


class _Lines:
    def __init__(self, shape: Record, steps: dict[str, None]) -> None:
        self._steps = steps
        found = names_in(shape)
        self._texts = {name for name, shapes in found.items() if all(isinstance(s, Leaf) for s in shapes)}
        self._lists = any(isinstance(s, Items) and isinstance(s.item, Leaf) for many in found.values() for s in many)
        names = "|".join(re.escape(name) for name in sorted(found, key=len, reverse=True))
        self._line = re.compile(rf"^(\s*(?:-\s+)*)([\"']?)({names})\2\s*:(.*)$")

    def cleaned(self, text: str, *, fenced: bool) -> str:
        """The lines, each as it should be."""
        lines = [line.rstrip("\r") for line in text.split("\n")]
        while lines and not lines[-1].strip():
            lines.pop()
        first = next((n for n, line in enumerate(lines) if self._line.match(line)), None)
        if first is None:
            raise MalformedAnswer(f"no field is named in it: {short(text)}")
        before = [line for line in lines[:first] if line.strip() and line.strip() != "---"]
        envelope = len(before) == 1 and re.fullmatch(r"\w+:", before[0].strip()) and lines[first][:1] in (" ", "\t")
        if before and not envelope:
            if fenced:
                raise MalformedAnswer(f"a line that names no field: {short(before[0])}")
            self._steps[PROSE] = None
            lines = lines[first:]
        return "\n".join(self._dedented(self._but_blocks(lines)))

    def _but_blocks(self, lines: list[str]) -> list[str]:
        """The lines, those in blocks (`|`, `>`) as they stand."""
        out: list[str] = []
        above: int | None = None  # the indent that ends a block
        for line in lines:
            if above is not None and (not line.strip() or len(line) - len(line.lstrip()) > above):
                out.append(line)
                continue
            opens = _OPENS_BLOCK.match(line)
            above = None if opens is None else len(opens[1]) if opens[2] else opens[1].rfind("-")
            out.append(self._tabs(line))
        return out

    def _tabs(self, line: str) -> str:
        indent = line[: len(line) - len(line.lstrip())]
        if "\t" not in indent:
            return self._cleaned(line)
        self._steps["tabs replaced"] = None
        return self._cleaned(indent.replace("\t", "  ") + line[len(indent) :])

    def _dedented(self, lines: list[str]) -> list[str]:
        margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        if margin:
            self._steps["indented less"] = None
        return [line[margin:] for line in lines]

    def _cleaned(self, line: str) -> str:
        found = self._line.match(line)
        if found is None:
            item = re.match(r"^(\s*(?:-\s+)+)(.*)$", line)
            if item is None or not self._lists:
                return line
            return item[1] + self._value(item[2])
        lead, _, name, rest = found.groups()
        value = rest.strip()
        if value and not rest[0].isspace():
            self._steps["space behind a colon"] = None
        if not value:
            return f"{lead}{name}:"
        return f"{lead}{name}: {self._value(value) if name in self._texts else value}"

    def _value(self, value: str) -> str:
        """A value as it stands on a line, quoted if it must be."""
        if value[:1] in ('"', "'"):
            return self._in_quotes(value)
        if _BLOCK.fullmatch(value) or NUMBER.fullmatch(value) or value.lower() in NULLS | {"true", "false"}:
            return value
        if " #" in value or value.startswith("#"):
            raise MalformedAnswer(f"a comment behind a value, or a value with a # in it: {short(value)}")
        if _MEANT.match(value):
            raise MalformedAnswer(f"anchors and tags mean nothing here, and a text needs quotes: {short(value)}")
        if not stands_bare(value) and itself(value) and not _INDICATOR.match(value):
            self._steps[ITSELF] = None
            return quoted(value)
        if not stands_bare(value):
            raise MalformedAnswer(f"quotes or a comma where none belong: {short(value)}")
        if _tame(value):
            return value
        self._steps["values with markup quoted"] = None
        return quoted(value)

    def _in_quotes(self, value: str) -> str:
        body = value
        if body[-1] == "," and len(body) > 2 and body[-2] == body[0]:
            self._steps["trailing comma"] = None
            body = body[:-1]
        if body[0] == "'" and _SINGLE.fullmatch(body):
            return body
        if body[0] == '"':
            try:
                unquoted(body)
            except MalformedAnswer:
                pass
            else:
                return body
        if len(body) < 2 or body[-1] != body[0] or "\\" in body or not belong(body[1:-1], body[0]):
            raise MalformedAnswer(f"quotes that do not close: {short(value)}")
        self._steps[INSIDE] = None
        return quoted(body[1:-1])


def _tame(value: str) -> bool:
    """Whether YAML reads a bare value as itself."""
    return ": " not in value and value[-1] != ":" and _INDICATOR.match(value) is None
