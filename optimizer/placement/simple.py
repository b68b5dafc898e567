"""Policies that know nothing of deadlines: round robin, least outstanding, shortest expected delay, prefix affinity."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from redecode.optimizer.placement.decisions import Decision, DecisionLog, Estimate
from redecode.optimizer.placement.errors import NoReplica
from redecode.optimizer.placement.estimates import Estimator, pool_of
from redecode.replay.simulator.views import CallView, ReplicaView, Route, Router


def the_pool(call: CallView, replicas: Sequence[ReplicaView]) -> list[ReplicaView]:
    """Those that can run it.

    Raises:
        NoReplica: none can.
    """
    pool = pool_of(call, replicas)
    if not pool:
        kinds = sorted({r.engine.model or "any model" for r in replicas})
        raise NoReplica(
            f"a call of {call.step} for {call.model or 'any model'} with {call.prompt_tokens} tokens of prompt has no "
            f"replica it can run on; there are replicas of {', '.join(kinds) or 'nothing'}"
        )
    return pool


class RoundRobin(Router):
    """One after the other, in the order of their numbers; a turn of its own for each model."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        """The next one after the last."""
        pool = the_pool(call, replicas)
        last = self._last.get(call.model, -1)
        number = next((r.number for r in pool if r.number > last), pool[0].number)
        self._last[call.model] = number
        return number


class LeastOutstanding(Router):
    """The fewest calls that have not ended; of equals the least number."""

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        """The least loaded."""
        return min(the_pool(call, replicas), key=lambda r: (r.outstanding, r.number)).number


class PrefixAffinity(Router):
    """Where the most of its prompt was sent before, unless that replica is loaded out of proportion; else the least.

    As Ray Serve's `PrefixCacheAffinityRouter`: by prefix while the longest and the shortest queue differ by less than
    `imbalanced`, and at least `match_rate` of the prompt is there; by load otherwise. It keeps what it sent itself (the
    last `blocks` of each replica), and asks no engine.
    """

    def __init__(self, *, imbalanced: float = 10.0, match_rate: float = 0.1, blocks: int = 100_000) -> None:
        self._imbalanced, self._match_rate, self._blocks = imbalanced, match_rate, blocks
        self._seen: dict[int, OrderedDict[int, None]] = {}

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        """By prefix or by load."""
        pool = the_pool(call, replicas)
        loads = [r.outstanding for r in pool]
        chosen = min(pool, key=lambda r: (r.outstanding, r.number))
        if max(loads) - min(loads) < self._imbalanced and call.hashes:
            best = max(pool, key=lambda r: (self._match(r.number, call.hashes), -r.outstanding, -r.number))
            if self._match(best.number, call.hashes) >= self._match_rate * len(call.hashes):
                chosen = best
        seen = self._seen.setdefault(chosen.number, OrderedDict())
        for block in call.hashes:
            seen[block] = None
            seen.move_to_end(block)
        while len(seen) > self._blocks:
            seen.popitem(last=False)
        return chosen.number

    def _match(self, number: int, hashes: Sequence[int]) -> int:
        seen = self._seen.get(number)
        if not seen:
            return 0
        for place, block in enumerate(hashes):
            if block not in seen:
                return place
        return len(hashes)


class ShortestExpectedDelay(Router):
    """The least l_est = l_x + l_q + l_r: knows what replicas are and what steps take, and nothing of deadlines."""

    name = "shortest expected delay"

    def __init__(self, estimator: Estimator, log: DecisionLog | None = None) -> None:
        self._estimator, self._log = estimator, log

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        """The soonest."""
        belief = self._estimator.beliefs.of(call)
        pool = the_pool(call, replicas)
        estimates = [self._estimator.estimate(call, belief, r, now_s) for r in pool]
        best = min(estimates, key=lambda e: (e.l_est, e.replica))
        self._estimator.sent(call, next(r for r in pool if r.number == best.replica), now_s, best)
        if self._log is not None:
            self._log.note(_decision(self.name, call, now_s, best, estimates, belief.source, belief.output_tokens))
        return best.replica

    def ended(self, call: int, replica: int, now_s: float) -> None:
        """Its time is learnt from."""
        self._estimator.ended(call, now_s)


def _decision(
    policy: str, call: CallView, now_s: float, best: Estimate, estimates: Sequence[Estimate], source: str, tokens: float
) -> Decision:
    others = [e.l_est for e in estimates if e is not best]
    why = f"done in {best.l_est:.3g} s there" + (f", {min(others):.3g} s and more elsewhere" if others else "")
    return Decision(
        now_s, call.call, call.run, call.agent, call.step, call.model, policy, "send", best.replica, why, source,
        tokens, 0.0, None, 0, tuple(estimates),
    )  # fmt: skip
