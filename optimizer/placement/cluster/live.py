"""A replica that exists, as routers and provisioners see it: what was sent there, and what its engine says."""

from __future__ import annotations

from collections.abc import Sequence

from redecode.optimizer.placement.cluster.prefixes import Prefixes
from redecode.optimizer.placement.cluster.prometheus import Load
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import State


class LiveReplica:
    """A `ReplicaView` of a replica on Ray Serve or behind a URL.

    `outstanding` is what we sent and has not ended, exact and at once. What the engine says (`load`) is as old as the
    last poll and also counts what others sent; until it has said something, it is guessed from what was sent.

    Attributes:
        name: where it is, unique: a URL, or Ray's id of it.
        load: what its engine said last.
    """

    __slots__ = (
        "engine", "load", "name", "number", "outstanding", "outstanding_prompt_tokens", "prefixes", "ready_s", "state",
    )  # fmt: skip

    def __init__(self, number: int, engine: Engine, name: str, prefixes: Prefixes, *, ready_s: float) -> None:
        self.number, self.engine, self.name, self.prefixes = number, engine, name, prefixes
        self.ready_s = ready_s
        self.state = State.STARTING
        self.outstanding = self.outstanding_prompt_tokens = 0
        self.load: Load | None = None

    @property
    def running(self) -> int:
        """As `ReplicaView` has it."""
        return min(self.outstanding, self.engine.limits.max_num_seqs) if self.load is None else self.load.running

    @property
    def waiting(self) -> int:
        """As `ReplicaView` has it."""
        return self.outstanding - self.running if self.load is None else self.load.waiting

    @property
    def free_kv_blocks(self) -> int:
        """As `ReplicaView` has it."""
        limits = self.engine.limits
        if self.load is None:
            return max(0, limits.kv_blocks - -(-self.outstanding_prompt_tokens // limits.block_size))
        return round(limits.kv_blocks * (1.0 - self.load.kv_used))

    def cached_blocks(self, hashes: Sequence[int]) -> int:
        """As `ReplicaView` has it, as far as `Prefixes` knows."""
        return self.prefixes.found(hashes)
