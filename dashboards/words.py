"""Numbers and names as a screen shows them. Names come from outside: whatever a label takes for markup is escaped."""

from __future__ import annotations

import re
from datetime import UTC, datetime

DASH = "–"
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&\"'@/=^])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""Control characters (and those that turn the direction of writing) as what they are: \\x1b, \\u202e."""
    return _CONTROL.sub(lambda m: repr(m[0])[1:-1] if ord(m[0]) < 256 else f"\\u{ord(m[0]):04x}", text)


def plain(text: str, most: int = 200) -> str:
    """Text for where Markdown is read: every character stands for itself, in one line."""
    line = visible(text).replace("\n", " ").replace("\r", " ").replace("\t", " ")
    if len(line) > most:
        line = line[: most - 1] + "…"
    return _MARKUP.sub(r"\\\1", line)


def duration(ns: float | None) -> str:
    """Ns as a person says it: 812 µs, 12.3 ms, 1.23 s."""
    if ns is None:
        return DASH
    size = abs(ns)
    if size == 0:
        return "0 ms"
    if size < 1e6:
        return f"{ns / 1e3:.0f} µs"
    if size < 1e9:
        return f"{ns / 1e6:.1f} ms" if size < 1e8 else f"{ns / 1e6:.0f} ms"
    return f"{ns / 1e9:.2f} s" if size < 1e11 else f"{ns / 1e9:,.0f} s"


def seconds(value: float | None) -> str:
    """As `duration`, of seconds."""
    return duration(None if value is None else value * 1e9)


def signed(ns: float | None) -> str:
    """A difference; the minus is ASCII, by which Streamlit tells a loss from a gain."""
    return DASH if ns is None else f"{'+' if ns > 0 else '-' if ns < 0 else ''}{duration(abs(ns))}"


def share(part: float | None) -> str:
    """A part of one, in per cent."""
    if part is None:
        return DASH
    return (
        f"{part * 100:.1f} %" if 0.001 <= part < 0.9995 else f"{part * 100:.0f} %" if part in (0, 1) else f"{part:.2%}"
    )


def time_format(first_ns: float, last_ns: float) -> str:
    """How to label an axis of time (d3): no finer than the stretch needs, and never without the hour or the day."""
    length_s = (last_ns - first_ns) / 1e9
    return "%H:%M:%S" if length_s < 900 else "%d %b %H:%M" if length_s < 4 * 86400 else "%d %b"


def moment(ns: int) -> str:
    """A point in time, UTC."""
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
