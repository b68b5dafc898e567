"""Ray Serve's autoscaling rule, as 2.60 has it, with its defaults.

Every 0.1 s: desired = ready · (ongoing / (target_ongoing_requests · ready)), moved only by a factor of the way, rounded
up, within bounds, and done once it was wanted for `upscale_delay_s` or `downscale_delay_s` on end. Ongoing are calls
that run and calls queued at the handle, averaged over the last `look_back_period_s`; handles take a sample every 2 s
and send them every 10 s, so the controller looks at the past. Of replicas to stop those that are not ready go first,
then the newest.
Source: ray.serve.autoscaling_policy, _private.autoscaling_state, _private.deployment_scheduler.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import Add, Command, Remove, ReplicaView, State

_EPS_S = 1e-6
_SAMPLE_S, _PUSH_S = 2.0, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRule:
    """The fields of Serve's `AutoscalingConfig` that the default policy looks at."""

    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing_requests: float = 2.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    look_back_period_s: float = 30.0
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0

    def desired(self, ongoing: float, ready: int) -> int:
        """Replicas wanted for so many requests, factors and rounding included, without bounds and delays."""
        if not ready:
            return ceil(self.upscaling_factor) if ongoing > 0 else 0
        raw = ready * (ongoing / (self.target_ongoing_requests * ready))
        delta = raw - ready
        factor = self.upscaling_factor if delta > 0 else self.downscaling_factor
        scaled = ceil(ready + factor * delta)
        if ceil(raw) < ready and scaled == ready:
            scaled -= 1
        return scaled


@dataclass(slots=True)
class Delays:
    """What was wanted, and since when. `direction` is above 0 for more, below 0 for fewer."""

    direction: int = 0
    since_s: float | None = None

    def decide(self, rule: ServeRule, desired: int, target: int, now_s: float) -> int:
        """The new target."""
        if desired == target:
            self.direction, self.since_s = 0, None
            return target
        way = 1 if desired > target else -1
        if self.direction * way < 0:
            self.since_s = None
        self.direction = way
        if way < 0 and target > 1:
            desired = max(1, desired)
        if self.since_s is None:
            self.since_s = now_s
        if now_s - self.since_s + _EPS_S >= (rule.upscale_delay_s if way > 0 else rule.downscale_delay_s):
            self.direction, self.since_s = 0, None
            return desired
        return target


class ServeScaling:
    """Serve's controller over replicas of one kind.

    Args:
        queued: calls that wait at the router now (`PowerOfTwoChoices.queued`).
    """

    every_s = 0.1

    def __init__(self, rule: ServeRule, engine: Engine, queued: Callable[[], int] = lambda: 0) -> None:
        self._rule, self._engine, self._queued = rule, engine, queued
        self._delays = Delays()
        self._target: int | None = None
        self._samples: deque[tuple[float, float]] = deque()
        self._known: list[tuple[float, float]] = []
        self._sampled_s = self._pushed_s = float("-inf")

    def plan(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[Command]:
        """One turn of the control loop."""
        rule = self._rule
        alive = [r for r in replicas if r.state in (State.STARTING, State.READY)]
        ready = sum(r.state is State.READY for r in alive)
        if self._target is None:
            self._target = len(alive)
        self._observe(alive, now_s)
        desired = rule.desired(self._ongoing(now_s), ready) if ready else self._target
        target = self._delays.decide(rule, max(0, desired), self._target, now_s)
        self._target = target = max(rule.min_replicas, min(rule.max_replicas, target))
        if target >= len(alive):
            return [Add(self._engine)] * (target - len(alive))
        order = sorted(alive, key=lambda r: (r.state is State.READY, -r.number))
        return [Remove(r.number) for r in order[: len(alive) - target]]

    def _observe(self, alive: Sequence[ReplicaView], now_s: float) -> None:
        if now_s - self._sampled_s + _EPS_S >= _SAMPLE_S:
            self._sampled_s = now_s
            self._samples.append((now_s, float(sum(r.outstanding for r in alive) + self._queued())))
            while self._samples[0][0] < now_s - self._rule.look_back_period_s:
                self._samples.popleft()
        if now_s - self._pushed_s + _EPS_S >= _PUSH_S:
            self._pushed_s = now_s
            self._known = list(self._samples)

    def _ongoing(self, now_s: float) -> float:
        """The mean over time of what was last sent; each sample counts until the next, the last until now."""
        if not self._known:
            return 0.0
        ends = [at for at, _ in self._known[1:]] + [max(now_s, self._known[-1][0] + 1e-3)]
        spans = [end - at for (at, _), end in zip(self._known, ends, strict=True)]
        return sum(v * span for (_, v), span in zip(self._known, spans, strict=True)) / sum(spans)
