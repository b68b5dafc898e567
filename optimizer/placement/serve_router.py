"""Power of two choices, as Ray Serve 2.60 does it with one handle (`PowerOfTwoChoicesRequestRouter`).

Two replicas are drawn at random; of those with fewer than `max_ongoing_requests` calls the one with fewer takes the
call, of equals the first drawn. If neither can, the call waits at the router: at most two tasks for each replica draw
again and again (at once, then after 25 ms, 50 ms and so on up to 0.5 s); what one finds goes to the call that waits
longest. Replicas that start are not drawn. Queue lengths are those the handle counts itself: without lost messages
they are right, and so they are here; the round trip of a probe takes no time here.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence

from redecode.optimizer.placement.simple import the_pool
from redecode.replay.simulator.views import CallView, Hold, ReplicaView, Route, Router, State

MAX_ONGOING_REQUESTS = 5
"""Serve's default of a deployment."""
_BACKOFF_S, _MOST_BACKOFF_S = 0.025, 0.5


class PowerOfTwoChoices(Router):
    """Serve's default. Calls of one model are one deployment."""

    def __init__(self, rng: random.Random, *, max_ongoing_requests: int = MAX_ONGOING_REQUESTS) -> None:
        self._rng, self._most = rng, max_ongoing_requests
        self._pending: dict[str, deque[CallView]] = {}
        self._tasks: dict[str, list[tuple[float, int, int]]] = {}  # model → (when, number, attempt)
        self._asked: dict[str, float] = {}  # model → when it will be asked again
        self._count = 0

    @property
    def queued(self) -> int:
        """Calls that wait here (Serve's num_queued_requests)."""
        return sum(map(len, self._pending.values()))

    def draw(self, replicas: Sequence[ReplicaView]) -> tuple[ReplicaView, ...]:
        """Two different ones in random order, or the only one."""
        n = len(replicas)
        if n < 2:
            return tuple(replicas)
        first = self._rng.randrange(n)
        second = self._rng.randrange(n - 1)
        return replicas[first], replicas[second + (second >= first)]

    def choose(self, replicas: Sequence[ReplicaView], more: dict[int, int] | None = None) -> int | None:
        """One try: the number of a replica with room, or `None`. `more` calls are on their way there already."""
        best, least = None, self._most
        for replica in self.draw(replicas):
            length = replica.outstanding + (more or {}).get(replica.number, 0)
            if length < least:
                best, least = replica.number, length
        return best

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        """A replica with room, or it waits."""
        pool = [r for r in the_pool(call, replicas) if r.state is State.READY]
        pending = self._pending.setdefault(call.model, deque())
        tasks = self._tasks.setdefault(call.model, [])
        if not pending:
            for _ in range(2):  # the first try that fails is followed by one at once
                if (number := self.choose(pool)) is not None:
                    return number
        pending.append(call)
        if len(tasks) >= max(1, 2 * len(pool)):
            return Hold()
        self._count += 1
        heapq.heappush(tasks, (now_s if len(pending) > 1 else now_s + _BACKOFF_S, self._count, 1))
        self._asked[call.model] = tasks[0][0]
        return Hold(tasks[0][0])

    def release(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[tuple[int, Route]]:
        """What the tasks that are due find."""
        out: list[tuple[int, Route]] = []
        more: dict[int, int] = {}
        for model, tasks in self._tasks.items():
            pending = self._pending[model]
            if not pending:
                tasks.clear()
                continue
            pool = [r for r in the_pool(pending[0], replicas) if r.state is State.READY]
            again: list[tuple[float, int, int]] = []
            while tasks and pending and (tasks[0][0] <= now_s or not pool):
                _, task, attempt = heapq.heappop(tasks)
                number = self.choose(pool, more)
                while number is not None and pending:
                    more[number] = more.get(number, 0) + 1
                    out.append((pending.popleft().call, number))
                    attempt, number = 0, self.choose(pool, more)
                if pool:
                    wait = min(_BACKOFF_S * 2 ** min(attempt, 10), _MOST_BACKOFF_S)
                    again.append((now_s + wait, task, attempt + 1))
                else:
                    again.append((now_s + _MOST_BACKOFF_S, task, 0))
            for entry in again:
                heapq.heappush(tasks, entry)
            if not pending:
                tasks.clear()
            elif tasks and not now_s < self._asked.get(model, -1.0) <= tasks[0][0]:
                self._asked[model] = tasks[0][0]
                out.append((pending[0].call, Hold(tasks[0][0])))
        return out
