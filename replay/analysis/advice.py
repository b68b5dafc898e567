"""Advice, each with its evidence beside it.

What cannot be seen in a recording (its content was withheld, the engine does not say what it had cached) gives none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from redecode.replay.analysis.activities import activities_of
from redecode.replay.analysis.changes import CacheHit
from redecode.replay.analysis.model import ActivityKind, RunAnalysis
from redecode.replay.analysis.runs import analyze_recorded
from redecode.replay.analysis.what_if import what_if

if TYPE_CHECKING:
    from redecode.tracer import Decode, RecordedRun

WORTH = 0.05
"""Part of the run's time below which a gain is not worth saying."""
DOMINATES = 0.3
LONG_PREFIX_TOKENS = 256
_RECENT = 64  # earlier calls that a prompt is compared with
_NOT_ASKED = frozenset({"seed", "stream", "stream_options", "logprobs", "top_logprobs", "return_token_ids"})


@dataclass(frozen=True, slots=True)
class Advice:
    """Something to change, and why.

    Attributes:
        kind: "repeated call", "sequential calls", "barrier", "prefix", "tool" or "smaller model".
        text: one sentence.
        step_keys: the steps it is about.
        gain_ns: what it would gain at most, by the run's graph; `None` if that cannot be told.
        evidence: the numbers.
    """

    kind: str
    text: str
    step_keys: tuple[str, ...]
    gain_ns: int | None
    evidence: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def advise(recorded: RecordedRun, analysis: RunAnalysis | None = None) -> tuple[Advice, ...]:
    """Advice on one run, most gain first."""
    run = analysis if analysis is not None else analyze_recorded(recorded)
    found = [*_repeated(recorded), *_sequential(recorded, run), *_barrier(run), *_prefixes(recorded), *_tools(run)]
    return tuple(sorted(found, key=lambda a: (-(a.gain_ns or 0), a.kind, a.step_keys)))


# -- equal calls --


def _asked(decode: Decode) -> str | None:
    """All that an answer depends on, but for the seed; `None` if it was withheld."""
    if decode.messages is None or decode.redacted or decode.error is not None:
        return None
    sampling = {k: v for k, v in decode.sampling.items() if k not in _NOT_ASKED}
    return json.dumps([decode.model, decode.messages, decode.tool_definitions, sampling], sort_keys=True, default=str)


def _repeated(recorded: RecordedRun) -> Iterator[Advice]:
    groups: dict[str, list[Decode]] = {}
    for decode in recorded.decodes:
        if (asked := _asked(decode)) is not None:
            groups.setdefault(asked, []).append(decode)
    cut = None
    for decodes in groups.values():
        if len(decodes) < 2:
            continue
        cut = cut or activities_of(recorded)
        again = decodes[1:]
        gain = what_if(cut, [CacheHit(d.span_id) for d in again]).gain_ns
        answers = {json.dumps(d.output, sort_keys=True, default=str) for d in decodes}
        temperature = decodes[0].sampling.get("temperature")
        sampled = "" if len(answers) == 1 else f", with {len(answers)} different answers: unless these are wanted"
        yield Advice(
            "repeated call",
            f"{len(decodes)} equal FM calls in one run{sampled}; an exact cache answers all but the first",
            tuple(d.step_key for d in decodes),
            gain,
            {"calls": len(decodes), "answers": len(answers), "temperature": temperature,
             "model": decodes[0].model, "e2e_ns": [d.e2e_ns for d in decodes]},
        )  # fmt: skip


# -- calls in a row that need not be --


def _sequential(recorded: RecordedRun, run: RunAnalysis) -> Iterator[Advice]:
    """FM calls next to each other on the path, of which the second shows nothing of the first's answer.

    Looked at are the lines of the second's prompt that the first's did not have. That nothing of the answer is in them
    is no proof (code may have decided by it), so it is advice to look.
    """
    decodes = {d.span_id: d for d in recorded.decodes}
    calls: list[str] = []
    for segment in run.critical_path:
        a = segment.activity
        if segment.gap or a.kind in (ActivityKind.CODE, ActivityKind.FRAMEWORK, ActivityKind.PARSE):
            continue
        if not calls or calls[-1] != a.span_id:
            calls.append(a.span_id)
    drag: dict[str, int] = {}
    for row in run.activities:
        drag[row.activity.span_id] = drag.get(row.activity.span_id, 0) + row.drag_ns
    for one, other in pairwise(calls):
        first, second = decodes.get(one), decodes.get(other)
        if first is None or second is None or first.redacted or second.redacted:
            continue
        answer, new = _said(first.output), _new_lines(first.messages, second.messages)
        if not answer or new is None or _shows(answer, new):
            continue
        gain = min(drag.get(one, 0), drag.get(other, 0))
        if gain < WORTH * run.makespan_ns:
            continue
        yield Advice(
            "sequential calls",
            "one FM call after another, and nothing of the first's answer is in the second's prompt: "
            "they could run side by side",
            (first.step_key, second.step_key),
            gain,
            {"answer": answer[:200], "new_in_second_prompt": " ".join(new)[:200],
             "e2e_ns": [first.e2e_ns, second.e2e_ns]},
        )  # fmt: skip


