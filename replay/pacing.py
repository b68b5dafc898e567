"""Waiting until a moment, accurately: sleep to a little before it, then yield until it is there."""

from __future__ import annotations

import asyncio
import time

_SPIN_NS = 1_000_000  # asyncio's timer is good to about a millisecond


async def until(monotonic_ns: int) -> None:
    """Return at `monotonic_ns` or as soon after as the event loop allows."""
    ahead = monotonic_ns - time.monotonic_ns() - _SPIN_NS
    if ahead > 0:
        await asyncio.sleep(ahead / 1e9)
    while time.monotonic_ns() < monotonic_ns:
        await asyncio.sleep(0)
