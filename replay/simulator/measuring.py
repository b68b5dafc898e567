"""A live engine measured, and the profile that comes of it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redecode.replay.engine import EngineClient, EngineState, status
from redecode.replay.engine.processes import group_members, memory_bytes
from redecode.replay.simulator.fit import fit_profile
from redecode.replay.simulator.profile import EngineProfile
from redecode.replay.simulator.sweep import sweep


class CountingClient(EngineClient):
    """Tells of every FM call before it is made; whoever is told may raise, which ends the measuring."""

    on_call: Callable[[], None] | None = None

    async def complete(self, *args: Any, **options: Any) -> Any:
        """As `EngineClient.complete`."""
        if self.on_call is not None:
            self.on_call()
        return await super().complete(*args, **options)


async def measured_profile(
    url: str,
    *,
    home: Path,
    now_ns: Callable[[], int],
    seconds: float,
    seed: int = 0,
    cold_start_s: float | None = None,
    on_cell: Callable[[int, int], None] | None = None,
    on_call: Callable[[], None] | None = None,
) -> EngineProfile:
    """Load an idle engine and fit what its steps were.

    Args:
        home: of the engine that a store started: if it is the one at this URL, its start and its memory are known.
        seconds: to measure for.
        cold_start_s: where somebody knows it.
        on_cell, on_call: told of (loads measured, loads in all) and of each FM call; may raise to end it.

    Raises:
        SimulationError: too little was measured.
        ReplayError: the engine does not answer.
    """
    async with CountingClient(url, api_key=os.environ.get("OPENAI_API_KEY")) as client:
        client.on_call = on_call
        swept = await sweep(client, rng=random.Random(seed), seconds=seconds, on_cell=on_cell)
        info = await client.info()
    state = _started_here(home, url)
    return fit_profile(
        swept.observed,
        info,
        source="sweep",
        now_ns=now_ns(),
        passages=swept.passages,
        cold_start_s=cold_start_s if state is None or cold_start_s is not None else state.start_s,
        memory_bytes=None if state is None else memory_bytes(group_members(state.pgid)),
    )


def _started_here(home: Path, url: str) -> EngineState | None:
    state = status(home).state
    same = state is not None and state.base_url == url.rstrip("/").removesuffix("/v1")
    return state if same else None
