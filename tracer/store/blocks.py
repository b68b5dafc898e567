"""Prompt tokens, stored once: fixed blocks addressed by a chained hash of their content.

A block's hash covers everything before it, as vLLM hashes KV blocks, so equal hashes mean equal prefixes:
an agent's growing prompt costs its new tokens only, and prefix reuse can be computed without the tokens.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

BLOCK_TOKENS = 16


def split(prompt_ids: Sequence[int]) -> tuple[list[tuple[str, list[int]]], list[int]]:
    """Full blocks as (hash, ids), and the ids of the unfinished last block."""
    blocks, before = [], b""
    full = len(prompt_ids) // BLOCK_TOKENS * BLOCK_TOKENS
    for at in range(0, full, BLOCK_TOKENS):
        ids = list(prompt_ids[at : at + BLOCK_TOKENS])
        digest = hashlib.blake2b(before + array("i", ids).tobytes(), digest_size=16)
        before = digest.digest()
        blocks.append((digest.hexdigest(), ids))
    return blocks, list(prompt_ids[full:])
