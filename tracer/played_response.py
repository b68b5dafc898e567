"""A recorded answer as the HTTP response the OpenAI client would have got."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import orjson

from redecode.tracer import wire
from redecode.tracer.records import JsonObject


def played_response(client: Any, options: Any, path: str, answer: JsonObject, *, stream: bool) -> Any:
    """A recorded answer as an HTTP response; one that streams comes at once, a choice or an item in one piece."""
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
        data = b"".join(events)
    else:
        data = b"".join(b"data: " + orjson.dumps(e) + b"\n\n" for e in _chunks(path, answer)) + b"data: [DONE]\n\n"
    return response_class(200, content=data, headers={"content-type": "text/event-stream"}, request=request)


def _chunks(path: str, answer: JsonObject) -> Iterator[JsonObject]:
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
