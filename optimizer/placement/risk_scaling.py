"""Our provisioner: as many replicas as keep the risk of being late small, started as soon as that is foreseen.

Runs begin at a rate that is watched, of each model that they will call (a short and a long mean, and what a Poisson
process may come to beyond them). How loaded its replicas would be follows from what runs ask of that model (`beliefs`)
and from what those that have begun still will (`committed`): replicas of a model that is called late in a run are
started while its first calls are made. How loaded they are gives the pace, and the paces of all models the chance that
a run is late (`bearable`). So many are wanted that at most `epsilon` are late; more are started at once, fewer are kept
only after they were too many for `release_after_s`. Of several kinds of a model the cheapest is added per work that it
does in time, and the dearest released.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, sqrt

from redecode.optimizer.placement.bearable import Bearable
from redecode.optimizer.placement.committed import Committed
from redecode.optimizer.placement.estimates import Estimator
from redecode.optimizer.placement.work import Work
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import Add, CallView, Command, Remove, ReplicaView, State

_SAMPLE = 32
"""Runs that began last stand for those to come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskRule:
    """Its numbers.

    Attributes:
        epsilon: the part of runs that may be late.
        sure: standard deviations of a Poisson process that are reckoned with.
        release_after_s: replicas are released after they were too many for so long.
        least, most: replicas of each model.
    """

    epsilon: float = 0.05
    sure: float = 1.3
    window_s: float = 60.0
    release_after_s: float = 60.0
    least: int = 1
    most: int = 16


@dataclass(slots=True)
class _Of:
    """What is known of one model.

    Attributes:
        begun: runs that began lately and will call it: when, and their first calls.
        asked: work per second that is asked of its replicas, in typical calls.
    """

    kinds: list[Engine]
    begun: deque[tuple[float, CallView]] = field(default_factory=deque)
    asked: float = 0.0
    many_since_s: float | None = None


