"""The KV blocks of one replica: who holds them, which prefixes they keep, which go first.

As vLLM's block pool (v1/core/block_pool.py): a block without content worth keeping is taken first, then the cached one
that has been free for longest; of a call that ends, the last block goes before the first. Two simplifications: blocks
have no ids, and a second copy of a cached block is not kept when its call ends.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class KvBlocks:
    """Counts of blocks, and the prefixes in them.

    Attributes:
        total: all of them.
        free: those no running call holds; cached ones are among them.
        held_by: block hash → how many running calls hold it; 0 is cached and free.
        peak: most blocks held at a time.
    """

    __slots__ = ("_blank", "_lru", "_runs", "free", "held_by", "peak", "total")

    def __init__(self, total: int) -> None:
        self.total = self.free = self._blank = total
        self.held_by: dict[int, int] = {}
        self._lru: OrderedDict[int | tuple[int], int] = OrderedDict()  # (n,): a run of blocks that nobody can ask for
        self._runs = 0
        self.peak = 0

    def found(self, hashes: Sequence[int], most: int) -> int:
        """How many blocks of this prefix are there, at most so many."""
        held_by = self.held_by
        count = 0
        for block in hashes:
            if count >= most or block not in held_by:
                break
            count += 1
        return count

    def idle(self, hashes: Sequence[int], count: int) -> int:
        """How many of the first `count` are free: taking them takes from `free`."""
        held_by = self.held_by
        return sum(not held_by[hashes[i]] for i in range(count))

    def hold(self, hashes: Sequence[int], count: int) -> None:
        """A call holds the first `count`, which are there."""
        held_by, lru = self.held_by, self._lru
        for i in range(count):
            block = hashes[i]
            holders = held_by[block]
            if not holders:
                del lru[block]
                self.free -= 1
            held_by[block] = holders + 1
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
        lru, held_by = self._lru, self.held_by
        while count:
            key, blocks = lru.popitem(last=False)
            if not isinstance(key, tuple):
                del held_by[key]
                count -= 1
            elif blocks <= count:
                count -= blocks
            else:
                lru[key] = blocks - count
                lru.move_to_end(key, last=False)
                return

    def keep(self, block: int) -> bool:
        """A held block now has this content; False if there is such a block already, and this one is a copy."""
        if block in self.held_by:
            return False
        self.held_by[block] = 1
        return True

    def drop(self, held: int, full: int, hashes: Sequence[int], kept: int, copies: set[int] | None) -> None:
        """A call lets go of its blocks.

        Args:
            held: how many it has.
            full: how many of them are full of computed tokens.
            kept: the first so many have the content `hashes` names, but for `copies`.
        """
        self.free += held
        blank = held - full
        if full > kept:
            self._runs += 1
            self._lru[(self._runs,)] = full - kept
        held_by, lru = self.held_by, self._lru
        for i in range(kept - 1, -1, -1):
            if copies is not None and i in copies:
                blank += 1
                continue
            block = hashes[i]
            holders = held_by[block] - 1
            held_by[block] = holders
            if holders:
                self.free -= 1
            else:
                lru[block] = 1
        self._blank += blank

    def drop_blank(self, held: int) -> None:
        """A call lets go of blocks whose content nobody keeps (no prefix caching)."""
        self.free += held
        self._blank += held

    def forget(self) -> None:
        """Lose all content; nothing may be held."""
        self.held_by.clear()
        self._lru.clear()
        self._blank = self.free = self.total
