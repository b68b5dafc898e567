"""Names on the wire: the OpenTelemetry GenAI conventions, and ours where they have none.

The GenAI conventions live in their own repository and are all still in Development, so every name stands
here and nowhere else. What they lack (token ids, logprobs, token times, engine, step key) is under
`redecode.*`. Token arrays travel as packed text attributes: OpenTelemetry keeps at most 128 span events
and drops the rest without a word, and list attributes cost half a millisecond per span to validate.
"""

from __future__ import annotations

import base64
from array import array
from collections.abc import Iterable
from typing import Any

import orjson

# OpenTelemetry GenAI (semantic-conventions-genai, Development)
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_SEED = "gen_ai.request.seed"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_PREFIX = "gen_ai.request."
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"  # seconds
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
TOOL_DEFINITIONS = "gen_ai.tool.definitions"
TOOL_NAME = "gen_ai.tool.name"
TOOL_CALL_ID = "gen_ai.tool.call.id"
TOOL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_RESULT = "gen_ai.tool.call.result"
AGENT_NAME = "gen_ai.agent.name"
AGENT_VERSION = "gen_ai.agent.version"
CONVERSATION = "gen_ai.conversation.id"
FINGERPRINT = "openai.response.system_fingerprint"
ERROR_TYPE = "error.type"

# Ours
KIND = "redecode.kind"
STEP_KEY = "redecode.step_key"
RUN_INPUT = "redecode.run.input"
RUN_OUTPUT = "redecode.run.output"
SOURCE_RUN = "redecode.run.source_run_id"
REPLAY_MODE = "redecode.run.replay_mode"
SOURCE_SPAN = "redecode.source_span_id"
LABELS = "redecode.run.labels"
SLO = "redecode.run.slo_s"
SIDE_EFFECT = "redecode.tool.side_effect"
ERROR_CLASS = "redecode.error_class"
USAGE = "redecode.usage"  # as the engine gave it, JSON
FIDELITY = "redecode.fidelity"
BASE_URL = "redecode.base_url"
REQUEST_ID = "redecode.request_id"
ENGINE = "redecode.engine_id"
SAMPLING = "redecode.sampling"
SEED_SOURCE = "redecode.seed_source"
SENT_NS = "redecode.sent_ns"
FIRST_CHUNK_NS = "redecode.first_chunk_ns"
DONE_NS = "redecode.done_ns"
PROMPT_IDS = "redecode.prompt_ids"
SAMPLED_IDS = "redecode.sampled_ids"
DIGEST = "redecode.digest"
LOGPROBS = "redecode.logprobs"
CHUNK_TIMES = "redecode.chunk_times_ns"
CHUNK_TOKENS = "redecode.chunk_tokens"
TOKEN_TIMES = "redecode.token_times_ns"
BATCH_ROWS = "redecode.batch_rows"
TOKEN_TIME_SOURCE = "redecode.token_time_source"
QUEUE_NS = "redecode.engine.queue_ns"
PREFILL_NS = "redecode.engine.prefill_ns"
DECODE_NS = "redecode.engine.decode_ns"

# Attributes that become columns of their own; a span keeps the others as JSON.
COLUMNS = frozenset(v for k, v in list(globals().items()) if k.isupper() and isinstance(v, str)) - {
    OPERATION, PROVIDER, RESPONSE_ID, TIME_TO_FIRST_CHUNK, ERROR_TYPE, ERROR_CLASS, USAGE, SOURCE_SPAN,
    REQUEST_PREFIX,
}  # fmt: skip


def to_json(value: Any) -> str:
    """JSON text of a value; what JSON cannot hold becomes its `str`."""
    return orjson.dumps(value, default=_default, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()


def _default(value: Any) -> Any:
    for attempt in ("model_dump", "dict"):
        method = getattr(value, attempt, None)
        if callable(method) and not isinstance(value, type):
            try:
                return method()
            except Exception:
                break
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)


def from_json(text: str | None) -> Any:
    """The value of a JSON text; `None` stays `None`."""
    return None if text is None else orjson.loads(text)


def pack(values: Iterable[int] | Iterable[float], typecode: str) -> str:
    """Numbers as base64 of little-endian items: "i" int32 token ids, "q" int64 times, "d" float64 logprobs."""
    return base64.b64encode(array(typecode, values).tobytes()).decode()


def unpack(text: str, typecode: str) -> list[Any]:
    """Inverse of `pack`."""
    out = array(typecode)
    out.frombytes(base64.b64decode(text))
    return out.tolist()
