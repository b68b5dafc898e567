"""Names on the wire: the OpenTelemetry GenAI conventions, and ours where they have none.

The GenAI conventions live in their own repository and are all still in Development, so every name stands
here and nowhere else. What they lack (token ids, logprobs, token times, engine, step key) is under
`redecode.*`. Token arrays are packed attributes (base64 text over OTLP): OpenTelemetry keeps at most 128 span
events and drops the rest without a word, and list attributes cost half a millisecond per span to validate.
"""

from __future__ import annotations

import hashlib
import operator
from array import array
from collections.abc import Iterable
from contextlib import suppress
from itertools import accumulate
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
HTTP_STATUS = "http.response.status_code"
HOST = "host.name"  # of a span: where its clock is, if that is not its run's own
EMBEDDING_DIMENSIONS = "gen_ai.embeddings.dimension.count"

# Ours
KIND = "redecode.kind"
STEP_KEY = "redecode.step_key"
RUN_INPUT = "redecode.run.input"
RUN_BESIDES = "redecode.run.besides"  # what a graph was given besides: {"context": …, "configurable": …}, JSON
RUN_OUTPUT = "redecode.run.output"
SOURCE_RUN = "redecode.run.source_run_id"
REPLAY_MODE = "redecode.run.replay_mode"
SOURCE_SPAN = "redecode.source_span_id"
NODE = "langgraph.node"
SUPERSTEP = "langgraph.step"
TRIGGERS = "langgraph.triggers"
LEFT_BY = "redecode.left_by"  # class of what ended a step without being an error: an interrupt, a command
INTERRUPTED = "redecode.interrupted"  # a run that waits for its resumption: "before" or "after" a node, "inside" one
LABELS = "redecode.run.labels"
GIVEN_LABELS = "redecode.labels"  # in the metadata of a graph's config: labels of that run
SLO = "redecode.run.slo_s"
SIDE_EFFECT = "redecode.tool.side_effect"
ERROR_CLASS = "redecode.error_class"
USAGE = "redecode.usage"  # as the engine gave it, JSON
FIDELITY = "redecode.fidelity"
FIDELITY_LIMIT = "redecode.fidelity_limit"  # why it is no higher
RETRIES = "redecode.retries"  # of the client, inside one FM call
ATTEMPTS = "redecode.attempts"  # those that failed before: when each was sent and what came, JSON
EMBEDDED = "redecode.embedded"  # how many texts an embedding call had
CHOICES = "redecode.choices"  # how many, when more than one; arrays of choice N end in ".N"
EDGES = "redecode.edges"  # over OTLP only: [[span id, kind, provenance], …]
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
PROMPT_HASHES = "redecode.prompt_block_hashes"  # of a prompt whose ids are withheld: 16 bytes per full block
REDACTED = "redecode.redacted"  # what was taken out before it was written: names of rules, or "content" for all
DIGEST = "redecode.digest"
LOGPROBS = "redecode.logprobs"
CHUNK_GAPS = "redecode.chunk_gaps_us"
CHUNK_TOKENS = "redecode.chunk_tokens"
TOKEN_GAPS = "redecode.token_gaps_us"
BATCH_ROWS = "redecode.batch_rows"
TOKEN_TIME_SOURCE = "redecode.token_time_source"
QUEUE_NS = "redecode.engine.queue_ns"
PREFILL_NS = "redecode.engine.prefill_ns"
DECODE_NS = "redecode.engine.decode_ns"
OPEN = "redecode.open"  # over OTLP, which has no open spans
ENGINES = "redecode.engines"  # over OTLP, of the resource: what its engines said of themselves, JSON by id
ANSWER_EXTRAS = "redecode.answer_extras"  # what the caller got besides and nobody else keeps, JSON
ERROR_ANSWER = "redecode.error_answer"  # of a failed FM call: status and body of the answer, JSON
LANGCHAIN_ANSWER = "redecode.langchain_answer"  # of a model known from callbacks alone: its messages, whole, JSON
TOOL_OUTPUT = "redecode.tool_output"  # of a tool: what it returned, where that was more than text or plain data, JSON
REPLAY_OPTIONS = "redecode.run.replay_options"  # what the replay was told, JSON
ANSWERED_BY = "redecode.answered_by"  # of a call in a playback or fork: "recording" or "live"
OVERRIDDEN = "redecode.overridden"  # of a live call in a fork: what was sent in place of what the program asked, JSON
CHANGED = "redecode.changed"  # of a playback: what was asked otherwise than recorded, and answered nevertheless
LOST = "redecode.lost"  # over OTLP, of the resource: events of the run that could not be written down

# Packed arrays: the type of their items, as `array` and `struct` know it, little-endian.
ARRAYS = {
    PROMPT_IDS: "i",
    PROMPT_HASHES: "B",
    SAMPLED_IDS: "i",
    LOGPROBS: "f",
    TOKEN_GAPS: "i",
    CHUNK_GAPS: "i",
    CHUNK_TOKENS: "i",
    BATCH_ROWS: "i",
}

