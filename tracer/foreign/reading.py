"""What a span of another tracer says, in our words: what the dialects give and the derivation works on.

Everything here comes from outside, so every value is checked: what does not have the type of its column is
unknown, never an error.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import orjson

from redecode.tracer import conventions as c
from redecode.tracer.foreign.otlp import OtlpSpan
from redecode.tracer.langgraph.task_names import task_step
from redecode.tracer.records import Fidelity, JsonObject

_DEEPEST = 20
_INT64 = range(-(1 << 63), 1 << 63)
COUNTS = (c.INPUT_TOKENS, c.OUTPUT_TOKENS, c.CACHED_TOKENS)
_BUBBLES = frozenset({"GraphBubbleUp", "GraphInterrupt", "NodeInterrupt", "ParentCommand"})
REDACTED = "__REDACTED__"  # what OpenInference puts where content is hidden


class Role(Enum):
    """What a span is by itself; whether a chain is a node or a graph shows only among the others."""

    AGENT = "agent"  # an agent or workflow: the run, or a graph in it
    CHAIN = "chain"  # something LangChain ran: a node, a graph, or a step within one
    DECODE = "decode"
    TOOL = "tool"
    RETRIEVAL = "retrieval"
    PARSE = "parse"
    ENGINE = "engine"  # the engine's own account of an FM call
    PLAIN = "plain"  # any other span


@dataclass(slots=True, kw_only=True)
class Task:
    """LangGraph's own words for where a call belongs (`langgraph_*` metadata).

    Attributes:
        ns: checkpoint namespace; its ids change on every run, but it tells tasks of one run apart.
        called: whether the task was called from another one's body (functional API), not scheduled in a superstep.
    """

    node: str
    step: int
    path: list[Any]
    triggers: list[str]
    ns: str
    called: bool

    @property
    def step_key(self) -> str:
        """Its part of the step key: the same as of a run we record ourselves."""
        return task_step(self.node, self.step, self.path)


@dataclass(slots=True, kw_only=True)
class Reading:
    """One span, read.

    Attributes:
        transparent: a step of LangChain's that no step key mentions (as in runs we record).
        wraps: OpenLLMetry's second span of a graph, beside the one with its nodes.
        attributes: under the names of `conventions`.
        given: what went in and what came out, for the span that turns out to be the run.
        labels: that the program gave the run in LangGraph's metadata (`conventions.GIVEN_LABELS`).
        failed: an error that the span's own status does not tell.
    """

    role: Role
    name: str
    agent: str | None = None
    task: Task | None = None
    transparent: bool = False
    wraps: bool = False
    conversation: str | None = None
    attributes: JsonObject = field(default_factory=dict)
    given: tuple[Any, Any] = (None, None)
    labels: JsonObject = field(default_factory=dict)
    failed: str | None = None


def read_labels(metadata: Any) -> JsonObject:
    """The labels that LangGraph metadata gives a run."""
    found = metadata.get(c.GIVEN_LABELS) if isinstance(metadata, dict) else None
    return found if isinstance(found, dict) else {}


def read_task(metadata: Any) -> Task | None:
    """The task of LangGraph metadata, `None` where it says none."""
    if not isinstance(metadata, dict):
        return None
    node, step = text(metadata.get("langgraph_node")), integer(metadata.get("langgraph_step"))
    if node is None or step is None:
        return None
    path = [_plain_part(part) for part in listed(metadata.get("langgraph_path"))]
    return Task(
        node=node,
        step=step,
        path=path,
        triggers=[str(t) for t in listed(metadata.get("langgraph_triggers"))],
        ns=text(metadata.get("langgraph_checkpoint_ns")) or f"{node}@{step}",
        called=len(path) > 1 and path[-1] is True,
    )


def listed(value: Any) -> list[Any]:
    """A list; an empty one for anything else."""
    return value if isinstance(value, list) else []


def _plain_part(part: Any, depth: int = 0) -> Any:
    """A part of a path; OpenLLMetry sends them as their Python text."""
    if isinstance(part, list | tuple):
        return [_plain_part(inner, depth + 1) for inner in part] if depth < _DEEPEST else "…"
    if isinstance(part, str) and (part in {"True", "False"} or part.isdigit() or part.startswith("(")):
        try:
            return _plain_part(ast.literal_eval(part), depth + 1) if depth < _DEEPEST else part
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return part
    return part


def text(value: Any) -> str | None:
    """A text that says something, else `None`."""
    return value if isinstance(value, str) and value and value != REDACTED else None


def integer(value: Any) -> int | None:
    """A whole number that fits 64 bits, else `None`; some senders put numbers into texts."""
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value in _INT64 else None


def believable(value: Any) -> int | None:
    """A number of tokens or events that somebody can have counted, else `None`: sums of them fit their columns."""
    count = integer(value)
    return count if count is not None and 0 <= count <= 1 << 40 else None


def words(value: Any) -> list[str] | None:
    """A list of texts, else `None`."""
    return value if isinstance(value, list) and all(isinstance(word, str) for word in value) else None


def number(value: Any) -> float | None:
    """A finite number, else `None`."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def boolean(value: Any) -> bool | None:
    """A truth value, else `None`."""
    return value if isinstance(value, bool) else None


def parsed(value: Any) -> Any:
    """The value of a JSON text; a text that is no JSON, and what is no text, as it is."""
    if not isinstance(value, str):
        return value
    if value == REDACTED:
        return None
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def as_json(value: Any) -> str | None:
    """JSON text of what came as JSON text or as a value; unknown stays unknown."""
    value = parsed(value)
    return None if value is None else c.to_json(value)


