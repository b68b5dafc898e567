"""Ray Serve's autoscaling policy that asks our provisioner. It lives in Serve's controller.

Serve keeps one number per deployment, so of what a provisioner commands the sum counts: the next to start is the next
kind of `RaySpec.replicas`, and which one goes is Serve's choice. `Swap` cannot be done there and is left out.
"""

from __future__ import annotations

import logging
from typing import Any

from redecode.optimizer.placement.cluster.calls import SinceStart
from redecode.optimizer.placement.cluster.live import LiveReplica
from redecode.optimizer.placement.cluster.placing import sent_prefixes
from redecode.optimizer.placement.cluster.prometheus import Load
from redecode.optimizer.placement.cluster.ray_spec import RANK, RaySpec, unpack
from redecode.replay.simulator.costs import PS
from redecode.replay.simulator.views import Add, Remove, State
from redecode.tracer.clock import Clock

_log = logging.getLogger("redecode")


class PlannedScaling:
    """A policy class of Serve: made once, then called again and again with how things are."""

    def __init__(self, spec: str) -> None:
        self.prepare(unpack(spec))

    def prepare(self, spec: RaySpec) -> None:
        """Take the provisioner and the kinds of replicas."""
        assert spec.provisioner is not None
        self._spec, self._provisioner = spec, spec.provisioner
        self._time = SinceStart(Clock.start(), spec.began_ns)
        self._views: dict[Any, LiveReplica] = {}
        self._starting: list[LiveReplica] = []
        self._next = 0
        self._asked_s = float("-inf")
        self._said_swap = False

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """How many replicas there should be; `ctx` is Serve's `AutoscalingContext`."""
        now_s, target = self._time.now_s(), int(ctx.target_num_replicas)
        if now_s < self._asked_s + self._provisioner.every_s:
            return target, {}
        self._asked_s = now_s
        change = 0
        for command in self._provisioner.plan(self.views(ctx, now_s), now_s):
            if isinstance(command, Add):
                change += 1
            elif isinstance(command, Remove):
                change -= 1
            elif not self._said_swap:
                self._said_swap = True
                _log.warning(
                    "redecode: replicas on Ray Serve cannot be given another model; what asks for it is left out"
                )
        return target + change, {}

    def views(self, ctx: Any, now_s: float) -> list[LiveReplica]:
        """All replicas, those that start too, by number."""
        said = _latest(ctx.raw_metrics)
        for replica_id in [known for known in self._views if known not in ctx.running_replicas]:
            del self._views[replica_id]
        for replica_id in sorted(ctx.running_replicas, key=lambda r: said.get(r, {}).get(RANK, 0.0)):
            values = said.get(replica_id)
            view = self._views.get(replica_id)
            if view is None:
                if values is None:
                    continue  # it has not said yet which it is
                engine = self._spec.engine(int(values[RANK]))
                view = self._starting.pop(0) if self._starting else self._new(engine, now_s)
                view.engine, view.state, view.ready_s = engine, State.READY, now_s
                self._views[replica_id] = view
            if values is not None:
                view.outstanding = int(values["outstanding"])
                view.outstanding_prompt_tokens = int(values["outstanding_prompt_tokens"])
                if "kv_used" in values:
                    view.told(Load(int(values["running"]), int(values["waiting"]), values["kv_used"]))
        missing = max(0, int(ctx.target_num_replicas) - len(self._views))
        del self._starting[missing:]
        while len(self._starting) < missing:
            engine = self._spec.engine(len(self._views) + len(self._starting))
            self._starting.append(self._new(engine, now_s + engine.cold_start_ps / PS))
        return sorted([*self._views.values(), *self._starting], key=lambda view: view.number)

    def _new(self, engine: Any, ready_s: float) -> LiveReplica:
        view = LiveReplica(self._next, engine, str(self._next), sent_prefixes(engine), ready_s=ready_s)
        self._next += 1
        return view


def _latest(raw: Any) -> dict[Any, dict[str, float]]:
    """What each replica recorded last: metric → replica → series of (time, value), turned around."""
    out: dict[Any, dict[str, float]] = {}
    for name, by_replica in (raw or {}).items():
        for replica_id, series in by_replica.items():
            if series:
                out.setdefault(replica_id, {})[name] = float(series[-1].value)
    return out
