"""Bars that add up: from one duration to another, each step's part of the difference where the one before ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redecode.replay.comparison.lanes import Share


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar between two durations, ns.

    Attributes:
        kind: "total" of the first and the last, "longer" or "shorter" of what is between.
    """

    label: str
    kind: str
    from_ns: int
    to_ns: int

    @property
    def delta_ns(self) -> int:
        """What it adds; of a total its length."""
        return self.to_ns - self.from_ns


def cascade(
    recorded_ns: int, candidate_ns: int, shares: Sequence[Share], *, most: int = 12, names: tuple[str, str]
) -> list[Bar]:
    """The largest differences one by one, the others together; the last difference ends where the candidate does.

    Args:
        shares: largest first; they add up to `candidate_ns - recorded_ns`.
        names: of the two totals.
    """
    moved = [s for s in shares if s.delta_ns]
    kept, rest = (moved, []) if len(moved) <= most else (moved[: most - 1], moved[most - 1 :])
    deltas = [(_label(s), s.delta_ns) for s in kept]
    if rest:
        deltas.append((f"{len(rest)} more", sum(s.delta_ns for s in rest)))
    bars, at, seen = [Bar(names[0], "total", 0, recorded_ns)], recorded_ns, set[str]()
    for label, delta in deltas:
        unique = label
        while unique in seen:
            unique += " "
        seen.add(unique)
        bars.append(Bar(unique, "longer" if delta > 0 else "shorter", at, at + delta))
        at += delta
    return [*bars, Bar(names[1], "total", 0, candidate_ns)]


def window(bars: Sequence[Bar]) -> tuple[int, int]:
    """What of the axis to show, so that the differences can be seen: all of them, with room for words on the right."""
    ends = [ns for b in bars for ns in ((b.to_ns,) if b.kind == "total" else (b.from_ns, b.to_ns))]
    least, most = min(ends), max(ends)
    room = max(most - least, most // 50, 1)
    begin = least - room // 3
    return (0 if begin < most // 4 else begin), most + room // 5


def _label(share: Share) -> str:
    step = share.step_key or "run"
    return step if share.part == "work" else f"{step} ({share.part})"
