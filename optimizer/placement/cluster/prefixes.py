"""What is believed of an engine's prefix cache: prompts sent there are kept in it, the oldest are dropped first.

A prompt is named block by block by a hash chained from its beginning, as vLLM names KV blocks: of its token ids where
it came as ids, else of its text, cut so that a piece is about a block of tokens. Rejected: asking the engine's
tokenizer for each call, a round trip to a server that is busy; and its KV events, which plain vLLM does not publish.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

_NAME_BYTES = 8


class Prefixes(Protocol):
    """What one replica is believed to have in its prefix cache."""

    def found(self, hashes: Sequence[int]) -> int:
        """How many of these blocks, from the first on."""

    def sent(self, hashes: Sequence[int]) -> None:
        """A prompt goes there."""


class SentPrefixes:
    """Blocks of the prompts sent, as many as the engine has KV blocks, least recently used first out.

    Args:
        blocks: the engine's KV blocks; 0 without prefix caching.
    """

    __slots__ = ("_blocks", "_lru")

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._lru: OrderedDict[int, None] = OrderedDict()

    def found(self, hashes: Sequence[int]) -> int:
        """As `Prefixes` has it."""
        count = 0
        for block in hashes:
            if block not in self._lru:
                break
            count += 1
        return count

    def sent(self, hashes: Sequence[int]) -> None:
        """As `Prefixes` has it. Of one prompt the last block is dropped before the first, as vLLM does."""
        lru = self._lru
        for block in reversed(hashes[: self._blocks]):
            lru[block] = None
            lru.move_to_end(block)
        while len(lru) > self._blocks:
            lru.popitem(last=False)


def chained(content: bytes, size: int, kind: bytes) -> tuple[int, ...]:
    """Names of the full pieces of `size` bytes, each depending on all before it.

    Args:
        kind: what the bytes are; the same bytes of another kind have other names.
    """
    names, before = [], kind
    for start in range(0, len(content) - size + 1, size):
        before = blake2b(before + content[start : start + size], digest_size=_NAME_BYTES).digest()
        names.append(int.from_bytes(before, "big") >> 1)
    return tuple(names)
