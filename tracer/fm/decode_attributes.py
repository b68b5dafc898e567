"""A decode as the attributes of its span; `store.ingest` reads them back into columns."""

from __future__ import annotations

from typing import Any

from redecode.tracer import conventions as c
from redecode.tracer.records import Decode, JsonObject


def decode_attributes(decode: Decode, *, operation: str = "chat", provider: str | None = None) -> JsonObject:
    """Span attributes of a decode; what is unknown is left out."""
    first_chunk_s = None if decode.first_chunk_ns is None else (decode.first_chunk_ns - decode.sent_ns) / 1e9
    attributes: JsonObject = {
        c.OPERATION: operation,
        c.PROVIDER: provider,
        c.REQUEST_MODEL: decode.model,
        c.REQUEST_SEED: decode.seed,
        c.REQUEST_STREAM: decode.stream,
        c.FINISH_REASONS: decode.finish_reason,
        c.TIME_TO_FIRST_CHUNK: first_chunk_s,
        c.INPUT_TOKENS: decode.input_tokens,
        c.OUTPUT_TOKENS: decode.output_tokens,
        c.CACHED_TOKENS: decode.cached_tokens,
        c.FINGERPRINT: decode.fingerprint,
        c.INPUT_MESSAGES: _json(decode.messages),
        c.OUTPUT_MESSAGES: _json(decode.output),
        c.TOOL_DEFINITIONS: _json(decode.tool_definitions),
        c.FIDELITY: decode.fidelity.value,
        c.BASE_URL: decode.base_url,
        c.REQUEST_ID: decode.request_id,
        c.ENGINE: decode.engine_id,
        c.SAMPLING: c.to_json(decode.sampling),
        c.SEED_SOURCE: decode.seed_source,
        c.SENT_NS: decode.sent_ns,
        c.FIRST_CHUNK_NS: decode.first_chunk_ns,
        c.DONE_NS: decode.done_ns,
        c.PROMPT_IDS: _packed(decode.prompt_ids, "i"),
        c.PROMPT_HASHES: None if decode.prompt_hashes is None else b"".join(decode.prompt_hashes),
        c.REDACTED: list(decode.redacted) or None,
        c.SAMPLED_IDS: _packed(decode.sampled_ids, "i"),
        c.DIGEST: decode.content_digest(),
        c.LOGPROBS: _packed(decode.logprobs, "f"),
        c.TOKEN_GAPS: _gaps(decode.token_times_ns),
        c.TOKEN_TIME_SOURCE: decode.token_time_source.value if decode.token_time_source else None,
        c.CHUNK_GAPS: _gaps(decode.chunk_times_ns),
        c.CHUNK_TOKENS: _packed(decode.chunk_tokens, "i"),
        c.BATCH_ROWS: _packed(decode.batch_rows, "i"),
        c.QUEUE_NS: decode.queue_ns,
        c.PREFILL_NS: decode.prefill_ns,
        c.DECODE_NS: decode.decode_ns,
    }
    if decode.more_choices:
        attributes[c.CHOICES] = 1 + len(decode.more_choices)
        for n, choice in enumerate(decode.more_choices, start=1):
            attributes[f"{c.SAMPLED_IDS}.{n}"] = _packed(choice.sampled_ids, "i")
            attributes[f"{c.LOGPROBS}.{n}"] = _packed(choice.logprobs, "f")
    return {k: v for k, v in attributes.items() if v is not None}


def _json(value: Any) -> str | None:
    return None if value is None else c.to_json(value)


def _packed(values: Any, typecode: str) -> bytes | None:
    return None if values is None else c.pack(values, typecode)


def _gaps(times_ns: Any) -> bytes | None:
    return None if times_ns is None else c.gaps_us(times_ns)
