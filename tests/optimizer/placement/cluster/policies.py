"""Small policies of tests."""

from __future__ import annotations

from collections.abc import Sequence

from redecode.replay.simulator.views import CallView, Hold, ReplicaView, Route, Router


class InTurns(Router):
    """One after the other."""

    def __init__(self) -> None:
        self._asked = -1

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        self._asked += 1
        return replicas[self._asked % len(replicas)].number


class First(Router):
    """The first; the longest prompt goes first."""

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        return replicas[0].number

    def priority(self, call: CallView, now_s: float) -> int:
        return -call.prompt_tokens


class AfterItsTime(Router):
    """Refuses calls whose run is late."""

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        late = call.deadline_s is not None and call.deadline_s < now_s
        return None if late else replicas[0].number


class OneAtATime(Router):
    """Keeps calls until a replica has none, in the order they came."""

    def __init__(self) -> None:
        self._kept: list[CallView] = []

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        idle = next((r for r in replicas if not r.outstanding), None)
        if idle is not None:
            return idle.number
        self._kept.append(call)
        return Hold()

    def release(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[tuple[int, Route]]:
        idle = [r.number for r in replicas if not r.outstanding]
        go, self._kept = self._kept[: len(idle)], self._kept[len(idle) :]
        return [(call.call, number) for call, number in zip(go, idle, strict=False)]


class MostCached(Router):
    """Where the most of the prompt is believed to be; of equals the least loaded; urgent by deadline."""

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        return min(
            replicas, key=lambda r: (-r.cached_blocks(call.hashes), r.outstanding_prompt_tokens, r.number)
        ).number

    def priority(self, call: CallView, now_s: float) -> int:
        return 0 if call.deadline_s is None else round(call.deadline_s * 1e6)
