"""What to take out of texts: built-in patterns, regexes of the user's, functions of the user's.

A rule sees one text at a time, never the JSON around it, so what was JSON stays JSON. Texts that are JSON themselves
(the arguments of a tool call) are opened and treated likewise.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from redecode.tracer import conventions as c
from redecode.tracer.errors import RedecodeError
from redecode.tracer.privacy.keys import is_secret
from redecode.tracer.privacy.patterns import Pattern, groups, named, redact

Hook = Callable[[str, str], str]
"""(name of the attribute, text) → the text to record."""
Rule = str | tuple[str, str | re.Pattern[str], str] | Hook
"""A pattern's name or `module:function`; or name, regex, replacement; or a function."""

_PICTURE = re.compile(r"data:[\w/+.-]{1,60}(?:;[\w=-]{1,60}){0,3};base64,")
_SPELLED = frozenset({"logprobs", "top_logprobs", "token_ids", "prompt_token_ids", "sampled_ids", "prompt_ids"})
_PLAIN = (bool, int, float, bytes)
_LONG, _REMEMBERED = 512, 65_536


class RuleFailed(Exception):
    """A text could not be treated: names the function at fault and the kind of error, never the text."""


def failure(error: Exception) -> str:
    """Why a span was not redacted, in words that quote nothing of it."""
    if isinstance(error, RecursionError):
        return "redaction failed: a value is nested too deeply"
    return str(error) if isinstance(error, RuleFailed) else f"redaction failed: {type(error).__name__}"


class _Called:
    """A user's function; one given as `module:function` is imported when it is first needed.

    Not before: under `redecode record` the program's own folder is not on the path yet when recording begins.
    """

    def __init__(self, target: str | Hook) -> None:
        self._target = target
        self.name = target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__)

    def __call__(self, name: str, text: str) -> str:
        try:
            if isinstance(self._target, str):
                module, _, function = self._target.partition(":")
                self._target = getattr(importlib.import_module(module), function)
            out = self._target(name, text)  # type: ignore[operator]
        except (Exception, SystemExit) as error:
            raise RuleFailed(f"redaction by {self.name} failed: {type(error).__name__}") from None
        if not isinstance(out, str):
            raise RuleFailed(f"redaction by {self.name} gave {type(out).__name__}, not a text")
        return out


class Rules:
    """Rules, ready to be applied. Patterns come first, then regexes, then functions.

    Args:
        rules: see `Rule`; names may be several, with commas between.

    Raises:
        RedecodeError: there is no such pattern, or a regex is none.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        names: list[str] = []
        self._regexes: list[tuple[str, re.Pattern[str], str]] = []
        self._hooks: list[_Called] = []
        for rule in rules:
            if isinstance(rule, str):
                for name in filter(None, (part.strip() for part in rule.split(","))):
                    if ":" in name:
                        self._hooks.append(_Called(name))
                    else:
                        names.append(name)
            elif isinstance(rule, tuple) and len(rule) == 3:
                self._regexes.append((rule[0], _compiled(rule[1]), rule[2]))
            elif callable(rule):
                self._hooks.append(_Called(rule))
            else:
                raise RedecodeError(f"{rule!r} is no redaction: want a name, (name, regex, replacement) or a function")
        try:
            self._patterns: tuple[Pattern, ...] = named(names)
        except KeyError as error:
            known = ", ".join(groups())
            raise RedecodeError(f"no redaction pattern {error}; there are {known}, or module:function") from None
        self._secret_fields = any(p.name == "password" for p in self._patterns)
        self._clean: set[bytes] = set()
        self._lock = threading.RLock()  # as in the recorder

    def without_functions(self) -> Rules:
        """The patterns and regexes alone."""
        plain = copy.copy(self)
        plain._hooks = []
        return plain

    def label(self, text: str, found: set[str]) -> str:
        """A name given by people (of a step, an agent): by patterns and regexes, so that structure stays structure."""
        out = self._by_patterns(text, found)
        for name, regex, replacement in self._regexes:
            changed = regex.sub(replacement, out)
            if changed != out:
                found.add(name)
                out = changed
        return out

    def text(self, name: str, text: str, found: set[str]) -> str:
        """A text of the attribute `name`; if it is JSON, the texts in it.

        Raises:
            RuleFailed: a user's function did.
        """
        if text[:1] in {"{", "["}:
            try:
                value = orjson.loads(text)
            except orjson.JSONDecodeError:
                pass
            else:
                return self._reopened(name, text, value, found)
        if _PICTURE.match(text) is not None:  # nothing can be read in it
            return text
        out = self.label(text, found)
        for hook in self._hooks:
            changed = hook(name, out)
            if changed != out:
                found.add(hook.name)
                out = changed
        return out

    def json(self, name: str, text: str, found: set[str]) -> str:
        """As `text`, of an attribute that is JSON text, be it of a single text."""
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return self.text(name, text, found)
        return self._reopened(name, text, value, found)

    def _reopened(self, name: str, text: str, value: Any, found: set[str]) -> str:
        here: set[str] = set()
        changed = self.value(name, value, here)
        found |= here
        return c.to_json(changed) if here else text

    def value(self, name: str, value: Any, found: set[str]) -> Any:
        """Plain data with every text in it treated, its own field names and large numbers too."""
        if isinstance(value, str):
            return self.text(name, value, found)
        if isinstance(value, list | tuple):
            return [self.value(name, item, found) for item in value]
        if isinstance(value, dict):
            out: dict[str, Any] = {}
            for key, item in value.items():
                plain = self.label(str(key), found)
                while plain in out:
                    plain += "'"
                out[plain] = self._field(name, key, item, found)
            return out
        if isinstance(value, int) and value > 9_999_999:
            text = self.label(str(value), found)
            return value if text == str(value) else text
        if value is None or isinstance(value, _PLAIN):
            return value
        return self.value(name, orjson.loads(c.to_json(value)), found)  # as it would be written down

    def _field(self, name: str, key: Any, item: Any, found: set[str]) -> Any:
        if self._secret_fields and isinstance(item, str) and item and isinstance(key, str) and is_secret(key):
            found.add("password")
            return "[password]"
        return self.value(name, item, found)

    def _by_patterns(self, text: str, found: set[str]) -> str:
        """Long texts come again with every turn of a conversation; what was clean once is not searched again."""
        if len(text) < _LONG or not self._patterns:
            return redact(self._patterns, text, found)
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in self._clean:
            return text
        out = redact(self._patterns, text, found)
        if out is text:
            with self._lock:
                if len(self._clean) >= _REMEMBERED:
                    self._clean.clear()
                self._clean.add(digest)
        return out


def unspelled(value: Any) -> Any:
    """Plain data without token ids and logprobs, which name their tokens: they would spell out what was taken out."""
    if isinstance(value, dict):
        return {k: unspelled(v) for k, v in value.items() if k not in _SPELLED or isinstance(v, bool | int)}
    if isinstance(value, list | tuple):
        return [unspelled(v) for v in value]
    if isinstance(value, str) and value[:1] in {"{", "["} and any(name in value for name in _SPELLED):
        try:
            return c.to_json(unspelled(orjson.loads(value)))
        except orjson.JSONDecodeError:
            return value
    return value


def _compiled(regex: str | re.Pattern[str]) -> re.Pattern[str]:
    try:
        return re.compile(regex)
    except re.error as error:
        raise RedecodeError(f"the redaction {regex!r} is no regex: {error}") from None
