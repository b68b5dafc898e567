"""A paced engine takes the simulator's times, on the wall clock."""

from __future__ import annotations

import asyncio

import pytest

from redecode.optimizer.placement.cluster.paced import PacedEngine
from tests.optimizer.placement.cluster.conftest import an_engine


async def test_calls_end_in_the_order_and_with_the_batches_of_the_simulator() -> None:
    paced, ended = PacedEngine(an_engine(0.002, seqs=2)), []

    async def call(name: str, tokens: int) -> None:
        made = [part.tokens async for part in paced.call(8, tokens)]
        assert made == ([1, tokens] if tokens > 1 else [1])
        ended.append(name)

    loop = asyncio.get_running_loop()
    begun = loop.time()
    await asyncio.gather(call("long", 30), call("short", 5), call("waits", 1), call("waits too", 1))
    assert ended == ["short", "waits", "waits too", "long"]
    assert loop.time() - begun >= 30 * 0.002
    assert paced.load().running == paced.load().waiting == 0
    paced.close()


async def test_the_most_urgent_of_those_that_wait_goes_first() -> None:
    paced, ended = PacedEngine(an_engine(0.001, seqs=1, by_priority=True)), []

    async def call(priority: int) -> None:
        async for _ in paced.call(8, 3, (), priority):
            pass
        ended.append(priority)

    await asyncio.gather(*(call(priority) for priority in (0, 5, -3, 2)))
    assert ended[0] in (0, -3)  # who came when it was idle
    assert ended[1:] == sorted(ended[1:])
    paced.close()


async def test_a_prompt_that_was_there_is_found_in_the_prefix_cache() -> None:
    paced = PacedEngine(an_engine())
    found = []
    for _ in range(2):
        async for part in paced.call(48, 1, (11, 12, 13)):
            found.append(part.cached_blocks)
    assert found == [0, 2]  # the last token is computed always
    paced.close()


async def test_a_call_that_fits_nowhere_is_refused() -> None:
    paced = PacedEngine(an_engine())
    with pytest.raises(ValueError, match="KV blocks"):
        await anext(paced.call(100_000, 1))
