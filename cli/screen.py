"""What verbs that draw share: names made safe, widths, times in one unit, tables whose numbers add up."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from redecode.replay.errors import ReplayError

PIPED_WIDTH = 120
_TIMES_S = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def screen() -> Console:
    """Where to draw: as wide as the terminal or $COLUMNS says, else 120 columns."""
    known = Console().is_terminal or "COLUMNS" in os.environ
    console = Console(width=None if known else PIPED_WIDTH, highlight=False, markup=False, emoji=False)
    if not has_unicode(console) and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names are of any script
    return console


def has_unicode(console: Console) -> bool:
    """Whether it can show what bars are drawn with."""
    try:
        "█┄●".encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def clean(text: str) -> str:
    """Text of others on one line: what a terminal would act on (ESC, line ends, turned writing) as an escape."""
    if text.isprintable():
        return text
    return "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode() for ch in text)


def fitted(text: str, width: int) -> str:
    """Text in exactly `width` columns; what does not fit ends in an ellipsis."""
    if cell_len(text) > width:
        text = set_cell_size(text, max(width - 1, 0)).rstrip() + "…"
    return str(set_cell_size(text, width))


def ending(text: str, width: int) -> str:
    """The end of a text, if it does not fit in `width` columns: of a step key it tells most."""
    if cell_len(text) <= width:
        return text
    kept = text[-max(width - 1, 0) :] if width > 1 else ""
    while cell_len(kept) > width - 1:
        kept = kept[1:]
    return "…" + kept


def time_s(option: str, text: str) -> float:
    """Seconds of "2s", "500ms", "1.5m", "1h" or "2".

    Raises:
        ReplayError: it is none, or no time above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|m|h|)", text.strip())
    value = float(found[1]) * _TIMES_S[found[2]] if found else 0.0
    if value <= 0:
        raise ReplayError(f"{option} wants a time above 0 like 2s, 500ms or 1.5m, not '{text}'")
    return value


def short(step_key: str) -> str:
    """A step key as far as it tells steps apart on a screen; it is still a name of the step."""
    return clean(re.sub(r"\[pull:[^\[\]]*\]", "", step_key).removeprefix("run/"))


def last_part(step_key: str) -> str:
    """The last part of a step key; what is in its brackets may hold slashes."""
    bracket = step_key.rfind("[") if step_key.endswith("]") or "]#" in step_key else len(step_key)
    return step_key[step_key.rfind("/", 0, bracket) + 1 :]


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of time for a whole table."""

    name: str
    ns: float
    decimals: int

    @classmethod
    def of(cls, longest_ns: int) -> Unit:
        """That in which a time of this length reads well."""
        for name, ns, decimals, upto in (("µs", 1e3, 1, 1e6), ("ms", 1e6, 1, 1e11)):
            if longest_ns < upto:
                return cls(name, ns, decimals)
        return cls("s", 1e9, 2)

    @property
    def grain_ns(self) -> int:
        """The last digit shown."""
        return round(self.ns / float(10**self.decimals))

    def show(self, ns: int | None, *, signed: bool = False) -> str:
        """A time in this unit, without its name; a dash if unknown."""
        if ns is None:
            return "-"
        return f"{ns / self.ns:{'+' if signed else ''}.{self.decimals}f}"

    def shown_ns(self, ns: int) -> int:
        """A time as exactly as it is shown."""
        grain = self.grain_ns
        return int((ns + grain // 2) // grain * grain)

    def adding_up(self, values_ns: Sequence[int]) -> list[int]:
        """Times rounded to what is shown, so that these add up to the sum as it is shown (largest remainders)."""
        grain = self.grain_ns
        floors = [v // grain for v in values_ns]
        missing = self.shown_ns(sum(values_ns)) // grain - sum(floors)
        by_rest = sorted(range(len(floors)), key=lambda n: (-(values_ns[n] % grain), n))
        for n in by_rest[:missing]:
            floors[n] += 1
        return [f * grain for f in floors]


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, last: str = "") -> list[Text]:
    """A table: numbers to the right, then two columns of words, the last of which takes what is left of the width.

    Args:
        last: style of the last row, if that is the sum.
    """
    words = len(header) - 2
    widths = [max(cell_len(row[n]) for row in (header, *rows)) for n in range(words + 1)]
    rest = max(12, width - sum(widths) - 2 * (words + 1))
    lines = []
    for place, row in enumerate((header, *rows)):
        line = "".join(" " * (w - cell_len(cell)) + cell + "  " for cell, w in zip(row[:words], widths, strict=False))
        line += set_cell_size(row[words], widths[words]) + "  " * (widths[words] > 0) + ending(row[-1], rest)
        style = "bold" if place == 0 else last if place == len(rows) else ""
        lines.append(Text(line.rstrip(), style=style, no_wrap=True, overflow="ignore"))
    return lines
