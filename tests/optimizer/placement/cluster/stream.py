"""What a router saw and said in a simulation, one event after the other; and replicas that show it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redecode.replay.simulator.views import CallView, ReplicaView, Route, Router


@dataclass(frozen=True)
class Seen:
    """A replica as it was."""

    number: int
    outstanding: int
    outstanding_prompt_tokens: int
    running: int
    waiting: int
    free_kv_blocks: int
    cached_blocks: int


@dataclass(frozen=True)
class Event:
    """`call` is one that came, `ended` (call, replica) one that has ended; neither: what waits was asked after."""

    now_s: float
    seen: tuple[Seen, ...] = ()
    call: CallView | None = None
    ended: tuple[int, int] | None = None


class Recorded(Router):
    """A router, and what happens to it.

    Attributes:
        said: (call, replica or `None`, priority) of each call that was sent or refused, in order.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self.events: list[Event] = []
        self.said: list[tuple[int, int | None, int]] = []
        self._calls: dict[int, CallView] = {}

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        self.events.append(Event(now_s, seen(replicas, call.hashes), call=call))
        self._calls[call.call] = call
        return self._took(call, self._router.route(call, replicas, now_s))

    def release(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[tuple[int, Route]]:
        self.events.append(Event(now_s, seen(replicas, ())))
        out = self._router.release(replicas, now_s)
        for number, chosen in out:
            self._took(self._calls[number], chosen)
        return out

    def priority(self, call: CallView, now_s: float) -> int:
        priority = self._router.priority(call, now_s)
        number, replica, _ = next(s for s in reversed(self.said) if s[0] == call.call)
        self.said[self.said.index((number, replica, 0))] = (number, replica, priority)
        return priority

    def ended(self, call: int, replica: int, now_s: float) -> None:
        self.events.append(Event(now_s, ended=(call, replica)))
        self._router.ended(call, replica, now_s)

    def _took(self, call: CallView, chosen: Route) -> Route:
        if chosen is None or isinstance(chosen, int):
            self.said.append((call.call, chosen, 0))
        return chosen


def seen(replicas: Sequence[ReplicaView], hashes: Sequence[int]) -> tuple[Seen, ...]:
    return tuple(
        Seen(
            r.number, r.outstanding, r.outstanding_prompt_tokens, r.running, r.waiting, r.free_kv_blocks,
            r.cached_blocks(hashes),
        )
        for r in replicas
    )  # fmt: skip


class Shown:
    """Beliefs about a prefix cache that are those of the simulation."""

    def __init__(self) -> None:
        self.blocks = 0

    def found(self, hashes: Sequence[int]) -> int:
        return self.blocks if hashes else 0

    def sent(self, hashes: Sequence[int]) -> None:
        pass


class Manual:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def now_s(self) -> float:
        return self.at_s

    def of_unix_s(self, unix_s: float) -> float:
        return unix_s
