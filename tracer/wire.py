"""The OpenAI wire format: what is asked of the engine for fidelity, and what is read and taken out again.

Pure functions over bodies and bytes. The tracer asks vLLM for more than the caller did (token ids,
logprobs, usage, a seed); everything that came back only for that reason is removed before the OpenAI
client parses it, so the caller gets, field by field, the object it would have got.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from redecode.tracer.records import JsonObject

CHAT, TEXT = "/chat/completions", "/completions"
# What is recorded as content; every other field of a request is a sampling parameter.
_CONTENT = frozenset({"messages", "prompt", "tools", "model", "stream", "stream_options", "vllm_xargs", "user"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the caller itself asked for, and so gets."""

    stream: bool
    usage: bool
    logprobs: bool
    token_ids: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request body as it will be sent.

    Attributes:
        extended: whether the tracer added anything (only ever for vLLM).
    """

    body: JsonObject
    asked: Asked
    extended: bool
    seed: int | None
    seed_source: str | None


def prepare(body: JsonObject, path: str, *, vllm: bool, rid: str | None, seed: int | None) -> Prepared:
    """The body to send for a body asked.

    Args:
        vllm: the engine understands vLLM's extra fields; without it nothing is added.
        rid: id under which the engine's step clock shall keep this call; `None`: it has no step clock.
        seed: used when the caller set none; `None`: leave the call unseeded.
    """
    chat, stream = path.endswith(CHAT), bool(body.get("stream"))
    asked = Asked(
        stream=stream,
        usage=bool((body.get("stream_options") or {}).get("include_usage")),
        logprobs=bool(body.get("logprobs")) if chat else body.get("logprobs") is not None,
        token_ids=bool(body.get("return_token_ids")),
    )
    given = body.get("seed")
    if not vllm:
        return Prepared(
            body=body, asked=asked, extended=False, seed=given, seed_source="caller" if given is not None else None
        )
    sent = dict(body)
    sent["return_token_ids"] = True
    if not asked.logprobs:
        sent["logprobs"] = True if chat else 0
    if stream:
        sent["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    if rid is not None:
        sent["vllm_xargs"] = {**(body.get("vllm_xargs") or {}), "redecode_rid": rid}
    source = "caller" if given is not None else None
    if given is None and seed is not None and body.get("temperature") != 0:
        sent["seed"], source = seed, "tracer"
    return Prepared(body=sent, asked=asked, extended=True, seed=sent.get("seed"), seed_source=source)


def sampling(body: JsonObject) -> JsonObject:
    """Every sampling parameter of a request body, as sent."""
    return {k: v for k, v in body.items() if k not in _CONTENT}


@dataclass(slots=True)
class Choice:
    """One choice of a response, put together from its parts."""

    index: int = 0
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[JsonObject] = field(default_factory=list)
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None

    def message(self) -> JsonObject:
        """The choice as a message with its finish reason."""
        out: JsonObject = {"role": self.role or "assistant", "content": self.content}
        if self.reasoning is not None:
            out["reasoning"] = self.reasoning
        if self.tool_calls:
            out["tool_calls"] = self.tool_calls
        out["finish_reason"] = self.finish_reason
        return out


@dataclass(slots=True)
class Captured:
    """What one response said, as far as it was received."""

    response_id: str | None = None
    model: str | None = None
    fingerprint: str | None = None
    prompt_ids: list[int] | None = None
    choices: dict[int, Choice] = field(default_factory=dict)
    usage: JsonObject = field(default_factory=dict)
    metrics: JsonObject = field(default_factory=dict)
    chunk_times: list[int] = field(default_factory=list)  # monotonic ns
    chunk_tokens: list[int] = field(default_factory=list)

    @property
    def first(self) -> Choice:
        """Choice 0; empty if nothing has come."""
        return self.choices.setdefault(0, Choice())

    def envelope(self, payload: JsonObject) -> None:
        """Fields a whole response and a chunk have in common."""
        self.response_id = payload.get("id") or self.response_id
        self.model = payload.get("model") or self.model
        self.fingerprint = payload.get("system_fingerprint") or self.fingerprint
        self.usage = payload.get("usage") or self.usage
        self.metrics = payload.get("metrics") or self.metrics
        self.prompt_ids = payload.get("prompt_token_ids") or self.prompt_ids

    def add(self, raw: JsonObject) -> int:
        """Take in one choice (whole or delta); returns the number of sampled tokens in it."""
        choice = self.choices.setdefault(raw.get("index", 0), Choice(raw.get("index", 0)))
        part = raw.get("message") or raw.get("delta") or {"content": raw.get("text")}
        choice.role = part.get("role") or choice.role
        if (text := part.get("content")) is not None:
            choice.content = (choice.content or "") + text
        if (text := part.get("reasoning") or part.get("reasoning_content")) is not None:
            choice.reasoning = (choice.reasoning or "") + text
        for call in part.get("tool_calls") or ():
            _merge_tool_call(choice.tool_calls, call)
        choice.finish_reason = raw.get("finish_reason") or choice.finish_reason
        self.prompt_ids = raw.get("prompt_token_ids") or self.prompt_ids
        ids = raw.get("token_ids")
        if ids is not None:
            choice.token_ids = (choice.token_ids or []) + ids
        values = _logprobs(raw.get("logprobs"))
        if values is not None:
            choice.logprobs = (choice.logprobs or []) + values
        return len(ids) if ids is not None else len(values or ())


def _merge_tool_call(calls: list[JsonObject], part: JsonObject) -> None:
    index = part.get("index")
    known = next((x for x in calls if index is not None and x.get("index") == index), None)
    if known is None:
        calls.append(orjson.loads(orjson.dumps(part)))
        return
    function, more = known.setdefault("function", {}), part.get("function") or {}
    function["name"] = function.get("name") or more.get("name")
    function["arguments"] = (function.get("arguments") or "") + (more.get("arguments") or "")
    known["id"] = known.get("id") or part.get("id")


def _logprobs(raw: Any) -> list[float] | None:
    if not isinstance(raw, dict):
        return None
    if (content := raw.get("content")) is not None:
        return [item["logprob"] for item in content]
    return raw.get("token_logprobs")


def strip(payload: JsonObject, asked: Asked) -> None:
    """Remove, in place, what came back only because the tracer asked: vLLM sends null where nobody asked."""
    for part in (payload, *(payload.get("choices") or ())):
        for name in () if asked.token_ids else ("prompt_token_ids", "token_ids"):
            if name in part:
                part[name] = None
        if not asked.logprobs and part.get("logprobs") is not None:
            part["logprobs"] = None


def read_response(data: bytes, prepared: Prepared, captured: Captured) -> bytes:
    """Read a whole response body; returns the body the caller is to see."""
    payload = orjson.loads(data)
    captured.envelope(payload)
    for choice in payload.get("choices") or ():
        captured.add(choice)
    if not prepared.extended:
        return data
    strip(payload, prepared.asked)
    return orjson.dumps(payload)


class StreamTap:
    """Reads a stream of server-sent events as it passes, and rewrites it to what the caller asked for.

    With usage asked only by the tracer, vLLM moves the fingerprint from the last content chunk to the usage
    chunk; so the last content chunk of each choice waits for the one after it, gets the fingerprint back,
    and the usage chunk is dropped.
    """

    def __init__(self, prepared: Prepared, captured: Captured) -> None:
        self._prepared, self._captured = prepared, captured
        self._buffer = b""
        self._held: list[JsonObject] = []
        self.done = False

    def feed(self, data: bytes, now_ns: int) -> bytes:
        """Take bytes as they arrived; returns the bytes to hand on (possibly none yet)."""
        if not self._prepared.extended:
            self._scan(data, now_ns)
            return data
        return b"".join(self._rewrite(event, now_ns) for event in self._events(data))

    def rest(self) -> bytes:
        """What is still held back when the stream has ended."""
        out = b"".join(_event(p) for p in self._held) + (self._buffer if self._prepared.extended else b"")
        self._held, self._buffer = [], b""
        return out

    def _events(self, data: bytes) -> list[bytes]:
        self._buffer += data.replace(b"\r\n", b"\n") if b"\r" in data else data
        *events, self._buffer = self._buffer.split(b"\n\n")
        return events

    def _scan(self, data: bytes, now_ns: int) -> None:
        for event in self._events(data):
            payload = _payload(event)
            if payload is not None:
                self._take(payload, now_ns)
            elif b"[DONE]" in event:
                self.done = True

    def _take(self, payload: JsonObject, now_ns: int) -> None:
        captured = self._captured
        captured.envelope(payload)
        tokens, content = 0, False
        for choice in payload.get("choices") or ():
            tokens += captured.add(choice)
            delta = choice.get("delta") or {}
            content = content or bool(choice.get("text") or any(v for k, v in delta.items() if k != "role"))
        if tokens or content:
            captured.chunk_times.append(now_ns)
            captured.chunk_tokens.append(tokens)

    def _rewrite(self, event: bytes, now_ns: int) -> bytes:
        payload = _payload(event)
        if payload is None:
            self.done = self.done or b"[DONE]" in event
            return self._release() + event + b"\n\n"
        self._take(payload, now_ns)
        asked = self._prepared.asked
        strip(payload, asked)
        if asked.usage:
            return _event(payload)
        if not payload.get("choices") and "usage" in payload:
            return self._release()
        payload.pop("usage", None)
        if any(choice.get("finish_reason") for choice in payload.get("choices") or ()):
            self._held.append(payload)
            return b""
        return self._release() + _event(payload)

    def _release(self) -> bytes:
        held, self._held = self._held, []
        for payload in held:
            if self._captured.fingerprint is not None:
                payload["system_fingerprint"] = self._captured.fingerprint
        return b"".join(_event(p) for p in held)


def _payload(event: bytes) -> JsonObject | None:
    """The JSON object of one event; `None` for `[DONE]`, comments and anything that is not an object."""
    data = b"\n".join(line[5:].lstrip() for line in event.split(b"\n") if line.startswith(b"data:"))
    if not data.startswith(b"{"):
        return None
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return payload if isinstance(payload, dict) else None


def _event(payload: JsonObject) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"
