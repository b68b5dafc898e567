"""Finding the complete parts of a plan while it is being written: the members of a JSON object or array, or lines."""

from __future__ import annotations

import json
import re
from typing import Any

from redecode.agents.pipelined import PlanRejected

_decoder = json.JSONDecoder()
_SPACE = " \t\n\r"
_FENCE = "```"
_FENCE_LINE = re.compile(r"```[\w+.-]*[ \t\r]*\n")
_BEGUN_FENCE_LINE = re.compile(r"`{1,2}|```[\w+.-]*[ \t\r]*")


class JsonParts:
    """The parts of a plan in JSON: items of an array, or (name, value) of an object's members.

    A part is reported once nothing that comes can change it: a number only when something follows it. A name that
    comes twice is refused, since which of its values counts depends on who reads the plan. The plan may stand in a code
    fence, as models like to write it; what else is before or behind it is refused.

    Args:
        within: the plan is an object, and its parts are the items of the array of this name; its other members are not
            reported.
    """

    def __init__(self, *, within: str | None = None) -> None:
        self._within = within
        self._text, self._at = "", 0
        self._open: list[str] = []  # brackets we are in
        self._key: str | None = None
        self._names: set[str] = set()
        self._expects = "open or fence"
        self._fenced = False

    def feed(self, text: str) -> list[Any]:
        """As `Reads.feed`."""
        self._text = self._text[self._at :] + text
        self._at = 0
        out: list[Any] = []
        while self._step(out):
            pass
        return out

    def end(self) -> list[Any]:
        """Nothing is left to come."""
        if self._expects not in ("over", "over or fence") or self._at < len(self._text):
            raise PlanRejected("the plan breaks off")
        return []

    def _step(self, out: list[Any]) -> bool:
        """One token further; whether there was one."""
        while self._at < len(self._text) and self._text[self._at] in _SPACE:
            self._at += 1
        if self._at == len(self._text):
            return False
        ch = self._text[self._at]
        match self._expects:
            case "open or fence" | "over or fence" if ch == "`":
                return self._fence()
            case "open" | "open or fence":
                if ch not in ("{" if self._within else "{["):
                    raise self._wrong("an object" if self._within else "an object or array", ch)
                self._enter(ch)
            case "key" | "key or close" | "value or close" | "value" if ch in "}]" and "close" in self._expects:
                self._leave(ch)
            case "key" | "key or close":
                if ch != '"':
                    raise self._wrong("a name in double quotes", ch)
                if (value := self._value()) is None:
                    return False
                self._named(value[0])
            case "colon":
                if ch != ":":
                    raise self._wrong("a colon", ch)
                self._at += 1
                self._expects = "value"
            case "value" | "value or close":
                if self._key is not None and self._key == self._within and len(self._open) == 1:
                    if ch != "[":
                        raise self._wrong(f"an array in '{self._within}'", ch)
                    self._enter(ch)
                    return True
                if (value := self._value()) is None:
                    return False
                self._found(value[0], out)
            case "comma":
                if ch in "}]":
                    self._leave(ch)
                elif ch == ",":
                    self._at += 1
                    self._expects = "key" if self._open[-1] == "{" else "value"
                else:
                    raise self._wrong("a comma or the end", ch)
            case _:
                raise self._wrong("nothing behind the plan", ch)
        return True

    def _enter(self, ch: str) -> None:
        self._at += 1
        self._open.append(ch)
        self._expects = "key or close" if ch == "{" else "value or close"

    def _leave(self, ch: str) -> None:
        if (self._open[-1], ch) not in (("{", "}"), ("[", "]")):
            raise self._wrong("the other bracket", ch)
        self._at += 1
        self._open.pop()
        if not self._open and self._within is not None and self._within not in self._names:
            raise PlanRejected(f"the plan has no '{self._within}'")
        self._expects = "comma" if self._open else "over or fence" if self._fenced else "over"

    def _fence(self) -> bool:
        """The line that opens a code fence, or the marks that close it; whether they are whole."""
        rest = self._text[self._at :]
        if self._expects == "over or fence":
            if rest.startswith(_FENCE):
                self._at += len(_FENCE)
                self._expects = "over"
            elif not _FENCE.startswith(rest):
                raise self._wrong("the end of the code fence", rest[:3])
            return self._expects == "over"
        if (line := _FENCE_LINE.match(rest)) is not None:
            self._at += line.end()
            self._expects, self._fenced = "open", True
        elif _BEGUN_FENCE_LINE.fullmatch(rest) is None:
            raise self._wrong("an object, or the line of a code fence", rest[:3])
        return self._fenced

    def _named(self, name: str) -> None:
        if name in self._names:
            raise PlanRejected(f"the plan has '{name}' twice")
        self._names.add(name)
        self._key, self._expects = name, "colon"

    def _found(self, value: Any, out: list[Any]) -> None:
        self._expects = "comma"
        if self._within is None:
            out.append(value if self._open[-1] == "[" else (self._key, value))
        elif self._open[-1] == "[":
            out.append(value)

    def _value(self) -> tuple[Any] | None:
        """A value that is complete."""
        ch = self._text[self._at]
        try:
            value, end = _decoder.raw_decode(self._text, self._at)
        except ValueError:
            if ch in '"{[' or self._text[self._at :].isalpha() or self._number_may_go_on():
                return None  # not yet, or never: then the end says so
            raise self._wrong("a value", ch) from None
        except RecursionError as error:
            raise PlanRejected("the plan is nested too deeply") from error
        if ch not in '"{[' and self._text[end : end + 1] not in (*_SPACE, ",", "}", "]"):
            if end == len(self._text) or self._number_may_go_on():
                return None  # a number may have further digits
            raise self._wrong("a value", ch)
        self._at = end
        return (value,)

    def _number_may_go_on(self) -> bool:
        return all(c in "+-.eE0123456789" for c in self._text[self._at :])

    def _wrong(self, wanted: str, ch: str) -> PlanRejected:
        return PlanRejected(f"the plan wants {wanted}, not {ch!r}")


class Lines:
    """The lines of a plan, each once it is whole; empty ones are left out."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> list[str]:
        """As `Reads.feed`."""
        *lines, self._rest = (self._rest + text).split("\n")
        return [line for line in lines if line.strip()]

    def end(self) -> list[str]:
        """The last line, which need not end."""
        rest, self._rest = self._rest, ""
        return [rest] if rest.strip() else []
