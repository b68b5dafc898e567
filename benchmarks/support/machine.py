"""What else a machine did while an engine ran on it, taken from the engine's own steps, to be simulated with.

A simulated engine takes the step times that were measured of it; on a machine with other work they are not what they
were a minute ago. To tell an error of the model from that, the machine's speed is measured in windows of half a second
(what the steps in it took over what the model says of them, all kinds of steps together) and given to the simulation.
What is left is the model's: how steps of one kind compare with those of another, who is in a step with whom, what waits
for what.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields

from redecode.replay.simulator.costs import to_ps
from redecode.replay.simulator.engine import Engine, Noise
from redecode.replay.simulator.observed import ObservedStep, from_decodes
from redecode.replay.simulator.profile import EngineProfile
from redecode.tracer import Decode

WINDOW_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class AsItWas(Engine):
    """An engine on a machine whose speed is known: in each window steps take so many times as long."""

    slower: tuple[float, ...] = (1.0,)

    @classmethod
    def of(cls, engine: Engine, slower: Sequence[float]) -> AsItWas:
        """The same engine, there."""
        return cls(**{f.name: getattr(engine, f.name) for f in fields(Engine)}, slower=tuple(slower))

    def noise(self, rng: random.Random) -> Noise:
        """As `Engine.noise`; nothing is drawn."""
        slower, width = self.slower, to_ps(WINDOW_S)
        last = len(slower) - 1

        def stretch(_count: int, _prefill: bool, now: int, duration: int) -> float:  # noqa: FBT001
            left, at = float(duration), float(now)
            while left > 0:
                window = int(at // width)
                factor = slower[min(window, last)]
                room = ((window + 1) * width - at) / factor
                if window >= last or left <= room:
                    at, left = at + left * factor, 0.0
                else:
                    at, left = float((window + 1) * width), left - room
            return (at - now) / duration if duration else 1.0

        return stretch


def predicted_s(profile: EngineProfile, step: ObservedStep) -> float:
    """What the model says of a step, its pause included."""
    s = profile.seconds
    return (
        s.step + s.prefill_token * step.prefill_tokens + s.prefill_pair * step.pairs
        + s.prefill_call * step.prefill_calls + s.decode * step.decodes + s.context_token * step.context_tokens
        + s.gap + s.gap_row * step.rows
    )  # fmt: skip


def slowness(profile: EngineProfile, decodes: Sequence[Decode], origin_ns: int) -> list[float]:
    """By how much the machine was slower than the profile says, in each window from `origin_ns` (UTC) on.

    A window without steps is as the one before it.
    """
    first_ns = min(d.sent_ns + d.token_times_ns[0] for d in decodes if d.token_times_ns and d.batch_rows)
    took: dict[int, float] = {}
    told: dict[int, float] = {}
    for step in from_decodes(decodes, None).steps:
        end = (first_ns - origin_ns) / 1e9 + step.at_s
        begin = max(0.0, end - step.work_s)
        for window in range(int(begin // WINDOW_S), int(end // WINDOW_S) + 1):
            inside = min(end, (window + 1) * WINDOW_S) - max(begin, window * WINDOW_S)
            if inside > 0:
                took[window] = took.get(window, 0.0) + inside
                told[window] = told.get(window, 0.0) + predicted_s(profile, step) * inside / step.work_s
    ratio = sum(took.values()) / sum(told.values())
    found = []
    for window in range(max(took) + 1):
        if window in told:
            ratio = took[window] / told[window]
        found.append(ratio)
    return found
