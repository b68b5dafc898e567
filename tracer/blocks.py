"""Prompt tokens, stored once: fixed blocks addressed by a chained hash of their content.

A block's hash covers everything before it, as vLLM hashes KV blocks, so equal hashes mean equal prefixes:
an agent's growing prompt costs its new tokens only, and prefix reuse can be computed without the tokens.
"""

from __future__ import annotations

import hashlib

BLOCK_TOKENS = 16
_BLOCK_BYTES = 4 * BLOCK_TOKENS
HASH_BYTES = 16


def split(prompt: bytes, key: bytes = b"") -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Full blocks as (hash of 16 bytes, ids), and the ids of the unfinished last block; ids are packed int32.

    Args:
        key: makes the hashes of no use for trying out what a prompt was, to whoever does not have it; 64 bytes at most.
    """
    blocks, before, full = [], b"", len(prompt) // _BLOCK_BYTES * _BLOCK_BYTES
    for at in range(0, full, _BLOCK_BYTES):
        ids = prompt[at : at + _BLOCK_BYTES]
        before = hashlib.blake2b(before + ids, digest_size=HASH_BYTES, key=key).digest()
        blocks.append((before, ids))
    return blocks, prompt[full:]
