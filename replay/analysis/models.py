"""Which FM would do: calls of one step that several FMs answered, from runs of several configurations or replays."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING

from redecode.replay.analysis.advice import Advice

if TYPE_CHECKING:
    from redecode.tracer import Decode, RecordedRun

FEWEST = 5
"""Prompts that both FMs must have answered."""
AGREES = 0.95


def smaller_models(runs: Iterable[RecordedRun]) -> tuple[Advice, ...]:
    """Steps at which a faster FM gave the answers that a slower one gave to the same prompts."""
    asked: dict[str, dict[str, dict[str, list[Decode]]]] = {}  # step → what was asked → FM → its calls
    for run in runs:
        for decode in run.decodes:
            if decode.messages is not None and not decode.redacted and decode.error is None and decode.e2e_ns:
                question = json.dumps([decode.messages, decode.tool_definitions], sort_keys=True, default=str)
                asked.setdefault(decode.step_key, {}).setdefault(question, {}).setdefault(decode.model, []).append(
                    decode
                )
    found = []
    for step, questions in sorted(asked.items()):
        models = sorted({model for answers in questions.values() for model in answers})
        for pair in combinations(models, 2):
            both = [answers for answers in questions.values() if all(m in answers for m in pair)]
            if len(both) < FEWEST:
                continue
            times = {m: median(d.e2e_ns or 0 for answers in both for d in answers[m]) for m in pair}
            fast, slow = sorted(pair, key=lambda m: (times[m], m))
            agree = sum(_answer(answers[fast][0]) == _answer(answers[slow][0]) for answers in both)
            if agree >= AGREES * len(both) and times[fast] < times[slow]:
                found.append(
                    Advice(
                        "smaller model",
                        f"{fast} gave the answer of {slow} to {agree} of {len(both)} equal prompts, and faster",
                        (step,),
                        round(times[slow] - times[fast]),
                        {
                            "prompts": len(both),
                            "agree": agree,
                            "median_e2e_ns": {m: round(t) for m, t in times.items()},
                        },
                    )
                )
    return tuple(sorted(found, key=lambda a: (-(a.gain_ns or 0), a.step_keys)))


def _answer(decode: Decode) -> str:
    """What was said, and which tools were called with what; ids of calls are random."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k not in ("id", "tool_call_id")}
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    return json.dumps(plain(decode.output), sort_keys=True, default=str)
