"""Our provisioner: as many replicas as keep the risk of being late small, started as soon as that is foreseen.

Runs begin at a rate that is watched (a short and a long mean, and what a Poisson process may come to beyond them). How
loaded replicas would be follows from what runs ask for (`beliefs`) and from what those that have begun still will
(`committed`); how loaded they are gives the pace, and the pace the chance that a run is late. So many are wanted that
at most `epsilon` are late; more are started at once, fewer are kept only after they were too many for
`release_after_s`. Of several kinds the cheapest per unit of work is added, and the dearest released.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from redecode.optimizer.placement.committed import Committed
from redecode.optimizer.placement.estimates import Estimator
from redecode.optimizer.placement.work import Speed, Work
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import Add, CallView, Command, Remove, ReplicaView, State


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskRule:
    """Its numbers.

    Attributes:
        epsilon: the part of runs that may be late.
        sure: standard deviations of a Poisson process that are reckoned with.
        release_after_s: replicas are released after they were too many for so long.
        most: of each kind, by hardware; at least `least` in all.
    """

    epsilon: float = 0.05
    sure: float = 1.3
    window_s: float = 60.0
    release_after_s: float = 60.0
    least: int = 1
    most: int = 16


@dataclass(slots=True)
class _Begun:
    """What began lately: when, and of which kind."""

    at_s: float
    call: CallView


class RiskScaling:
    """Provisioner of one model's replicas.

    Args:
        kinds: of replicas that may be started.
        estimator, committed: of the router, which sees the calls; it tells this of runs that begin (`began`).
    """

    every_s = 1.0

    def __init__(
        self, rule: RiskRule, kinds: Sequence[Engine], estimator: Estimator, committed: Committed | None = None
    ) -> None:
        self._rule, self._kinds, self._estimator, self._committed = rule, list(kinds), estimator, committed
        self._begun: deque[_Begun] = deque()
        self._many_since_s: float | None = None
        self._started_s: float | None = None

    def began(self, call: CallView, now_s: float) -> None:
        """The first call of a run came, served or refused."""
        self._begun.append(_Begun(now_s, call))

    def plan(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[Command]:
        """More at once, fewer after a while."""
        rule = self._rule
        if self._started_s is None:
            self._started_s = now_s
        while self._begun and self._begun[0].at_s < now_s - rule.window_s:
            self._begun.popleft()
        alive = [r for r in replicas if r.state in (State.STARTING, State.READY)]
        able = [self._able(r.engine) for r in alive]
        wanted = self._wanted(alive, now_s)
        if sum(able) < wanted and len(alive) < rule.most:
            self._many_since_s = None
            return self._add(wanted - sum(able), rule.most - len(alive))
        spare = self._spare(alive, wanted)
        if not spare:
            self._many_since_s = None
            return []
        if self._many_since_s is None:
            self._many_since_s = now_s
        if now_s - self._many_since_s < rule.release_after_s:
            return []
        return [Remove(r.number) for r in spare]

    # --- how much ---------------------------------------------------------------------------

    def late(self, share: float, calls: Sequence[CallView]) -> float:
        """The part of such runs that would be late if this share of the cluster's work were asked of it."""
        model = min((self._estimator.model(e) for e in self._kinds), key=lambda m: m.base_s)
        pace = model.base_s / max(1e-3, 1.0 - share)
        speed = model.speed(1)
        later = {model.engine.model: Speed(speed.call_s, speed.sent_token_s, speed.prompt_token_s, speed.pair_s, pace)}
        chances = [
            self._estimator.chance(
                self._estimator.beliefs.of(c), pace, later, c.deadline_s - c.run_began_s - model.prompt_s
            )
            for c in calls
            if c.deadline_s is not None
        ]
        return 1.0 - sum(chances) / len(chances) if chances else 0.0

    def bearable(self, calls: Sequence[CallView]) -> float:
        """The largest share of what it can do with which at most `epsilon` more of these runs are late than must."""
        allowed = self.late(0.0, calls) + self._rule.epsilon
        low, high = 0.05, 0.9
        for _ in range(8):
            middle = (low + high) / 2
            low, high = (middle, high) if self.late(middle, calls) <= allowed else (low, middle)
        return low

    def _wanted(self, alive: Sequence[ReplicaView], now_s: float) -> float:
        """Work per second the cluster should be able to do, in typical calls."""
        if not self._begun:
            return 0.0
        rule = self._rule
        assert self._started_s is not None
        lately = [b for b in self._begun if b.at_s >= now_s - rule.window_s / 4]
        long_s = max(1.0, min(rule.window_s, now_s - self._started_s))
        short_s = max(1.0, min(rule.window_s / 4, long_s))
        rates = []
        for count, seconds in ((len(self._begun), long_s), (len(lately), short_s)):
            rates.append((count + rule.sure * sqrt(count)) / seconds)
        sample = [b.call for b in list(self._begun)[-32:]]
        work = 0.0
        for call in sample:
            belief = self._estimator.beliefs.of(call)
            for s in belief.samples:
                rest = sum(self._estimator.unit_s(name, w) for name, w in s.rest)
                work += (self._estimator.unit_tokens_s(call.model, s.output_tokens) + rest) / len(belief.samples)
            prompt = min(call.prompt_tokens, self._estimator.model(self._kinds[0]).typical.prompt_tokens)
            work += self._estimator.unit_s(call.model, Work(prompt_tokens=prompt))
        asked = max(rates) * work / len(sample)
        if self._committed is not None and alive:
            # Runs that have begun may ask for more than new ones do: those that were held up, or are long.
            have = sum(self._able(r.engine) for r in alive)
            asked = max(asked, have * max(self._committed.shares(alive, now_s).values(), default=0.0))
        return asked / self.bearable(sample)

    def _able(self, engine: Engine) -> float:
        return self._estimator.model(engine).relative()

    # --- which ------------------------------------------------------------------------------

    def _add(self, missing: float, most: int) -> list[Command]:
        """The cheapest per work, so many that it is enough."""
        kind = min(self._kinds, key=lambda e: (e.cost_per_s / self._able(e), e.cost_per_s))
        out: list[Command] = []
        while missing > 0 and len(out) < most:
            out.append(Add(kind))
            missing -= self._able(kind)
        return out

    def _spare(self, alive: Sequence[ReplicaView], wanted: float) -> list[ReplicaView]:
        """Replicas that can go: the dearest per work first, and of equals the least busy."""
        have, left, out = sum(self._able(r.engine) for r in alive), len(alive), list[ReplicaView]()
        order = sorted(alive, key=lambda r: (-r.engine.cost_per_s / self._able(r.engine), r.outstanding, -r.number))
        for r in order:
            if left > self._rule.least and have - self._able(r.engine) >= wanted * 1.05:
                out.append(r)
                have -= self._able(r.engine)
                left -= 1
        return out
