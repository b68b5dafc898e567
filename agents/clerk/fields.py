"""The fields of a contact, each once it is whole in an answer that is being written, in any of the four formats."""

from __future__ import annotations

import re

from redecode.agents.contact import Contact, Field, is_field
from redecode.agents.extraction.formats import Format, MalformedAnswer, parse, render
from redecode.agents.pipelined import PlanRejected
from redecode.agents.plan_parts import JsonParts

Part = tuple[Field, str]
_PARTS: dict[Format, re.Pattern[str]] = {
    "yaml": re.compile(r"^(name|email|address): (.*)\n", re.MULTILINE),
    "xml": re.compile(r"<(name|email|address)>[^<>]*</\1>"),
    "text": re.compile(r'^<(NAME|EMAIL|ADDRESS)="[^"<>\n]*">', re.MULTILINE),
}


class Fields:
    """A `pipelined.Reads` of fields and their values; whether the answer as a whole is one is for `parse` to say."""

    def __init__(self, fmt: Format) -> None:
        self._fmt: Format = fmt
        self._json = JsonParts()
        self._text, self._known = "", 0

    def feed(self, text: str) -> list[Part]:
        """As `Reads.feed`."""
        if self._fmt == "json":
            return [(name, value) for name, value in self._json.feed(text) if is_field(name) and isinstance(value, str)]
        self._text += text
        found = list(_PARTS[self._fmt].finditer(self._text))
        new, self._known = found[self._known :], len(found)
        return [self._read(m) for m in new]

    def end(self) -> list[Part]:
        """Only YAML has a field whose end is the answer's."""
        if self._fmt == "json":
            self._json.end()
        if self._fmt != "yaml" or self._text.endswith("\n"):
            return []
        return self.feed("\n")

    def _read(self, match: re.Match[str]) -> Part:
        """By the strict parser, in an answer whose other fields are known."""
        name = match[1].lower()
        assert is_field(name)
        lines = [match[0].strip("\n")] * 3
        fillers = render(Contact("A", "A", "A"), self._fmt)
        if self._fmt == "xml":
            text = re.sub(rf"<{name}>A</{name}>", lambda _: lines[0], fillers)
        else:
            start = f"{name}:" if self._fmt == "yaml" else f"<{match[1]}="
            text = "\n".join(lines[0] if line.startswith(start) else line for line in fillers.split("\n"))
        try:
            return name, parse(text, self._fmt).value(name)
        except MalformedAnswer as error:
            raise PlanRejected(str(error)) from error