class RiskScaling:
    """Provisioner of the replicas of one model or several.

    Args:
        kinds: of replicas that may be started; which model each serves, its engine says.
        estimator, committed: of the router, which sees the calls; it tells this of runs that begin (`began`).
    """

    every_s = 1.0

    def __init__(
        self, rule: RiskRule, kinds: Sequence[Engine], estimator: Estimator, committed: Committed | None = None
    ) -> None:
        self._rule, self._estimator, self._committed = rule, estimator, committed
        self._models: dict[str, _Of] = {}
        for kind in kinds:
            self._models.setdefault(kind.model, _Of([])).kinds.append(kind)
        self._bearable = Bearable({name: of.kinds for name, of in self._models.items()}, estimator, rule.epsilon)
        self._calls: dict[tuple[str, ...], set[str]] = {}
        self._shares: Mapping[int, float] = {}
        self._started_s: float | None = None

    def began(self, call: CallView, now_s: float) -> None:
        """The first call of a run came, served or refused."""
        belief = self._estimator.beliefs.of(call)
        key = (call.model, *belief.key)
        if key not in self._calls:
            later = {name for sample in belief.samples for name, _ in sample.rest}
            self._calls[key] = {self._bearable.serving(name) for name in later | {call.model}}
        for name in self._calls[key]:
            if name in self._models:
                self._models[name].begun.append((now_s, call))

    def plan(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[Command]:
        """More at once, fewer after a while."""
        if self._started_s is None:
            self._started_s = now_s
        alive: dict[str, list[ReplicaView]] = {name: [] for name in self._models}
        for r in replicas:
            name = self._bearable.serving(r.engine.model)
            if r.state in (State.STARTING, State.READY) and name in alive:
                alive[name].append(r)
                self._estimator.model(r.engine)
        self._look(alive, now_s)
        return [command for name, of in self._models.items() for command in self._change(of, alive[name], now_s)]

    def _change(self, of: _Of, alive: Sequence[ReplicaView], now_s: float) -> Sequence[Command]:
        """Of the replicas of one model."""
        missing = of.asked - sum(self._serves(r.engine) for r in alive)
        if missing > 0 and len(alive) < self._rule.most:
            of.many_since_s = None
            return self._add(of.kinds, missing, self._rule.most - len(alive))
        spare = self._spare(alive, of.asked)
        if not spare:
            of.many_since_s = None
            return []
        if of.many_since_s is None:
            of.many_since_s = now_s
        if now_s - of.many_since_s < self._rule.release_after_s:
            return []
        return [Remove(r.number) for r in spare]

    # --- how much ---------------------------------------------------------------------------

    def _look(self, alive: Mapping[str, Sequence[ReplicaView]], now_s: float) -> None:
        """What is asked of each model, and how much of its time may be taken."""
        every = [r for of_it in alive.values() for r in of_it]
        committed = self._committed.shares(every, now_s) if self._committed is not None and every else {}
        for name, of in self._models.items():
            while of.begun and of.begun[0][0] < now_s - self._rule.window_s:
                of.begun.popleft()
            of.asked = self._asked(name, now_s) if of.begun else 0.0
            if of.asked:
                # Runs that have begun may ask for more than new ones do: those that were held up, or are long.
                have = sum(self._able(r.engine) for r in alive[name])
                share = max(committed.values(), default=0.0) if len(self._models) == 1 else committed.get(name, 0.0)
                of.asked = max(of.asked, have * share)
        sample = {name: [call for _, call in list(of.begun)[-_SAMPLE:]] for name, of in self._models.items()}
        usd = {name: of.asked * min(map(self._usd, of.kinds)) for name, of in self._models.items()}
        self._shares = self._bearable.shares(sample, usd)

    def _asked(self, name: str, now_s: float) -> float:
        """Work per second that runs which begin ask of this model, in typical calls."""
        rule, of, estimator = self._rule, self._models[name], self._estimator
        assert self._started_s is not None
        lately = sum(at_s >= now_s - rule.window_s / 4 for at_s, _ in of.begun)
        long_s = max(1.0, min(rule.window_s, now_s - self._started_s))
        short_s = max(1.0, min(rule.window_s / 4, long_s))
        rates = []
        for count, seconds in ((len(of.begun), long_s), (lately, short_s)):
            rates.append((count + rule.sure * sqrt(count)) / seconds)
        typical = estimator.model(of.kinds[0]).typical
        sample = [call for _, call in list(of.begun)[-_SAMPLE:]]
        work = 0.0
        for call in sample:
            belief = estimator.beliefs.of(call)
            first = self._bearable.serving(call.model) == name
            for s in belief.samples:
                own = estimator.unit_tokens_s(call.model, s.output_tokens) if first else 0.0
                rest = sum(estimator.unit_s(m, w) for m, w in s.rest if self._bearable.serving(m) == name)
                work += (own + rest) / len(belief.samples)
            if first:
                prompt = min(call.prompt_tokens, typical.prompt_tokens)
                work += estimator.unit_s(call.model, Work(prompt_tokens=prompt))
        return max(rates) * work / len(sample)

    def _able(self, engine: Engine) -> float:
        return self._estimator.model(engine).relative()

    def _serves(self, engine: Engine) -> float:
        """Work per second of which few runs are late; all that it can do where no run says how much that is."""
        return self._able(engine) * self._shares.get(id(engine), 1.0)

    # --- which ------------------------------------------------------------------------------

    def _usd(self, engine: Engine) -> float:
        """What its work costs."""
        serves = self._serves(engine)
        return engine.cost_per_s / serves if serves else inf

    def _add(self, kinds: Sequence[Engine], missing: float, most: int) -> list[Command]:
        """The cheapest per work, so many that it is enough."""
        kind = min(kinds, key=lambda e: (self._usd(e), e.cost_per_s))
        out: list[Command] = []
        while missing > 0 and len(out) < most:
            out.append(Add(kind))
            missing -= self._serves(kind)
        return out

    def _spare(self, alive: Sequence[ReplicaView], asked: float) -> list[ReplicaView]:
        """Replicas that can go: the dearest per work first, and of equals the least busy."""
        have, left, out = sum(self._serves(r.engine) for r in alive), len(alive), list[ReplicaView]()
        for r in sorted(alive, key=lambda r: (-self._usd(r.engine), r.outstanding, -r.number)):
            if left > self._rule.least and have - self._serves(r.engine) >= asked * 1.05:
                out.append(r)
                have -= self._serves(r.engine)
                left -= 1
        return out
