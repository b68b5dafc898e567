"""The model is a real Llama, learns from its start, and the shipped weights are what the card says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from redecode.agents import BUNDLED_MODELS, model_dir

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
model_module = pytest.importorskip("redecode.agents.fm.model")
growth_module = pytest.importorskip("redecode.agents.fm.growth")
train_module = pytest.importorskip("redecode.agents.fm.train")
tokenizer_module = pytest.importorskip("redecode.agents.fm.tokenizer")

SIZE_BUDGET_BYTES = 30_000_000


@pytest.fixture(scope="module")
def encoder() -> Any:
    return tokenizer_module.Encoder(tokenizer_module.train_tokenizer(seed=0, samples=200))


def tiny(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = model_module.TinyLlama(model_module.SIZES["xs"])
    model_module.mimetic_init(model, seed)
    return model


def test_the_start_is_a_function_of_the_seed() -> None:
    same, other = tiny(1).state_dict(), tiny(2).state_dict()
    again = tiny(1).state_dict()
    assert all(torch.equal(same[k], again[k]) for k in same)
    assert not torch.equal(same["embedding"], other["embedding"])


def test_the_start_looks_back_one_token() -> None:
    """Layer 0, head 0 attends to the token before, nearly whatever the tokens are."""
    model = tiny()
    block, width = model.blocks[0], model.size.head_dim
    x = torch.nn.functional.rms_norm(model.embedding[torch.randint(3, 1024, (1, 60))], (model.size.hidden,))
    q, k, _ = (x @ block.qkv.T).view(1, 60, 3, model.size.heads, width).permute(2, 0, 3, 1, 4)
    q, k = (t * model.cos[:60] + model_module._turn(t) * model.sin[:60] for t in (q, k))
    scores = (q @ k.transpose(-1, -2)).masked_fill(torch.ones(60, 60).triu(1).bool(), -1e9)
    hits = scores[0, 0].argmax(-1)[1:] == torch.arange(59)
    assert hits.float().mean() > 0.6


def test_exported_weights_are_a_llama_with_the_same_answers(tmp_path: Path, encoder: Any) -> None:
    model = tiny()
    model_module.save_model(model, tmp_path, end_id=encoder.end, pad_id=encoder.pad)
    tokenizer_module.save_tokenizer(encoder.tokenizer, tmp_path)
    back = model_module.load_model(tmp_path)
    llama = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path), dtype=torch.float32)
    ids = torch.randint(3, 1024, (2, 50))
    with torch.no_grad():
        ours, theirs = back(ids), llama(ids).logits
    assert type(llama).__name__ == "LlamaForCausalLM"
    # Ours computes in bfloat16, theirs here in float32.
    assert (ours - theirs).abs().mean() < 0.04 * theirs.abs().mean()


def test_a_grown_model_begins_where_the_small_one_ended() -> None:
    small = tiny()
    large = growth_module.grow(small, model_module.SIZES["s"], seed=0)
    assert large.size == model_module.SIZES["s"]
    ids = torch.randint(3, 1024, (2, 60))
    with torch.no_grad():
        before, after = small(ids), large(ids)
    assert (before - after).abs().mean() < 0.05 * before.abs().mean()
    with pytest.raises(ValueError, match="nothing may shrink"):
        growth_module.grow(large, model_module.SIZES["xs"], seed=0)


class Ticks:
    """A clock that goes on by the same step whenever it is read."""

    def __init__(self, step: float) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.mark.long
def test_training_leaves_a_complete_model_and_its_history(tmp_path: Path) -> None:
    plan = train_module.Plan("xs", minutes=1.0, tokens_per_step=600, exam_size=1, evaluate_every_minutes=0.5)
    progress = train_module.train(plan, tmp_path, clock=Ticks(6.0), cpu_clock=Ticks(6.0))
    assert progress.steps > 5
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    }
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["plan"]["size"] == "xs"
    assert len(record["progress"]["history"]) >= 2
    on = train_module.Plan("s", minutes=1.0, tokens_per_step=600, exam_size=1)
    train_module.train(on, tmp_path / "on", start_from=tmp_path, clock=Ticks(40.0), cpu_clock=Ticks(40.0))
    assert (tmp_path / "on" / "tokenizer.json").read_text() == (tmp_path / "tokenizer.json").read_text()


@pytest.mark.parametrize("name", BUNDLED_MODELS)
def test_shipped_weights_fit_their_config(name: str) -> None:
    folder = model_dir(name)
    config = json.loads((folder / "config.json").read_text())
    size = model_module.SIZES[name.removeprefix("redecode-fm-")]
    assert (config["hidden_size"], config["num_hidden_layers"]) == (size.hidden, size.layers)
    model = model_module.load_model(folder)
    assert model.parameter_count() == json.loads((folder / "training.json").read_text())["weights"]
    assert (folder / "model.safetensors").stat().st_size == pytest.approx(2 * model.parameter_count(), rel=0.05)


def test_shipped_models_are_small_enough_for_the_repository() -> None:
    files = [f for name in BUNDLED_MODELS for f in model_dir(name).iterdir()]
    assert sum(f.stat().st_size for f in files) < SIZE_BUDGET_BYTES


@pytest.mark.parametrize("name", BUNDLED_MODELS)
def test_shipped_models_speak_the_tokens_of_today(name: str) -> None:
    """The template and tokenizer in the folder are those the code renders with."""
    from redecode.agents.fm import chat

    served = transformers.AutoTokenizer.from_pretrained(str(model_dir(name)))
    assert served.chat_template == chat.CHAT_TEMPLATE
    assert len(served) == tokenizer_module.VOCAB_SIZE
    assert served.eos_token == chat.END
