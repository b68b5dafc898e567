"""JSON that is not JSON, where it can be understood in one way only.

A reading of our own knows the few faults it forgives and stops at all others. Where a fault leaves room for judgement
(a comma that is missing, an end that is missing, quotes within quotes), json-repair, which makes something of nearly
anything, must have come to the same. What it alone would hand on (half a value as if it were whole, one of two equal
keys, `{n: -3}` as 3) is so refused, or read as it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from redecode.optimizer.formats.errors import MalformedAnswer, short
from redecode.optimizer.formats.form import FENCE, PROSE, Mended, opened
from redecode.optimizer.formats.inner_quotes import CLOSING, belong
from redecode.optimizer.formats.scalars import Tree, fraction
from redecode.optimizer.formats.shapes import Record
from redecode.optimizer.formats.wrapping import out_of_fence

_BARE = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_.])")
_COMMENT = re.compile(r"//[^\n]*|#[^\n]*|/\*.*?\*/", re.DOTALL)
_WORDS: dict[str, Any] = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_COMMA, _CLOSED, _INNER, _SINGLE = "missing comma", "closed where cut off", "quotes inside of a text", "single quotes"
_UNSURE = frozenset({_COMMA, _CLOSED, _INNER, _SINGLE})
"""What our own reading takes for granted, so that another one must come to the same."""
_AFTER_TEXT = re.compile(r"\s*(?:[,:}\]]|$)")


def mend(text: str, shape: Record) -> Mended:
    """The one record in an answer.

    Raises:
        MalformedAnswer: there is none, there are several, or it can be understood in more than one way.
    """
    steps: list[str] = []
    inner, fenced = out_of_fence(text)
    if fenced:
        steps.append(FENCE)
    starts = [at for at in (inner.find("{"), inner.find("[")) if at >= 0]
    if not starts:
        raise MalformedAnswer(f"there is no JSON in it: {short(text)}")
    start = min(starts)
    scan = _understood(inner, start, shape)
    rest = inner[scan.at :]
    if "{" in rest or "[" in rest:
        raise MalformedAnswer("there is more than one JSON document in it")
    if "}" in rest or "]" in rest:
        raise MalformedAnswer("it closes more than it opens")
    if inner[:start].strip() or rest.strip():
        steps.append(PROSE)
    _agree(inner[start : scan.at], scan)
    tree, unwrapped = opened(scan.tree, shape)
    return Mended(tree, (*steps, *scan.steps, *unwrapped), rest.strip())


def _understood(text: str, start: int, shape: Record) -> _Scan:
    """First with quotes taken at their word; then, if that makes no sense, with quotes inside of texts."""
    try:
        return _Scan(text, start).read(shape)
    except MalformedAnswer as first:
        try:
            return _Scan(text, start, inner_quotes=True).read(shape)
        except MalformedAnswer:
            raise first from None


def _agree(region: str, scan: _Scan) -> None:
    if not _UNSURE.intersection(scan.steps):
        return  # it can be read in one way only
    import json_repair

    try:
        theirs = json_repair.loads(scan.plain(region))
    except (ValueError, RecursionError, IndexError) as error:
        raise MalformedAnswer("it is not JSON, and cannot be made it") from error
    if theirs != scan.tree:
        raise MalformedAnswer("it is not JSON, and can be understood in more than one way")


@dataclass(slots=True)
class _Scan:
    """A reading of a text from a place on. `at`: behind what has been read."""

    text: str
    at: int
    inner_quotes: bool = False
    tree: Tree = None
    steps: list[str] = field(default_factory=list)
    comments: list[tuple[int, int]] = field(default_factory=list)
    start: int = 0

    def read(self, shape: Record) -> _Scan:
        """Read one document."""
        self.start = self.at
        self.tree = self._value(shape)
        return self

    def plain(self, region: str) -> str:
        """The region without comments."""
        out, last = [], 0
        for begin, end in self.comments:
            out.append(region[last : begin - self.start])
            last = end - self.start
        return "".join([*out, region[last:]])

    # -- characters --

    def _fail(self, why: str) -> NoReturn:
        raise MalformedAnswer(f"{why}: {short(self.text[max(self.start, self.at - 20) : self.at + 20])}")

    def _step(self, what: str) -> None:
        if what not in self.steps:
            self.steps.append(what)

    def _peek(self) -> str:
        """The next character that counts; empty at the end."""
        while self.at < len(self.text):
            if self.text[self.at].isspace():
                self.at += 1
            elif comment := _COMMENT.match(self.text, self.at):
                self.comments.append(comment.span())
                self.at = comment.end()
                self._step("comments taken out")
            else:
                return self.text[self.at]
        return ""

    # -- values --

    def _value(self, shape: Any = None) -> Tree:
        ch = self._peek()
        if ch == "{":
            return self._object(shape)
        if ch == "[":
            return self._list()
        if ch in CLOSING:
            return self._string(ch)
        if number := _NUMBER.match(self.text, self.at):
            self.at = number.end()
            if self.at == len(self.text):
                self._fail("it may end in half a number")
            return json.loads(number[0], parse_float=fraction)
        if bare := _BARE.match(self.text, self.at):
            if bare[0] in _WORDS:
                self.at = bare.end()
                if bare[0][0].isupper():
                    self._step("Python's words for JSON's")
                return _WORDS[bare[0]]
            self._fail("a text without quotes")
        return self._fail("it is cut off" if not ch else "not JSON")

    def _object(self, shape: Any) -> dict[str, Tree]:
        out: dict[str, Tree] = {}
        self.at += 1
        comma = True
        while (ch := self._peek()) != "}":
            if ch == "":
                self._close(out, shape)
                return out
            if ch == ",":
                if comma:
                    self._fail("a comma too many")
                comma = True
                self.at += 1
                continue
            if not comma:
                self._step(_COMMA)
            key = self._key(ch)
            if key in out:
                raise MalformedAnswer(f"{short(key)} is there twice")
            if self._peek() != ":":
                self._fail("a name without a value")
            self.at += 1
            member = shape.fields.get(key) if isinstance(shape, Record) else None
            out[key] = self._value(member.shape if member is not None else None)
            comma = False
        if comma and out:
            self._step("trailing comma")
        self.at += 1
        return out

    def _close(self, out: dict[str, Tree], shape: Any) -> None:
        """At the end of the text, with an object still open: only one that has all its fields is known to be whole."""
        known = shape.fields if isinstance(shape, Record) and not shape.open else None
        if known is None or known.keys() - out.keys():
            self._fail("it is cut off")
        self._step(_CLOSED)

    def _key(self, ch: str) -> str:
        if ch in CLOSING:
            return self._string(ch)
        bare = _BARE.match(self.text, self.at)
        if bare is None:
            self._fail("no name")
        self.at = bare.end()
        self._step("names without quotes")
        return bare[0]

    def _list(self) -> list[Tree]:
        out: list[Tree] = []
        self.at += 1
        comma = True
        while (ch := self._peek()) != "]":
            if ch == "":
                self._fail("it is cut off in a list")
            if ch == ",":
                if comma:
                    self._fail("a comma too many")
                comma = True
                self.at += 1
                continue
            if not comma:
                if ch not in "{[":
                    self._fail("a comma is missing, or quotes are too many")
                self._step(_COMMA)
            out.append(self._value())
            comma = False
        if comma and out:
            self._step("trailing comma")
        self.at += 1
        return out

    # -- texts --

    def _string(self, opening: str) -> str:
        end = next((at for at, closes in self._ends(self.at + 1, CLOSING[opening]) if closes), None)
        if end is None:
            self._fail("it is cut off in a text")
        body, self.at = self.text[self.at + 1 : end], end + 1
        if not belong(body, opening):
            self._fail("quotes that end a text, or are no pair in it")
        if opening == "'":
            self._step(_SINGLE)
            body = re.sub(r"\\(?=')", "", body)
        elif opening != '"':
            self._step("typographic quotes")
        if '"' in re.sub(r"\\.", "", body):
            self._step(_INNER)
            body = re.sub(r'(\\.)|"', lambda m: m[1] or '\\"', body)
        if any(ch < " " for ch in body):
            self._step("line breaks inside of a text")
        try:
            found: str = json.loads(f'"{body}"', strict=False)
        except ValueError:
            self._fail("a backslash that means nothing")
        if any(0xD800 <= ord(ch) <= 0xDFFF for ch in found):
            self._fail("half a character")
        return found

    def _ends(self, at: int, closing: str) -> Iterator[tuple[int, bool]]:
        """Places where a text might end, and whether it does."""
        while at < len(self.text):
            if self.text[at] == "\\":
                at += 2
                continue
            if self.text[at] == closing:
                sure = closing == '"' and not self.inner_quotes
                yield at, sure or _AFTER_TEXT.match(self.text, at + 1) is not None
            at += 1
