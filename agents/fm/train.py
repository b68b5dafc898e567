"""Train a bundled model from nothing: `python -m redecode.agents.fm.train --size s --minutes 60 --out DIR`.

First random sequences repeated (pure copying), then generated conversations of rising difficulty. The
learning rate follows the clock, so the budget is in minutes and the run always ends on time; the model is
exported at every evaluation, so a run cut short loses little. No GPU needed.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from redecode.agents.fm.dialogues import random_sample
from redecode.agents.fm.grading import ExamPaper, exam, teacher_forced
from redecode.agents.fm.growth import grow
from redecode.agents.fm.model import SIZES, TinyLlama, load_model, mimetic_init, save_model
from redecode.agents.fm.tokenizer import CONTEXT, VOCAB_SIZE, Encoder, load_tokenizer, save_tokenizer, train_tokenizer

log = logging.getLogger("redecode.agents.fm.train")

Encoded = tuple[list[int], list[float]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how hard to train."""

    size: str
    minutes: float
    seed: int = 0
    tokens_per_step: int = 4096
    learning_rate: float = 3e-3
    copy_share: float = 0.12
    evaluate_every_minutes: float = 5.0
    exam_size: int = 24


@dataclass(slots=True)
class Progress:
    """What has been spent so far; written next to the weights. `started_from` is an earlier model's own record."""

    started_from: dict[str, Any] | None = None
    steps: int = 0
    tokens: int = 0
    answer_tokens: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    copy_phase_steps: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Curriculum:
    """Yields batches; difficulty and the mix of tasks follow the share of the budget that is spent."""

    def __init__(self, encoder: Encoder, plan: Plan, *, easy_start: bool) -> None:
        self._encoder = encoder
        self._plan = plan
        self._easy_start = easy_start
        self._rng = random.Random(f"train/{plan.size}/{plan.seed}" + ("" if easy_start else "/on"))
        self._ready: list[list[Encoded]] = []

    def batch(self, spent: float) -> tuple[Tensor, Tensor]:
        """Return tokens and weights of one step."""
        if not self._ready:
            self._ready = self._refill(spent)
        return collate(self._ready.pop(), self._encoder.pad)

    def copying(self) -> tuple[Tensor, Tensor]:
        """Return random sequences, each three times; the repeats are to be learned."""
        length = self._rng.randint(10, 40)
        rows = max(4, self._plan.tokens_per_step // (6 * length))
        gen = torch.Generator().manual_seed(self._rng.getrandbits(32))
        once = torch.randint(3, VOCAB_SIZE, (rows, length), generator=gen)
        ids = once.repeat(1, 3)
        weights = torch.zeros(ids.shape)
        weights[:, length + 1 :] = 1.0
        return ids, weights

    def _refill(self, spent: float) -> list[list[Encoded]]:
        rng = self._rng
        levels, turns, tasks = _stage(spent if self._easy_start else 1.0)
        encoded: list[Encoded] = []
        for _ in range(192):
            level = rng.choices((0, 1, 2, 3), levels)[0]
            sample = random_sample(rng, "train", tasks, level=level, turns=rng.choice(turns))
            item = self._encoder.encode(sample)
            if len(item[0]) <= CONTEXT:
                encoded.append(item)
        encoded.sort(key=lambda item: len(item[0]))
        batches: list[list[Encoded]] = [[]]
        for item in encoded:
            if batches[-1] and (len(batches[-1]) + 1) * len(item[0]) > self._plan.tokens_per_step:
                batches.append([])
            batches[-1].append(item)
        rng.shuffle(batches)
        return batches


def _stage(spent: float) -> tuple[tuple[float, ...], tuple[int, ...], tuple[float, ...]]:
    """Return weights of the levels, choices of turns, weights of the tasks."""
    if spent < 0.15:
        return (0.75, 0.25, 0, 0), (1, 2, 3), (0.45, 0.35, 0.05, 0.15)
    if spent < 0.3:
        return (0.3, 0.4, 0.3, 0), (1, 2, 3), (0.33, 0.25, 0.17, 0.25)
    return (0.05, 0.25, 0.45, 0.25), (1, 1, 2, 3), (0.26, 0.32, 0.21, 0.21)


def collate(items: list[Encoded], pad: int) -> tuple[Tensor, Tensor]:
    """Pad samples to one length."""
    length = max(len(ids) for ids, _ in items)
    ids = torch.full((len(items), length), pad)
    weights = torch.zeros(len(items), length)
    for row, (tokens, weight) in enumerate(items):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        weights[row, : len(weight)] = torch.tensor(weight)
    return ids, weights


def train(
    plan: Plan,
    out: Path,
    *,
    start_from: Path | None = None,
    clock: Callable[[], float] = time.monotonic,
    cpu_clock: Callable[[], float] = time.process_time,
) -> Progress:
    """Train by the plan and leave a complete model folder in `out`.

    With `start_from` that model's tokenizer is kept, the easy lessons are left out, and if it is smaller than the
    plan says it is grown first.
    """
    torch.manual_seed(plan.seed)
    if start_from is None:
        encoder = Encoder(train_tokenizer(plan.seed))
        model = TinyLlama(SIZES[plan.size])
        mimetic_init(model, plan.seed)
    else:
        encoder = Encoder(load_tokenizer(start_from))
        model = load_model(start_from)
        if model.size != SIZES[plan.size]:
            model = grow(model, SIZES[plan.size], plan.seed)
    curriculum = Curriculum(encoder, plan, easy_start=start_from is None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.97), weight_decay=0.05)
    paper = exam(encoder, "heldout", plan.exam_size, seed=1)
    progress = Progress(started_from=_record_of(start_from))
    smooth, copying = math.nan, start_from is None
    began, cpu_began, next_exam = clock(), cpu_clock(), plan.evaluate_every_minutes * 60
    log.info("%s: %d weights, %s minutes", plan.size, model.parameter_count(), plan.minutes)
    while (spent := progress.seconds / (plan.minutes * 60)) < 1:
        if copying and (smooth < 0.25 or spent > plan.copy_share):
            copying, progress.copy_phase_steps, smooth = False, progress.steps, math.nan
            log.info("copying learned: step %d, %.0f s", progress.steps, progress.seconds)
        ids, weights = curriculum.copying() if copying else curriculum.batch(spent)
        loss = _step(model, optimizer, ids, weights, _learning_rate(plan, spent, progress.steps))
        smooth = loss if math.isnan(smooth) else 0.97 * smooth + 0.03 * loss
        progress.steps += 1
        progress.tokens += ids.numel()
        progress.answer_tokens += int((weights > 0).sum())
        progress.seconds, progress.cpu_seconds = clock() - began, cpu_clock() - cpu_began
        if progress.steps % 50 == 0:
            log.info(
                "step %d  %.0f s (cpu %.0f)  loss %.4f  %.0f tokens/s",
                progress.steps, progress.seconds, progress.cpu_seconds, smooth,
                progress.tokens / progress.seconds,
            )  # fmt: skip
        if progress.seconds > next_exam:
            next_exam = progress.seconds + plan.evaluate_every_minutes * 60
            _examine(model, paper, encoder, progress, smooth)
            export(model, encoder, plan, progress, out)
    _examine(model, paper, encoder, progress, smooth)
    export(model, encoder, plan, progress, out)
    return progress