# What LangChain leaves out of a message it serializes as a constructor call.
_MESSAGE: JsonObject = {"additional_kwargs": {}, "response_metadata": {}, "name": None, "id": None}
_MESSAGES: dict[str, JsonObject] = {
    "human": _MESSAGE,
    "system": _MESSAGE,
    "ai": {**_MESSAGE, "tool_calls": [], "invalid_tool_calls": [], "usage_metadata": None},
    "tool": {**_MESSAGE, "artifact": None, "status": "success"},
}


def unserialized(value: Any, depth: int = 0) -> Any:
    """LangChain's two forms of a serialized object as the fields it has; a message as its `model_dump()`."""
    if depth > 60:
        return value
    if isinstance(value, dict):
        if value.get("lc") == 1 and isinstance(value.get("kwargs"), dict):
            kwargs = value["kwargs"]
            value = {**_MESSAGES.get(str(kwargs.get("type")), {}), **kwargs}
        elif value.keys() == {"type", "data"} and isinstance(value["data"], dict):
            value = value["data"]
        return {k: unserialized(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [unserialized(v, depth + 1) for v in value]
    return value


def tool_result(value: Any) -> tuple[Any, str | None, str | None]:
    """A tool's result, call id and error, out of what LangChain made of it (a ToolMessage, or the value itself)."""
    value = unserialized(value)
    if not isinstance(value, dict) or value.get("type") != "tool" or "content" not in value:
        return value, None, None
    content = value["content"]
    return content, text(value.get("tool_call_id")), str(content) if value.get("status") == "error" else None


def tool_reading(
    name: str,
    *,
    call_id: str | None,
    arguments: str | None,
    result: Any,
    failed: str | None,
    task: Task | None,
    conversation: str | None,
) -> Reading:
    """A tool step.

    Args:
        arguments: as JSON.
        failed: what the tool said went wrong.
    """
    values = {
        c.OPERATION: "execute_tool",
        c.TOOL_NAME: name,
        c.TOOL_CALL_ID: call_id,
        c.TOOL_ARGUMENTS: arguments,
        c.TOOL_RESULT: None if result is None else c.to_json(result),
    }
    return Reading(
        role=Role.TOOL,
        name=name,
        agent=name,
        task=task,
        conversation=conversation,
        attributes=known(values),
        failed=failed,
    )


def known(attributes: JsonObject) -> JsonObject:
    """Without what is unknown."""
    return {name: value for name, value in attributes.items() if value is not None}


def seconds_ns(value: Any) -> int | None:
    """Seconds as whole ns, rounded; `None` for what is no length of time."""
    seconds = number(value)
    return None if seconds is None or not 0 <= seconds < 9e9 else round(seconds * 1e9)


def decode_reading(
    span: OtlpSpan,
    *,
    model: str | None,
    sampling: JsonObject,
    ttft_s: Any = None,
    stream: bool | None = None,
    task: Task | None = None,
    conversation: str | None = None,
    operation: str = "chat",
    attributes: JsonObject | None = None,
) -> Reading:
    """A decode as far as any foreign span can tell: fidelity `text`, or `seeded` where the seed is there."""
    model = model or "unknown"
    sampling = {k: v for k, v in sampling.items() if v is not None}
    seed, ttft_ns = integer(sampling.get("seed")), seconds_ns(ttft_s)
    if ttft_ns is None:
        ttft_ns = _first_token_event(span)
    seeded = seed is not None or sampling.get("temperature") == 0
    values: JsonObject = {
        c.OPERATION: operation,
        c.REQUEST_MODEL: model,
        c.REQUEST_SEED: seed,
        c.SEED_SOURCE: "caller" if seed is not None else None,
        c.SAMPLING: c.to_json(sampling),
        c.REQUEST_STREAM: stream if stream is not None else True if ttft_ns is not None else None,
        c.FIDELITY: (Fidelity.SEEDED if seeded else Fidelity.TEXT).value,
        c.SENT_NS: span.start_ns,
        c.FIRST_CHUNK_NS: None if ttft_ns is None else integer(span.start_ns + ttft_ns),
        c.DONE_NS: span.end_ns,
        **(attributes or {}),
    }
    values |= {name: believable(values.get(name)) for name in COUNTS}
    return Reading(
        role=Role.DECODE,
        name=f"{operation} {model}",
        agent=model,
        task=task,
        conversation=conversation,
        attributes=known(values),
    )


def _first_token_event(span: OtlpSpan) -> int | None:
    """Span events by which instrumentations of SDKs mark the first streamed token; ns after the start."""
    names = {"First Token Stream Event", "llm.content.completion.chunk", "gen_ai.content.completion.chunk"}
    times = [at for name, at, _ in span.events if name in names and at >= span.start_ns]
    return min(times) - span.start_ns if times else None


def read_error(span: OtlpSpan) -> tuple[str, str | None, JsonObject]:
    """Status, error text and attributes of a span, as the recorder writes them.

    What leaves a node by raising (an interrupt, a command to the graph above) is no error.
    """
    if span.end_ns is None:
        return "open", None, {}
    if span.status != "error":
        return "ok", None, {}
    raised = [attributes for name, _, attributes in span.events if name == "exception"]
    kind = text(raised[-1].get("exception.type")) if raised else text(span.attributes.get(c.ERROR_TYPE))
    message = text(raised[-1].get("exception.message")) if raised else None
    if message is None:
        message = (span.error or "").split("Traceback (most recent call last)", 1)[0].strip()
    module, _, name = (kind or "").rpartition(".")
    if name in _BUBBLES:
        return "ok", None, {c.LEFT_BY: name}
    whole = f"{name}: {message}" if name and message else name or message or "error"
    attributes = {c.ERROR_TYPE: name or "error", c.ERROR_CLASS: f"{module or 'builtins'}:{name}" if name else None}
    return "error", whole[:2000], known(attributes)
