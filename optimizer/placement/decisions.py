"""Decisions as they were made: what each candidate was believed to take, and why the one was chosen.

Nobody keeps them unless asked to: a simulation makes millions. `JsonLines` streams them, `Recent` keeps the last.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TextIO


@dataclass(frozen=True, slots=True)
class Estimate:
    """l_est = l_x + l_q + l_r of a call on one replica, seconds.

    Attributes:
        l_x: execution: its prompt (what the prefix cache lacks of it) and its tokens, at the load it would meet.
        l_q: until it is in the engine's batch.
        l_r: until the replica takes calls: 0 when it is warm.
        cached_tokens: of its prompt, in the replica's prefix cache.
        calls: in the engine's batch, with this one.
        attains: the believed chance that its run meets its deadline if it goes there; `None` if that was not asked.
    """

    replica: int
    l_x: float
    l_q: float
    l_r: float
    cached_tokens: int = 0
    calls: int = 0
    attains: float | None = None

    @property
    def l_est(self) -> float:
        """All together."""
        return self.l_x + self.l_q + self.l_r


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a call goes.

    Attributes:
        action: "send", "hold" (it waits at the router) or "refuse".
        replica: where it is sent.
        reason: in words.
        belief: where what is expected of the call comes from (`beliefs.Source`).
        tail_s: the median of what is expected to follow it.
        deadline_slack_s: what is left of the run's time if the call and its tail take as long as believed; `None`
            without a deadline.
        priority: its place in the engine's queue; the least goes first.
    """

    now_s: float
    call: int
    run: int
    agent: str
    step: str
    model: str
    policy: str
    action: str
    replica: int | None
    reason: str
    belief: str
    output_tokens: float
    tail_s: float
    deadline_slack_s: float | None
    priority: int
    candidates: tuple[Estimate, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data; each candidate with its sum."""
        found = asdict(self)
        found["candidates"] = [{**asdict(c), "l_est": c.l_est} for c in self.candidates]
        return found


class DecisionLog(Protocol):
    """Takes decisions."""

    def note(self, decision: Decision) -> None:
        """One more."""


class JsonLines:
    """Writes a line of JSON for each; `most` at most, and counts the rest."""

    def __init__(self, file: TextIO, most: int | None = None) -> None:
        self._file, self._most = file, most
        self.written = self.left_out = 0

    def note(self, decision: Decision) -> None:
        """Write it."""
        if self._most is not None and self.written >= self._most:
            self.left_out += 1
            return
        self._file.write(json.dumps(decision.to_json(), separators=(",", ":")) + "\n")
        self.written += 1


class Recent:
    """Keeps the last so many."""

    def __init__(self, most: int = 1000) -> None:
        self._kept: deque[Decision] = deque(maxlen=most)

    def note(self, decision: Decision) -> None:
        """Keep it, and let the oldest go."""
        self._kept.append(decision)

    def decisions(self) -> Sequence[Decision]:
        """The oldest first."""
        return tuple(self._kept)