def export(model: TinyLlama, encoder: Encoder, plan: Plan, progress: Progress, out: Path) -> None:
    """Write a folder that vLLM can serve, and how it came to be."""
    save_model(model, out, end_id=encoder.end, pad_id=encoder.pad)
    save_tokenizer(encoder.tokenizer, out)
    spent = {k: v for k, v in asdict(progress).items() if k != "started_from"}
    record = {
        "plan": asdict(plan),
        "started_from": progress.started_from,
        "weights": model.parameter_count(),
        "progress": spent,
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def _record_of(folder: Path | None) -> dict[str, Any] | None:
    if folder is None:
        return None
    record: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return record


def _step(
    model: TinyLlama, optimizer: torch.optim.Optimizer, ids: Tensor, weights: Tensor, learning_rate: float
) -> float:
    chosen = weights[:, 1:] > 0
    weight = weights[:, 1:][chosen]
    logits = model(ids[:, :-1], chosen)
    loss = (F.cross_entropy(logits, ids[:, 1:][chosen], reduction="none") * weight).sum() / weight.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _learning_rate(plan: Plan, spent: float, step: int) -> float:
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, (spent - 0.15) / 0.85))))
    return plan.learning_rate * min(1.0, (step + 1) / 40) * (0.02 + 0.98 * fall)


def _examine(model: TinyLlama, paper: ExamPaper, encoder: Encoder, progress: Progress, smooth: float) -> None:
    marks = teacher_forced(model, paper, encoder.pad)
    progress.history.append({"seconds": round(progress.seconds), "loss": round(smooth, 4), **marks})
    log.info("exam after %.1f min: %s", progress.seconds / 60, json.dumps(marks))


def main(argv: list[str] | None = None) -> int:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m redecode.agents.fm.train", description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), required=True)
    parser.add_argument("--minutes", type=float, required=True, help="wall-clock budget")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished model")
    parser.add_argument("--tokens-per-step", type=int, default=4096)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--evaluate-every", type=float, default=5.0, metavar="MINUTES")
    parser.add_argument("--start-from", type=Path, help="go on from this model; a smaller one is grown")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    plan = Plan(
        args.size,
        args.minutes,
        args.seed,
        tokens_per_step=args.tokens_per_step,
        learning_rate=args.learning_rate,
        evaluate_every_minutes=args.evaluate_every,
    )
    train(plan, args.out, start_from=args.start_from)
    return 0


if __name__ == "__main__":
    sys.exit(main())
