"""A byte-level BPE of 1,024 tokens that writes a value the same way wherever it stands.

A model this small answers by copying, token by token. So capitalised words, single digits, punctuation and
spaces are tokens of their own, and only a plain lower-case word takes the space before it along: a name has
the same tokens in the article, in JSON and in a tool call.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from redecode.agents.fm import chat
from redecode.agents.fm.dialogues import Sample, decisions, random_sample

VOCAB_SIZE = 1024
CONTEXT = 1024
_SPLIT = r" [a-z]+(?=[ ,;:?]|\.(?:\s|$)|$)|\s|[A-Z]?[a-z]+|[A-Z]|[0-9]|[^\sA-Za-z0-9]+"
_MARKS = re.compile("|".join(re.escape(t) for t in (chat.START, chat.END, chat.CALL, chat.CALL_END)))
_CALL_TOKENS = (chat.CALL, chat.CALL_END)


def train_tokenizer(seed: int = 0, samples: int = 4000) -> Tokenizer:
    """Learn the merges from generated training conversations."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(_CALL_TOKENS),
        special_tokens=[chat.PAD, chat.START, chat.END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(seed, samples), trainer)
    # Not "special": a server must show them to its tool parser, so they have to survive decoding.
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in _CALL_TOKENS])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files transformers and vLLM look for."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": chat.END,
        "pad_token": chat.PAD,
        "additional_special_tokens": [chat.START],
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "chat_template.jinja").write_text(chat.CHAT_TEMPLATE)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a model folder."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


class Encoder:
    """Turns samples into token ids and a training weight per token (0: read, not learned)."""

    decision_weight = 3.0

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.pad = _known(tokenizer.token_to_id(chat.PAD))
        self.end = _known(tokenizer.token_to_id(chat.END))

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(self, sample: Sample) -> tuple[list[int], list[float]]:
        """Return a sample's tokens and weights."""
        ids: list[int] = []
        weights: list[float] = []
        for piece in chat.pieces(sample.messages, sample.tools):
            encoding = self.tokenizer.encode(piece.text, add_special_tokens=False)
            ids += encoding.ids
            weight = [float(piece.answer)] * len(encoding.ids)
            if piece.answer:
                for at in decisions(piece.text.removesuffix(chat.END)):
                    weight[_known(encoding.char_to_token(at))] = self.decision_weight
            weights += weight
        return ids, weights


def _known(token: int | None) -> int:
    if token is None:
        raise ValueError("the tokenizer lacks a token it was made with")
    return token


def _corpus(seed: int, samples: int) -> Iterator[str]:
    rng = random.Random(f"tokenizer/{seed}")
    for _ in range(samples):
        sample = random_sample(rng, "train", (1, 1, 0.3, 1))
        yield _MARKS.sub("\n", chat.render_chat(sample.messages, sample.tools))
