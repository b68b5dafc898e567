"""Keys and passwords are never written down, whatever else is: not as arguments, in addresses, settings or errors.

This is always on and costs nothing on the way of an ordinary call: it looks at what is written once (arguments,
engines) or rarely (errors), and at the names of request fields. Prompts and answers are `redaction`'s business.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redecode.tracer.privacy.patterns import SECRET_FIELD, redact, secrets

HIDDEN = "[secret]"
_SHORTEST = 8  # shorter values ("none", "EMPTY") are no secrets, and would be found everywhere
_LONGEST_NAME = 100
_FLAG = re.compile(r"--?[\w.-]*(?:key|token|secret|password|passwd|pwd|auth|credential)s?(=)?", re.IGNORECASE)
_VARIABLE = re.compile(r".*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|.PWD(?<!OLDPWD)|CREDENTIALS?|AUTH)", re.IGNORECASE)
_HEADERS = frozenset({"headers", "extra_headers", "default_headers"})


@functools.lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether what has this name (a field, an option) is a secret."""
    return len(name) < _LONGEST_NAME and (name in _HEADERS or SECRET_FIELD.fullmatch(name) is not None)


def public_fields(value: Any) -> Any:
    """Plain data without the fields that are secrets, and without secrets in its texts."""
    if isinstance(value, dict):
        return {k: public_fields(v) for k, v in value.items() if not (isinstance(k, str) and is_secret(k))}
    if isinstance(value, list | tuple):
        return [public_fields(v) for v in value]
    return redact(secrets(), value, set()) if isinstance(value, str) else value


def public_url(url: str) -> str:
    """An address without user, password and query."""
    if "@" not in url and "?" not in url:
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class Keyring:
    """The secrets this process is known to hold, so that they can be kept out of what it writes.

    Args:
        environment: variables whose names say that they are secrets.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._known: set[str] = set()
        for name, value in environment.items():
            if _VARIABLE.fullmatch(name):
                self.add(value)

    def add(self, value: str) -> None:
        """Keep one more out."""
        if len(value) >= _SHORTEST:
            self._known.add(value)

    def text(self, text: str) -> str:
        """A text without them, and without what looks like a secret."""
        for value in sorted(self._known, key=len, reverse=True):
            if value in text:
                text = text.replace(value, HIDDEN)
        return redact(secrets(), text, set())

    def arguments(self, arguments: Iterable[str]) -> list[str]:
        """A command line without them, and without the values of options that are named like secrets."""
        out: list[str] = []
        hide = False
        for argument in arguments:
            flag = _FLAG.match(argument)
            if hide and not argument.startswith("-"):
                out.append(HIDDEN)
            elif flag is not None and flag[1]:
                out.append(flag[0] + HIDDEN)
            else:
                out.append(self.text(argument))
            hide = flag is not None and flag.end() == len(argument) and not flag[1]
        return out
