"""The OpenAI wire format: what is asked of the engine for fidelity, and what is read and taken out again.

Pure functions over bodies. The tracer asks vLLM for more than the caller did (token ids, logprobs, usage, a
seed); everything that came back only for that reason is removed before the OpenAI client parses it, so the
caller gets, field by field, the object it would have got. Streams are in `wire_stream`, `/responses` is in
`wire_responses`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from redecode.tracer.player import FmRequest
from redecode.tracer.privacy.keys import is_secret
from redecode.tracer.records import JsonObject

CHAT, TEXT, RESPONSES, EMBEDDINGS = "/chat/completions", "/completions", "/responses", "/embeddings"
# What is recorded as content; every other field of a request is a sampling parameter.
_CONTENT = frozenset(
    {"messages", "prompt", "input", "instructions", "tools", "model", "stream", "stream_options", "user"}
)
_XARGS, _RID = "vllm_xargs", "redecode_rid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the caller itself asked for, and so gets."""

    stream: bool
    usage: bool = False
    logprobs: bool = False
    token_ids: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request body as it will be sent.

    Attributes:
        extended: whether the tracer added anything (only ever for vLLM).
        limit: why more could not be asked for of an engine that knows more; `None` if it was.
        choices: how many the caller wants.
        usage_added: a stream is asked for usage that the caller did not ask for.
    """

    body: JsonObject
    asked: Asked
    extended: bool
    seed: int | None
    seed_source: str | None
    limit: str | None = None
    choices: int = 1
    usage_added: bool = False


def prepare(body: JsonObject, path: str, *, vllm: bool, rid: str | None, seed: int | None) -> Prepared:
    """The body to send for a body asked.

    Args:
        vllm: the engine understands vLLM's extra fields; without it nothing is added.
        rid: id under which the engine's step clock shall keep this call; `None`: it has no step clock.
        seed: used when the caller set none; `None`: leave the call unseeded.
    """
    stream, given = bool(body.get("stream")), body.get("seed")
    choices = _choices(body)
    limit = _why_not_more(body) if vllm else None
    if not vllm or limit is not None:
        asked, source = Asked(stream=stream), "caller" if given is not None else None
        return Prepared(
            body=body, asked=asked, extended=False, seed=given, seed_source=source, limit=limit, choices=choices
        )
    sent, usage_added = dict(body), False
    if path.endswith(RESPONSES):
        asked = Asked(stream=stream, token_ids=bool(body.get("enable_response_messages")))
        sent["enable_response_messages"] = True
    else:
        chat = path.endswith(CHAT)
        asked = Asked(
            stream=stream,
            usage=bool((body.get("stream_options") or {}).get("include_usage")),
            logprobs=bool(body.get("logprobs")) if chat else wants_logprobs(body),
            token_ids=bool(body.get("return_token_ids")),
        )
        sent["return_token_ids"] = True
        if not asked.logprobs:
            sent["logprobs"] = True if chat else 0
        # Of several choices it would tell little, and the fingerprint would come later than the caller expects it.
        usage_added = stream and not asked.usage and choices == 1
        if usage_added:
            sent["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    if rid is not None and choices == 1:  # the engine's rows of several choices would share one id
        sent[_XARGS] = {**(body.get(_XARGS) or {}), _RID: rid}
    source = "caller" if given is not None else None
    if given is None and seed is not None and body.get("temperature") != 0:
        sent["seed"], source = seed, "tracer"
    return Prepared(
        body=sent,
        asked=asked,
        extended=True,
        seed=sent.get("seed"),
        seed_source=source,
        choices=choices,
        usage_added=usage_added,
    )


def wants_logprobs(body: Mapping[str, Any]) -> bool:
    """Whether a request asks for logprobs: of a text completion 0 does, too."""
    given = body.get("logprobs")
    return given is not None and given is not False


def _choices(body: JsonObject) -> int:
    prompt, n = body.get("prompt"), body.get("n")
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    return prompts * (n if isinstance(n, int) and n > 0 else 1)


def _why_not_more(body: JsonObject) -> str | None:
    """Requests whose answer would change if more were asked."""
    if body.get("echo"):
        return "echo: vLLM leaves the prompt out of the text when token ids are asked for"
    if body.get("use_beam_search"):
        return "beam search"
    if body.get("background"):
        return "a response made in the background"
    return None


def prompt_of(body: JsonObject) -> Any:
    """What the FM was asked, as sent: messages, a prompt, or the input of a response with its instructions."""
    if "messages" in body:
        return body["messages"]
    if "input" not in body and "instructions" not in body:
        return body.get("prompt")
    given = body.get("input")
    items = given if isinstance(given, list) else [] if given is None else [{"role": "user", "content": given}]
    if body.get("instructions") is None:
        return items
    return [{"role": "system", "content": body["instructions"]}, *items]


def tools_of(body: JsonObject) -> list[JsonObject] | None:
    """Tool definitions as sent, without what lets one into a remote tool server."""
    tools = body.get("tools") or None
    if not isinstance(tools, list) or not any(isinstance(t, dict) and t.get("type") == "mcp" for t in tools):
        return tools
    return [{k: v for k, v in t.items() if not is_secret(k)} if t.get("type") == "mcp" else t for t in tools]


def request(path: str, body: JsonObject, base_url: str | None = None) -> FmRequest:
    """A request as a playback is asked it."""
    return FmRequest(
        path=path,
        model=str(body.get("model")),
        messages=prompt_of(body),
        tools=tools_of(body),
        sampling=sampling(body),
        stream=bool(body.get("stream")),
        base_url=base_url,
    )


def sampling(body: JsonObject) -> JsonObject:
    """Every sampling parameter of a request body, as sent; never a key, and nothing by which we find the call again."""
    found = {k: v for k, v in body.items() if k not in _CONTENT}
    if isinstance(given := found.pop(_XARGS, None), dict) and (own := {k: v for k, v in given.items() if k != _RID}):
        found[_XARGS] = own
    return public(found)


def public(fields: JsonObject) -> JsonObject:
    """Fields of a request or an answer without what lets one in."""
    return {k: _without_keys(v) for k, v in fields.items() if not is_secret(k)}


def _without_keys(value: Any) -> Any:
    """Without texts whose names say that they let one in; a schema may well have a field of that name."""
    if isinstance(value, dict):
        return {k: _without_keys(v) for k, v in value.items() if not (isinstance(v, str) and is_secret(str(k)))}
    return [_without_keys(v) for v in value] if isinstance(value, list) else value


# Fields that are kept by name; see `Captured.extras` for the rest.
_OF_A_BODY = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "prompt_token_ids", "error"}
)
_OF_A_CHOICE = frozenset(
    {"index", "message", "delta", "text", "finish_reason", "token_ids", "logprobs", "prompt_token_ids"}
)
# Fields of a message that come whole, however often they come; other text comes in pieces.
_WHOLE = frozenset({"role", "id", "type", "name", "index"})


@dataclass(slots=True)
class Choice:
    """One choice of a response, put together from its parts."""

    parts: JsonObject = field(default_factory=dict)
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    extras: JsonObject = field(default_factory=dict)

    def message(self) -> JsonObject:
        """The choice as a message with its finish reason."""
        message = {"role": self.parts.get("role") or "assistant", "content": self.parts.get("content"), **self.parts}
        if self.tool_calls:  # the place in the list says it; in a stream every part says it too
            message["tool_calls"] = [{k: v for k, v in call.items() if k != "index"} for call in self.tool_calls]
        message["finish_reason"] = self.finish_reason
        return message

    @property
    def tool_calls(self) -> list[JsonObject]:
        """The tool calls so far."""
        calls: list[JsonObject] = self.parts.get("tool_calls") or []
        return calls


@dataclass(slots=True)
class Captured:
    """What one response said, as far as it was received.

    Attributes:
        chunk_times: arrival of each part of a stream that brought something, monotonic ns.
        chunk_tokens: how many sampled tokens each of them had, of all choices together.
        error: what the server said in place of the rest, and the event it said that in.
        done: the response has come to its end.
        extras: fields of a whole body that nothing else here has and that are not null; of a choice likewise.
        whole_logprobs: the caller asked for logprobs: they are among the extras of a choice as it gets them.
    """

    response_id: str | None = None
    fingerprint: str | None = None
    prompt_ids: list[int] | None = None
    choices: dict[int, Choice] = field(default_factory=dict)
    usage: JsonObject = field(default_factory=dict)
    metrics: JsonObject = field(default_factory=dict)
    chunk_times: list[int] = field(default_factory=list)
    chunk_tokens: list[int] = field(default_factory=list)
    error: str | None = None
    error_event: JsonObject | None = None
    done: bool = False
    extras: JsonObject = field(default_factory=dict)
    whole_logprobs: bool = False

    @property
    def first(self) -> Choice:
        """Choice 0; empty if nothing has come."""
        return self.choices.get(0) or Choice()

    @property
    def complete(self) -> bool:
        """Whether every choice that began has ended."""
        return self.done or (bool(self.choices) and all(c.finish_reason for c in self.choices.values()))

    @property
    def tokens(self) -> int | None:
        """Sampled tokens of all choices; `None` without their ids."""
        counts = [len(choice.token_ids) for choice in self.choices.values() if choice.token_ids is not None]
        return sum(counts) if counts else None

    def choice(self, index: int) -> Choice:
        """A choice, begun if it is new."""
        found = self.choices.get(index)
        if found is None:
            found = self.choices[index] = Choice()
        return found

    def envelope(self, payload: JsonObject) -> None:
        """Fields a whole response and a chunk have in common."""
        get = payload.get
        self.response_id = self.response_id or get("id")
        self.fingerprint = get("system_fingerprint") or self.fingerprint
        self.usage = get("usage") or self.usage
        self.metrics = get("metrics") or self.metrics
        self.prompt_ids = get("prompt_token_ids") or self.prompt_ids
        if (error := get("error")) is not None:
            text = error.get("message") if isinstance(error, dict) else error
            self.error, self.error_event = f"APIError: {text}", payload

    def whole(self, payload: JsonObject) -> None:
        """Take in a whole response."""
        self.envelope(payload)
        self.extras = {k: v for k, v in payload.items() if v is not None and k not in _OF_A_BODY}
        for choice in payload.get("choices") or ():
            self.add(choice)
        self.done = True

    def chunks(self, payloads: list[JsonObject], times_ns: list[int]) -> None:
        """Take in parts of a stream, as they arrived."""
        texts: list[str] = []
        for payload, now_ns in zip(payloads, times_ns, strict=True):
            if (text := _only_text(payload)) is not None:
                texts.append(text)
                self.chunk_times.append(now_ns)
                self.chunk_tokens.append(0)
                continue
            self._append(texts)
            self.chunk(payload, now_ns)
        self._append(texts)

    def _append(self, texts: list[str]) -> None:
        if texts:
            parts = self.choice(0).parts
            parts["content"] = (parts.get("content") or "") + "".join(texts)
            texts.clear()

    def chunk(self, payload: JsonObject, now_ns: int) -> None:
        """Take in a part of a stream, as it arrived."""
        self.envelope(payload)
        tokens, content = 0, False
        for choice in payload.get("choices") or ():
            tokens += self.add(choice)
            delta = choice.get("delta") or {}
            content = content or bool(choice.get("text") or any(v for k, v in delta.items() if k != "role"))
        if tokens or content:
            self.chunk_times.append(now_ns)
            self.chunk_tokens.append(tokens)

    def add(self, raw: JsonObject) -> int:
        """Take in one choice (whole or delta); returns the number of sampled tokens in it."""
        get = raw.get
        choice = self.choice(get("index") or 0)
        _merge(choice.parts, get("message") or get("delta") or {"content": get("text")})
        choice.finish_reason = get("finish_reason") or choice.finish_reason
        self.prompt_ids = get("prompt_token_ids") or self.prompt_ids
        if get("finish_reason"):
            choice.extras |= {k: v for k, v in raw.items() if v is not None and k not in _OF_A_CHOICE}
        if self.whole_logprobs and get("logprobs"):
            _merge(choice.extras, {"logprobs": get("logprobs")})
        ids, values = get("token_ids"), _logprobs(get("logprobs"))
        if ids is not None:
            choice.token_ids = (choice.token_ids or []) + ids
        if values is not None:
            choice.logprobs = (choice.logprobs or []) + values
        return len(ids) if ids is not None else len(values or ())


def _only_text(payload: JsonObject) -> str | None:
    """The text of a chunk that brings nothing but text to choice 0, as almost all of a stream do."""
    choices = payload.get("choices")
    if not choices or len(choices) != 1 or payload.get("usage") is not None:
        return None
    get = choices[0].get
    delta = get("delta")
    if not delta or len(delta) != 1 or get("finish_reason") or get("logprobs") or get("token_ids") or get("index"):
        return None
    text = delta.get("content")
    return text if text and type(text) is str else None


def _merge(into: JsonObject, part: JsonObject) -> None:
    """Put a part of a message to what there is: text is appended, tool calls are matched."""
    for key, value in part.items():
        if value is None or value == []:
            continue
        held = into.get(key)
        if key == "tool_calls":
            calls = into.setdefault(key, [])
            for call in value:
                _merge_tool_call(calls, call)
        elif isinstance(value, dict):
            if not isinstance(held, dict):
                held = into[key] = {}
            _merge(held, value)
        elif isinstance(value, list) and isinstance(held, list):
            into[key] = [*held, *value]
        elif isinstance(value, str) and isinstance(held, str) and key not in _WHOLE:
            into[key] = held + value
        elif not held:
            into[key] = value


def _merge_tool_call(calls: list[JsonObject], part: JsonObject) -> None:
    index, call_id = part.get("index"), part.get("id")
    for known in calls if index is not None else ():
        # Some servers give every call of a message the same index.
        if known.get("index") == index and (not call_id or known.get("id") in (None, call_id)):
            _merge(known, part)
            return
    whole: JsonObject = {}
    _merge(whole, part)
    calls.append(whole)


def _logprobs(raw: Any) -> list[float] | None:
    if not isinstance(raw, dict):
        return None
    if (content := raw.get("content")) is not None:
        return [item["logprob"] for item in content]
    values = raw.get("token_logprobs")
    return None if values is None or None in values else values


def strip(payload: JsonObject, asked: Asked) -> None:
    """Remove, in place, what came back only because the tracer asked: vLLM sends null where nobody asked."""
    for part in (payload, *(payload.get("choices") or ())):
        for name in () if asked.token_ids else ("prompt_token_ids", "token_ids"):
            if name in part:
                part[name] = None
        if not asked.logprobs and part.get("logprobs") is not None:
            part["logprobs"] = None


def read_response(data: bytes, prepared: Prepared, captured: Captured) -> bytes:
    """Read a whole response body; returns the body the caller is to see.

    Raises:
        ValueError: it is not a JSON object.
    """
    payload = loads(data)
    captured.whole(payload)
    if not prepared.extended:
        return data
    strip(payload, prepared.asked)
    return dumps(payload)


def loads(data: bytes) -> JsonObject:
    """A JSON object; also what only Python's own parser takes (NaN, half a surrogate pair).

    Raises:
        ValueError: it is none.
    """
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError:
        payload = json.loads(data)
    if not isinstance(payload, dict):
        raise ValueError("the body is no JSON object")
    return payload


def dumps(payload: JsonObject) -> bytes:
    """Inverse of `loads`."""
    try:
        return orjson.dumps(payload)
    except TypeError:  # half a surrogate pair, or an integer above 64 bits
        return json.dumps(payload, separators=(",", ":")).encode()
