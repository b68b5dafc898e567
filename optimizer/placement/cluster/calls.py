"""From requests to what routers see of a call: numbers for runs, deadlines on one clock, tokens of a text."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from redecode.optimizer.placement.cluster.prefixes import chained
from redecode.optimizer.placement.cluster.reading import Asked
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import CallView
from redecode.tracer.clock import Clock

_ID_BYTES = 4
_NS = 1e9


class Time(Protocol):
    """What time it is in a cluster."""

    def now_s(self) -> float:
        """Seconds since it began."""

    def of_unix_s(self, unix_s: float) -> float:
        """A Unix time, likewise."""


@dataclass(frozen=True, slots=True)
class SinceStart:
    """Seconds since a cluster began, as its policies count, and Unix seconds."""

    clock: Clock
    began_ns: int

    @classmethod
    def now(cls) -> SinceStart:
        """A cluster that begins now."""
        clock = Clock.start()
        return cls(clock, clock.wall_ns)

    def now_s(self) -> float:
        """How long it has been there."""
        return (self.clock.now_ns() - self.began_ns) / _NS

    def of_unix_s(self, unix_s: float) -> float:
        """The same time on the cluster's clock."""
        return unix_s - self.began_ns / _NS


class TokenGauge:
    """How many bytes of a request's text are a token of one model: guessed at first, then measured.

    The mean follows what engines say (`usage.prompt_tokens`). Blocks of text are cut by the value of the first few
    calls for good: to cut them anew is to forget every prefix.
    """

    __slots__ = ("_calls", "block_bytes_per_token", "bytes_per_token")

    GUESS = 4.0
    ENOUGH = 16
    _WEIGHT = 0.1

    def __init__(self) -> None:
        self.bytes_per_token = self.block_bytes_per_token = self.GUESS
        self._calls = 0

    def measured(self, prompt_bytes: int, prompt_tokens: int) -> None:
        """An engine said how many tokens a prompt was."""
        if prompt_bytes < 1 or prompt_tokens < 1:
            return
        self._calls += 1
        weight = max(self._WEIGHT, 1 / self._calls)
        self.bytes_per_token += (prompt_bytes / prompt_tokens - self.bytes_per_token) * weight
        if self._calls == self.ENOUGH:
            self.block_bytes_per_token = self.bytes_per_token

    def tokens(self, prompt_bytes: int) -> int:
        """About so many."""
        return max(1, round(prompt_bytes / self.bytes_per_token))


@dataclass(slots=True)
class _Run:
    number: int
    began_s: float


@dataclass(slots=True)
class Calls:
    """Gives calls and runs their numbers, and remembers when runs began.

    Args:
        slo_s: how long a run may take whose calls do not say; `None` if it may take any time; `by_agent` goes first.
        keep_runs: how many runs are remembered; of older ones a new call begins a run.
    """

    time: Time
    slo_s: float | None = None
    by_agent: Mapping[str, float] = field(default_factory=dict)
    keep_runs: int = 100_000
    _gauges: dict[str, TokenGauge] = field(default_factory=dict)
    _runs: OrderedDict[str, _Run] = field(default_factory=OrderedDict)
    _call_numbers: count[int] = field(default_factory=count)
    _run_numbers: count[int] = field(default_factory=count)

    def view(self, asked: Asked, engine: Engine) -> CallView:
        """What a router sees of it; `engine` is one of those that serve its model."""
        now_s, size = self.time.now_s(), engine.limits.block_size
        gauge = self._gauge(asked.model)
        if asked.tokens is not None:
            tokens, hashes = asked.tokens, chained(asked.prompt, size * _ID_BYTES, b"ids")
        else:
            tokens = gauge.tokens(len(asked.prompt))
            piece = max(1, round(size * gauge.block_bytes_per_token))
            hashes = chained(asked.prompt, piece, b"text")[: tokens // size]
        run = self._run(asked.run, now_s)
        return CallView(
            call=next(self._call_numbers),
            run=run.number,
            step=asked.step,
            model=asked.model,
            prompt_tokens=tokens,
            hashes=hashes,
            run_began_s=run.began_s,
            deadline_s=self._deadline_s(asked, run),
            max_tokens=asked.max_tokens,
            agent=asked.agent,
        )

    def measured(self, asked: Asked, prompt_tokens: int) -> None:
        """An engine said how many tokens the prompt of this call was."""
        if asked.tokens is None:
            self._gauge(asked.model).measured(len(asked.prompt), prompt_tokens)

    def _gauge(self, model: str) -> TokenGauge:
        return self._gauges.setdefault(model, TokenGauge())

    def _deadline_s(self, asked: Asked, run: _Run) -> float | None:
        if asked.deadline_unix_s is not None:
            return self.time.of_unix_s(asked.deadline_unix_s)
        slo_s = asked.slo_s if asked.slo_s is not None else self.by_agent.get(asked.agent, self.slo_s)
        return None if slo_s is None else run.began_s + slo_s

    def _run(self, name: str | None, now_s: float) -> _Run:
        if name is None:
            return _Run(next(self._run_numbers), now_s)
        run = self._runs.get(name)
        if run is None:
            run = self._runs[name] = _Run(next(self._run_numbers), now_s)
            if len(self._runs) > self.keep_runs:
                self._runs.popitem(last=False)
        else:
            self._runs.move_to_end(name)
        return run
