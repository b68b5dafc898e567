"""What may be changed in a what-if. A step is named by its step key, the key's end, its tool or FM, an activity's id.

A step key names one step; a shorter name all steps that have it, and a change counts for each.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """All that a step takes, times `factor`; below a step that is no FM call, the FM calls keep their times."""

    step: str
    factor: float

    def __str__(self) -> str:
        return f"{self.step} × {self.factor:g}"


@dataclass(frozen=True, slots=True)
class Shorten:
    """A step without steps of its own, `by_ns` shorter (at most by all of it)."""

    step: str
    by_ns: int

    def __str__(self) -> str:
        return f"{self.step} {self.by_ns / 1e6:g} ms shorter"


@dataclass(frozen=True, slots=True)
class Remove:
    """A step and all below it gone, with the time it took to begin it."""

    step: str

    def __str__(self) -> str:
        return f"without {self.step}"


@dataclass(frozen=True, slots=True)
class CacheHit:
    """A step answered from a cache in `hit_ns`."""

    step: str
    hit_ns: int = 0

    def __str__(self) -> str:
        return f"{self.step} from a cache in {self.hit_ns / 1e6:g} ms"


@dataclass(frozen=True, slots=True)
class OffBarrier:
    """A node that neither waits at barriers, nor is waited for at one: only data orders it."""

    step: str

    def __str__(self) -> str:
        return f"{self.step} off the barrier"


@dataclass(frozen=True, slots=True)
class FewerTokens:
    """An FM call that ends `tokens` tokens earlier, each as long as its mean time per output token."""

    step: str
    tokens: int

    def __str__(self) -> str:
        return f"{self.step} {self.tokens} tokens shorter"


Change = Scale | Shorten | Remove | CacheHit | OffBarrier | FewerTokens


def nearest(step: str, known: Collection[str]) -> str:
    """The end of a sentence that says that there is no such step."""
    import difflib

    near = difflib.get_close_matches(step, sorted(known), n=3, cutoff=0.3)
    return f"; the nearest: {', '.join(near)}" if near else "; `redecode show RUN` names its steps"
