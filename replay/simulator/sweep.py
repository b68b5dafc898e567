"""A short, designed load on a live engine, whose steps an engine model is fitted on.

Prompt lengths x calls at a time, each with a prompt that nobody had before and then again with one from the cache, in
an order that is shuffled, so that what drifts on the machine falls on all alike; then short calls into a batch that
decodes, for steps that do both. Tokens are forced, as replays force them. What it measures of the way to the engine and
back are calls that find it idle.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redecode.replay.engine import Completion, EngineClient, EngineInfo
from redecode.replay.engine.client import has_our_clock
from redecode.replay.simulator.errors import TooFewSteps
from redecode.replay.simulator.observed import Observed, Passage, from_clock

_GREEDY = {"temperature": 0.0}
_DEFAULT_CONTEXT = 2048
_MOST_PREFILL = 2048  # tokens of a combination: a CPU takes half a millisecond for each


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep measured."""

    observed: Observed
    passages: tuple[Passage, ...]
    calls: int


@dataclass(frozen=True, slots=True)
class _Cell:
    prompt: int
    at_once: int
    cached: bool


class _Caller:
    """Makes calls and keeps what came."""

    def __init__(self, client: EngineClient, rng: random.Random, vocab: int) -> None:
        self._client, self._rng, self._vocab = client, rng, vocab
        self.made: list[tuple[str, Completion, bool]] = []

    def tokens(self, count: int) -> list[int]:
        """Nobody had these before."""
        return [self._rng.randrange(self._vocab) for _ in range(count)]

    async def call(self, prompt: Sequence[int], output: int, *, alone: bool = False) -> None:
        """Make one."""
        rid = f"sweep-{self._rng.getrandbits(96):024x}"
        done = await self._client.complete(
            prompt, sampling=_GREEDY, rid=rid, force=self.tokens(output), with_steps=False
        )
        self.made.append((rid, done, alone))


async def sweep(
    client: EngineClient,
    *,
    rng: random.Random,
    rounds: int = 2,
    output: int = 24,
    at_once: Sequence[int] | None = None,
    seconds: float = 45.0,
    on_cell: Callable[[int, int], None] | None = None,
) -> Swept:
    """Load an idle engine for some seconds and return what its steps were.

    Args:
        rounds: times that each combination is measured.
        at_once: calls at a time; by default 1, 2, 4... to what the engine takes, at most 64.
        seconds: after so many no new combination is begun.
        on_cell: called with (combinations measured, combinations in all).

    Raises:
        TooFewSteps: the engine keeps no step clock here, or somebody else used it all the time.
    """
    info = await client.info()
    if not has_our_clock(info):
        raise TooFewSteps(
            f"the engine serving {info.served_model_name} keeps no step clock that can be read here: it needs our "
            "plug-in, model runner V1, and to be on this machine"
        )
    caller = _Caller(client, rng, info.vocab_size or 256)
    context = info.max_model_len or _DEFAULT_CONTEXT
    most = info.max_num_seqs or 16
    sizes = sorted({n for n in (at_once or (1, 2, 4, 8, 16, 32, 64)) if n <= most} | {1, min(most, 64)})
    lengths = sorted({n for n in (16, 64, 256, 1024, 4096, context - output - 1) if n < context - output})
    await asyncio.gather(*(caller.call(caller.tokens(8), 2) for _ in range(2)))  # the first pays for all
    caller.made.clear()
    until = time.monotonic() + seconds
    for prompt in (lengths[0], max(n for n in lengths if n <= _MOST_PREFILL)):  # however slow: the way there and back
        await _cell(caller, _Cell(prompt, 1, cached=False), output)
    for turn in range(rounds):
        cells = [_Cell(p, n, c) for p in lengths for n in sizes for c in (False, True) if c or p * n <= _MOST_PREFILL]
        rng.shuffle(cells)
        await _mixed(caller, most, context, output)
        for place, cell in enumerate(cells):
            if time.monotonic() > until:
                break
            if on_cell is not None:
                on_cell(turn * len(cells) + place, rounds * len(cells))
            await _cell(caller, cell, output)
    return await _collect(client, info, caller)


async def _cell(caller: _Caller, cell: _Cell, output: int) -> None:
    prompts = [caller.tokens(cell.prompt) for _ in range(cell.at_once)]
    if cell.cached:
        shared = caller.tokens(cell.prompt)
        await caller.call(shared, 1, alone=True)
        prompts = [shared] * cell.at_once
    await asyncio.gather(*(caller.call(p, output, alone=cell.at_once == 1) for p in prompts))


async def _mixed(caller: _Caller, most: int, context: int, output: int) -> None:
    """A batch that decodes for long, and calls that come in beside it."""
    rows = max(1, most // 2)
    long = min(4 * output, context - 64)

    async def later(place: int) -> None:
        await asyncio.sleep(0.02 * place)
        await caller.call(caller.tokens(min(32 << (place % 4), context - output - 1)), 4)

    await asyncio.gather(*(caller.call(caller.tokens(32), long) for _ in range(rows)), *(later(i) for i in range(12)))


async def _collect(client: EngineClient, info: EngineInfo, caller: _Caller) -> Swept:
    answer = await client.steps([rid for rid, _, _ in caller.made])
    calls, passages = [], []
    for rid, done, alone in caller.made:
        clock = answer.steps.get(rid)
        if clock is None or not clock.t_ns:
            continue
        prompt, cached = done.prompt_tokens or 0, done.cached_tokens or 0
        calls.append((prompt, cached, clock))
        if alone:
            before, after = clock.start_ns[0] - done.sent_ns, done.done_ns - clock.t_ns[-1]
            passages.append(Passage(prompt, before / 1e9, after / 1e9))
    budget = info.max_num_batched_tokens if info.chunked_prefill else None
    return Swept(from_clock(calls, budget), tuple(passages), len(calls))
