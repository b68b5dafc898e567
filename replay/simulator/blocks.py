"""The KV blocks of one replica: who holds them, which prefixes they keep, which go first.

As vLLM's block pool (v1/core/block_pool.py): a block without content worth keeping is taken first, then the cached one
that has been free for longest; of a call that ends, the last block goes before the first. Two simplifications: blocks
have no ids, and a second copy of a cached block is not kept when its call ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

_AHEAD = 256
"""So many of the oldest are looked up at a time: a plain dict finds its first key only past all that were deleted."""


class KvBlocks:
    """Counts of blocks, and the prefixes in them.

    Attributes:
        total: all of them.
        free: those no running call holds; cached ones are among them.
        held_by: block hash → how many running calls hold it.
        peak: most blocks held at a time.
    """

    __slots__ = ("_blank", "_drops", "_lru", "_oldest", "free", "held_by", "peak", "total")

    def __init__(self, total: int) -> None:
        self.total = self.free = self._blank = total
        self.held_by: dict[int, int] = {}
        # Cached blocks nobody holds → the drop that let them go; (drop,) → how many that nobody can ask for.
        self._lru: dict[int | tuple[int], int] = {}
        self._drops = 0
        self._oldest: list[tuple[int | tuple[int], int]] = []  # the first of `_lru` some time ago, the next to go last
        self.peak = 0

    def found(self, hashes: Sequence[int], most: int) -> int:
        """How many blocks of this prefix are there, at most so many."""
        held_by, lru = self.held_by, self._lru
        count = 0
        for block in hashes[:most]:
            if block not in held_by and block not in lru:
                break
            count += 1
        return count

    def idle(self, hashes: Sequence[int], count: int) -> int:
        """How many of the first `count` are free: taking them takes from `free`."""
        return sum(map(self._lru.__contains__, hashes[:count]))

    def hold(self, hashes: Sequence[int], count: int) -> None:
        """A call holds the first `count`, which are there."""
        held_by, lru = self.held_by, self._lru
        for block in hashes[:count]:
            if block in lru:
                del lru[block]
                self.free -= 1
                held_by[block] = 1
            else:
                held_by[block] += 1
        self._note()

    def take(self, count: int) -> None:
        """Hold so many blocks with nothing in them; there must be as many free."""
        self.free -= count
        if count <= self._blank:
            self._blank -= count
        else:
            self._evict(count - self._blank)
            self._blank = 0
        self._note()

    def _note(self) -> None:
        held = self.total - self.free
        if held > self.peak:
            self.peak = held

    def _evict(self, count: int) -> None:
        lru, oldest = self._lru, self._oldest
        while count:
            if not oldest:
                oldest += reversed(list(islice(lru.items(), _AHEAD)))
            key, value = oldest.pop()
            if lru.get(key) != value:
                continue  # it was held since
            blocks = value if isinstance(key, tuple) else 1
            if blocks > count:
                lru[key] = value - count
                oldest.append((key, value - count))
                return
            del lru[key]
            count -= blocks

    def keep(self, block: int) -> bool:
        """A held block now has this content; False if there is such a block already, and this one is a copy."""
        if block in self.held_by or block in self._lru:
            return False
        self.held_by[block] = 1
        return True

    def keep_all(self, blocks: Sequence[int]) -> bool:
        """So have several, if there is none such yet and no two are the same; else nothing is done, and it is False."""
        once = dict.fromkeys(blocks, 1)
        held_by = self.held_by
        if len(once) < len(blocks) or not (held_by.keys().isdisjoint(once) and self._lru.keys().isdisjoint(once)):
            return False
        held_by.update(once)
        return True

    def drop(self, held: int, full: int, hashes: Sequence[int], kept: int, copies: set[int] | None) -> None:
        """A call lets go of its blocks.

        Args:
            held: how many it has.
            full: how many of them are full of computed tokens.
            kept: the first so many have the content `hashes` names, but for `copies`.
        """
        held_by, lru = self.held_by, self._lru
        self._drops = drop = self._drops + 1
        if full > kept:
            lru[(drop,)] = full - kept
        blocks = hashes[:kept][::-1]
        if copies:
            blocks = [hashes[place] for place in range(kept - 1, -1, -1) if place not in copies]
        holders = list(map(held_by.pop, blocks))
        lru.update(dict.fromkeys(blocks, drop))
        self.free += held
        self._blank += held - full + kept - len(blocks)
        if max(holders, default=1) > 1:
            for block, count in zip(blocks, holders, strict=True):
                if count > 1:  # others hold it, too
                    del lru[block]
                    held_by[block] = count - 1
                    self.free -= 1

    def drop_blank(self, held: int) -> None:
        """A call lets go of blocks whose content nobody keeps (no prefix caching)."""
        self.free += held
        self._blank += held

    def forget(self) -> None:
        """Lose all content; nothing may be held."""
        self.held_by.clear()
        self._lru.clear()
        self._oldest.clear()
        self._blank = self.free = self.total
