"""A recorded answer as the HTTP response the OpenAI client would have got, a stream at the pace of the recorded one.

Where a recorded chunk was cut is not kept, only when each came and how many tokens it had: text, reasoning and the
arguments of tool calls are cut into as many even parts, in their order.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import orjson

from redecode.tracer.fm import wire
from redecode.tracer.fm.played_chunks import chunks_of, even
from redecode.tracer.player import ERROR_EVENT, Played
from redecode.tracer.records import JsonObject

_SPOKEN = ("message", "function_call")
_DONE = b"data: [DONE]\n\n"


def play(client: Any, cast_to: Any, options: Any, path: str, played: Played, kwargs: JsonObject) -> Any:
    """The recorded answer of a call, as the client would have returned or raised it.

    Making it is a part of the time that it takes.
    """
    begin, response = time.monotonic(), None
    try:
        if not _is_cut(played, kwargs):
            response = _prepared(client, options, path, played, kwargs, asynchronous=False)
    finally:
        time.sleep(_rest(begin, played))
    if response is None and played.cut is not None:
        raise played.cut()
    return client._process_response(cast_to=cast_to, options=options, response=response, **kwargs)


async def play_async(client: Any, cast_to: Any, options: Any, path: str, played: Played, kwargs: JsonObject) -> Any:
    """As `play`."""
    begin, response = time.monotonic(), None
    try:
        if not _is_cut(played, kwargs):
            response = _prepared(client, options, path, played, kwargs, asynchronous=True)
    finally:
        await asyncio.sleep(_rest(begin, played))
    if response is None and played.cut is not None:
        raise played.cut()
    return await client._process_response(cast_to=cast_to, options=options, response=response, **kwargs)


def _is_cut(played: Played, kwargs: JsonObject) -> bool:
    """Whether nothing comes: what is raised then is made when it is due, since it tells that somebody waited."""
    return played.cut is not None and not kwargs.get("stream")


def _rest(begin: float, played: Played) -> float:
    return 0.0 if played.chunks_s else max(0.0, begin + played.wait_s - time.monotonic())


def _prepared(client: Any, options: Any, path: str, played: Played, kwargs: JsonObject, *, asynchronous: bool) -> Any:
    """The response to be processed; the recorded failure is raised."""
    kwargs.setdefault("stream", False)
    kwargs.setdefault("stream_cls", None)
    if played.error is not None:
        if getattr(played.error, "request", played) is None:  # of the client's own errors
            played.error.request = client._build_request(options, retries_taken=0)  # type: ignore[attr-defined]
        raise played.error
    response = played_response(client, options, path, played, stream=kwargs["stream"], asynchronous=asynchronous)
    if played.status != 200:
        raise client._make_status_error_from_response(response) from None
    return response


def played_response(
    client: Any, options: Any, path: str, played: Played, *, stream: bool, asynchronous: bool = False
) -> Any:
    """A recorded answer as an HTTP response.

    Args:
        stream: the caller wants one.
        asynchronous: so does its client.
    """
    request = client._build_request(options, retries_taken=0)
    # The client may be built on either of two HTTP libraries: answer with the request's own.
    response_class = importlib.import_module(type(request).__module__.split(".")[0]).Response
    if played.status != 200:
        return response_class(played.status, content=played.value, headers=played.headers, request=request)
    if not stream:
        return response_class(200, json=played.value, request=request)
    chunks_s = played.chunks_s
    if path.endswith(wire.RESPONSES):
        events = [
            (at, b"event: %s\ndata: %s\n\n" % (str(e["type"]).encode(), orjson.dumps({**e, "sequence_number": n})))
            for n, (at, e) in enumerate(_response_events(played))
        ]
    else:
        events = [(at, b"data: " + orjson.dumps(e) + b"\n\n") for at, e in chunks_of(path, played)]
        if played.cut is None and ERROR_EVENT not in played.value:
            events.append((events[-1][0], _DONE))
    content: Any = b"".join([event for _, event in events])
    if played.cut is not None or (chunks_s and chunks_s[-1] > 0):
        content = (_paced_async if asynchronous else _paced)(events, chunks_s, played.cut)
    return response_class(200, content=content, headers={"content-type": "text/event-stream"}, request=request)


Events = list[tuple[int, bytes]]
"""Each with the number of the recorded chunk it comes with."""


def _paced(events: Events, chunks_s: Sequence[float], cut: Callable[[], BaseException] | None) -> Iterator[bytes]:
    begin = time.monotonic()
    for at, event in events:
        time.sleep(_left(begin, chunks_s, at))
        yield event
    if cut is not None:
        raise cut()


async def _paced_async(
    events: Events, chunks_s: Sequence[float], cut: Callable[[], BaseException] | None
) -> AsyncIterator[bytes]:
    begin = time.monotonic()
    for at, event in events:
        await asyncio.sleep(_left(begin, chunks_s, at))
        yield event
    if cut is not None:
        raise cut()


def _left(begin: float, chunks_s: Sequence[float], at: int) -> float:
    due = chunks_s[min(at, len(chunks_s) - 1)] if chunks_s else 0.0
    return max(0.0, begin + due - time.monotonic())


def _response_events(played: Played) -> Iterator[tuple[int, JsonObject]]:
    """The events that a response is made of."""
    answer, slots = played.value, max(1, len(played.chunks_s))
    begun = {**answer, "status": "in_progress", "output": [], "usage": None}
    yield 0, {"type": "response.created", "response": begun}
    yield 0, {"type": "response.in_progress", "response": begun}
    items = answer.get("output") or ()
    texts = max(1, sum(len(item.get("content") or "x") for item in items if item.get("type") in _SPOKEN))
    at = 0
    for index, item in enumerate(items):
        here = {"output_index": index, "item_id": item.get("id")}
        bare = {"status": "in_progress", **({"content": []} if "content" in item else {})}
        yield at, {"type": "response.output_item.added", "output_index": index, "item": {**item, **bare}}
        for text, event in _item_events(item, here):
            if text is None:
                yield at, event
                continue
            at, first = min(slots, at + max(1, slots // texts)), at
            for slot, (start, end) in enumerate(pairwise(even(len(text), at - first)), start=first):
                yield slot, {**event, "delta": text[start:end]}
            if played.cut is not None and at >= slots:
                return
            at = min(at, slots - 1)
        yield at, {"type": "response.output_item.done", "output_index": index, "item": item}
    if played.cut is not None:
        return
    if ERROR_EVENT in answer:
        yield slots - 1, answer[ERROR_EVENT]
        return
    status = answer.get("status")
    kind = f"response.{status if status in ('incomplete', 'failed') else 'completed'}"
    yield slots - 1, {"type": kind, "response": answer}


def _item_events(item: JsonObject, at: JsonObject) -> Iterator[tuple[str | None, JsonObject]]:
    """The events of an item; of its text with the text, to be cut into deltas."""
    if item.get("type") == "function_call":
        arguments = item.get("arguments") or ""
        yield arguments, {"type": "response.function_call_arguments.delta", **at}
        done = {"name": item.get("name"), "arguments": arguments}
        yield None, {"type": "response.function_call_arguments.done", **at, **done}
    for index, part in enumerate((item.get("content") or ()) if item.get("type") == "message" else ()):
        here = {**at, "content_index": index}
        text = "text" if part.get("type") == "output_text" else "refusal"
        kind = "output_text" if text == "text" else "refusal"
        yield None, {"type": "response.content_part.added", **here, "part": {**part, text: ""}}
        yield part.get(text) or "", {"type": f"response.{kind}.delta", **here, "logprobs": []}
        yield None, {"type": f"response.{kind}.done", **here, text: part.get(text), "logprobs": []}
        yield None, {"type": "response.content_part.done", **here, "part": part}
