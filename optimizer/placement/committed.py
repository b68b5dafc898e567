"""What runs that have begun still ask of the cluster, and how fast it will be when they do.

A run that was let in comes back with more calls; while it waits for its tools no replica shows it. Each is believed to
need the work that is left of it (of the recorded calls that came after this step, the mean) before its deadline. Work
over time left, summed over all runs, is the rate at which the replicas of each model have to work; its share of what
they can do is how loaded they will be, and that gives the pace: base / (1 - share), as `work.Model` has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from redecode.optimizer.placement.beliefs import Belief
from redecode.optimizer.placement.decisions import Estimate
from redecode.optimizer.placement.estimates import Estimator, tail_s
from redecode.optimizer.placement.work import Speed, Work
from redecode.replay.simulator.views import CallView, ReplicaView

_MOST_LOADED = 0.97
_LEAST_TO_GO = 0.05
_STALE_S = 0.02
"""The sum is made anew after so long."""


@dataclass(slots=True)
class _Run:
    """A run that was let in.

    Attributes:
        open: its calls that have not ended: their model, their work in typical calls, since when, and for how long by
            estimate.
        rest: work after them, by model.
        waits_s: what passes meanwhile.
        least_s: it takes that long on idle replicas, waits apart.
        since_s: since when it has no call; after that it may be over, which nobody tells.
    """

    deadline_s: float
    open: dict[int, tuple[str, float, float, float]] = field(default_factory=dict)
    rest: dict[str, float] = field(default_factory=dict)
    waits_s: float = 0.0
    least_s: float = 0.0
    since_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Needs:
    """Of a call that is believed to be so, means: its output and what comes after it, in typical calls.

    Attributes:
        rest: what comes after it, by model.
        waits_s, least_s: of the way to the end: waits, and FM calls on idle replicas.
    """

    own: float
    rest: dict[str, float]
    waits_s: float
    least_s: float


class Committed:
    """Of the runs of one router."""

    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator
        self._runs: dict[int, _Run] = {}
        self._whose: dict[int, int] = {}
        self._sums: dict[str, float] = {}
        self._summed_s = float("-inf")
        self._needs: dict[tuple[object, ...], _Needs] = {}

    def _need(self, belief: Belief, model: str, replicas: Sequence[ReplicaView]) -> _Needs:
        key = (belief.key, model)
        found = self._needs.get(key)
        if found is None:
            estimator, n = self._estimator, len(belief.samples)
            idle = estimator.idle(replicas)
            pace = (idle.get(model) or idle.get("") or next(iter(idle.values()))).output_s
            waits = least = 0.0
            rest: dict[str, float] = {}
            for sample in belief.samples:
                waits += sample.waits_s / n
                least += (sample.output_tokens * pace + tail_s(0.0, sample.later, idle)) / n
                for name, work in sample.rest:
                    rest[name] = rest.get(name, 0.0) + estimator.unit_s(name, work) / n
            own = estimator.unit_tokens_s(model, belief.output_tokens)
            found = self._needs[key] = _Needs(own, rest, waits, least)
        return found

    def sent(
        self, call: CallView, belief: Belief, estimate: Estimate, replicas: Sequence[ReplicaView], now_s: float
    ) -> None:
        """A call of a run was let go."""
        if call.deadline_s is None:
            return
        run = self._runs.get(call.run)
        if run is None:
            run = self._runs[call.run] = _Run(call.deadline_s)
        need = self._need(belief, call.model, replicas)
        prompt = self._estimator.unit_s(call.model, Work(prompt_tokens=call.prompt_tokens - estimate.cached_tokens))
        run.open[call.call] = call.model, need.own + prompt, now_s, max(1e-6, estimate.l_est)
        run.rest, run.waits_s, run.least_s, run.since_s = need.rest, need.waits_s, need.least_s, None
        self._whose[call.call] = call.run
        self._summed_s = float("-inf")

    def ended(self, call: int, now_s: float) -> None:
        """A call is done."""
        number = self._whose.pop(call, -1)
        run = self._runs.get(number)
        if run is not None:
            run.open.pop(call, None)
            if not run.open:
                run.since_s = now_s
                if not any(run.rest.values()):
                    del self._runs[number]

    def gone(self, run: int) -> None:
        """It was given up."""
        self._runs.pop(run, None)

    def shares(self, replicas: Sequence[ReplicaView], now_s: float, *, full: bool = False) -> dict[str, float]:
        """Of what the replicas of each model could do, how much is asked of them.

        Args:
            full: of what they can do with full batches, not of the end of all batching (`Model.relative`).
        """
        if now_s - self._summed_s >= _STALE_S:
            self._sum(now_s)
        able: dict[str, float] = {}
        for r in replicas:
            model = self._estimator.model(r.engine)
            done = model.most_per_s() if full else model.relative()
            able[r.engine.model] = able.get(r.engine.model, 0.0) + done / self._estimator.ratio(r.engine)
        every = able.get("", 0.0)
        return {name: self._rate(name) / (able.get(name, 0.0) or every or 1e-9) for name in able | self._sums}

    def _rate(self, name: str) -> float:
        return self._sums.get(name, 0.0) if name else sum(self._sums.values())

    def _sum(self, now_s: float) -> None:
        self._summed_s = now_s
        sums: dict[str, float] = {}
        over = []
        for number, run in self._runs.items():
            left = run.deadline_s - now_s
            if left <= 0.0:
                over.append(number)
                continue
            to_come = 1.0
            if run.since_s is not None:
                gap = run.waits_s + 0.2
                to_come = max(0.0, 1.0 - (now_s - run.since_s) / (2.0 * gap))
            works = {name: work * to_come for name, work in run.rest.items()}
            for name, own, since_s, takes_s in run.open.values():
                works[name] = works.get(name, 0.0) + own * max(_LEAST_TO_GO, 1.0 - (now_s - since_s) / takes_s)
            for name, work in works.items():
                sums[name] = sums.get(name, 0.0) + work / max(run.least_s, left - run.waits_s, 1e-3)
        for number in over:
            del self._runs[number]
        self._sums = sums

    def later(
        self, ask: CallView, belief: Belief, replicas: Sequence[ReplicaView], now_s: float, known: dict[str, Speed]
    ) -> dict[str, Speed]:
        """How fast calls to come will be: as the cluster is now (`known`), or as it will be, whichever is slower.

        What this call's run will ask counts, too.
        """
        shares = self.shares(replicas, now_s)
        more: dict[str, float] = {}
        if ask.run not in self._runs and ask.deadline_s is not None:
            need = self._need(belief, ask.model, replicas)
            left = max(need.least_s, ask.deadline_s - now_s - need.waits_s, 1e-3)
            works = {ask.model: need.own}
            for name, work in need.rest.items():
                works[name] = works.get(name, 0.0) + work
            for name, work in works.items():
                served = [r.engine for r in replicas if r.engine.model in (name, "")]
                able = sum(self._estimator.model(e).relative() for e in served)
                for serves in {e.model for e in served}:
                    more[serves] = more.get(serves, 0.0) + work / left / max(1e-9, able)
        out = {}
        for name, speed in known.items():
            share = min(_MOST_LOADED, shares.get(name, 0.0) + more.get(name, 0.0))
            models = [self._estimator.model(r.engine) for r in replicas if r.engine.model == name]
            best = min(models, key=lambda m: m.base_s)
            pace = max(speed.output_s, min(best.base_s / (1.0 - share), 1.5 * best.pace_s(best.most)))
            out[name] = Speed(speed.call_s, speed.sent_token_s, speed.prompt_token_s, speed.pair_s, pace)
        return out
