"""Ways to call an FM with the OpenAI client, and what the caller gets, as plain facts to compare."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
from pydantic import BaseModel

from redecode.tracer import Decode, Span, Store, instrument, run, uninstrument

Facts = Any
Maker = Callable[..., list[Facts]]
# Different on every call, whoever makes it: ids, clocks, what the cache held.
_VOLATILE = frozenset(
    {"id", "created", "created_at", "completed_at", "item_id", "call_id", "metrics", "queue_time_ms", "cached_tokens"}
)
_PIECES = frozenset(
    {"content", "text", "arguments", "delta", "token_ids", "tokens", "token_logprobs", "top_logprobs", "text_offset"}
)
_COUNTS = frozenset({"completion_tokens", "total_tokens", "sequence_number"})  # of a chunk: how far the stream had come
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "strict": True,
            "description": "Look somebody up.",
            "parameters": {
                "type": "object",
                "properties": {"name": {"type": "string", "enum": ["Ann"]}},
                "required": ["name"],
                "additionalProperties": False,
            },
        },
    }
]


class Person(BaseModel):
    """What `parse` is asked for."""

    kind: bool


@dataclass(frozen=True)
class Way:
    """One way to call an FM: which method, and how its answer is taken."""

    name: str
    method: str = "chat.completions.create"
    given: dict[str, Any] = field(default_factory=dict)
    taken: str = "object"  # object | raw | lines | bytes | context

    @property
    def stream(self) -> bool:
        return bool(self.given.get("stream")) or self.taken == "context"


def _both(name: str, **given: Any) -> list[Way]:
    return [Way(name, given=given), Way(f"{name}, streamed", given={**given, "stream": True})]


USAGE: Any = {"include_usage": True}
EACH: Any = {"continuous_usage_stats": True}
SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "p", "schema": Person.model_json_schema()}}
CHAT = [
    *_both("plain"),
    Way("usage", given={"stream": True, "stream_options": USAGE}),
    Way("usage in every chunk", given={"stream": True, "stream_options": USAGE | EACH}),
    Way("usage in every chunk, without usage", given={"stream": True, "stream_options": EACH}),
    *_both("logprobs", logprobs=True, top_logprobs=2),
    *_both("token ids", extra_body={"return_token_ids": True}),
    *_both("three choices", n=3, temperature=1.0, seed=5),
    *_both("three choices with all", n=3, temperature=2.0, logprobs=True, extra_body={"return_token_ids": True}),
    *_both("a tool", tools=TOOLS, tool_choice="required", max_tokens=60),
    *_both("a tool if it likes", tools=TOOLS),
    *_both("a schema", response_format=SCHEMA),
    *_both("reasoning", extra_body={"include_reasoning": True}),
    Way("raw", taken="raw"),
    Way("raw, streamed", given={"stream": True}, taken="raw"),
    Way("bytes", taken="bytes"),
    Way("lines", given={"stream": True}, taken="lines"),
    Way("parse", "chat.completions.parse", {"response_format": Person, "max_tokens": 60}),
    Way("stream helper", "chat.completions.stream", {"stop": ["a", "e", " "]}, taken="context"),
]  # fmt: skip
TEXT = [
    Way("text", "completions.create", {}),
    Way("text, streamed", "completions.create", {"stream": True}),
    Way("text with logprobs", "completions.create", {"logprobs": 1}),
    Way("text with logprobs, streamed", "completions.create", {"logprobs": 1, "stream": True}),
    Way("text with usage", "completions.create", {"stream": True, "stream_options": USAGE}),
    Way("text, echoed", "completions.create", {"echo": True}),
    Way("text, echoed and streamed", "completions.create", {"echo": True, "stream": True}),
    Way("two texts", "completions.create", {"prompt": ["ab", "cd"]}),
]
RESPONSES = [
    Way("response", "responses.create", {}),
    Way("response, streamed", "responses.create", {"stream": True}),
    Way("response with its tokens", "responses.create", {"extra_body": {"enable_response_messages": True}}),
    Way("response, raw", "responses.create", {}, taken="bytes"),
]


def asked(way: Way, model: str, max_tokens: int = 12) -> dict[str, Any]:
    """The arguments of the call."""
    messages: Any = [{"role": "user", "content": "Who is Ann Lee?"}]
    if way.method.startswith("responses"):
        return {
            "model": model,
            "input": "Who is Ann Lee?",
            "max_output_tokens": max_tokens,
            "temperature": 0,
            **way.given,
        }
    common: dict[str, Any] = {"model": model, "max_tokens": max_tokens, "temperature": 0}
    if way.method.startswith("completions"):
        return {**common, "prompt": "Who is Ann Lee?", **way.given}
    return {**common, "messages": messages, **way.given}


def call(client: openai.OpenAI, way: Way, model: str = "m") -> Facts:
    """Make the call; what its caller saw."""
    given = asked(way, model)
    if way.taken == "context":
        with _method(client, way)(**given) as stream:
            return [facts(event) for event in stream] + [facts(stream.get_final_completion())]
    if way.taken == "raw":
        raw = _method(client, way, "with_raw_response")(**given)
        whole = raw.parse()
        if not way.stream:
            return [json.loads(raw.text), len(raw.content) == int(raw.headers["content-length"]), facts(whole)]
        return [facts(chunk) for chunk in whole]
    if way.taken in {"lines", "bytes"}:
        with _method(client, way, "with_streaming_response")(**given) as response:
            if way.taken == "bytes":
                return json.loads(b"".join(response.iter_bytes()))
            return _events(response.iter_lines())
    answer = _method(client, way)(**given)
    return [facts(part) for part in answer] if way.stream else facts(answer)


async def acall(client: openai.AsyncOpenAI, way: Way, model: str = "m") -> Facts:
    """As `call`."""
    given = asked(way, model)
    if way.taken == "context":
        async with _method(client, way)(**given) as stream:
            return [facts(event) async for event in stream] + [facts(await stream.get_final_completion())]
    if way.taken == "raw":
        raw = await _method(client, way, "with_raw_response")(**given)
        whole = raw.parse()
        if not way.stream:
            return [json.loads(raw.text), len(raw.content) == int(raw.headers["content-length"]), facts(whole)]
        return [facts(chunk) async for chunk in whole]
    if way.taken in {"lines", "bytes"}:
        async with _method(client, way, "with_streaming_response")(**given) as response:
            if way.taken == "bytes":
                return json.loads(b"".join([part async for part in response.iter_bytes()]))
            return _events([line async for line in response.iter_lines()])
    answer = await _method(client, way)(**given)
    return [facts(part) async for part in answer] if way.stream else facts(answer)


def _method(client: Any, way: Way, form: str | None = None) -> Any:
    *path, name = way.method.split(".")
    for part in path:
        client = getattr(client, part)
    return getattr(client if form is None else getattr(client, form), name)


def _events(lines: Iterator[str] | list[str]) -> Facts:
    data = [line.removeprefix("data: ") for line in lines if line]
    return [json.loads(d) if d != "[DONE]" else d for d in data]


def facts(value: Any) -> Facts:
    """Everything that can be seen of an object of the client: classes, fields, which of them were set, extras."""
    if isinstance(value, BaseModel):
        fields = {name: facts(getattr(value, name)) for name in type(value).model_fields}
        extra = {name: facts(v) for name, v in (value.model_extra or {}).items()}
        return {"class": type(value).__name__, "set": sorted(value.model_fields_set), **fields, "extra": extra}
    if isinstance(value, dict):
        return {name: facts(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [facts(v) for v in value]
    if hasattr(value, "__dict__") and type(value).__module__.startswith("openai"):
        return {"class": type(value).__name__, **{k: facts(v) for k, v in vars(value).items()}}
    return value


def lasting(value: Facts) -> Facts:
    """The facts that are the same on every call."""
    if isinstance(value, dict):
        return {k: "…" if k in _VOLATILE and v is not None else lasting(v) for k, v in value.items()}
    return [lasting(v) for v in value] if isinstance(value, list) else value


def same_stream(a: Facts, b: Facts) -> bool:
    """Whether two streams say the same, however the server cut what it said into chunks."""
    return _joined(a) == _joined(b)


def _joined(chunks: Facts) -> tuple[set[str], set[str], dict[str, Any]]:
    """All that is said in any chunk but text, the kinds of chunks that are no pieces, and what the pieces add up to."""
    said, ends = set(), set()
    sums: dict[str, Any] = {}
    for chunk in chunks:
        bare = json.loads(json.dumps(lasting(chunk)))
        if isinstance(bare, dict) and "snapshot" in bare:  # the client's own sum so far, around a chunk or a piece
            bare.pop("snapshot")
            bare = bare.get("chunk", bare)
        _take_text(bare, sums)
        choices = bare.get("choices") if isinstance(bare, dict) else None
        said |= set(_said(bare))
        piece = isinstance(bare, dict) and str(bare.get("type", "")).endswith(".delta")
        if not piece and (not choices or any(c.get("finish_reason") for c in choices)):
            for choice in choices or ():  # the last text may come with the end or before it, as may the first
                choice.pop("delta", None)
                choice.get("extra", {}).pop("prompt_token_ids", None)
                choice["logprobs"] = "…"
            ends.add(json.dumps(bare, sort_keys=True))
    return said, ends, sums


def _said(value: Any, place: str = "") -> Iterator[str]:
    """Each thing that is said, with its place; a delta says nothing by what it has not, whether it sets that or not."""
    if isinstance(value, dict):
        in_delta = ".delta" in place
        for name in value.get("set", value.keys()):  # of an object of the client, else of a document
            if not in_delta or value.get(name) not in (None, [], {}):
                yield f"{place} sets {name}"
        for name in value.keys() - {"set"}:
            yield from _said(value[name], f"{place}.{name}")
    elif isinstance(value, list):
        for item in value:
            yield from _said(item, place)
    elif value is not None:
        yield f"{place}: {value!r}"


def _take_text(value: Any, sums: dict[str, Any], place: str = "") -> None:
    """Move what a stream cuts into pieces out of a chunk, and add it up."""
    if isinstance(value, list):
        for item in value:
            _take_text(item, sums, place)
        return
    if not isinstance(value, dict):
        return
    place = f"{place}/{value['index']}" if "index" in value else place
    for name, item in value.items():
        piece = (name in _PIECES and isinstance(item, str | list)) or (name in _PIECES and place == "")
        if piece and isinstance(item, str):
            sums[f"{place}.{name}"] = sums.get(f"{place}.{name}", "") + item
            value[name] = "…"
        elif piece and isinstance(item, list):
            sums[f"{place}.{name}"] = sums.get(f"{place}.{name}", []) + item
            value[name] = "…" if item else item
        elif name in _COUNTS and item is not None:
            value[name] = "…"
        else:
            _take_text(item, sums, f"{place}.{name}" if name in {"logprobs", "usage"} else place)


def sync(url: str, ways: Sequence[Way], model: str = "m") -> list[Facts]:
    """Make all calls, one after the other."""
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        return [call(client, way, model) for way in ways]


def asynchronous(url: str, ways: Sequence[Way], model: str = "m") -> list[Facts]:
    """As `sync`."""

    async def go() -> list[Facts]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            return [await acall(client, way, model) for way in ways]

    return asyncio.run(go())


MAKERS = (sync, asynchronous)


@dataclass(frozen=True)
class Seen:
    """What a caller saw without the tracer and with it, and what was recorded."""

    plain: Facts
    recorded: Facts
    decode: Decode
    span: Span


def seen(store: Path, url: str, make: Maker, ways: Sequence[Way], model: str = "m") -> dict[str, Seen]:
    """Make all calls without the tracer, then all of them again with it; what there is to compare, by name of way."""
    plain = make(url, ways, model)
    instrument(store)
    try:
        with run("calls"):
            recorded = make(url, ways, model)
    finally:
        uninstrument()
    kept = decodes_of(store)
    assert len(kept) == len(ways)
    parts = zip(ways, plain, recorded, kept, strict=True)
    return {way.name: Seen(before, after, *of) for way, before, after, of in parts}


def decodes_of(store: Path) -> list[tuple[Decode, Span]]:
    """The decodes of a store, oldest first, each with its span."""
    opened, found = Store(store), []
    for summary in opened.runs():
        loaded = opened.load(summary.run_id)
        spans = {span.span_id: span for span in loaded.spans}
        found += [(decode, spans[decode.span_id]) for decode in loaded.decodes]
    return sorted(found, key=lambda pair: pair[0].sent_ns)
