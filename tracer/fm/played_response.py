"""A recorded answer as the HTTP response the OpenAI client would have got, a stream at the pace of the recorded one.

Where a recorded chunk was cut is not kept, only when each came: the text is cut into as many even parts.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import pairwise
from typing import Any

import orjson

from redecode.tracer.fm import wire
from redecode.tracer.records import JsonObject


def played_response(
    client: Any,
    options: Any,
    path: str,
    answer: JsonObject,
    *,
    stream: bool,
    chunks_s: Sequence[float] = (),
    asynchronous: bool = False,
) -> Any:
    """A recorded answer as an HTTP response.

    Args:
        chunks_s: of a stream, when its parts come, in seconds from now; empty: all at once.
    """
    request = client._build_request(options, retries_taken=0)
    # The client may be built on either of two HTTP libraries: answer with the request's own.
    response_class = importlib.import_module(type(request).__module__.split(".")[0]).Response
    if not stream:
        return response_class(200, json=answer, request=request)
    if path.endswith(wire.RESPONSES):
        events = [
            b"event: %s\ndata: %s\n\n" % (str(e["type"]).encode(), orjson.dumps({**e, "sequence_number": n}))
            for n, e in enumerate(_response_events(answer))
        ]
    else:
        parts = max(1, len(chunks_s))
        events = [b"data: " + orjson.dumps(e) + b"\n\n" for e in _chunks(path, answer, parts)] + [b"data: [DONE]\n\n"]
    content: Any = b"".join(events)
    if chunks_s and chunks_s[-1] > 0:
        content = _paced_async(events, chunks_s) if asynchronous else _paced(events, chunks_s)
    return response_class(200, content=content, headers={"content-type": "text/event-stream"}, request=request)


def _paced(events: list[bytes], chunks_s: Sequence[float]) -> Iterator[bytes]:
    begin = time.monotonic()
    for event, due in _timed(events, chunks_s):
        time.sleep(max(0.0, begin + due - time.monotonic()))
        yield event


async def _paced_async(events: list[bytes], chunks_s: Sequence[float]) -> AsyncIterator[bytes]:
    begin = time.monotonic()
    for event, due in _timed(events, chunks_s):
        await asyncio.sleep(max(0.0, begin + due - time.monotonic()))
        yield event


def _timed(events: list[bytes], chunks_s: Sequence[float]) -> Iterator[tuple[bytes, float]]:
    """Each event with the time of the chunk that brings it; what comes after the last chunk comes with it."""
    for place, event in enumerate(events):
        yield event, chunks_s[min(place, len(chunks_s) - 1)]


def _chunks(path: str, answer: JsonObject, parts: int) -> Iterator[JsonObject]:
    chat = path.endswith(wire.CHAT)
    choices = []
    for choice in answer["choices"]:
        part: JsonObject = {"text": choice.get("text")}
        if chat:
            delta = dict(choice.get("message") or {})
            if delta.get("tool_calls"):
                delta["tool_calls"] = [{"index": n, **call} for n, call in enumerate(delta["tool_calls"])]
            part = {"delta": delta}
        choices.append({"index": choice["index"], **part, "finish_reason": choice.get("finish_reason")})
    chunk = {**answer, "choices": choices}
    if chat:
        chunk["object"] = "chat.completion.chunk"
    usage = chunk.pop("usage", None)
    field = "content" if chat else "text"
    holder = choices[0].get("delta", choices[0]) if len(choices) == 1 else {}
    text = holder.get(field)
    if parts > 1 and isinstance(text, str):
        cuts = [len(text) * n // parts for n in range(parts + 1)]
        rest = {k: v for k, v in holder.items() if k not in (field, "role", "finish_reason", "index")}
        for n, (start, end) in enumerate(pairwise(cuts[:-1])):
            part = {"role": "assistant"} if chat and n == 0 else {}
            part[field] = text[start:end]
            bare = {"index": 0, **({"delta": part} if chat else part), "finish_reason": None}
            yield {**chunk, "choices": [bare]}
        last = {**(rest if chat else {}), field: text[cuts[-2] :]}
        ended = {"index": 0, **({"delta": last} if chat else last), "finish_reason": choices[0]["finish_reason"]}
        chunk["choices"] = [ended]
    yield chunk
    if usage:
        yield {**chunk, "choices": [], "usage": usage}


def _response_events(answer: JsonObject) -> Iterator[JsonObject]:
    """The events that a response is made of."""
    begun = {**answer, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(answer.get("output") or ()):
        at = {"output_index": index, "item_id": item.get("id")}
        bare = {"status": "in_progress", **({"content": []} if "content" in item else {})}
        yield {"type": "response.output_item.added", "output_index": index, "item": {**item, **bare}}
        if item.get("type") == "message":
            yield from _message_events(item, at)
        elif item.get("type") == "function_call":
            arguments = item.get("arguments") or ""
            yield {"type": "response.function_call_arguments.delta", **at, "delta": arguments}
            done = {"name": item.get("name"), "arguments": arguments}
            yield {"type": "response.function_call_arguments.done", **at, **done}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    status = answer.get("status")
    yield {"type": f"response.{status if status in ('incomplete', 'failed') else 'completed'}", "response": answer}


def _message_events(item: JsonObject, at: JsonObject) -> Iterator[JsonObject]:
    for index, part in enumerate(item.get("content") or ()):
        here = {**at, "content_index": index}
        text = "text" if part.get("type") == "output_text" else "refusal"
        kind = "output_text" if text == "text" else "refusal"
        yield {"type": "response.content_part.added", **here, "part": {**part, text: ""}}
        yield {"type": f"response.{kind}.delta", **here, "delta": part.get(text), "logprobs": []}
        yield {"type": f"response.{kind}.done", **here, text: part.get(text), "logprobs": []}
        yield {"type": "response.content_part.done", **here, "part": part}
