"""Redaction functions as a user has them, named on the command line as `hooks:name`."""

from __future__ import annotations

import re
import sys


def planted(_name: str, text: str) -> str:
    return re.sub(r"planted-(\w+)-\d", r"<\1>", text)


def leaves(_name: str, text: str) -> str:
    return text


def raises(_name: str, text: str) -> str:
    raise ValueError(text)


def gives_bytes(_name: str, text: str) -> bytes:
    return text.encode()


def gives_nothing(_name: str, _text: str) -> None:
    return None


def leaves_the_program(_name: str, _text: str) -> str:
    sys.exit(3)


def never_ends(name: str, text: str) -> str:
    return never_ends(name, text)
