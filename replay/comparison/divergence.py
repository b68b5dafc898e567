"""Where a playback leaves its recording: what was asked against what was recorded, and who asked."""

from __future__ import annotations

import difflib
import linecache
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from redecode.replay.errors import ReplayDivergence

_ADDRESS = re.compile(rb" at 0x[0-9a-fA-F]+")  # in the text of an object, another one in every process
_AROUND, _LONGEST = 30, 160  # characters: around a difference, and of what differs itself
_MOST_LINES = 12  # of a text of several


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """A field that differs.

    Attributes:
        path: where it is, as in `messages[1].content`.
        recorded, asked: its two values; `MISSING` where one side has none.
    """

    path: str
    recorded: Any
    asked: Any

    def __str__(self) -> str:
        then, now = _text(self.recorded), _text(self.asked)
        if self.recorded is MISSING or self.asked is MISSING:
            there, only = (now, "asked") if self.recorded is MISSING else (then, "recorded")
            return f"{self.path}: only {only}: {_quoted(there, 0, len(there))}"
        if "\n" in then or "\n" in now:
            return "\n".join([f"{self.path}:", *_lines(then, now)])
        start = _common(then, now)
        rest = min(len(then), len(now)) - start
        same_end = min(rest, _common(then[::-1], now[::-1]))
        first, last = _quoted(then, start, len(then) - same_end), _quoted(now, start, len(now) - same_end)
        return f"{self.path}: recorded {first}, asked {last}"


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING: Any = _Missing()


def diverged(
    what: str,
    *,
    run_id: str,
    step_key: str,
    differences: Iterable[FieldDifference] = (),
    nearest: Iterable[str] = (),
    way_out: str = "",
) -> ReplayDivergence:
    """The error, with the line of the user's code that asked."""
    differences, nearest = tuple(differences), tuple(nearest)
    location = user_location()
    lines = [f"step {step_key} of run {run_id[:12]}: {what}"]
    lines += [f"  {difference}" for difference in differences]
    if nearest:
        lines.append(f"  nearest recorded: {', '.join(nearest)}")
    if location is not None:
        lines.append(f"  asked from {location}")
    if way_out:
        lines.append(f"  {way_out}")
    return ReplayDivergence(
        "\n".join(lines),
        run_id=run_id,
        step_key=step_key,
        differences=differences,
        nearest=nearest,
        location=location,
    )


def differences(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> list[FieldDifference]:
    """The fields of two plain values that differ, down to the leaves."""
    return [d for key in dict.fromkeys((*recorded, *asked)) for d in _walk(key, _of(recorded, key), _of(asked, key))]


def _walk(path: str, then: Any, now: Any) -> Iterator[FieldDifference]:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*then, *now)):
            yield from _walk(f"{path}.{key}", _of(then, key), _of(now, key))
    elif isinstance(then, list) and isinstance(now, list):
        for n, m in _aligned(then, now):
            before = then[n] if n is not None else MISSING
            after = now[m] if m is not None else MISSING
            yield from _walk(f"{path}[{n if n is not None else m}]", before, after)
    elif (then is MISSING or then is None) and (now is MISSING or now is None):
        return
    elif then is MISSING or now is MISSING or _canonical(then) != _canonical(now):
        yield FieldDifference(path, then, now)


def _aligned(then: list[Any], now: list[Any]) -> Iterator[tuple[int | None, int | None]]:
    """Places in two lists that belong together: what was put in or taken out shifts nothing after it."""
    before, after = [_canonical(item) for item in then], [_canonical(item) for item in now]
    for _, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        for place in range(max(b - a, d - c)):
            yield (a + place if a + place < b else None), (c + place if c + place < d else None)


def _of(mapping: Mapping[str, Any], key: str) -> Any:
    return mapping.get(key, MISSING)


def same(then: Any, now: Any) -> bool:
    """Whether two plain values are the same, whatever order their keys have."""
    return _canonical(then) == _canonical(now)


def _canonical(value: Any) -> bytes:
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return _ADDRESS.sub(b"", text) if b" at 0x" in text else text


def nearest(step_key: str, candidates: Iterable[str], *, equal: Iterable[str] = (), most: int = 3) -> list[str]:
    """Recorded steps to look at: first those that were asked the same, then those whose key has most in common."""
    said = list(dict.fromkeys(equal))[:most]
    parts = step_key.split("/")

    def likeness(key: str) -> tuple[int, int]:
        others = key.split("/")
        shared = next((i for i, (a, b) in enumerate(zip(parts, others, strict=False)) if a != b), len(parts))
        return -shared, -_common(key, step_key)

    rest = sorted((key for key in candidates if key not in said), key=lambda key: (likeness(key), key))
    return [f"{key} (asked the same)" for key in said] + rest[: most - len(said)]


def user_location() -> str | None:
    """The innermost line on the stack that is neither ours, nor Python's, nor an installed package's."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith("<") and not name.startswith(_NOT_THE_USERS):
            line = linecache.getline(name, frame.f_lineno).strip()
            said = f": {_short(line)}" if line else ""
            return f"{name}:{frame.f_lineno}, in {frame.f_code.co_name}{said}"
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None


_HERE = Path(__file__).resolve().parents[2]
_NOT_THE_USERS = (
    *(str(_HERE / room) for room in ("tracer", "replay", "cli")),
    *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")},
)


def _text(value: Any) -> str:
    if value is MISSING:
        return repr(value)
    return value if isinstance(value, str) else _canonical(value).decode(errors="replace")


def _quoted(text: str, start: int, end: int) -> str:
    """A part of a text with a little of what is around it."""
    start, end = max(0, start - _AROUND), min(len(text), end + _AROUND)
    part = text[start:end]
    if len(part) > _LONGEST:
        part = f"{part[: _LONGEST // 2]} … {part[-_LONGEST // 2 :]}"
    return f"“{'…' * (start > 0)}{part}{'…' * (end < len(text))}”"


def _lines(then: str, now: str) -> list[str]:
    """The lines that differ, `-` recorded and `+` asked, each with the one before it."""
    out: list[str] = []
    before = ""
    for line in difflib.ndiff(then.split("\n"), now.split("\n")):
        if line.startswith("?"):
            continue
        if line.startswith(" "):
            before = line
            continue
        if before:
            out.append(f"      {_short(before[2:])}")
        before = ""
        out.append(f"    {line[0]} {_short(line[2:])}")
    more = len(out) - _MOST_LINES
    return out if more <= 1 else [*out[:_MOST_LINES], f"    … and {more} more lines"]


def _short(line: str) -> str:
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def _common(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
