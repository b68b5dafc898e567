"""A replica that exists, as routers and provisioners see it: what was sent there, and what its engine says."""

from __future__ import annotations

from collections.abc import Sequence

from redecode.optimizer.placement.cluster.prefixes import Prefixes
from redecode.optimizer.placement.cluster.prometheus import Load
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import State


class LiveReplica:
    """A `ReplicaView` of a replica on Ray Serve or behind a URL.

    `outstanding` is what we sent and has not ended, exact and at once. What the engine says counts what others sent,
    too, but is as old as the last poll (half a second, a second): what we sent and what ended since then is added and
    taken off. Until it has said something, all is guessed from what was sent.

    Attributes:
        name: where it is, unique: a URL, or Ray's id of it.
    """

    __slots__ = (
        "_load", "_outstanding_then", "_prompt_tokens_then", "engine", "name", "number", "outstanding",
        "outstanding_prompt_tokens", "prefixes", "ready_s", "state",
    )  # fmt: skip

    def __init__(self, number: int, engine: Engine, name: str, prefixes: Prefixes, *, ready_s: float) -> None:
        self.number, self.engine, self.name, self.prefixes = number, engine, name, prefixes
        self.ready_s = ready_s
        self.state = State.STARTING
        self.outstanding = self.outstanding_prompt_tokens = 0
        self._load: Load | None = None
        self._outstanding_then = self._prompt_tokens_then = 0

    def told(self, load: Load | None, outstanding: int | None = None, prompt_tokens: int | None = None) -> None:
        """Its engine said this, when so many calls were there, of so many tokens of prompts; by default those now."""
        self._load = load
        self._outstanding_then = self.outstanding if outstanding is None else outstanding
        self._prompt_tokens_then = self.outstanding_prompt_tokens if prompt_tokens is None else prompt_tokens

    @property
    def load(self) -> Load | None:
        """What its engine said last."""
        return self._load

    @property
    def running(self) -> int:
        """As `ReplicaView` has it."""
        load, since = self._load, self.outstanding - self._outstanding_then
        if load is None:
            return min(self.outstanding, self.engine.limits.max_num_seqs)
        if not since:
            return load.running
        # An engine that lets calls wait runs as many as it can.
        most = max(1, load.running) if load.waiting else self.engine.limits.max_num_seqs
        return min(max(0, load.running + load.waiting + since), most)

    @property
    def waiting(self) -> int:
        """As `ReplicaView` has it."""
        load, since = self._load, self.outstanding - self._outstanding_then
        if load is None:
            return self.outstanding - self.running
        return load.waiting if not since else max(0, load.running + load.waiting + since) - self.running

    @property
    def free_kv_blocks(self) -> int:
        """As `ReplicaView` has it."""
        limits, load = self.engine.limits, self._load
        free, since = limits.kv_blocks, self.outstanding_prompt_tokens
        if load is not None:
            free, since = round(limits.kv_blocks * (1.0 - load.kv_used)), since - self._prompt_tokens_then
        return min(limits.kv_blocks, max(0, free - -(-since // limits.block_size)))

    def cached_blocks(self, hashes: Sequence[int]) -> int:
        """As `ReplicaView` has it, as far as `Prefixes` knows."""
        return self.prefixes.found(hashes)
