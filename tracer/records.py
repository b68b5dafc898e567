"""The record: what a run of an agent is, as flat, timed facts. Everything else is computed from these.

Times are int ns UTC; `None` means unknown, never 0. Ids are OpenTelemetry's: a run is a trace (32 hex
digits), a span 16 hex digits. The definitions are in docs/record.md.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

JsonObject = dict[str, Any]


class SpanKind(StrEnum):
    """What a span is an operation of."""

    __hash__ = str.__hash__  # Enum's own is Python code

    RUN = "run"  # one end-to-end execution: the root span
    GRAPH = "graph"  # a subgraph called from a node; its supersteps start again at 1
    NODE = "node"  # one task of one superstep
    DECODE = "decode"  # one FM call
    TOOL = "tool"
    RETRIEVAL = "retrieval"
    CACHE = "cache"
    PARSE = "parse"


class EdgeKind(StrEnum):
    """What an edge means, and which ends it joins.

    CALL       src.start → dst.start   src called dst (src is dst's parent)
    RETURN     src.end   → dst         control came back from src in the same strand of work and went on to
                                       dst: the next call (dst.start), or the caller itself (dst.end)
    JOIN       src.end   → dst         as RETURN, but src ran in a strand that was waited for
    BARRIER    src.end   → dst.start   LangGraph starts a superstep when the one before has ended
    DATA       src.end   → dst.start   dst was triggered by what src wrote
    RESOURCE   src.end   → dst.start   dst waited for what src held
    RETRY      src.end   → dst.start   dst is the next attempt after src failed
    STREAM     src       → dst.start   dst started on a part of src's output
    """

    CALL = "call"
    RETURN = "return"
    JOIN = "join"
    BARRIER = "barrier"
    DATA = "data"
    RESOURCE = "resource"
    RETRY = "retry"
    STREAM = "stream"


class Provenance(StrEnum):
    """How an edge is known.

    A declared read orders nothing in the run as it was (a barrier did); it is what would be left to wait for without
    barriers. That the reader did read it is not known: its state is the user's own object, which nobody wraps.
    """

    RECORDED = "recorded"  # seen happening
    SUPERSTEP = "superstep"  # from superstep numbers
    DECLARED = "declared"  # the task's input has a key that the other had written
    TIME = "time"  # guessed; only ever for foreign traces


class Fidelity(StrEnum):
    """How much of a decode was recorded; a run has the least of its decodes."""

    STRUCTURE = "structure"  # times, lengths, settings; its text was withheld or changed
    TEXT = "text"  # messages in, message out
    SEEDED = "seeded"  # and the seed the engine sampled with
    TOKENS = "tokens"  # and prompt and sampled token ids
    ENGINE = "engine"  # and the engine's fingerprint and its own timing

    @property
    def rank(self) -> int:
        """Position in the order structure < text < seeded < tokens < engine."""
        return list(Fidelity).index(self)

    @classmethod
    def least(cls, values: list[str | None]) -> Fidelity | None:
        """The least fidelity of several, `None` of none."""
        known = [cls(v) for v in values if v is not None]
        return min(known, key=lambda f: f.rank, default=None)


class TimeSource(StrEnum):
    """Where the times of tokens come from."""

    ENGINE = "engine"  # the step clock of our vLLM plug-in: exact, one time per token
    CLIENT = "client"  # arrival of stream chunks at the client; a chunk may hold several tokens
    REQUEST = "request"  # only the engine's queue / prefill / decode split


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One timed operation.

    Attributes:
        step_key: identity of this operation across runs of the same path (docs/record.md).
        end_ns: `None` while the span is open, or when its process died before it ended.
        status: "ok", "error" or "open".
    """

    run_id: str
    span_id: str
    parent_span_id: str | None
    kind: SpanKind
    name: str
    step_key: str
    start_ns: int
    end_ns: int | None
    status: str
    error: str | None = None
    attributes: JsonObject = field(default_factory=dict)

    @property
    def duration_ns(self) -> int | None:
        """End minus start; `None` while open."""
        return None if self.end_ns is None else self.end_ns - self.start_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One end-to-end execution of an agent, with the sums over its decodes and tools.

    Attributes:
        source_run_id: the run this one replays or forks, if it does.
        replay_mode: "force", "resample", "simulate", "playback" or "fork" for a replay.
        tokens: sampled tokens of all decodes; `prompt_tokens` likewise.
        fidelity: the least of its decodes that got an answer; `None` of a run without any.
        lost: events of it that could not be written down (a full disk, a fault of the tracer).
        besides: what its graph was given besides its input ("context", "configurable", "limits", whether there was a
            "history"), and where it waits if it was "interrupted"; `None` if it was not asked for.
    """

    run_id: str
    agent: str
    status: str
    started_ns: int
    ended_ns: int | None
    fidelity: Fidelity | None
    decodes: int
    tools: int
    tokens: int
    prompt_tokens: int
    source_run_id: str | None = None
    replay_mode: str | None = None
    agent_version: str | None = None
    conversation_id: str | None = None
    error: str | None = None
    input: Any = None
    output: Any = None
    slo_s: float | None = None
    labels: JsonObject = field(default_factory=dict)
    lost: int = 0
    besides: JsonObject | None = None

    @property
    def duration_s(self) -> float | None:
        """E2E latency in seconds; `None` while open."""
        return None if self.ended_ns is None else (self.ended_ns - self.started_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Choice:
    """Tokens of a further choice of one FM call (`n` > 1)."""

    sampled_ids: tuple[int, ...] | None
    logprobs: tuple[float, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decode:
    """One FM call: what replay needs of it.

    Attributes:
        seed_source: "caller", or "tracer" when the caller set none and the tracer chose one.
        sampling: every sampling parameter as sent.
        prompt_ids, sampled_ids: token ids; `None` where the engine does not give them.
        logprobs: of the sampled tokens, natural log, before temperature (vLLM's raw_logprobs), float32.
        more_choices: choices 1 and up; `sampled_ids` and `logprobs` are those of choice 0.
        token_times_ns: per sampled token, ns after `sent_ns` in steps of 1 µs; what they are says
            `token_time_source`.
        chunk_times_ns, chunk_tokens: arrival of each stream chunk (ns after `sent_ns`) and its token count.
        queue_ns, prefill_ns, decode_ns: the engine's own split of this call.
        batch_rows: sequences in the engine's batch at each decode step.
        engine_id: key of the engine description (fingerprint, weights, settings) in the store.
        digest: `content_digest()` when it was recorded; a difference means the record was changed since.
        prompt_hashes: of a prompt whose ids were withheld, one chained hash per full block of 16 tokens: prompts that
            begin alike have their first hashes in common, if they were hashed under the same key.
        redacted: what was taken out before it was written (names of rules), "content" for all of its content.
    """

    run_id: str
    span_id: str
    step_key: str
    model: str
    fidelity: Fidelity
    sent_ns: int
    first_chunk_ns: int | None
    done_ns: int | None
    base_url: str | None = None
    request_id: str | None = None
    fingerprint: str | None = None
    engine_id: str | None = None
    seed: int | None = None
    seed_source: str | None = None
    sampling: JsonObject = field(default_factory=dict)
    messages: Any = None
    tool_definitions: Any = None
    output: Any = None
    stream: bool = False
    prompt_ids: tuple[int, ...] | None = None
    sampled_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    token_times_ns: tuple[int, ...] | None = None
    token_time_source: TimeSource | None = None
    chunk_times_ns: tuple[int, ...] | None = None
    chunk_tokens: tuple[int, ...] | None = None
    batch_rows: tuple[int, ...] | None = None
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    queue_ns: int | None = None
    prefill_ns: int | None = None
    decode_ns: int | None = None
    error: str | None = None
    digest: str | None = None
    prompt_hashes: tuple[bytes, ...] | None = None
    redacted: tuple[str, ...] = ()
    more_choices: tuple[Choice, ...] = ()

    def content_digest(self) -> str | None:
        """Digest of prompt and sampled ids as they are now; compare with `digest`, taken when recorded."""
        if self.prompt_ids is None or self.sampled_ids is None:
            return None
        both = array("i", self.prompt_ids).tobytes() + b"|" + array("i", self.sampled_ids).tobytes()
        return hashlib.blake2b(both, digest_size=16).hexdigest()

    @property
    def e2e_ns(self) -> int | None:
        """FM call sent → last token, at the client, ns."""
        return None if self.done_ns is None else self.done_ns - self.sent_ns

    @property
    def first_token_ns(self) -> int | None:
        """The first token by the step clock of the engine, ns after the call was sent; `None` without one."""
        return self.token_times_ns[0] if self.token_times_ns and self.token_time_source is TimeSource.ENGINE else None

    @property
    def last_token_ns(self) -> int | None:
        """The last token, as `first_token_ns`."""
        return self.token_times_ns[-1] if self.token_times_ns and self.token_time_source is TimeSource.ENGINE else None

    @property
    def ttft_ns(self) -> int | None:
        """FM call sent → first token, ns: from the step clock if there is one, else the first chunk."""
        if self.token_times_ns and self.token_time_source is TimeSource.ENGINE:
            return self.token_times_ns[0]
        return None if self.first_chunk_ns is None else self.first_chunk_ns - self.sent_ns

    @property
    def tpot_ns(self) -> float | None:
        """Mean time per output token after the first, ns (vLLM bench's definition); `None` if ≤ 1 token."""
        times = self.token_times_ns
        if times and len(times) > 1:
            return (times[-1] - times[0]) / (len(times) - 1)
        if self.decode_ns is not None and self.output_tokens is not None and self.output_tokens > 1:
            return self.decode_ns / (self.output_tokens - 1)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStep:
    """One tool call.

    Attributes:
        side_effect: as the tool declares it (`metadata={"side_effect": True}`); `None` if it says nothing.
    """

    run_id: str
    span_id: str
    step_key: str
    tool: str
    call_id: str | None
    arguments: Any
    result: Any
    error: str | None
    side_effect: bool | None


class Edge(NamedTuple):
    """A dependency between two spans of one run; which ends it joins is in `EdgeKind`.

    A named tuple: there are many, and a frozen dataclass takes four times as long to make.
    """

    src: str
    dst: str
    kind: EdgeKind
    provenance: Provenance
