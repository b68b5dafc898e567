"""Bars on a common time axis: which sign stands in which cell. Every sign is one column wide, and tells without colour.

A cell shows what took most of its time; what is shorter than a cell still gets one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rich.text import Text

from redecode.replay import ActivityKind

Interval = tuple[int, int, str]
"""Start, end (ns), what."""

GAP, FLOAT, BARRIER, WITHIN, DEADLINE, OPEN, BEYOND = "gap", "float", "barrier", "within", "deadline", "open", "beyond"


class Sign(NamedTuple):
    """How something is drawn: where the terminal has Unicode, where it has not, its colour, and what it means."""

    drawn: str
    ascii: str
    style: str
    words: str


SIGNS: dict[str, Sign] = {
    ActivityKind.QUEUE: Sign("▂", ".", "yellow", "queue"),
    ActivityKind.PREFILL: Sign("▒", "%", "magenta", "prefill"),
    ActivityKind.DECODE: Sign("█", "#", "blue", "decode"),
    ActivityKind.FM: Sign("▓", "@", "blue", "FM call, not split by its engine"),
    ActivityKind.TRANSPORT: Sign("╌", "_", "blue", "network, client"),
    ActivityKind.TOOL: Sign("■", "o", "green", "tool"),
    ActivityKind.RETRIEVAL: Sign("■", "o", "green", "tool"),
    ActivityKind.CACHE: Sign("■", "o", "green", "tool"),
    ActivityKind.PARSE: Sign("━", "=", "cyan", "own code"),
    ActivityKind.CODE: Sign("━", "=", "cyan", "own code"),
    ActivityKind.FRAMEWORK: Sign("░", ":", "bright_black", "gap (framework)"),
    ActivityKind.PERSON: Sign("◦", "?", "yellow", "a person"),
    GAP: Sign("░", ":", "bright_black", "gap (framework)"),
    BARRIER: Sign("▚", "/", "yellow", "held up by a barrier alone"),
    WITHIN: Sign("─", "-", "bright_black", "steps below it"),
    FLOAT: Sign("┄", "~", "bright_black", "float: could end so much later"),
    DEADLINE: Sign("┃", "|", "bold red", "SLO"),
    OPEN: Sign("▸", ">", "bold yellow", "still open"),
    BEYOND: Sign("»", "!", "bold yellow", "off the axis"),
}


@dataclass(frozen=True, slots=True)
class Axis:
    """A stretch of time in `width` cells.

    Attributes:
        deadline_ns: a point in time to mark, if it lies on the axis.
        unicode: whether the terminal has more than ASCII.
    """

    low_ns: int
    high_ns: int
    width: int
    deadline_ns: int | None = None
    unicode: bool = True
    used: set[str] = field(default_factory=set, compare=False)

    @property
    def span_ns(self) -> int:
        """Its length, at least 1."""
        return max(self.high_ns - self.low_ns, 1)

    def cell(self, at_ns: int) -> int:
        """The cell that a point in time is in, whether or not there is one."""
        return (at_ns - self.low_ns) * self.width // self.span_ns

    def blank(self) -> list[str]:
        """A row of cells with nothing in them."""
        return [""] * self.width

    def paint(self, cells: list[str], intervals: Iterable[Interval], *, least: int = 1) -> None:
        """Put intervals into the cells that are empty; each gets the one that takes most of it.

        Args:
            least: cells that an interval gets if it is shorter; with 0 it has to take half of a cell.
        """
        span, width = self.span_ns, self.width
        most: dict[int, tuple[int, str]] = {}
        for start, end, what in intervals:
            left, right = (start - self.low_ns) * width, (end - self.low_ns) * width
            first, last = max(0, left // span), min(width - 1, (right - 1) // span)
            if first > last and least and 0 <= left // span <= width:
                last = first = min(first, width - 1)  # no time at all
            for n in range(first, last + 1):
                share = min(right, (n + 1) * span) - max(left, n * span)
                if not least and 2 * share < span:
                    continue
                if not cells[n] and (n not in most or share > most[n][0]):
                    most[n] = share, what
        for n, (_, what) in most.items():
            cells[n] = what

    def draw(self, cells: Sequence[str], critical: Sequence[bool] | None = None) -> Text:
        """Cells as text, the deadline over them; critical ones stand out."""
        marked = -1 if self.deadline_ns is None else self.cell(self.deadline_ns)
        out = Text(no_wrap=True)
        for n, what in enumerate(cells):
            if n == marked:
                what = DEADLINE
            if not what:
                out.append(" ")
                continue
            self.used.add(what)
            sign = SIGNS.get(what, SIGNS[ActivityKind.CODE])
            style = "bold red" if critical is not None and critical[n] and what != DEADLINE else sign.style
            out.append(sign.drawn if self.unicode else sign.ascii, style=style)
        return out

    def ruler(self, origin_ns: int) -> tuple[str, str]:
        """Two lines: the names of the ticks, counted from `origin_ns`, and the ticks."""
        step = _tick(self.span_ns * 9 // max(self.width, 1))
        unit, ns = next((u, n) for u, n in _TICK_UNITS if step >= n)
        names, line = [" "] * self.width, ["─" if self.unicode else "-"] * self.width
        at = origin_ns - (origin_ns - self.low_ns) // step * step
        while at <= self.high_ns:
            cell = min(max(self.cell(at), 0), self.width - 1)
            name = f"{(at - origin_ns) / ns:g} {unit}" if at != origin_ns else "0"
            if cell + len(name) <= self.width:
                names[cell : cell + len(name)] = name
            line[cell] = "┬" if self.unicode else "+"
            at += step
        marked = -1 if self.deadline_ns is None else self.cell(self.deadline_ns)
        if 0 <= marked < self.width:
            line[marked] = SIGNS[DEADLINE].drawn if self.unicode else SIGNS[DEADLINE].ascii
        return "".join(names), "".join(line)

    def legend(self) -> str:
        """What the signs mean that were drawn."""
        words: dict[str, str] = {}
        for what, sign in SIGNS.items():
            if what in self.used:
                words.setdefault(sign.words, sign.drawn if self.unicode else sign.ascii)
        return "   ".join(f"{sign} {meaning}" for meaning, sign in words.items())


_S, _MIN, _H = 1_000_000_000, 60_000_000_000, 3_600_000_000_000
_TICK_UNITS = (("h", _H), ("min", _MIN), ("s", _S), ("ms", 1_000_000), ("µs", 1_000), ("ns", 1))
_TICKS = (
    *(times * 10**power for power in range(10) for times in (1, 2, 5)),
    *(times * _S for times in (10, 15, 30)),
    *(times * _MIN for times in (1, 2, 5, 10, 15, 30)),
    *(times * _H for times in (1, 2, 6, 12, 24)),
    *(times * 24 * _H * 10**power for power in range(5) for times in (2, 5, 10)),
)


def _tick(least_ns: int) -> int:
    """A round distance of at least this."""
    return next((tick for tick in _TICKS if tick >= least_ns), least_ns)
