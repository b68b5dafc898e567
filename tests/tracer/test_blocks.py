"""Prompt blocks: rebuilding is exact, and a growing conversation stores each token once."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from redecode.tracer.blocks import BLOCK_TOKENS, split

ids = st.lists(st.integers(min_value=0, max_value=200_000), max_size=200)


def packed(prompt: list[int]) -> bytes:
    return array("i", prompt).tobytes()


@given(prompt=ids)
def test_blocks_and_tail_are_the_prompt(prompt: list[int]) -> None:
    blocks, tail = split(packed(prompt))
    assert b"".join(block for _, block in blocks) + tail == packed(prompt)
    assert all(len(block) == 4 * BLOCK_TOKENS for _, block in blocks)
    assert len(tail) < 4 * BLOCK_TOKENS


@given(a=ids, b=ids)
def test_equal_hashes_mean_equal_prefixes(a: list[int], b: list[int]) -> None:
    one, two = split(packed(a))[0], split(packed(b))[0]
    for at, ((h1, _), (h2, _)) in enumerate(zip(one, two, strict=False)):
        upto = (at + 1) * BLOCK_TOKENS
        assert (h1 == h2) == (a[:upto] == b[:upto])


def test_a_growing_conversation_stores_each_block_once() -> None:
    conversation = [n % 997 for n in range(4_000)]
    stored = {h for turn in range(100, 4_001, 100) for h, _ in split(packed(conversation[:turn]))[0]}
    assert len(stored) == 4_000 // BLOCK_TOKENS
