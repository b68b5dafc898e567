"""Runs as load traces: rows of lengths, times and prefix hashes, with no content.

Two forms of row, both JSONL, both times in ms:

`agentic`  what NVIDIA Dynamo's offline replay reads as `agentic_mooncake` (docs/agents/agent-replay.md,
           docs/dynosim/trace-formats.md and `AgenticMooncakeRow` of lib/data-gen in ai-dynamo/dynamo): a row starts
           `delay + tool_wait_ms` after all rows in `wait_for` have completed, or at `timestamp` if it waits for none.
           Dynamo infers `wait_for` from times; here it comes from the recorded edges.
`plain`    Mooncake's own (`timestamp`, `input_length`, `output_length`, `hash_ids`), as AIPerf (`mooncake_trace`),
           GuideLLM (`mooncake`) and Dynamo (`mooncake`) read it: independent requests, each with its whole
           prompt. No `session_id`: AIPerf takes the turns of a session for additions to a growing prompt, Dynamo for
           whole prompts.

A hash id stands for one block of a prompt *and everything before it*; equal leading ids are a shared prefix. The ids
are small integers in order of appearance, stable within the file only. The last block may be a part: GuideLLM wants
`ceil(input_length / block)` ids. Of a prompt whose ids were withheld (content off) only the hashes of its blocks of 16
are known; what is left over at its end is then taken to be shared with nobody.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from redecode.tracer.blocks import BLOCK_TOKENS as KNOWN_TOKENS
from redecode.tracer.export.waits import Wait, waits
from redecode.tracer.records import Decode, JsonObject, Span, ToolStep

if TYPE_CHECKING:
    from redecode.tracer.store import RecordedRun

BLOCK_TOKENS = 512  # Mooncake's; AIPerf's and GuideLLM's default


class Rows(StrEnum):
    """Which form of row."""

    AGENTIC = "agentic"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class LoadTrace:
    """The rows of some runs.

    Attributes:
        rows: in order of their `timestamp`.
        left_out: step keys of the FM calls that cannot be a row, with the reason; what waited for one of them waits
            for what that one waited for.
    """

    rows: list[JsonObject]
    left_out: list[tuple[str, str]]


class BlockIds:
    """Small integers for the blocks of prompts.

    Args:
        tokens: per block.
    """

    def __init__(self, tokens: int) -> None:
        if tokens < 1:
            raise ValueError(f"a block has at least one token, not {tokens}")
        self.tokens = tokens
        self._ids: dict[object, int] = {}

    def of(self, prompt: Sequence[int]) -> list[int]:
        """One id per block of a prompt, the last of which may be a part.

        Two prompts have their first k ids in common exactly if their first k blocks are equal.
        """
        chain, out = b"", list[int]()
        for at in range(0, len(prompt), self.tokens):
            block = array("i", prompt[at : at + self.tokens]).tobytes()
            chain = hashlib.blake2b(chain + block, digest_size=16).digest()
            out.append(self._id(chain))
        return out

    def of_hashes(self, hashes: Sequence[bytes], length: int) -> list[int]:
        """The same from the chained hashes of a prompt's full blocks of `blocks.BLOCK_TOKENS`.

        Args:
            length: tokens of the prompt.
        """
        step, out = self.tokens // KNOWN_TOKENS, list[int]()
        for end in range(self.tokens, length + self.tokens, self.tokens):
            known = end <= length or length % KNOWN_TOKENS == 0
            last = step * len(out) + step - 1 if end <= length else len(hashes) - 1
            out.append(self._id(("withheld", hashes[last], end <= length) if known else object()))
        return out

    def _id(self, block: object) -> int:
        return self._ids.setdefault(block, len(self._ids))


def load_trace(runs: Iterable[RecordedRun], rows: Rows = Rows.AGENTIC, block_tokens: int = BLOCK_TOKENS) -> LoadTrace:
    """The FM calls of runs as rows; times count from the first of them all."""
    runs = list(runs)
    blocks, left_out = BlockIds(block_tokens), []
    calls: list[tuple[RecordedRun, Decode]] = []
    for run in runs:
        for decode in run.decodes:
            reason = _unusable(decode, block_tokens)
            if reason is None:
                calls.append((run, decode))
            else:
                left_out.append((decode.step_key, reason))
    calls.sort(key=lambda call: (call[1].sent_ns, call[1].span_id))
    origin_ns = calls[0][1].sent_ns if calls else 0
    out = [
        {
            "timestamp": (decode.sent_ns - origin_ns) / 1e6,
            "input_length": _input_length(decode),
            "output_length": _output_length(decode),
            "hash_ids": _hash_ids(decode, blocks),
        }
        for _, decode in calls
    ]
    if rows is Rows.AGENTIC:
        workflow = {id(run): _Workflow(run, [d for r, d in calls if r is run]) for run in runs}
        out = [
            {"request_id": decode.span_id, **row, **workflow[id(run)].fields(decode)}
            for row, (run, decode) in zip(out, calls, strict=True)
        ]
    return LoadTrace(out, left_out)


def _unusable(decode: Decode, block_tokens: int) -> str | None:
    if not decode.prompt_ids and decode.prompt_hashes is None:
        return f"its prompt's token ids were not recorded (fidelity {decode.fidelity})"
    if not decode.prompt_ids:
        if len(decode.prompt_hashes or ()) != (decode.input_tokens or 0) // KNOWN_TOKENS or not decode.input_tokens:
            return "its prompt was withheld, and its length is not known"
        if block_tokens % KNOWN_TOKENS:
            return (
                f"its prompt was withheld but for hashes of {KNOWN_TOKENS} tokens each: {block_tokens} is no multiple"
            )
    if decode.done_ns is None:
        return "it did not finish"
    if not _output_length(decode):
        return "it gave no tokens" if decode.error is None else "it failed"
    return None


def _input_length(decode: Decode) -> int:
    return len(decode.prompt_ids) if decode.prompt_ids else decode.input_tokens or 0


def _hash_ids(decode: Decode, blocks: BlockIds) -> list[int]:
    if decode.prompt_ids:
        return blocks.of(decode.prompt_ids)
    return blocks.of_hashes(decode.prompt_hashes or (), _input_length(decode))


def _output_length(decode: Decode) -> int:
    return len(decode.sampled_ids) if decode.sampled_ids is not None else decode.output_tokens or 0


@dataclass(slots=True)
class _Workflow:
    """Who waits for whom in one run, and its sessions.

    A session is a chain of calls each of which waited for the one before. A call goes on with the oldest session
    whose last call it waited for; if there is none it begins a session, and is a branch of what it waited for.
    """

    run: RecordedRun
    calls: list[Decode]
    _waits: dict[str, Wait] = field(init=False)
    _spans: dict[str, Span] = field(init=False)
    _steps: dict[str, ToolStep] = field(init=False)
    _ends: dict[str, int] = field(init=False)
    _session: dict[str, str] = field(init=False, default_factory=dict)
    _first: set[str] = field(init=False, default_factory=set)
    _branches: dict[str, list[str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._waits = waits(self.run, {call.span_id for call in self.calls})
        self._spans = {span.span_id: span for span in self.run.spans}
        self._steps = {tool.span_id: tool for tool in self.run.tools}
        self._ends = {call.span_id: call.done_ns or call.sent_ns for call in self.calls}
        last: dict[str, str] = {}  # session → its last call; oldest session first
        for call in self.calls:
            before = self._waits[call.span_id].calls
            session = next((s for s, end in last.items() if end in before), None)
            if session is None:
                session = f"{self.run.run.run_id}:{len(last)}"
                self._first.add(call.span_id)
                for parent in before:
                    self._branches.setdefault(parent, []).append(call.span_id)
            last[session] = call.span_id
            self._session[call.span_id] = session

    def fields(self, call: Decode) -> JsonObject:
        """What the agentic form says beyond the plain one."""
        wait = self._waits[call.span_id]
        out: JsonObject = {
            "session_id": self._session[call.span_id],
            "prefix_reset": call.span_id in self._first,
        }
        if call.span_id in self._branches:
            out["branches"] = self._branches[call.span_id]
        tools = [span for i in wait.tools if (span := self._spans[i]).end_ns is not None]
        tools.sort(key=lambda span: (span.start_ns, span.span_id))
        if wait.calls:
            ready_ns = max(self._ends[other] for other in wait.calls)
            gap_ns = max(0, call.sent_ns - ready_ns)
            tool_ns = _union_ns(tools, ready_ns, call.sent_ns)
            out["wait_for"] = sorted(wait.calls, key=lambda other: (self._ends[other], other))
            out["delay"] = (gap_ns - tool_ns) / 1e6
            if tool_ns:
                out["tool_wait_ms"] = tool_ns / 1e6
        if tools:
            out["tool_events"] = [self._tool_event(span) for span in tools]
        return out

    def _tool_event(self, span: Span) -> JsonObject:
        step, end_ns = self._steps.get(span.span_id), span.end_ns or span.start_ns
        event: JsonObject = {
            "tool_call_id": (step.call_id if step else None) or span.span_id,
            "tool_class": (step.tool if step else None) or span.name,
            "status": "succeeded" if span.status == "ok" else "error",
            "started_at_unix_ms": span.start_ns // 1_000_000,
            "ended_at_unix_ms": end_ns // 1_000_000,
            "duration_ms": (end_ns - span.start_ns) / 1e6,
        }
        if span.error:
            event["error_type"] = span.error.split(":", 1)[0]
        return event


def _union_ns(spans: list[Span], start_ns: int, end_ns: int) -> int:
    """Time within [start, end) in which at least one of the spans (by start) ran."""
    total, reached = 0, start_ns
    for span in spans:
        begin, end = max(span.start_ns, reached), min(span.end_ns or span.start_ns, end_ns)
        if end > begin:
            total += end - begin
            reached = end
    return total