# Attributes that become columns of their own; a span keeps the others as JSON.
COLUMNS = frozenset(v for k, v in list(globals().items()) if k.isupper() and isinstance(v, str)) - {
    OPERATION, PROVIDER, RESPONSE_ID, TIME_TO_FIRST_CHUNK, ERROR_TYPE, ERROR_CLASS, USAGE, SOURCE_SPAN,
    REQUEST_PREFIX, CHOICES, REDACTED, NODE, SUPERSTEP, TRIGGERS, LEFT_BY, INTERRUPTED,
    CHANGED, HTTP_STATUS, HOST, EMBEDDING_DIMENSIONS, FIDELITY_LIMIT, RETRIES, ATTEMPTS, EMBEDDED,
    ANSWER_EXTRAS, ERROR_ANSWER, LANGCHAIN_ANSWER, TOOL_OUTPUT, REPLAY_OPTIONS, ANSWERED_BY, OVERRIDDEN,
    GIVEN_LABELS, RUN_BESIDES,
}  # fmt: skip

CUT_SHORT = "stream closed before its end"
"""The error of a stream that its reader gave up."""

# HTTP headers that a cluster of ours understands (`optimizer/placement/cluster/reading.py`); never sent elsewhere.
DEADLINE_HEADER = "x-redecode-deadline"
SLO_HEADER = "x-redecode-slo"
RUN_HEADER = "x-redecode-run"
STEP_HEADER = "x-redecode-step"
AGENT_HEADER = "x-redecode-agent"


def to_json(value: Any) -> str:
    """JSON text of a value; what JSON cannot hold becomes its `str`."""
    return dumps(value).decode()


def dumps(value: Any) -> bytes:
    """As `to_json`, in UTF-8."""
    options = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    try:
        return orjson.dumps(value, default=_default, option=options)
    except (TypeError, ValueError):  # lone surrogates, integers above 64 bits, cycles, very deep nesting
        return orjson.dumps(_sane(value, 0), default=_default, option=options)


def _default(value: Any) -> Any:
    try:
        for attempt in ("model_dump", "dict"):
            method = getattr(value, attempt, None)
            if callable(method):
                with suppress(Exception):
                    return method()
                break
        if isinstance(value, set | frozenset):
            return sorted(value, key=str)
        return str(value)
    except Exception:  # an object of the host's may do anything when it is looked at
        return f"<{type(value).__name__} that cannot be shown>"


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:
        return str(_default(value))


_DEEPEST = 100


def _sane(value: Any, depth: int) -> Any:
    """The same with what UTF-8 and 64 bits cannot hold replaced."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value) if -(1 << 63) <= value < (1 << 64) else str(value)
    if depth > _DEEPEST:
        return "…"
    if isinstance(value, dict):
        return {_sane(_text(k), 0): _sane(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_sane(v, depth + 1) for v in value]
    if value is None or isinstance(value, bool | float):
        return value
    plain = _default(value)
    return _sane(plain, depth + 1)


def from_json(text: str | None) -> Any:
    """The value of a JSON text; `None` stays `None`."""
    return None if text is None else orjson.loads(text)


def plain(value: Any) -> Any:
    """A value as it comes back from a recording."""
    return from_json(to_json(value))


def digest(value: Any) -> str:
    """Of plain data: the same for equal values, whatever the order of their keys."""
    return hashlib.blake2b(orjson.dumps(value, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


def pack(values: Iterable[int] | Iterable[float], typecode: str) -> bytes:
    """Numbers as little-endian items: "i" int32, "f" float32."""
    return array(typecode, values).tobytes()


def unpack(data: bytes, typecode: str) -> list[Any]:
    """Inverse of `pack`."""
    out = array(typecode)
    out.frombytes(data)
    return out.tolist()


def gaps_us(times_ns: Iterable[int]) -> bytes:
    """Times after a start as packed gaps of 1 µs, first the gap from the start; the error does not add up.

    A gap above 35 minutes is written as 35 minutes, and the next one makes up for it as far as it can.
    """
    at = [(time_ns + 500) // 1000 for time_ns in times_ns]
    gaps = array("i")
    try:
        gaps.extend(at[:1])
        gaps.extend(map(operator.sub, at[1:], at))
    except OverflowError:
        gaps, told = array("i"), 0
        for time_us in at:
            gaps.append(max(-(1 << 31), min((1 << 31) - 1, time_us - told)))
            told += gaps[-1]
    return gaps.tobytes()


def times_ns(gaps: Iterable[int]) -> tuple[int, ...]:
    """Inverse of `gaps_us`: ns after the start, in steps of 1 µs."""
    return tuple(at * 1000 for at in accumulate(gaps))
