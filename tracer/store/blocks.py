"""Prompt tokens, stored once: fixed blocks addressed by a chained hash of their content.

A block's hash covers everything before it, as vLLM hashes KV blocks, so equal hashes mean equal prefixes:
an agent's growing prompt costs its new tokens only, and prefix reuse can be computed without the tokens.
"""

from __future__ import annotations

import hashlib

BLOCK_TOKENS = 16
_BLOCK_BYTES = 4 * BLOCK_TOKENS


def split(prompt: bytes) -> tuple[list[tuple[str, bytes]], bytes]:
    """Full blocks as (hash, ids), and the ids of the unfinished last block; ids are packed int32."""
    blocks, before = [], b""
    full = len(prompt) // _BLOCK_BYTES * _BLOCK_BYTES
    for at in range(0, full, _BLOCK_BYTES):
        ids = prompt[at : at + _BLOCK_BYTES]
        digest = hashlib.blake2b(before + ids, digest_size=16)
        before = digest.digest()
        blocks.append((digest.hexdigest(), ids))
    return blocks, prompt[full:]
