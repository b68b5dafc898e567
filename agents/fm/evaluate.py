"""Grade a model by what it really writes: `python -m redecode.agents.fm.evaluate --model DIR`, or `--url URL`.

Greedy answers on fresh articles, exact match of the whole answer. An answer that cannot be read is counted as
malformed, one that runs into the token limit (usually a copying loop) as cut; both are errors. With `--model`
the weights are run here by torch, with `--url` by any OpenAI-compatible engine.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import get_args

from redecode.agents.contact import FIELDS, is_field
from redecode.agents.contacts_desk import policy
from redecode.agents.contacts_desk import prompts as desk
from redecode.agents.extraction.formats import FORMATS, Format, MalformedAnswer, parse
from redecode.agents.extraction.prompts import LAYOUTS, WORDINGS, Prompt
from redecode.agents.fm.dialogues import Sample, extraction_sample, judge_sample, sequential_sample
from redecode.agents.fm.phrases import Split
from redecode.agents.fm.speakers import HttpSpeaker, Speaker, TorchSpeaker

MAX_DESK_TURNS = 6


@dataclass(frozen=True, slots=True)
class Mark:
    """One graded answer."""

    task: str
    wording: str
    layout: str
    right: bool
    malformed: bool = False
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """The grade of a group of answers, as shares of `count`."""

    group: str
    count: int
    right: float
    malformed: float
    cut: float


def grade(speaker: Speaker, split: Split, count: int, seed: int, concurrency: int = 1) -> list[Mark]:
    """Ask `count` questions per task and grade the answers."""
    jobs = []
    for number in range(count):
        ways = list(product(WORDINGS, LAYOUTS))
        wording, layout = ways[number % len(ways)]
        prompt = Prompt(wording, layout, system=number % 3 == 0)
        for task in tasks():
            rng = random.Random(f"evaluate/{split}/{seed}/{number}/{task}")
            if task == "desk":
                jobs.append(partial(_grade_desk, speaker, policy.desk_case(rng, split), number))
            else:
                jobs.append(partial(_grade_one, speaker, _sample(rng, split, task, prompt), prompt))
    with ThreadPoolExecutor(concurrency) as pool:
        futures = [pool.submit(job) for job in jobs]
        return [future.result() for future in futures]


def tasks() -> tuple[str, ...]:
    """Return the names of all tasks."""
    every = [f"all/{f}" for f in FORMATS] + [f"one/{f}" for f in FIELDS] + ["one/sequential"]
    return (*every, *(f"judge/{f}" for f in FORMATS), "desk")


def rows(marks: Sequence[Mark]) -> list[Row]:
    """Summarise by task, and over all extraction tasks by wording and by layout."""
    asked = [m for m in marks if m.task.startswith(("all/", "one/"))]
    groups = {t: [m for m in marks if m.task == t] for t in tasks()}
    groups |= {f"wording {w}": [m for m in asked if m.wording == w] for w in WORDINGS}
    groups |= {f"layout {x}": [m for m in asked if m.layout == x] for x in LAYOUTS}
    return [_row(name, group) for name, group in groups.items() if group]


def table(graded: Sequence[Row]) -> str:
    """Write rows as a Markdown table."""
    lines = ["| group | n | right | malformed | cut |", "|---|---|---|---|---|"]
    lines += [f"| {r.group} | {r.count} | {r.right:.2f} | {r.malformed:.2f} | {r.cut:.2f} |" for r in graded]
    return "\n".join(lines) + "\n"


def _sample(rng: random.Random, split: Split, task: str, prompt: Prompt) -> Sample:
    kind, _, what = task.partition("/")
    if what == "sequential":
        return sequential_sample(rng, split, prompt=prompt)
    if kind == "judge":
        return judge_sample(rng, split, _format(what), prompt=prompt)
    return extraction_sample(rng, split, what if is_field(what) else _format(what), prompt=prompt)


def _format(name: str) -> Format:
    return next(f for f in FORMATS if f == name)


def _grade_one(speaker: Speaker, sample: Sample, prompt: Prompt) -> Mark:
    said = speaker.say(sample.messages[:-1])
    text, wanted = said.text, sample.messages[-1]["content"]
    kind, _, what = sample.task.partition("/")
    if kind == "judge":
        body, _, letter = text.rpartition("\n")
        right = letter == wanted[-1]
        malformed = letter not in ("A", "B") or not _is_contact(body, what)
    else:
        right = text == wanted
        malformed = not _is_contact(text, what) if kind == "all" else not text or "\n" in text
    return Mark(
        sample.task,
        prompt.wording,
        prompt.layout,
        right=right and not said.cut,
        malformed=malformed,
        cut=said.cut,
    )


def _is_contact(text: str, fmt: str) -> bool:
    try:
        parse(text, _format(fmt))
    except MalformedAnswer:
        return False
    return True


def _grade_desk(speaker: Speaker, case: policy.DeskCase, number: int) -> Mark:
    wording = desk.WORDINGS[number % len(desk.WORDINGS)]
    messages = desk.start(case.article.text, case.request, wording, system=number % 2 == 0)
    world = policy.World(case)
    mark = partial(Mark, "desk", wording, "article_first")
    for _ in range(MAX_DESK_TURNS):
        said = speaker.say(messages, desk.TOOLS)
        if said.cut or said.call is None:
            break
        messages = [*messages, said.message(), world.answer(*said.call)]
    try:
        answer = desk.parse_answer(said.text)
    except desk.MalformedDeskAnswer:
        return mark(right=False, malformed=True, cut=said.cut)
    return mark(right=answer == policy.expected_answer(case) and not said.cut, cut=said.cut)


def _row(name: str, group: Sequence[Mark]) -> Row:
    n = len(group)
    return Row(
        name,
        n,
        sum(m.right for m in group) / n,
        sum(m.malformed for m in group) / n,
        sum(m.cut for m in group) / n,
    )


def main(argv: list[str] | None = None) -> int:
    """Read the command line, grade, print."""
    parser = argparse.ArgumentParser(prog="python -m redecode.agents.fm.evaluate", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="a model folder, run here by torch")
    source.add_argument("--url", help="an OpenAI-compatible URL")
    parser.add_argument("--name", default="redecode-fm-s", help="the model's name at the URL")
    parser.add_argument("--split", choices=get_args(Split), default="heldout")
    parser.add_argument("--count", type=int, default=100, help="questions per task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=8, help="calls at once, with --url")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    speaker: Speaker = TorchSpeaker(args.model) if args.model else HttpSpeaker(args.url, args.name)
    concurrency = 1 if args.model else args.concurrency
    graded = rows(grade(speaker, args.split, args.count, args.seed, concurrency))
    text = json.dumps([asdict(r) for r in graded], indent=1) + "\n" if args.json else table(graded)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
