"""A Llama small enough to train on a CPU core, started where learning to copy is easy.

The architecture is Llama's to the letter (RoPE, RMSNorm, SwiGLU, tied embeddings), so any engine serves the
exported weights. What is special is the start (`mimetic_init`): attention heads are set by hand to look
back one and two tokens and to find earlier places that continue like the present one, which is what copying
needs. From a random start the same model had learned no copying after hundreds of steps; from this one it
copies almost at once. All weights stay free to change.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from redecode.agents.fm.tokenizer import CONTEXT, VOCAB_SIZE

ROPE_THETA = 1e6
NORM_EPS = 1e-5


@dataclass(frozen=True, slots=True)
class Size:
    """The shape of a model."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


SIZES = {
    "xs": Size(hidden=64, layers=3, heads=2, feed_forward=192),
    "s": Size(hidden=128, layers=6, heads=4, feed_forward=384),
}


class Block(nn.Module):  # type: ignore[misc]  # torch is not type-checked here
    """One Llama layer; q, k, v and gate, up are fused for speed."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        d = size.hidden
        self.heads = size.heads
        self.attention_norm = nn.Parameter(torch.ones(d))
        self.mlp_norm = nn.Parameter(torch.ones(d))
        self.qkv = nn.Parameter(_scaled(3 * d, d, 0.5))
        self.out = nn.Parameter(_scaled(d, d, 0.15))
        self.gate_up = nn.Parameter(_scaled(2 * size.feed_forward, d, 0.5))
        self.down = nn.Parameter(_scaled(d, size.feed_forward, 0.15))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the layer's output for a batch of whole sequences."""
        batch, length, d = x.shape
        y = F.rms_norm(x, (d,), self.attention_norm.to(x.dtype), NORM_EPS)
        q, k, v = F.linear(y, self.qkv).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = q * cos + _turn(q) * sin, k * cos + _turn(k) * sin
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.linear(mixed.transpose(1, 2).reshape(batch, length, d), self.out)
        y = F.rms_norm(x, (d,), self.mlp_norm.to(x.dtype), NORM_EPS)
        gate, up = F.linear(y, self.gate_up).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.down)


class TinyLlama(nn.Module):  # type: ignore[misc]
    """The model."""

    cos: Tensor
    sin: Tensor

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.embedding = nn.Parameter(torch.randn(VOCAB_SIZE, size.hidden) * 0.02)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.Parameter(torch.ones(size.hidden))
        angles = torch.outer(torch.arange(CONTEXT).float(), rope_frequencies(size.head_dim)).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids: Tensor, select: Tensor | None = None) -> Tensor:
        """Return logits for every position, or for those where `select` is true."""
        with torch.autocast("cpu", torch.bfloat16):
            length = ids.shape[1]
            x = F.embedding(ids, self.embedding).to(torch.bfloat16)
            cos, sin = self.cos[:length].to(x.dtype), self.sin[:length].to(x.dtype)
            for block in self.blocks:
                x = block(x, cos, sin)
            x = F.rms_norm(x, (self.size.hidden,), self.norm.to(x.dtype), NORM_EPS)
            if select is not None:
                x = x[select]
            logits: Tensor = F.linear(x, self.embedding)
        return logits.float()

    def parameter_count(self) -> int:
        """Return the number of weights."""
        return sum(p.numel() for p in self.parameters())


def rope_frequencies(head_dim: int) -> Tensor:
    """Return the angle per position of each pair of head dimensions."""
    return 1.0 / (ROPE_THETA ** (torch.arange(0, head_dim, 2).float() / head_dim))


def mimetic_init(model: TinyLlama, seed: int) -> None:
    """Set layer 0 to carry the last two tokens along and layer 1 to find and copy what followed them.

    Dimension 0 of every embedding is one large constant: heads that attend by position alone use it as
    their only input. Content heads use the slow RoPE pairs only, which hardly turn within the context.
    """
    with torch.no_grad():
        _set_by_hand(model, torch.Generator().manual_seed(seed))


