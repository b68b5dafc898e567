"""YAML in block style: cheap on flat records; what looks like another type, or like markup, is quoted.

Read through PyYAML's grammar, but not by its types (a bare word is what its field says) and not in its most generous
parts: anchors, aliases, tags, bare or quoted values that go on over lines and comments behind bare values are refused,
because a model that writes them mostly means something else, and YAML would read it without a word. Blocks (`|`, `>`)
and comments behind quoted values, or on lines above the first value, mean one thing only, and are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from redecode.optimizer.formats import yaml_repairs
from redecode.optimizer.formats.errors import MalformedAnswer, short
from redecode.optimizer.formats.form import Format, Mended
from redecode.optimizer.formats.layout import Layout
from redecode.optimizer.formats.scalars import NUMBER, Scalar, Tree, quoted, stands_bare, word
from redecode.optimizer.formats.shapes import Items, Keyed, Leaf, Record, Shape, why_not

_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n"})
_NUMBERLIKE = re.compile(r"[-+.]?[0-9][-0-9a-fA-FxXoO_.,:eE+TZ]*|[-+]?\.(?:inf|nan)", re.IGNORECASE)
_BREAKS = re.compile("[\x85\u2028\u2029]")
_TOO_DEEP = re.compile(r"(?:[\[{]\s*|[-?]\s+){100}|^ {400}", re.MULTILINE)  # PyYAML takes minutes, not an error
_STARTS_BADLY = re.compile(r"[-?:][ \t]|[-?:]$|[,\[\]{}#&*!|>%@`=<]|---|\.\.\.")


def bare(text: str) -> bool:
    """Whether a text can stand without quotes, for this reader and any other, in YAML 1.1 and 1.2."""
    return (
        stands_bare(text)
        and ": " not in text
        and " #" not in text
        and text[-1] != ":"
        and _STARTS_BADLY.match(text) is None
        and text.lower() not in _WORDS
        and _NUMBERLIKE.fullmatch(text) is None
        and all(ch <= "\uffff" or ch.isprintable() for ch in text)
    )


def text_in_yaml(text: str) -> str:
    """A text, in quotes if it needs them."""
    return text if bare(text) else _quoted(text)


def _quoted(text: str) -> str:
    out = []
    for ch in text:
        out.append(f"\\U{ord(ch):08x}" if ord(ch) > 0xFFFF and not ch.isprintable() else quoted(ch)[1:-1])
    return '"' + "".join(out) + '"'


class Yaml(Format):
    """YAML, block style."""

    name = "yaml"
    title = "YAML"
    rules = (
        "One line for each value. Put a value in double quotes if it has ': ' or ' #' in it, begins with a special "
        "character, or is a text that looks like a number or like true, false or null."
    )
    _ALLOWED: ClassVar[tuple[type, ...]] = (Record, Items, Keyed)

    def unfit(self, shape: Record) -> str | None:
        """All but unions, whose types YAML cannot tell apart."""
        return why_not(shape, self._ALLOWED)

    def lay_out(self, data: Mapping[str, Any], shape: Record) -> Layout:
        """Two spaces for each level."""
        out = Layout()
        self._record(out, data, shape, "")
        return out

    def tree(self, text: str, shape: Record) -> Tree:
        """One YAML document."""
        return strict(text)

    def mend(self, text: str, shape: Record) -> Mended:
        """As `yaml_repairs.mend`."""
        return yaml_repairs.mend(text, shape, strict)

    def _record(self, out: Layout, data: Mapping[str, Any], shape: Shape, indent: str) -> None:
        """The keys of a record, the first one where the text stands."""
        fields = shape.fields if isinstance(shape, Record) else None
        for n, (key, value) in enumerate(data.items()):
            if fields is None:
                out.choice()
            self._next_line(out, indent, n, sure=fields is not None)
            if fields is None:
                out.free(text_in_yaml(key))
            else:
                out.fixed(text_in_yaml(key))
            out.fixed(":")
            inner = (
                fields[key].shape if fields is not None else shape.value if isinstance(shape, Keyed) else Leaf("text")
            )
            self._below(out, value, inner, indent)
        if fields is None:
            out.choice()
            out.other(f"\n{indent}\0")  # a name of whatever letters

    @staticmethod
    def _next_line(out: Layout, indent: str, n: int, *, sure: bool) -> None:
        """Where the `n`th of several begins, on its own line. `sure`: there must be one, so it is indented so far."""
        if n:
            out.fixed("\n")
            (out.fixed if sure else out.free)(indent)

    def _below(self, out: Layout, value: Any, shape: Shape, indent: str) -> None:
        """What stands behind a key."""
        if isinstance(value, Mapping | list):
            if shape.nullable or not isinstance(shape, Record):
                out.choice()
            if not value:
                out.fixed(" []" if isinstance(value, list) else " {}")
                return
            deeper = indent if isinstance(value, list) else indent + "  "
            out.fixed(f"\n{deeper}")
            self._block(out, value, shape, deeper)
            return
        if isinstance(shape, Items | Keyed | Record):
            out.choice()
        out.fixed(" ")
        self._leaf(out, value, shape)

    def _block(self, out: Layout, value: Any, shape: Shape, indent: str) -> None:
        if isinstance(value, Mapping):
            self._record(out, value, shape, indent)
            return
        item = shape.item if isinstance(shape, Items) else Leaf("text")
        for n, inner in enumerate(value):
            self._next_line(out, indent, n, sure=False)
            if n:
                out.choice()
            out.fixed("- ")
            if isinstance(item, Items | Keyed) or (isinstance(item, Record) and item.nullable):
                out.choice()
            if isinstance(inner, Mapping | list) and inner:
                self._block(out, inner, item, indent + "  ")
            elif isinstance(inner, Mapping | list):
                out.fixed("[]" if isinstance(inner, list) else "{}")
            else:
                self._leaf(out, inner, item)
        out.choice()
        out.other(f"\n{indent}- ")

    def _leaf(self, out: Layout, value: Any, shape: Shape) -> None:
        nulls = ["null"] if shape.nullable else []
        if isinstance(shape, Leaf) and (shape.choices or shape.kind == "bool"):
            forms = [text_in_yaml(c) if isinstance(c, str) else word(c) for c in shape.choices] or ["true", "false"]
            out.one_of(text_in_yaml(value) if isinstance(value, str) else word(value), [*forms, *nulls])
        elif isinstance(value, str):
            written = text_in_yaml(value)
            out.free(written, goes_on=written[0] != '"')
        else:
            out.free(word(value))


def strict(text: str) -> Tree:
    """One YAML document, as dicts, lists and words.

    Raises:
        MalformedAnswer: it is not one; or it is one in a way that a model hardly means.
    """
    import yaml  # type: ignore[import-untyped]

    if _TOO_DEEP.search(text):
        raise MalformedAnswer(f"it is nested too deeply: {short(text)}")
    if _BREAKS.search(text):  # PyYAML makes line breaks of them, and spaces of these; YAML 1.2 does not
        raise MalformedAnswer(f"a character that is a line break to some: {short(text)}")
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
                raise MalformedAnswer(f"anchors and tags mean nothing here: {short(text)}")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            raise MalformedAnswer("there is nothing in it")
        begins = text[: node.start_mark.index].count("\n")
        comments = [n for n, line in enumerate(text.split("\n")) if line.lstrip().startswith("#") and n > begins]
        return _plain(node, text, set(comments))
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise MalformedAnswer(f"not YAML ({problem}): {short(text)}") from error
    except (RecursionError, ValueError) as error:
        raise MalformedAnswer(f"not YAML: {short(text)}") from error


def _plain(node: Any, text: str, comments: set[int]) -> Tree:
    if node.id == "mapping":
        out: dict[str, Tree] = {}
        for key, value in node.value:
            if key.id != "scalar":
                raise MalformedAnswer("a name is no text")
            if key.start_mark.line != key.end_mark.line:
                raise MalformedAnswer(f"a name goes on over lines: {short(key.value)}")
            if key.value in out:
                raise MalformedAnswer(f"{short(key.value)} is there twice")
            out[key.value] = _plain(value, text, comments)
        return out
    if node.id == "sequence":
        return [_plain(item, text, comments) for item in node.value]
    return _scalar(node, text, comments)


def _scalar(node: Any, text: str, comments: set[int]) -> Scalar:
    value: str = node.value
    begin, end = node.start_mark, node.end_mark
    if node.style in ("|", ">"):
        if not value.strip():
            raise MalformedAnswer(f"a block with nothing in it, or a text without quotes: {short(node.style)}")
        return Scalar(value, quoted=True)
    if begin.line != end.line:
        raise MalformedAnswer(f"a value goes on over lines: {short(value)}")
    if any(0xD800 <= ord(ch) <= 0xDFFF for ch in value):
        raise MalformedAnswer("half a character")
    if node.style is not None:
        return Scalar(value, quoted=True)
    rest = text[end.index :].partition("\n")[0]
    if rest.lstrip().startswith("#") or end.line + 1 in comments:
        raise MalformedAnswer(f"a comment behind a value, or a value with a # in it: {short(value + rest)}")
    if value and value.lower() not in _NULL_WORDS and not stands_bare(value) and not NUMBER.fullmatch(value):
        raise MalformedAnswer(f"quotes or a comma where none belong: {short(value)}")
    return Scalar(value)


_NULL_WORDS = frozenset({"~", "null", "none", "nil"})
