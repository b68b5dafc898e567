"""What a call would take on a replica: l_est = l_x + l_q + l_r, and the chance that its run meets its deadline.

l_x is of the engine's profile at the load the call would meet (`work.Model`), l_q of the calls that are there, l_r of
when the replica will be ready: all from what a router may know. Estimates learn: the ratio of what calls took to what
was estimated, by kind of replica, smoothed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from math import log

from redecode.optimizer.placement.beliefs import Belief, Believer
from redecode.optimizer.placement.decisions import Estimate
from redecode.optimizer.placement.work import Model, Speed, Typical, Work
from redecode.replay.simulator.costs import PS, prefill_pairs
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import CallView, ReplicaView

_NEAR = log(1.04)
"""Paces that differ by less than 4 % are taken for one."""
_UNSURE = (0.92, 1.0, 1.1)
"""An estimate is off by so much: chances are averaged over them."""
_MOST_KEPT = 20_000
_FADES = 0.995
_PRIOR_CALLS = 100
"""Calls that took as long as estimated, before any did: the first to end are the short ones, and would mislead."""
_LEAST_RATIO, _MOST_RATIO = 0.7, 2.0
_NOTHING_KNOWN = Typical(256.0, 256.0 * 257 / 2, 256.0, 384.0)


def pool_of(call: CallView, replicas: Iterable[ReplicaView]) -> list[ReplicaView]:
    """The replicas that can run it: of its model, with room for its prompt and a token."""
    return [
        r
        for r in replicas
        if (not call.model or not r.engine.model or r.engine.model == call.model)
        and r.engine.limits.refuses(call.prompt_tokens, 1) is None
    ]


class Estimator:
    """Estimates for one cluster."""

    def __init__(self, beliefs: Believer) -> None:
        self.beliefs = beliefs
        self._models: dict[int, Model] = {}
        self._reference: dict[str, Model] = {}
        self._times: dict[tuple[object, ...], list[float]] = {}
        self._ratios: dict[int, float] = {}
        self._learnt: dict[int, tuple[float, float, float]] = {}  # kind → time taken, told, and calls: fading sums
        self._sent: dict[int, tuple[int, float, float]] = {}
        self._prompts_until: dict[int, float] = {}  # replica → when it has computed the prompts that were sent there

    def model(self, engine: Engine) -> Model:
        """What is known of a kind of replica."""
        found = self._models.get(id(engine))
        if found is None:
            known = self.beliefs.typical
            typical = known.get(engine.model) or known.get("") or _NOTHING_KNOWN
            found = self._models[id(engine)] = Model(engine, typical)
            self._reference.setdefault(engine.model, found)
        return found

    def ratio(self, engine: Engine) -> float:
        """What calls there took over what they were estimated to take, smoothed."""
        return self._ratios.get(id(engine), 1.0)

    def unit_s(self, name: str, work: Work) -> float:
        """Work as a number of typical calls of a model."""
        prompt, output = self._units(name)
        return work.prompt_tokens * prompt + work.output_tokens * output

    def unit_tokens_s(self, name: str, output_tokens: float) -> float:
        """The same of tokens made."""
        return output_tokens * self._units(name)[1]

    def _units(self, name: str) -> tuple[float, float]:
        """Typical calls in a token of prompt, and in one of output: on the first engine of the model there was."""
        model = self._reference.get(name) or self._reference.get("") or next(iter(self._reference.values()), None)
        if model is None:
            return 0.0, 0.0
        t, share = model.typical, model.relative()
        return model.prompt_s / max(1.0, t.prompt_tokens) * share, model.row_s * share

    # --- l_est ------------------------------------------------------------------------------

    def estimate(self, call: CallView, belief: Belief, replica: ReplicaView, now_s: float, extra: int = 0) -> Estimate:
        """Of this call there, with the mean of the tokens it may make.

        Args:
            extra: calls that are on their way there and not counted in its view yet.
        """
        engine = replica.engine
        model = self.model(engine)
        prompt_s, cached = self.prompt_s(call, replica, model)
        there = replica.outstanding + extra
        calls = min(there + 1, model.most)
        pace = model.pace_s(calls) * self.ratio(engine)
        l_x = prompt_s + belief.output_tokens * pace
        l_r = max(0.0, replica.ready_s - now_s)
        return Estimate(replica.number, l_x, self.queue_s(replica, model, there, now_s), l_r, cached, there + 1)

    def prompt_s(self, call: CallView, replica: ReplicaView, model: Model, *, prefix: bool = True) -> tuple[float, int]:
        """Time of all but its tokens, and how many tokens of its prompt are in the prefix cache there."""
        engine = replica.engine
        size = engine.limits.block_size
        cached = 0
        if prefix and call.hashes and engine.limits.prefix_caching:
            cached = min(replica.cached_blocks(call.hashes), (call.prompt_tokens - 1) // size) * size
        fresh = call.prompt_tokens - cached
        seconds = (
            model.flat_s
            + engine.before_token_ps / PS * call.prompt_tokens
            + model.prompt_token_s * fresh
            + model.pair_s * prefill_pairs(cached, fresh)
        )
        return seconds, cached

    def queue_s(self, replica: ReplicaView, model: Model, there: int, now_s: float) -> float:
        """Until a call that comes now is in the batch: half a step, prompts before its own, and calls too many.

        How long the prompts before its own are is what this router sent there: an engine does not say.
        """
        if not there:
            return 0.0
        pace = model.pace_s(min(there, model.most)) * self.ratio(replica.engine)
        prompts_s = self._prompts_until.get(replica.number, 0.0) - max(now_s, replica.ready_s)
        wait = 0.5 * pace + max(0.0, prompts_s)
        over = there + 1 - model.most
        if over > 0:
            wait += over * max(1.0, model.typical.output_tokens) * pace / model.most
        return wait

    # --- chances ----------------------------------------------------------------------------

    def times(self, belief: Belief, pace_s: float, later: dict[str, Speed]) -> list[float]:
        """What its tokens at this pace, and then its tail, may take: as many values as samples, ascending."""
        steps = round(log(pace_s) / _NEAR)
        nears = tuple([(name, round(log(later[name].output_s) / _NEAR)) for name in later])
        key = (belief.key, steps, nears)
        found = self._times.get(key)
        if found is None:
            if len(self._times) >= _MOST_KEPT:
                self._times.clear()
            found = self._times[key] = sorted(
                s.output_tokens * pace_s + tail_s(s.waits_s, s.later, later) for s in belief.samples
            )
        return found

    def chance(self, belief: Belief, pace_s: float, later: dict[str, Speed], available_s: float) -> float:
        """That all of it is done in time."""
        if available_s <= 0:
            return 0.0
        times = self.times(belief, pace_s, later)
        return sum([bisect_right(times, available_s / f) for f in _UNSURE]) / (len(times) * len(_UNSURE))

    def later(self, replicas: Sequence[ReplicaView]) -> dict[str, Speed]:
        """How fast the calls to come will be: of each model as the replica that is fastest with one more."""
        best: dict[str, tuple[float, Model, int]] = {}
        for replica in replicas:
            model = self.model(replica.engine)
            calls = min(replica.outstanding + 1, model.most)
            pace = model.pace_s(calls) * self.ratio(replica.engine)
            known = best.get(replica.engine.model)
            if known is None or pace < known[0]:
                best[replica.engine.model] = (pace, model, calls)
        return {name: model.speed(calls) for name, (_, model, calls) in best.items()}

    def idle(self, replicas: Sequence[ReplicaView]) -> dict[str, Speed]:
        """The same, if they had nothing to do."""
        best: dict[str, Model] = {}
        for replica in replicas:
            model, known = self.model(replica.engine), best.get(replica.engine.model)
            if known is None or model.pace_s(1) < known.pace_s(1):
                best[replica.engine.model] = model
        return {name: model.speed(1) for name, model in best.items()}

    # --- learning ---------------------------------------------------------------------------

    def sent(self, call: CallView, replica: ReplicaView, now_s: float, estimate: Estimate) -> None:
        """A call goes there."""
        engine = replica.engine
        self._sent[call.call] = (id(engine), now_s, estimate.l_est)
        model, fresh = self.model(engine), call.prompt_tokens - estimate.cached_tokens
        prompt_s = model.prompt_token_s * fresh + model.pair_s * prefill_pairs(estimate.cached_tokens, fresh)
        begins_s = max(now_s, replica.ready_s, self._prompts_until.get(replica.number, 0.0))
        self._prompts_until[replica.number] = begins_s + prompt_s

    def ended(self, call: int, now_s: float) -> None:
        """It is done."""
        kind, sent_s, expected_s = self._sent.pop(call, (0, 0.0, 0.0))
        if expected_s > 0:
            took, told, calls = (_FADES * v for v in self._learnt.get(kind, (0.0, 0.0, 0.0)))
            took, told, calls = took + now_s - sent_s, told + expected_s / self._ratios.get(kind, 1.0), calls + 1.0
            self._learnt[kind] = took, told, calls
            prior = _PRIOR_CALLS * told / max(1.0, calls)
            self._ratios[kind] = min(_MOST_RATIO, max(_LEAST_RATIO, (took + prior) / (told + prior)))


def tail_s(waits_s: float, later: Sequence[tuple[str, object]], speeds: dict[str, Speed]) -> float:
    """Waits and calls of a tail at these speeds; of a model that nobody serves the first is taken."""
    total = waits_s
    for name, work in later:
        speed = speeds.get(name) or speeds.get("") or next(iter(speeds.values()), None)
        if speed is not None:
            total += speed.time_s(work)  # type: ignore[arg-type]
    return total
