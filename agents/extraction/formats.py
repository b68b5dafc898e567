"""The four languages a contact can be answered in, and the strict way back.

What format an agent asks for is a knob: the formats differ in tokens (so in latency and cost) and in how
often a model gets them wrong. For that to be measurable the parser forgives nothing: an answer is exactly
one well-formed contact, or it is malformed.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal
from xml.sax.saxutils import escape, unescape

from redecode.agents.contact import FIELDS, Contact

Format = Literal["json", "yaml", "xml", "text"]
FORMATS: tuple[Format, ...] = ("json", "yaml", "xml", "text")

_PLAIN_YAML = re.compile(r"[A-Za-z0-9](?:[^\x00-\x1f\x7f-\xa0\u2028\u2029:#\"']*[A-Za-z0-9.])?")
_YAML_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
_YAML_NUMBER = re.compile(r"[0-9][0-9a-fA-FxXoO_.,eE+-]*")
_XML = re.compile(r"<contact><name>([^<>]*)</name><email>([^<>]*)</email><address>([^<>]*)</address></contact>")
_TEXT = re.compile(r'<NAME="([^"<>\n]*)">\n<EMAIL="([^"<>\n]*)">\n<ADDRESS="([^"<>\n]*)">')
_TEXT_ESCAPES = {'"': "&quot;", "\n": "&#10;", "\r": "&#13;"}
_TEXT_UNESCAPES = {v: k for k, v in _TEXT_ESCAPES.items()}


class MalformedAnswer(ValueError):
    """A model's answer is not a contact in the format it was asked for."""


def render(contact: Contact, fmt: Format) -> str:
    """Write a contact compactly in a format."""
    values = [contact.value(f) for f in FIELDS]
    if fmt == "json":
        return json.dumps(dict(zip(FIELDS, values, strict=True)), ensure_ascii=False)
    if fmt == "yaml":
        return "\n".join(f"{f}: {_yaml_scalar(v)}" for f, v in zip(FIELDS, values, strict=True))
    if fmt == "xml":
        inner = "".join(f"<{f}>{escape(v)}</{f}>" for f, v in zip(FIELDS, values, strict=True))
        return f"<contact>{inner}</contact>"
    return "\n".join(f'<{f.upper()}="{escape(v, _TEXT_ESCAPES)}">' for f, v in zip(FIELDS, values, strict=True))


def parse(text: str, fmt: Format) -> Contact:
    """Read a contact back; raise `MalformedAnswer` for anything but exactly one."""
    if fmt == "json":
        return _parse_json(text)
    if fmt == "yaml":
        return _parse_yaml(text)
    if fmt == "xml":
        match, escapes = _XML.fullmatch(text), {}
    else:
        match, escapes = _TEXT.fullmatch(text), _TEXT_UNESCAPES
    if match is None:
        raise MalformedAnswer(f"not {fmt}: {_short(text)}")
    return Contact(*(unescape(v, escapes) for v in match.groups()))


def _parse_json(text: str) -> Contact:
    try:
        data: Any = json.loads(text)
    except ValueError as err:
        raise MalformedAnswer(f"not json ({err}): {_short(text)}") from err
    if not isinstance(data, dict) or set(data) != set(FIELDS):
        raise MalformedAnswer(f"not an object with name, email and address: {_short(text)}")
    if not all(isinstance(v, str) for v in data.values()):
        raise MalformedAnswer(f"a field is not a string: {_short(text)}")
    return Contact(**data)


def _parse_yaml(text: str) -> Contact:
    lines = text.split("\n")
    if len(lines) != len(FIELDS):
        raise MalformedAnswer(f"not three lines of yaml: {_short(text)}")
    values = []
    for field, line in zip(FIELDS, lines, strict=True):
        key, separator, value = line.partition(": ")
        if key != field or not separator:
            raise MalformedAnswer(f"no line '{field}: ...' in its place: {_short(text)}")
        values.append(_read_yaml_scalar(value, text))
    return Contact(*values)


def _yaml_scalar(value: str) -> str:
    plain = (
        _PLAIN_YAML.fullmatch(value) is not None
        and value.lower() not in _YAML_WORDS
        and _YAML_NUMBER.fullmatch(value) is None
    )
    return value if plain else json.dumps(value)


def _read_yaml_scalar(value: str, whole: str) -> str:
    if value.startswith('"'):
        try:
            data: Any = json.loads(value)
        except ValueError as err:
            raise MalformedAnswer(f"bad quoting in yaml: {_short(whole)}") from err
        if isinstance(data, str):
            return data
    elif _yaml_scalar(value) == value:
        return value
    raise MalformedAnswer(f"not a plain yaml value: {_short(whole)}")


def _short(text: str, limit: int = 120) -> str:
    return repr(text if len(text) <= limit else text[:limit] + "...")
