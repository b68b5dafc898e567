"""What those who place calls may know, and what they may say: belief, kept apart from the truth of `workload`.

Lengths of outputs are nowhere in here. All times are virtual seconds since the beginning of the simulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from redecode.replay.simulator.costs import PS
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.replica import Replica


class State(StrEnum):
    """Where a replica is in its life."""

    STARTING = "starting"  # calls sent to it wait until it is ready
    READY = "ready"
    DRAINING = "draining"  # it gets no more calls
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class CallView:
    """An FM call that wants a replica.

    Attributes:
        call, run: numbers, unique in a simulation.
        hashes: content of the full blocks of its prompt.
        run_began_s: when its run began.
        deadline_s: when its run must have ended; `None` if it need not.
        max_tokens: the limit its caller set on the output, if any.
        agent: whose run it is, as far as that is known.
    """

    call: int
    run: int
    step: str
    model: str
    prompt_tokens: int
    hashes: tuple[int, ...]
    run_began_s: float
    deadline_s: float | None
    max_tokens: int | None
    agent: str = ""


class ReplicaView(Protocol):
    """What may be known of a replica: what it is, what was sent there, and what an engine says of itself.

    A simulated replica shows this, and so does a replica on Ray Serve or behind a URL, as far as it can be had.
    """

    @property
    def number(self) -> int:
        """It is never given again."""

    @property
    def engine(self) -> Engine:
        """What kind of replica it is, as measured."""

    @property
    def state(self) -> State:
        """Where it is in its life."""

    @property
    def ready_s(self) -> float:
        """When it took or will take its first call."""

    @property
    def outstanding(self) -> int:
        """Calls sent to it that have not ended."""

    @property
    def outstanding_prompt_tokens(self) -> int:
        """Tokens of their prompts."""

    @property
    def running(self) -> int:
        """Calls in the engine's batch (vLLM's num_requests_running)."""

    @property
    def waiting(self) -> int:
        """Calls in the engine's queue (vLLM's num_requests_waiting)."""

    @property
    def free_kv_blocks(self) -> int:
        """KV blocks that no running call holds, as of the engine's last schedule."""

    def cached_blocks(self, hashes: Sequence[int]) -> int:
        """Blocks of this prompt in its prefix cache, as its KV events would tell."""


class SimulatedReplica:
    """A `ReplicaView` of a replica in virtual time."""

    __slots__ = ("_replica", "engine", "number", "outstanding", "outstanding_prompt_tokens", "ready_s", "state")

    def __init__(self, number: int, engine: Engine, ready_s: float) -> None:
        self.number, self.engine, self.ready_s = number, engine, ready_s
        self.outstanding = self.outstanding_prompt_tokens = 0
        self.state = State.STARTING
        self._replica: Replica | None = None

    def knows(self, replica: Replica | None) -> None:
        """The simulator's: the engine behind it."""
        self._replica = replica

    @property
    def running(self) -> int:
        """As `ReplicaView` has it."""
        return 0 if self._replica is None else len(self._replica.running)

    @property
    def waiting(self) -> int:
        """As `ReplicaView` has it."""
        return 0 if self._replica is None else self._replica.waiting

    @property
    def free_kv_blocks(self) -> int:
        """As `ReplicaView` has it."""
        return self.engine.limits.kv_blocks if self._replica is None else self._replica.kv.free

    def cached_blocks(self, hashes: Sequence[int]) -> int:
        """As `ReplicaView` has it."""
        return 0 if self._replica is None else self._replica.kv.found(hashes, len(hashes))


@dataclass(frozen=True, slots=True)
class Split:
    """A call whose prompt is computed on one replica and whose tokens are made on another."""

    prefill: int
    decode: int


@dataclass(frozen=True, slots=True)
class Hold:
    """A call that waits at the router until that lets it go: `Router.release`.

    Attributes:
        until_s: ask again then, at the latest, though nothing has happened; `None` if that changes nothing.
    """

    until_s: float | None = None


Route = int | Split | Hold | None


class Router:
    """Chooses the replica of each call. It brings its own rng, if it needs one."""

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        """The number of a replica, `None` to refuse the call (its run then fails), or that it waits here.

        Args:
            replicas: those that may be sent calls, ready or starting, in the order of their numbers. Not to be kept.
        """
        raise AssertionError("a router decides")

    def release(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[tuple[int, Route]]:
        """Calls that waited here, and where they go now; a `Hold` among them only says when to ask again.

        Asked while calls wait here: when one has ended somewhere, when replicas come or go, and when a `Hold` said.
        """
        return ()

    def priority(self, call: CallView, now_s: float) -> int:
        """Its place in the queue of an engine by priority: the least goes first (vLLM's `priority`)."""
        return 0

    def ended(self, call: int, replica: int, now_s: float) -> None:
        """A call has ended there."""


@dataclass(frozen=True, slots=True)
class Add:
    """Start a replica."""

    engine: Engine


@dataclass(frozen=True, slots=True)
class Remove:
    """Send a replica no more calls, and stop it when it has none."""

    replica: int


@dataclass(frozen=True, slots=True)
class Swap:
    """Let a replica end its calls and load another model."""

    replica: int
    engine: Engine


Command = Add | Remove | Swap


class Provisioner(Protocol):
    """Decides how many replicas there are."""

    every_s: float

    def plan(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[Command]:
        """What to change now. `replicas` are all that are not stopped."""


def seconds(ps: int) -> float:
    """Virtual time as policies see it."""
    return ps / PS