def _said(output: Any) -> str:
    """All text of an answer, tool calls too."""
    return " ".join(_texts(output)).strip()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("role", "type", "id", "finish_reason", "index", "name"):
                yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _new_lines(before: Any, now: Any) -> list[str] | None:
    """Lines of a prompt that another did not have; `None` if one of them was not recorded."""
    if before is None or now is None:
        return None
    known = {line.strip() for text in _texts(before) for line in text.splitlines()}
    return [line for text in _texts(now) for line in text.splitlines() if line.strip() not in known]


def _shows(answer: str, lines: Sequence[str]) -> bool:
    words = set(re.findall(r"\w{2,}", answer.lower()))
    seen = set(re.findall(r"\w{2,}", " ".join(lines).lower()))
    return bool(words & seen) if words else any(answer in line for line in lines)


# -- barriers, tools --


def _barrier(run: RunAnalysis) -> Iterator[Advice]:
    if run.barrier_cost_ns < WORTH * run.makespan_ns or not run.barrier_cost_ns:
        return
    held = [s for s in run.critical_path if s.barrier_wait_ns]
    keys = tuple(dict.fromkeys(s.activity.step_key for s in held if not s.gap))
    yield Advice(
        "barrier",
        "a superstep's barrier holds up steps that have all their data: let the slow branch join later",
        keys,
        run.barrier_cost_ns,
        {"makespan_ns": run.makespan_ns, "data_only_ns": run.data_only_ns,
         "barrier_wait_ns": run.split.barrier_wait_ns},
    )  # fmt: skip


def _tools(run: RunAnalysis) -> Iterator[Advice]:
    spent: dict[str, int] = {}
    drag: dict[str, int] = {}
    for segment in run.critical_path:
        if not segment.gap and segment.kind in (ActivityKind.TOOL, ActivityKind.RETRIEVAL):
            key = segment.activity.step_key
            spent[key] = spent.get(key, 0) + segment.duration_ns
    for row in run.activities:
        drag[row.activity.step_key] = drag.get(row.activity.step_key, 0) + row.drag_ns
    for key, time in spent.items():
        if time >= DOMINATES * run.makespan_ns:
            yield Advice(
                "tool",
                f"one tool is {time / run.makespan_ns:.0%} of the run",
                (key,),
                min(drag[key], time),
                {"on_path_ns": time, "makespan_ns": run.makespan_ns},
            )


# -- prompts sent again --


def _prefixes(recorded: RecordedRun) -> Iterator[Advice]:
    """Long beginnings of prompts that the same engine had just read, and read again."""
    earlier: list[Decode] = []
    for decode in sorted(recorded.decodes, key=lambda d: (d.sent_ns, d.span_id)):
        if decode.cached_tokens is not None and decode.input_tokens:
            engine = decode.model, decode.base_url
            done = [
                (_shared(d, decode), d)
                for d in earlier[-_RECENT:]
                if (d.model, d.base_url) == engine and d.done_ns is not None and d.done_ns <= decode.sent_ns
            ]
            shared, source = max(done, key=lambda pair: pair[0], default=(0, decode))
            missed = shared - decode.cached_tokens
            if missed >= LONG_PREFIX_TOKENS:
                uncached = decode.input_tokens - decode.cached_tokens
                gain = None if decode.prefill_ns is None else decode.prefill_ns * missed // max(uncached, missed)
                yield Advice(
                    "prefix",
                    f"{missed} prompt tokens were read again that an earlier call had sent: "
                    "prefix caching is off, or the cache was full",
                    (source.step_key, decode.step_key),
                    gain,
                    {"shared_tokens": shared, "cached_tokens": decode.cached_tokens,
                     "input_tokens": decode.input_tokens, "prefill_ns": decode.prefill_ns},
                )  # fmt: skip
        earlier.append(decode)


def _shared(one: Decode, other: Decode) -> int:
    """Tokens both prompts begin with."""
    if one.prompt_ids is not None and other.prompt_ids is not None:
        return _alike(one.prompt_ids, other.prompt_ids)
    if one.prompt_hashes is not None and other.prompt_hashes is not None:
        return 16 * _alike(one.prompt_hashes, other.prompt_hashes)
    return 0


def _alike(one: Sequence[Any], other: Sequence[Any]) -> int:
    for n, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return n
    return min(len(one), len(other))
