"""Ray Serve's request router that asks our policy (Ray 2.60; its router API is a public one in alpha).

It lives in the process of the handle, on the router's own loop, and sees every replica of one deployment. What is known
of them: which kind each is (`record_replica_metadata`), what its engine says (`record_routing_stats`, about once a
second), and what was sent there, counted here. One handle per cluster: routers of several handles would not see each
other's calls.

A call is the first argument of the request: a `RayCall`. Serve may ask again for a call that could not be delivered:
the first answer is then taken back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from redecode.optimizer.placement.cluster.calls import SinceStart
from redecode.optimizer.placement.cluster.errors import CallError, NoReplica
from redecode.optimizer.placement.cluster.live import LiveReplica
from redecode.optimizer.placement.cluster.placing import Placed, Placing, sent_prefixes
from redecode.optimizer.placement.cluster.prefixes import Prefixes
from redecode.optimizer.placement.cluster.prometheus import Load
from redecode.optimizer.placement.cluster.ray_scaling import Wanted, leave_in_ray
from redecode.optimizer.placement.cluster.ray_spec import RANK, RayCall, RaySpec, show_placing, unpack
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import State
from redecode.tracer.clock import Clock

_MANY = 100_000


class PolicyRouter(RequestRouter):
    """Sends each call where the policy says."""

    def initialize_state(self, *, spec: str) -> None:  # type: ignore[override]
        """Serve's: with the arguments of `RequestRouterConfig`."""
        self.prepare(unpack(spec))

    def prepare(
        self,
        spec: RaySpec,
        now_s: Callable[[], float] | None = None,
        prefixes: Callable[[Engine], Prefixes] = sent_prefixes,
        later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        """Take the policy and the kinds of replicas; time and beliefs, if not the clock's and our own."""
        assert spec.router is not None
        self._spec = spec
        since = SinceStart(Clock.start(), spec.began_ns)
        self.placing = Placing(spec.router, now_s or since.now_s, later or self._later, why=spec.why, prefixes=prefixes)
        show_placing(spec.name, self.placing)
        self._now_s = now_s or since.now_s
        self._wanted = None
        if spec.provisioner is not None:
            self._wanted = Wanted(spec, lambda count: leave_in_ray(spec.name, count))
        self._asking = False
        self._known: dict[ReplicaID, LiveReplica] = {}
        self._ids: dict[int, ReplicaID] = {}
        self._placed: dict[tuple[ReplicaID, str], Placed] = {}
        self._last: dict[str, ReplicaID] = {}

    @property
    def max_num_routing_tasks(self) -> int:
        """One for each call: those that wait at the policy must not keep others from being asked about."""
        return _MANY

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Serve's: all that run now. New ones get numbers in the order of their ranks."""
        super().update_replicas(replicas)
        self.see(replicas)
        if self._wanted is not None and not self._asking:
            self._asking = True
            self._ask_provisioner()

    def see(self, replicas: list[RunningReplica]) -> None:
        """Take note of who is there, and what their engines say."""
        for replica in sorted(replicas, key=_rank):
            known = self._known.get(replica.replica_id)
            if known is None:
                engine = self._spec.engine(_rank(replica))
                known = self.placing.add(engine, replica.replica_id.unique_id, ready=True)
                self._known[replica.replica_id] = known
                self._ids[known.number] = replica.replica_id
            _tell(known, replica.routing_stats)
        there = {replica.replica_id for replica in replicas}
        for replica_id in [known for known in self._known if known not in there]:
            self._forget(replica_id)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Serve's."""
        super().on_replica_actor_died(replica_id)
        if replica_id in self._known:
            self._forget(replica_id)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Serve's: one rank of one replica, or the best of a rank would be chosen by its queue."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        for replica in candidate_replicas:  # what engines say comes with the replicas, without an update
            if (known := self._known.get(replica.replica_id)) is not None:
                _tell(known, replica.routing_stats)
        call: RayCall = pending_request.args[0]
        request_id = pending_request.metadata.internal_request_id
        self._take_back(request_id)
        try:
            answer = await self.placing.place(call.view)
        except NoReplica:
            return []  # Serve asks again, and waits a little longer each time
        except CallError as error:
            self._fail(pending_request, error)
            return [candidate_replicas[:1]]  # looked at, and dropped, since the request is done
        call.priority = answer.priority
        replica_id = self._ids[answer.replica.number]
        chosen = self.curr_replicas.get(replica_id)
        self._placed[replica_id, request_id] = answer
        self._last[request_id] = replica_id
        if pending_request.future.done() or chosen is None:
            self._take_back(request_id)
            return [] if chosen is None else [[chosen]]
        pending_request.future.add_done_callback(
            lambda future: self._take_back(request_id) if future.cancelled() else None
        )
        # What Serve would ask the replica for, we count: a probe that comes late would hold the call up.
        if self.replica_queue_len_cache.get(replica_id) is None:
            self.replica_queue_len_cache.update(replica_id, answer.replica.outstanding - 1)
        return [[chosen]]

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Serve's: it has ended there, well or not."""
        placed = self._placed.pop((replica_id, internal_request_id), None)
        self._last.pop(internal_request_id, None)
        if placed is not None:
            self.placing.ended(placed)

    # --- below -----------------------------------------------------------------------------

    def _ask_provisioner(self) -> None:
        """Now, and then every so often."""
        assert self._wanted is not None
        for replica in self.curr_replicas.values():
            if (known := self._known.get(replica.replica_id)) is not None:
                _tell(known, replica.routing_stats)
        self._wanted.ask(self.placing.replicas, self._now_s())
        self._later(self._wanted.every_s, self._ask_provisioner)

    def _fail(self, pending_request: PendingRequest, error: CallError) -> None:
        if not pending_request.future.done():
            pending_request.future.set_exception(error)
        self._remove_pending_request_from_indices(pending_request)

    def _take_back(self, request_id: str) -> None:
        """It was placed and not delivered."""
        replica_id = self._last.pop(request_id, None)
        placed = None if replica_id is None else self._placed.pop((replica_id, request_id), None)
        if placed is not None:
            self.placing.ended(placed)

    def _forget(self, replica_id: ReplicaID) -> None:
        known = self._known.pop(replica_id)
        if known.state is not State.STOPPED:
            self.placing.drain(known)

    def _later(self, delay_s: float, call: Callable[[], None]) -> object:
        return asyncio.get_running_loop().call_later(delay_s, call)


def _rank(replica: RunningReplica) -> int:
    return int(replica.replica_metadata.get(RANK, 0))


def _tell(known: LiveReplica, stats: dict[str, Any]) -> None:
    """What a replica records, with what was there then; nothing at first."""
    if "kv_used" in stats:
        load = Load(int(stats["running"]), int(stats["waiting"]), float(stats["kv_used"]))
        known.told(load, int(stats["outstanding"]), int(stats["outstanding_prompt_tokens"]))
