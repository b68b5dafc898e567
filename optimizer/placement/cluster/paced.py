"""An engine that computes nothing and takes the time an engine would: the simulator's replica, on the wall clock.

Batches, KV blocks, prefix cache, priorities and preemption are those of the simulator, step times those of a profile.
Its answers have the right number of tokens and no meaning. For tests, and for comparing clusters where there is one
small machine: what is paced so does not disturb what it is compared with.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from redecode.optimizer.placement.cluster.prometheus import Load
from redecode.replay.simulator.costs import PS
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.replica import FINISH, Replica
from redecode.replay.simulator.rows import Row, Sink

_PS_IN_NS = 1000


@dataclass(frozen=True, slots=True)
class Paced:
    """Of one call.

    Attributes:
        tokens: made so far, the first or all.
    """

    tokens: int
    cached_blocks: int


class PacedEngine(Sink):
    """One engine; to be used in one event loop.

    Args:
        seed: of step times, drawn from the profile's spread; `None` for the mean.
    """

    def __init__(self, engine: Engine, *, seed: int | None = None) -> None:
        self.engine = engine
        noise = None if seed is None else engine.noise(random.Random(f"{seed}/paced"))
        self._replica = Replica(engine.costs, engine.limits, self, self._push, noise)
        self._began_ns = time.monotonic_ns()
        self._timer: asyncio.TimerHandle | None = None
        self._due: tuple[int, int, int] | None = None
        self._told: dict[int, asyncio.Queue[Paced]] = {}
        self._outputs: dict[int, int] = {}
        self._cached: dict[int, int] = {}
        self._firsts: set[int] = set()  # calls whose first token is still to be told
        self._next = 0

    async def call(
        self, prompt_tokens: int, output_tokens: int, hashes: Sequence[int] = (), priority: int = 0
    ) -> AsyncIterator[Paced]:
        """Its first token, and all of them, when an engine would have them.

        Who leaves early does not free the engine: like one that learns of it at the end of the call.

        Raises:
            ValueError: it can never run here.
        """
        why = self.engine.limits.refuses(prompt_tokens, output_tokens)
        if why is not None:
            raise ValueError(why)
        number = self._next
        self._next += 1
        told = self._told[number] = asyncio.Queue()
        self._outputs[number] = output_tokens
        before = self.engine.before_ps + self.engine.before_token_ps * prompt_tokens
        await asyncio.sleep(before / PS)
        row = Row(number, prompt_tokens, output_tokens, tuple(hashes[: prompt_tokens // self._block]), priority)
        self._catch_up()
        self._replica.arrive(row, self._now())
        paced = await told.get()
        if paced.tokens < output_tokens:
            yield paced
            paced = await told.get()
        await asyncio.sleep(self.engine.after_ps / PS)
        yield paced

    def load(self) -> Load:
        """As vLLM's metrics would say."""
        kv, total = self._replica.kv, self.engine.limits.kv_blocks
        return Load(len(self._replica.running), self._replica.waiting, 1.0 - kv.free / total)

    def close(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()

    @property
    def _block(self) -> int:
        return self.engine.limits.block_size

    def _now(self) -> int:
        return (time.monotonic_ns() - self._began_ns) * _PS_IN_NS

    def _push(self, at: int, kind: int, version: int) -> None:
        """The replica's next event: the one before it is void."""
        self._due = at, kind, version
        self._wait()

    def _wait(self) -> None:
        """For what is due. A timer may come too early, up to a millisecond with uvloop, and is then set again."""
        self.close()
        if self._due is not None:
            delay = max(0.0, (self._due[0] - self._now()) / PS)
            self._timer = asyncio.get_running_loop().call_later(delay, self._catch_up)

    def _catch_up(self) -> None:
        """What should have happened by now, at its own time: being late does not add up."""
        while self._due is not None and self._due[0] <= self._now():
            (at, kind, version), self._due = self._due, None
            if self._replica.version != version:
                continue
            if kind == FINISH:
                self._replica.finish(at)
            else:
                self._replica.schedule(at)
        self._wait()

    # --- what the replica tells (Sink) -----------------------------------------------------

    def scheduled(self, row: Row, at: int, cached: int) -> None:
        """Note what was cached, the first time."""
        self._cached.setdefault(row.call, cached // self._block)

    def first_token(self, row: Row, at: int) -> None:
        """Its caller gets it when it is there."""
        delay = max(0.0, (at - self._now()) / PS)
        self._firsts.add(row.call)
        asyncio.get_running_loop().call_later(delay, self._first, row.call)

    def ended(self, row: Row, at: int) -> None:
        """All its tokens are there, the first one too, however late this process is."""
        self._first(row.call)
        told = self._told.pop(row.call, None)
        output = self._outputs.pop(row.call)
        cached = self._cached.pop(row.call, 0)
        if told is not None:
            told.put_nowait(Paced(output, cached))

    def _first(self, call: int) -> None:
        told = self._told.get(call)
        if told is not None and call in self._firsts and self._outputs[call] > 1:
            told.put_nowait(Paced(1, self._cached.get(call, 0)))
        self._firsts.discard(call)
