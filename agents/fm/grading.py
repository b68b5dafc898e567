"""A quick exam during training: does the model get each whole answer without a slip.

Teacher-forced, that is, every token is judged given the right ones before it: cheap, and equal to greedy
decoding where it counts, because one wrong token fails the answer. `evaluate` grades by real generation.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from redecode.agents.contact import FIELDS
from redecode.agents.extraction.formats import FORMATS
from redecode.agents.fm.dialogues import (
    Sample,
    desk_sample,
    extraction_sample,
    judge_sample,
    sequential_sample,
)
from redecode.agents.fm.model import TinyLlama
from redecode.agents.fm.phrases import Split
from redecode.agents.fm.tokenizer import Encoder


@dataclass(frozen=True, slots=True)
class ExamPaper:
    """Encoded samples by task."""

    questions: dict[str, list[tuple[list[int], list[float]]]]


def exam(encoder: Encoder, split: Split, count: int, seed: int) -> ExamPaper:
    """Write a paper with `count` questions per task."""
    rng = random.Random(f"exam/{split}/{seed}")
    samples: dict[str, list[Sample]] = {}
    for _ in range(count):
        for first in (*FORMATS, *FIELDS):
            samples.setdefault(str(first), []).append(extraction_sample(rng, split, first))
        samples.setdefault("sequential", []).append(sequential_sample(rng, split))
        samples.setdefault("judge", []).append(judge_sample(rng, split, rng.choice(FORMATS)))
        samples.setdefault("desk", []).append(desk_sample(rng, split))
    return ExamPaper({task: [encoder.encode(s) for s in group] for task, group in samples.items()})


def teacher_forced(model: TinyLlama, paper: ExamPaper, pad: int) -> dict[str, float]:
    """Return the share of faultless conversations by task."""
    with torch.no_grad():
        return {task: _share(model, group, pad) for task, group in paper.questions.items()}


def _share(model: TinyLlama, group: list[tuple[list[int], list[float]]], pad: int, rows: int = 8) -> float:
    group = sorted(group, key=lambda item: len(item[0]))
    faultless = 0
    for at in range(0, len(group), rows):
        part = group[at : at + rows]
        length = max(len(ids) for ids, _ in part)
        ids = torch.tensor([i + [pad] * (length - len(i)) for i, _ in part])
        asked = torch.tensor([w + [0.0] * (length - len(w)) for _, w in part])[:, 1:] > 0
        faultless += int(_row_is_right(model(ids[:, :-1]), ids[:, 1:], asked).sum())
    return round(faultless / len(group), 3)


def _row_is_right(logits: Tensor, wanted: Tensor, asked: Tensor) -> Tensor:
    return ((logits.argmax(-1) == wanted) | ~asked).all(1)
