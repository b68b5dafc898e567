"""How many replicas there are on Ray Serve, as our provisioner has it.

The provisioner is asked where the router is, since it may go by the calls that come (`Wanted`). What it wants is left
in Ray's key-value store, from which Serve's autoscaling policy (`PlannedScaling`, in Serve's controller) takes it.

Serve keeps one number per deployment, so of what a provisioner commands the sum counts: the next to start is the next
kind of `RaySpec.replicas`, and which one goes is Serve's choice. `Swap` cannot be done there and is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from redecode.optimizer.placement.cluster.live import LiveReplica
from redecode.optimizer.placement.cluster.placing import sent_prefixes
from redecode.optimizer.placement.cluster.ray_spec import RaySpec, unpack
from redecode.replay.simulator.costs import PS
from redecode.replay.simulator.views import Add, Remove

_log = logging.getLogger("redecode")
_NOT_THERE_YET = 1_000_000
"""Numbers of replicas that start begin here: which will be which, Serve does not say."""


class Wanted:
    """Asks the provisioner how many there should be.

    Attributes:
        count: so many.
    """

    def __init__(self, spec: RaySpec, publish: Callable[[int], None]) -> None:
        assert spec.provisioner is not None
        self._spec, self._provisioner, self._publish = spec, spec.provisioner, publish
        self.count = spec.first
        self._starting: list[LiveReplica] = []
        self._leaving: set[int] = set()
        self._next = _NOT_THERE_YET
        self._said_swap = False

    @property
    def every_s(self) -> float:
        """How often to ask."""
        return self._provisioner.every_s

    def ask(self, running: Sequence[LiveReplica], now_s: float) -> None:
        """Ask about those that run, and those that are being started."""
        views = self.views(running, now_s)
        before = self.count
        for command in self._provisioner.plan(views, now_s):
            if isinstance(command, Add):
                self.count = min(self._spec.most, self.count + 1)
            elif isinstance(command, Remove):
                if self.count > 1:
                    self.count -= 1
                    self._leaving.add(command.replica)
            elif not self._said_swap:
                self._said_swap = True
                _log.warning("redecode: replicas on Ray Serve cannot be given another model: `Swap` is left out")
        if self.count != before:
            self._publish(self.count)

    def views(self, running: Sequence[LiveReplica], now_s: float) -> list[LiveReplica]:
        """All there will be: without those that are to go, with those that start."""
        too_many = max(0, len(running) - self.count)
        self._leaving &= {r.number for r in running}
        named = [r for r in running if r.number in self._leaving][:too_many]
        others = [r for r in reversed(running) if r.number not in self._leaving][: too_many - len(named)]
        gone = {r.number for r in (*named, *others)}
        missing = max(0, self.count - len(running))
        del self._starting[missing:]
        while len(self._starting) < missing:
            engine = self._spec.engine(len(running) + len(self._starting))
            ready_s = now_s + engine.cold_start_ps / PS
            self._starting.append(LiveReplica(self._next, engine, "", sent_prefixes(engine), ready_s=ready_s))
            self._next += 1
        return [*(r for r in running if r.number not in gone), *self._starting]


def leave_in_ray(name: str, count: int) -> None:
    """What is wanted of an application, for Serve's controller."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(_key(name), str(count).encode(), overwrite=True)


class PlannedScaling:
    """A policy class of Serve: made once, then called again and again with how things are."""

    def __init__(self, spec: str) -> None:
        self._spec = unpack(spec)

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """How many replicas there should be; `ctx` is Serve's `AutoscalingContext`."""
        from ray.experimental.internal_kv import _internal_kv_get

        found = _internal_kv_get(_key(self._spec.name))
        return (int(ctx.target_num_replicas) if found is None else int(found)), {}


def _key(name: str) -> bytes:
    return f"redecode/{name}/replicas".encode()
