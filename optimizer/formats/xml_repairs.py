"""XML that is not XML: read by the names of the elements that there are; everything else is text.

So a bare `<` or `&` in a value does no harm. An element that does not close is closed only where its record is whole.
"""

from __future__ import annotations

import html
import re

from redecode.optimizer.formats.errors import MalformedAnswer, short
from redecode.optimizer.formats.form import FENCE, PROSE, Mended
from redecode.optimizer.formats.scalars import Scalar, Tree
from redecode.optimizer.formats.shapes import NULLS, Items, Leaf, Record, Shape, names_in
from redecode.optimizer.formats.wrapping import out_of_fence

_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9a-fA-F]{1,6});")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
UNDECIDED = '<{0}> says {1}: with nil="true" and nothing in it, it has no value, with nil="false" this one'
_HEAD = re.compile(r"<\?xml[^>]*\?>\s*")


def mend(text: str, shape: Record, root: str) -> Mended:
    """The one record in an answer.

    Raises:
        MalformedAnswer: there is none, there are several, or it can be understood in more than one way.
    """
    inner, fenced = out_of_fence(text)
    scan = _Scan(inner, shape, root)
    if fenced:
        scan.steps[FENCE] = None
    tree = scan.document(shape)
    return Mended(tree, tuple(scan.steps), scan.behind)


class _Scan:
    def __init__(self, text: str, shape: Record, root: str) -> None:
        self.steps: dict[str, None] = {}
        self.root = root
        names = {root, "item", *names_in(shape)}
        known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        self._tag = re.compile(rf"<(/?)\s*({known})(?:\s+nil\s*=\s*([\"'])(true|false)\3)?\s*(/?)>", re.IGNORECASE)
        self._names = {name.lower(): name for name in names}
        self._text, self._at = text, 0
        self.behind = ""

    def _next(self) -> re.Match[str] | None:
        return self._tag.search(self._text, self._at)

    def _name(self, tag: re.Match[str]) -> str:
        name = self._names[tag[2].lower()]
        if name != tag[2]:
            self.steps["small and capital letters"] = None
        return name

    def document(self, shape: Record) -> Tree:
        """The whole of it."""
        first = self._next()
        if first is None:
            raise MalformedAnswer(f"there is no element in it that is known: {short(self._text)}")
        before = _HEAD.sub("", self._text[: first.start()])
        if self._name(first) == self.root and not first[1]:
            self._at = first.end()
        else:
            self.steps["an outermost element put around it"] = None
            self._at = first.start()
        tree = self._record(shape, self.root)
        rest = self._text[self._at :]
        self.behind = rest.strip()
        if self._next() is not None:
            raise MalformedAnswer("there are elements behind the end of the record")
        if before.strip() or rest.strip():
            if "<" in before or "<" in rest:
                raise MalformedAnswer(f"there is markup around the record: {short(before + rest)}")
            self.steps[PROSE] = None
        return tree

    def _close(self, name: str) -> None:
        """The closing tag of a record or list."""
        tag = self._next()
        between = self._text[self._at : tag.start()] if tag is not None else self._text[self._at :]
        if tag is not None and tag[1] and self._name(tag) == name:
            self._blank(between)
            self._at = tag.end()
        elif tag is None and name == self.root:
            self.steps["closed where it was cut off"] = None
            if "<" in between:
                raise MalformedAnswer(f"it ends in half a tag: {short(between)}")
        else:
            raise MalformedAnswer(f"<{name}> does not close")

    def _blank(self, between: str) -> None:
        bare = _COMMENT.sub("", between)
        if bare != between:
            self.steps["comments taken out"] = None
        if bare.strip():
            raise MalformedAnswer(f"words between elements: {short(bare.strip())}")

    def _record(self, shape: Record, name: str) -> dict[str, Tree]:
        out: dict[str, Tree] = {}
        while (tag := self._next()) is not None and not tag[1]:
            field = self._name(tag)
            if field not in shape.fields:
                raise MalformedAnswer(f"<{name}> has a <{field}> that is unknown")
            if field in out:
                raise MalformedAnswer(f"<{field}> is there twice in <{name}>")
            self._blank(self._text[self._at : tag.start()])
            self._at = tag.end()
            out[field] = self._element(tag, shape.fields[field].shape, field)
        if "an outermost element put around it" not in self.steps or name != self.root:
            missing = shape.fields.keys() - out.keys()
            if missing:
                raise MalformedAnswer(f"<{name}> has no <{min(missing)}>")
            self._close(name)
        return out

    def _element(self, tag: re.Match[str], shape: Shape, name: str) -> Tree:
        valued = (tag[4] or "").lower() == "false"
        if tag[4] and not valued:
            if not tag[5] and self._words(name).strip():
                raise MalformedAnswer(f"<{name}> says nil and goes on")
            return None
        if tag[5]:
            if isinstance(shape, Leaf):
                return self._said("", shape, name, valued=valued)
            if not isinstance(shape, Items):
                raise MalformedAnswer(f"<{name}> has nothing in it")
            return []
        if isinstance(shape, Record):
            return self._record(shape, name)
        if isinstance(shape, Items):
            return self._items(shape, name)
        assert isinstance(shape, Leaf)
        return self._said(self._words(name), shape, name, valued=valued)

    def _items(self, shape: Items, name: str) -> list[Tree]:
        out = []
        while (tag := self._next()) is not None and not tag[1]:
            if self._name(tag) != "item":
                raise MalformedAnswer(f"<{name}> has something else than <item> in it")
            self._blank(self._text[self._at : tag.start()])
            self._at = tag.end()
            out.append(self._element(tag, shape.item, "item"))
        self._close(name)
        return out

    def _words(self, name: str) -> str:
        """What is in an element that has no others."""
        tag = self._next()
        if tag is None:
            raise MalformedAnswer(f"<{name}> is cut off")
        if not tag[1] or self._name(tag) != name:
            raise MalformedAnswer(f"<{name}> does not close")
        raw = self._text[self._at : tag.start()]
        self._at = tag.end()
        if _COMMENT.search(raw) or "<![CDATA[" in raw:
            raise MalformedAnswer(f"a comment in a value: {short(raw)}")
        if "&" in _ENTITY.sub("", raw) or "<" in raw:
            self.steps["bare < and & taken for themselves"] = None
        return _ENTITY.sub(lambda m: html.unescape(m[0]), raw)

    def _said(self, text: str, shape: Leaf, name: str, *, valued: bool) -> Scalar | None:
        """A value; none, where a word for nothing can mean nothing else."""
        if not valued and says_nothing(text, shape):
            if shape.any_text or any(text.strip().lower() == str(choice).lower() for choice in shape.choices):
                raise MalformedAnswer(UNDECIDED.format(name, short(text)))
            self.steps["empty elements and words for nothing read as no value"] = None
            return None
        return Scalar(text if shape.kind == "text" else text.strip(), quoted=shape.kind == "text")


def says_nothing(text: str, shape: Shape) -> bool:
    """Whether a text may stand for no value in an element that need have none; an empty one in a text is that text."""
    if not isinstance(shape, Leaf) or not shape.nullable or {text, text.strip()}.intersection(shape.choices):
        return False
    said = text.strip().lower()
    return said in NULLS and not (shape.any_text and not said)
