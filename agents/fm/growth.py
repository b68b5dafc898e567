"""Make a larger model out of a trained smaller one, so that it begins where the small one ended.

The grown model gives (almost) the same answers at first: the small one's weights fill a corner of the larger
matrices, whatever is new writes nothing yet, and what is read by nobody is random so that it can learn. A
larger model trained from nothing on one CPU core needs hours to overtake the small one; grown, it starts there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from redecode.agents.fm.model import Block, Size, TinyLlama


def grow(small: TinyLlama, size: Size, seed: int) -> TinyLlama:
    """Return a model of `size` that answers like `small`; heads must be as wide, nothing may shrink."""
    old = small.size
    if size.head_dim != old.head_dim or size.hidden < old.hidden or size.layers < old.layers:
        raise ValueError(f"cannot grow {old} into {size}: heads must be as wide, and nothing may shrink")
    torch.manual_seed(seed)
    large = TinyLlama(size)
    # The mean square of a vector with zeros behind it is smaller; its norm weights make up for that.
    thinner = math.sqrt(old.hidden / size.hidden)
    with torch.no_grad():
        large.embedding.copy_(torch.randn_like(large.embedding) * 0.05 * float(small.embedding.std()))
        large.embedding[:, : old.hidden] = small.embedding
        large.norm.copy_(_filled(small.norm, size.hidden) * thinner)
        for block in large.blocks:
            assert isinstance(block, Block)
            block.out.zero_()
            block.down.zero_()
        for block, origin in zip(large.blocks, small.blocks, strict=False):
            assert isinstance(block, Block) and isinstance(origin, Block)
            _fill_block(block, origin, old, size, thinner)
    return large


def _fill_block(block: Block, origin: Block, old: Size, new: Size, thinner: float) -> None:
    d = old.hidden
    block.attention_norm.copy_(_filled(origin.attention_norm, new.hidden) * thinner)
    block.mlp_norm.copy_(_filled(origin.mlp_norm, new.hidden) * thinner)
    for part in range(3):
        rows = slice(part * new.hidden, part * new.hidden + d)
        block.qkv[rows] = 0
        block.qkv[rows, :d] = origin.qkv[part * d : (part + 1) * d]
    for part in range(2):
        rows = slice(part * new.feed_forward, part * new.feed_forward + old.feed_forward)
        block.gate_up[rows] = 0
        block.gate_up[rows, :d] = origin.gate_up[part * old.feed_forward : (part + 1) * old.feed_forward]
    block.out[:d, :d] = origin.out
    block.down[:d, : old.feed_forward] = origin.down


def _filled(weights: Tensor, length: int) -> Tensor:
    """Lengthen norm weights by their mean."""
    rest = torch.full((length - len(weights),), float(weights.abs().mean()))
    return torch.cat((weights, rest))
