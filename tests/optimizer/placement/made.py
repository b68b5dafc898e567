"""Engines, runs and views for tests of placement."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from redecode.replay.simulator.costs import StepCosts, to_ps
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.rows import Limits
from redecode.replay.simulator.views import CallView, State
from redecode.replay.simulator.workload import Call, Shape, Workload, chain, single


def engine(slower: float = 1.0, *, model: str = "", cold_s: float = 0.0, calls: int = 16, usd: float = 1.0) -> Engine:
    """10 ms a step and 0.5 ms a call, `slower` times as slow."""
    costs = StepCosts(
        step=to_ps(0.01 * slower), prefill_token=to_ps(2e-5 * slower), decode=to_ps(5e-4 * slower),
        context_token=to_ps(1e-8 * slower),
    )  # fmt: skip
    limits = Limits(max_num_seqs=calls, token_budget=2048, kv_blocks=4000)
    return Engine(
        costs=costs, limits=limits, model=model, hardware=f"x{slower:g}", cold_start_ps=to_ps(cold_s),
        cost_per_s=usd / 3600,
    )  # fmt: skip


@dataclass
class View:
    """A replica as a router sees it."""

    number: int
    engine: Engine
    state: State = State.READY
    ready_s: float = 0.0
    outstanding: int = 0
    outstanding_prompt_tokens: int = 0
    running: int = 0
    waiting: int = 0
    free_kv_blocks: int = 4000
    cached: frozenset[int] = field(default_factory=frozenset)

    def cached_blocks(self, hashes: Sequence[int]) -> int:
        for place, block in enumerate(hashes):
            if block not in self.cached:
                return place
        return len(hashes)


def call_view(
    number: int = 0, *, step: str = "run/a@1/chat", deadline_s: float | None = None, model: str = "", agent: str = "x",
    prompt: int = 100, hashes: tuple[int, ...] = (), run: int | None = None, max_tokens: int | None = None,
) -> CallView:  # fmt: skip
    return CallView(
        number, number if run is None else run, step, model, prompt, hashes, 0.0, deadline_s, max_tokens, agent
    )


def one(step: str, output: int, *, prompt: int = 100, model: str = "", name: str = "x") -> Shape:
    return replace(single(Call(step=step, prompt_tokens=prompt, output_tokens=output, model=model)), name=name)


def two(first: int, second: int, gap_s: float = 1.0, name: str = "x") -> Shape:
    """A call, a tool, a call."""
    calls = [
        Call(step="run/a@1/chat", prompt_tokens=100, output_tokens=first),
        Call(step="run/a@3/chat", prompt_tokens=150, output_tokens=second),
    ]
    return replace(chain(calls, [0, to_ps(gap_s)]), name=name)


def workload(shapes: Sequence[Shape], per_s: float, runs: int, deadline_s: float | None, seed: int = 0) -> Workload:
    rng = random.Random(seed)
    at, begins = 0.0, array("q")
    for _ in range(runs):
        at += rng.expovariate(per_s)
        begins.append(to_ps(at))
    which = array("l", [rng.randrange(len(shapes)) for _ in begins])
    limits = array("q", [to_ps(deadline_s)] * runs if deadline_s is not None else [])
    return Workload(tuple(shapes), begins, which, limits)
