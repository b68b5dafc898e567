"""Streams and calls that their caller gives up: what was received is recorded, and says that it is a part."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import openai
import pytest

from redecode.tracer import Decode, Fidelity, Span, TimeSource
from redecode.tracer.instrument import active
from tests.tracer.decodes import vllm_like
from tests.tracer.decodes.conftest import Recorded, Serving
from tests.tracer.decodes.server import Cut, Reply, Request

GOT = 4  # chunks with text that the caller takes before it gives up
QUESTION: Any = [{"role": "user", "content": "?"}]
Url = str


def slowly(request: Request) -> Reply:
    """As vLLM, but the rest of the stream comes a minute later."""

    def pieces() -> Any:
        seen = count()
        for piece in vllm_like.answer(request).body:
            yield piece
            if isinstance(piece, bytes) and b'"content":"' in piece and next(seen) == GOT:
                yield 60.0

    return Reply(pieces(), headers={"content-type": "text/event-stream"})


def ask(url: Url) -> tuple[openai.OpenAI, Any]:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    return client, client.chat.completions.create(model="m", messages=QUESTION, stream=True)


def take(stream: Any) -> str:
    """The text of the first chunks, the empty one before them included."""
    return "".join(next(stream).choices[0].delta.content for _ in range(1 + GOT))


async def atake(stream: Any) -> str:
    return "".join([(await anext(stream)).choices[0].delta.content for _ in range(1 + GOT)])


def leaves_the_loop(url: Url) -> str:
    client, stream = ask(url)
    text = ""
    with client, stream:
        for place, chunk in enumerate(stream):
            text += chunk.choices[0].delta.content
            if place == GOT:
                break
    return text


def closes(url: Url) -> str:
    client, stream = ask(url)
    text = take(stream)
    stream.close()
    client.close()
    return text


def drops(url: Url) -> str:
    client, stream = ask(url)
    text = take(stream)
    del stream
    gc.collect()
    client.close()
    return text


def keeps_until_the_end(url: Url) -> str:
    client, stream = ask(url)
    KEPT.append((client, stream))
    return take(stream)


KEPT: list[Any] = []


def awaited(how: Callable[[Any], Any]) -> Callable[[Url], str]:
    async def go(url: Url) -> str:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(model="m", messages=QUESTION, stream=True)
            return str(await how(stream))

    return lambda url: asyncio.run(go(url))


async def acloses(stream: Any) -> str:
    text = await atake(stream)
    await stream.close()
    return text


async def aleaves_the_loop(stream: Any) -> str:
    text, place = "", 0
    async for chunk in stream:
        text += chunk.choices[0].delta.content
        if place == GOT:
            break
        place += 1
    return text


async def is_cancelled(stream: Any) -> str:
    text = await atake(stream)
    task = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return text


async def times_out(stream: Any) -> str:
    text = await atake(stream)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.01)
    return text


async def raises(stream: Any) -> str:
    text = ""
    with pytest.raises(KeyError):
        async with stream:
            text = await atake(stream)
            raise KeyError("no more")
    return text


WAYS: dict[str, Callable[[Url], str]] = {
    "leaves the loop": leaves_the_loop,
    "closes": closes,
    "drops": drops,
    "keeps until the end": keeps_until_the_end,
    "closes, awaited": awaited(acloses),
    "leaves the loop, awaited": awaited(aleaves_the_loop),
    "is cancelled": awaited(is_cancelled),
    "times out": awaited(times_out),
    "raises in the middle": awaited(raises),
}


def check_part(decode: Decode, span: Span, text: str, *, vllm: bool) -> None:
    assert text == vllm_like.TEXT[:GOT]
    (message,) = decode.output
    assert message["content"].startswith(text)  # a chunk may have come that the caller did not take any more
    assert len(message["content"]) <= len(text) + 1
    assert message["finish_reason"] is None
    assert decode.finish_reason is None
    assert decode.error
    assert span.status == "error"
    assert decode.token_time_source is TimeSource.CLIENT
    assert len(decode.chunk_times_ns or ()) == len(message["content"])
    assert decode.done_ns is not None
    assert span.end_ns is not None
    assert 0 < span.end_ns - decode.sent_ns < 30e9
    assert span.attributes["redecode.fidelity_limit"].startswith("it was cut short: only the part received is recorded")
    if vllm:
        assert decode.fidelity is Fidelity.TOKENS  # the engine tells its own times at the end only
        assert decode.prompt_ids == tuple(vllm_like.PROMPT)
        assert decode.sampled_ids == tuple(map(ord, message["content"]))
        assert len(decode.logprobs or ()) == len(decode.sampled_ids)
        assert sum(decode.chunk_tokens or ()) == len(decode.sampled_ids)
    else:
        assert decode.fidelity is Fidelity.TEXT
        assert "is not vLLM" in span.attributes["redecode.fidelity_limit"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("owner", ["vllm", "someone"])
@pytest.mark.parametrize("way", WAYS)
def test_the_part_received_is_recorded(server: Serving, recorded: Recorded, way: str, owner: str) -> None:
    text = WAYS[way](server(slowly, owner=owner).url)
    ((decode, span),) = recorded()
    while KEPT:
        client, stream = KEPT.pop()
        stream.close()
        client.close()
    check_part(decode, span, text, vllm=owner == "vllm")
    if way == "drops":  # whenever the garbage collector comes by
        assert decode.done_ns is not None
        assert decode.chunk_times_ns is not None
        assert abs(decode.done_ns - decode.sent_ns - decode.chunk_times_ns[-1]) <= 1000
        assert span.end_ns == decode.done_ns
    cancelled = way in {"is cancelled", "times out"}
    expected = "CancelledError" if cancelled else "stream closed before its end"
    assert str(decode.error).startswith(expected)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_stream_dropped_unread_is_recorded_when_it_is_found(server: Serving, recorded: Recorded) -> None:
    recording = active()
    assert recording is not None
    client, stream = ask(server(slowly, owner="vllm").url)
    assert recording.client._waiting
    del stream
    gc.collect()
    assert not recording.client._waiting  # nothing is kept until the end of a long-lived process
    client.close()
    ((decode, span),) = recorded()
    assert decode.error == "stream closed before its end"
    assert decode.output == []
    assert span.end_ns is not None


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_garbage_collector_may_end_a_stream_while_we_write(server: Serving, recorded: Recorded) -> None:
    recording = active()
    assert recording is not None
    held = [ask(server(slowly, owner="vllm").url)]
    clients = [client for client, _ in held]
    text = take(held[0][1])

    def collect() -> None:
        with recording.recorder.journal._lock, recording.recorder._lock, recording.engines._lock:
            held.clear()
            gc.collect()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    clients[0].close()
    ((decode, span),) = recorded()
    check_part(decode, span, text, vllm=True)


def test_a_stream_whose_end_had_come_is_whole_whatever_its_caller_does(server: Serving, recorded: Recorded) -> None:
    client, stream = ask(server(vllm_like.answer, owner="vllm").url)
    for chunk in stream:
        if chunk.choices[0].finish_reason:
            break
    recording = active()
    assert recording is not None
    seen_ns = recording.recorder.clock.now_ns()
    stream.close()
    client.close()
    ((decode, span),) = recorded()
    assert (decode.error, decode.finish_reason, span.status) == (None, "stop", "ok")
    assert decode.done_ns is not None
    assert decode.done_ns <= seen_ns
    assert decode.output[0]["content"] == vllm_like.TEXT


def test_a_call_cancelled_before_its_answer(server: Serving, recorded: Recorded) -> None:
    async def go(url: Url) -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
            task = asyncio.ensure_future(client.chat.completions.create(model="m", messages=QUESTION))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    never = Reply([60.0], headers={"content-type": "application/json"})
    asyncio.run(go(server(lambda _: never, owner="vllm").url))
    ((decode, span),) = recorded()
    assert (decode.error or "").startswith("CancelledError")
    assert decode.output == []
    assert decode.messages == QUESTION
    assert span.status == "error"


@pytest.mark.parametrize("awaits", [False, True], ids=["sync", "async"])
def test_a_stream_that_the_server_cuts(server: Serving, recorded: Recorded, *, awaits: bool) -> None:
    def cut(request: Request) -> Reply:
        def pieces() -> Any:
            for place, piece in enumerate(vllm_like.answer(request).body):
                if place == 1 + GOT:
                    yield 0.05
                    raise Cut
                yield piece

        return Reply(pieces(), headers={"content-type": "text/event-stream"})

    url = server(cut, owner="vllm").url
    got: list[str] = []

    async def await_it() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            async for chunk in await client.chat.completions.create(model="m", messages=QUESTION, stream=True):
                got.append(chunk.choices[0].delta.content or "")

    def call_it() -> None:
        client, stream = ask(url)
        with client:
            for chunk in stream:
                got.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIConnectionError):
        asyncio.run(await_it()) if awaits else call_it()
    ((decode, span),) = recorded()
    check_part(decode, span, "".join(got), vllm=True)
    assert "Error" in str(decode.error)


def test_a_stream_that_ends_without_saying_so(server: Serving, recorded: Recorded) -> None:
    def half(request: Request) -> Reply:
        return Reply(list(vllm_like.answer(request).body)[: 1 + GOT], headers={"content-type": "text/event-stream"})

    client, stream = ask(server(half, owner="vllm").url)
    text = "".join(chunk.choices[0].delta.content for chunk in stream)
    client.close()
    ((decode, span),) = recorded()
    check_part(decode, span, text, vllm=True)
    assert decode.error == "stream closed before its end"