def _set_by_hand(model: TinyLlama, gen: torch.Generator) -> None:
    d, heads, width = model.size.hidden, model.size.heads, model.size.head_dim
    scale, constant = 0.06, 2.5
    model.embedding.copy_(torch.randn(model.embedding.shape, generator=gen) * scale)
    model.embedding[:, 0] = constant * scale

    def orthogonal() -> Tensor:
        return torch.linalg.qr(torch.randn(d, d, generator=gen))[0]

    token = orthogonal()[:width].clone()  # reads the token itself
    token[:, 0] = 0
    back = [orthogonal()[:width].clone() for _ in range(2)]  # where the token 1 and 2 before is written
    first, second = model.blocks[0], model.blocks[1]
    assert isinstance(first, Block) and isinstance(second, Block)
    _look_back(first, token, back, constant, scale, width)
    _match_and_copy(second, token, back, orthogonal(), scale, heads)


def _look_back(block: Block, token: Tensor, back: list[Tensor], constant: float, scale: float, width: int) -> None:
    d = block.out.shape[0]
    fast = rope_frequencies(width)[:6]
    half = width // 2
    gain = 7.0 * math.sqrt(math.sqrt(width) / 5.66) / constant
    for head, written in enumerate(back):
        rows = slice(head * width, (head + 1) * width)
        query, key = torch.zeros(width, d), torch.zeros(width, d)
        # The score of looking back n tokens is a sum of cos(n - head - 1) terms: highest at n = head + 1.
        phase = -(head + 1) * fast
        query[: len(fast), 0], query[half : half + len(fast), 0] = gain * phase.cos(), gain * phase.sin()
        key[: len(fast), 0] = gain
        block.qkv[rows], block.qkv[d:][rows], block.qkv[2 * d :][rows] = query, key, token
        block.out[:, rows] = written.T * scale * 1.2


def _match_and_copy(block: Block, token: Tensor, back: list[Tensor], copied: Tensor, scale: float, heads: int) -> None:
    d, width = block.out.shape[0], token.shape[0]
    slow = (rope_frequencies(width) < 0.02).float().repeat(2)[:, None]
    sharp = 2.2 * (24 / float(slow.sum())) ** 0.25
    for head in range(heads):
        rows = slice(head * width, (head + 1) * width)
        if head % 2 == 0:  # the token before that place is the present token
            query, key = token * sharp, back[0] * sharp
        else:  # the two tokens before that place are the present two
            query, key = (token + back[0]) * sharp * 0.8, (back[0] + back[1]) * sharp * 0.8
        block.qkv[rows], block.qkv[d:][rows] = slow * query, slow * key
        block.qkv[2 * d :][rows] = copied[rows]
        block.out[:, rows] = copied[rows].T * scale * 2


def save_model(model: TinyLlama, folder: Path, *, end_id: int, pad_id: int) -> None:
    """Write weights (bfloat16), config and generation config as Hugging Face Llama files."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().to(torch.bfloat16).contiguous().clone() for k, v in _named(model).items()}
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    size = model.size
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": size.hidden,
        "intermediate_size": size.feed_forward,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "head_dim": size.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": end_id,
        "pad_token_id": pad_id,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    generation = {"eos_token_id": [end_id], "pad_token_id": pad_id, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")


def load_model(folder: Path) -> TinyLlama:
    """Read a model back from the files `save_model` wrote."""
    config = json.loads((folder / "config.json").read_text())
    size = Size(
        config["hidden_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
        config["intermediate_size"],
    )
    model = TinyLlama(size)
    stored = load_file(str(folder / "model.safetensors"))
    with torch.no_grad():
        for name, view in _named(model).items():
            view.copy_(stored[name].float())
    return model


def _named(model: TinyLlama) -> dict[str, Tensor]:
    """Return views on the weights under Hugging Face's names."""
    d = model.size.hidden
    out: dict[str, Tensor] = {"model.embed_tokens.weight": model.embedding, "model.norm.weight": model.norm}
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        at = f"model.layers.{i}"
        for j, part in enumerate(("q", "k", "v")):
            out[f"{at}.self_attn.{part}_proj.weight"] = block.qkv[j * d : (j + 1) * d]
        out[f"{at}.self_attn.o_proj.weight"] = block.out
        out[f"{at}.mlp.gate_proj.weight"] = block.gate_up[: model.size.feed_forward]
        out[f"{at}.mlp.up_proj.weight"] = block.gate_up[model.size.feed_forward :]
        out[f"{at}.mlp.down_proj.weight"] = block.down
        out[f"{at}.input_layernorm.weight"] = block.attention_norm
        out[f"{at}.post_attention_layernorm.weight"] = block.mlp_norm
    return out


def _scaled(rows: int, columns: int, gain: float) -> Tensor:
    return torch.randn(rows, columns) * gain / math.sqrt(columns)


def _turn(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)
