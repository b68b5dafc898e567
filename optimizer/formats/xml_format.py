"""XML: an element for each field, `<item>` for each item; dear in tokens, and where a value ends is never in doubt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from redecode.optimizer.formats import xml_repairs
from redecode.optimizer.formats.errors import CannotExpress, MalformedAnswer, short
from redecode.optimizer.formats.form import Format, Mended
from redecode.optimizer.formats.layout import Layout
from redecode.optimizer.formats.scalars import Scalar, Tree, word
from redecode.optimizer.formats.shapes import Items, Leaf, Record, Shape, names_in, why_not

ITEM = "item"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ESCAPES = {"\r": "&#13;"}


def root_of(shape: Record) -> str:
    """The name of the outermost element: the model's, in small letters; no field's."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", shape.model.__name__).lower()
    name = name if _NAME.fullmatch(name) else "record"
    while name in names_in(shape) or name == ITEM:
        name += "_record"
    return name


class Xml(Format):
    """XML without attributes, but for `nil="true"`: no value.

    A text that says `null` has `nil="false"`, XML Schema's word for an element that is not without a value, where it
    might be.
    """

    name = "xml"
    title = "XML on one line"
    rules = "Write &lt; and &amp; for < and & in values."
    shows_its_end = True
    _ALLOWED: ClassVar[tuple[type, ...]] = (Record, Items)

    def rules_for(self, shape: Record) -> str:
        """Also how to say that there is no value, since what models write for it elsewhere may be a text here."""
        name = _nullable(shape)
        return self.rules if name is None else f'{self.rules} No value: <{name} nil="true"/>.'

    def unfit(self, shape: Record) -> str | None:
        """Neither keys that a model makes up nor names that are no names of elements."""
        why = why_not(shape, self._ALLOWED)
        bad = next((name for name in names_in(shape) if not _NAME.fullmatch(name)), None) if why is None else None
        return f"'{bad}' is no name for an element" if bad is not None else why

    def lay_out(self, data: Mapping[str, Any], shape: Record) -> Layout:
        """Without line breaks."""
        out, root = Layout(), root_of(shape)
        out.fixed(f"<{root}>")
        self._inside(out, root, data, shape)
        return out

    def tree(self, text: str, shape: Record) -> Tree:
        """One XML document with the right outermost element."""
        if "<!" in re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).replace("<![CDATA[", ""):
            raise MalformedAnswer("a document type has no place in an answer")
        try:
            root = ElementTree.fromstring(text.strip(), ElementTree.XMLParser(target=_with_comments()))
        except (ElementTree.ParseError, ValueError, RecursionError) as error:
            raise MalformedAnswer(f"not XML ({error}): {short(text)}") from error
        if root.tag != root_of(shape):
            raise MalformedAnswer(f"the outermost element is <{root.tag}>, not <{root_of(shape)}>")
        return _read(root, shape)

    def mend(self, text: str, shape: Record) -> Mended:
        """As `xml_repairs.mend`."""
        return xml_repairs.mend(text, shape, root_of(shape))

    def _element(self, out: Layout, name: str, value: Any, shape: Shape) -> None:
        """An element behind its `<`."""
        out.fixed(name)
        if value is None:
            out.choice()
            out.fixed(' nil="')
            if isinstance(shape, Leaf) and shape.any_text:
                out.choice()
            out.fixed('true"/>')
            return
        if shape.nullable:
            out.choice()
        if isinstance(value, str) and xml_repairs.says_nothing(value, shape):
            out.fixed(' nil="')
            out.choice()
            out.fixed('false"')
        out.fixed(">")
        self._inside(out, name, value, shape)

    def _inside(self, out: Layout, name: str, value: Any, shape: Shape) -> None:
        """What is in an element, and its end."""
        if isinstance(shape, Record):
            for field, member in shape.fields.items():
                out.fixed("<")
                self._element(out, field, value[field], member.shape)
            out.fixed("<")
        elif isinstance(shape, Items):
            for inner in value:
                out.fixed("<")
                out.choice()
                self._element(out, ITEM, inner, shape.item)
            out.fixed("<")
            out.choice()
        elif isinstance(shape, Leaf):
            self._leaf(out, value, shape)
            out.fixed("<")
        out.fixed(f"/{name}>")

    def _leaf(self, out: Layout, value: Any, shape: Leaf) -> None:
        if isinstance(value, str) and (bad := _NOT_XML.search(value)):
            raise CannotExpress(f"XML has no way to write the character {bad[0]!r}; JSON has")
        written = _written(value)
        if shape.choices or shape.kind == "bool":
            forms = [_written(c) for c in shape.choices] or ["true", "false"]
            out.one_of(written, forms)
        else:
            out.free(written)


def _written(value: Any) -> str:
    return escape(value, _ESCAPES) if isinstance(value, str) else word(value)


def _nullable(shape: Shape, name: str = "", seen: frozenset[type] = frozenset()) -> str | None:
    """The name of an element that may have no value, if there is one."""
    if shape.nullable:
        return name
    if isinstance(shape, Items):
        return _nullable(shape.item, ITEM, seen)
    if not isinstance(shape, Record) or shape.model in seen:
        return None
    found = (_nullable(m.shape, field, seen | {shape.model}) for field, m in shape.fields.items())
    return next((inner for inner in found if inner is not None), None)


def _with_comments() -> ElementTree.TreeBuilder:
    """Comments kept: in a value, one may be a part of it that was not escaped."""
    return ElementTree.TreeBuilder(insert_comments=True, insert_pis=True)


def _read(element: ElementTree.Element, shape: Shape) -> Tree:
    where = f"<{element.tag}>"
    if element.attrib and element.attrib != {"nil": "false"}:
        if element.attrib != {"nil": "true"} or len(element) or (element.text or "").strip():
            raise MalformedAnswer(f"{where} has attributes")
        return None
    if isinstance(shape, Leaf):
        if len(element):
            raise MalformedAnswer(f"{where} has elements or comments in it")
        text = element.text or ""
        if not element.attrib and xml_repairs.says_nothing(text, shape):
            raise MalformedAnswer(xml_repairs.UNDECIDED.format(element.tag, short(text)))
        return Scalar(text, quoted=shape.kind == "text")
    if (element.text or "").strip() or any((child.tail or "").strip() for child in element):
        raise MalformedAnswer(f"{where} has words between its elements")
    children = [child for child in element if isinstance(child.tag, str)]
    if isinstance(shape, Items):
        if any(child.tag != ITEM for child in children):
            raise MalformedAnswer(f"{where} has something else than <{ITEM}> in it")
        return [_read(child, shape.item) for child in children]
    assert isinstance(shape, Record)
    out: dict[str, Tree] = {}
    for child in children:
        if child.tag in out:
            raise MalformedAnswer(f"<{child.tag}> is there twice in {where}")
        if child.tag not in shape.fields:
            raise MalformedAnswer(f"{where} has a <{child.tag}> that is unknown")
        out[child.tag] = _read(child, shape.fields[child.tag].shape)
    return out
