"""What comes over the wire from an engine: redecode's own endpoints and the answer to one FM call.

Fields that an engine may not know are None. Unknown fields are ignored, so that a newer plug-in
can say more; a newer `protocol` number cannot be talked to and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

PROTOCOL = 1


class EngineInfo(BaseModel):
    """GET /redecode/info: what a recording's engine fingerprint is made of."""

    model_config = ConfigDict(frozen=True, extra="allow")

    protocol: int
    engine: str
    engine_version: str | None = None
    redecode: str | None = None
    system_fingerprint: str | None = None
    #: Our logits processor is loaded: tokens can be forced through `vllm_xargs`.
    force: bool
    #: vLLM's own trace replay is enabled and reachable.
    trace_replay: bool = False
    #: The engine keeps the time and batch of every decode step.
    step_clock: bool
    model: str
    served_model_name: str
    model_path: str | None = None
    weights_sha256: str | None = None
    tokenizer_sha256: str | None = None
    chat_template_sha256: str | None = None
    #: The weights are still being read; their digest is null until then.
    digests_pending: bool = False
    dtype: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    chunked_prefill: bool | None = None
    prefix_caching: bool | None = None
    enforce_eager: bool | None = None
    batch_invariant: bool | None = None
    threads: int | None = None
    device: str | None = None
    vocab_size: int | None = None
    runner: str | None = None
    instance_id: str | None = None
    boot_id: str | None = None
    monotonic_ns: int
    time_ns: int
    host: str | None = None


class TokenSteps(BaseModel):
    """The step clock of one request: entry i is the step that made its token k[i]; see step_log.py."""

    model_config = ConfigDict(frozen=True)

    t_ns: list[int]
    start_ns: list[int]
    rows: list[int]
    k: list[int]
    context_tokens: list[int]
    prefill_tokens: list[int]


class StepsAnswer(BaseModel):
    """POST /redecode/steps: steps by request id; monotonic times are of the boot named."""

    model_config = ConfigDict(frozen=True)

    boot_id: str | None
    monotonic_ns: int
    time_ns: int
    steps: dict[str, TokenSteps]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One FM call as this client saw it. Clock readings are monotonic ns of this host.

    Attributes:
        token_ids, logprobs: sampled (or forced) tokens and the model's own logprob of each.
        finish_reason: as the engine says; "length" after forcing, whatever the recording ended with.
        cached_tokens: prompt tokens found in the prefix cache.
        queue_ns, prefill_ns, decode_ns: the engine's own durations; None when it reports none.
        first_chunk_ns: arrival of the first chunk with tokens; None when not streamed.
        chunks: (arrival, number of ids) of each streamed chunk; chunks are not tokens.
        steps: the engine's step clock, one entry per token; None when the engine keeps none, or
            its monotonic clock is not ours (another host).

    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    finish_reason: str | None
    prompt_tokens: int | None
    cached_tokens: int | None
    queue_ns: int | None
    prefill_ns: int | None
    decode_ns: int | None
    sent_ns: int
    first_chunk_ns: int | None
    done_ns: int
    system_fingerprint: str | None
    chunks: tuple[tuple[int, int], ...]
    steps: TokenSteps | None

    @property
    def token_times_ns(self) -> tuple[int, ...] | None:
        """When each token was made, by the engine's step clock; None unless it covers every token."""
        if self.steps is None or len(self.steps.t_ns) != len(self.token_ids):
            return None
        return tuple(self.steps.t_ns)


class Assembly:
    """Puts one answer together, from one body or from the chunks of a stream, of either route.

    /v1/completions carries logprobs as `token_logprobs`, /inference/v1/generate as `content`.
    """

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish_reason: str | None = None
        self.system_fingerprint: str | None = None
        self.usage: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}
        self.chunks: list[tuple[int, int]] = []

    def add(self, part: dict[str, Any], arrived_ns: int) -> None:
        """Take in a response body or one chunk."""
        for choice in part.get("choices") or ():
            ids = choice.get("token_ids") or []
            self.token_ids += ids
            self.logprobs += _logprobs(choice.get("logprobs") or {})
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            if ids:
                self.chunks.append((arrived_ns, len(ids)))
        self.system_fingerprint = part.get("system_fingerprint") or self.system_fingerprint
        self.usage = part.get("usage") or self.usage
        self.metrics = part.get("metrics") or self.metrics

    def finish(self, *, sent_ns: int, done_ns: int, streamed: bool, steps: TokenSteps | None) -> Completion:
        """Make the whole call of what came in."""
        details = self.usage.get("prompt_tokens_details") or {}
        complete = len(self.logprobs) == len(self.token_ids)
        return Completion(
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs) if complete else None,
            finish_reason=self.finish_reason,
            prompt_tokens=self.usage.get("prompt_tokens"),
            cached_tokens=details.get("cached_tokens"),
            queue_ns=_ns(self.metrics.get("queue_time_ms")),
            # vLLM's "time to first token" is scheduled -> first token: the prefill.
            prefill_ns=_ns(self.metrics.get("time_to_first_token_ms")),
            decode_ns=_ns(self.metrics.get("generation_time_ms")),
            sent_ns=sent_ns,
            first_chunk_ns=self.chunks[0][0] if streamed and self.chunks else None,
            done_ns=done_ns,
            system_fingerprint=self.system_fingerprint,
            chunks=tuple(self.chunks) if streamed else (),
            steps=steps,
        )


def _logprobs(answer: dict[str, Any]) -> list[float]:
    if (flat := answer.get("token_logprobs")) is not None:
        return list(flat)
    return [entry["logprob"] for entry in answer.get("content") or ()]


def _ns(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else round(milliseconds * 1e6)
