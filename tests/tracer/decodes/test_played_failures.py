"""Calls that failed, were cut or given up when they were recorded end the same way when they are played back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from redecode.replay import ReplayDivergence
from tests.tracer.decodes.conftest import Serving
from tests.tracer.decodes.server import Cut, Reply, Request
from tests.tracer.decodes.test_played_back import recorded_then_played

QUESTION: Any = [{"role": "user", "content": "?"}]
WORDS = ("one ", "two ", "three ")


def pieces(*last: Any) -> Any:
    """A stream that says three words, and then what is given; an exception cuts it."""
    for word in WORDS:
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        yield {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    for piece in last:
        if isinstance(piece, Exception):
            yield 0.05  # the reset overtakes what was sent before it
            raise piece
        yield piece


def read(url: str) -> tuple[list[str], list[Any]]:
    """The words of a stream as far as they come, and what ended it."""
    words: list[str] = []
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(model="m", messages=QUESTION, stream=True)
        try:
            for chunk in stream:
                words.append(str(chunk.choices[0].delta.content))
        except Exception as error:
            return words, [type(error), str(error), getattr(error, "body", None), getattr(error, "code", None)]
    return words, []


async def aread(url: str) -> tuple[list[str], list[Any]]:
    words: list[str] = []
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model="m", messages=QUESTION, stream=True)
        try:
            async for chunk in stream:
                words.append(str(chunk.choices[0].delta.content))
        except Exception as error:
            return words, [type(error), str(error), getattr(error, "body", None), getattr(error, "code", None)]
    return words, []


READERS = pytest.mark.parametrize("reader", [read, lambda url: asyncio.run(aread(url))], ids=["sync", "async"])


@READERS
def test_a_stream_that_the_server_cut(tmp_path: Path, server: Serving, reader: Any) -> None:
    served = server(lambda _: Reply.events(pieces(Cut())))
    first, again = recorded_then_played(tmp_path, served.url, reader)
    assert "".join(again[0]) == "".join(first[0]) == "".join(WORDS)
    assert again[1] == first[1]
    assert first[1][0] is openai.APIConnectionError


@READERS
def test_a_stream_that_the_server_ended_with_an_error(tmp_path: Path, server: Serving, reader: Any) -> None:
    event = {"error": {"message": "out of memory", "code": "oom", "type": "InternalServerError"}}
    served = server(lambda _: Reply.events(pieces(event), done=False))
    first, again = recorded_then_played(tmp_path, served.url, reader)
    assert "".join(again[0]) == "".join(first[0]) == "".join(WORDS)
    assert again[1] == first[1]
    assert first[1] == [openai.APIError, "out of memory", event["error"], "oom"]


def test_a_stream_that_the_caller_left(tmp_path: Path, server: Serving) -> None:
    served = server(lambda _: Reply.events(pieces(60.0)))

    def leaves(url: str) -> list[str]:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        with client, client.chat.completions.create(model="m", messages=QUESTION, stream=True) as stream:
            return [str(chunk.choices[0].delta.content) for _, chunk in zip(WORDS, stream, strict=False)]

    first, again = recorded_then_played(tmp_path, served.url, leaves)
    assert "".join(again) == "".join(first) == "".join(WORDS)


def test_a_caller_that_now_reads_on(tmp_path: Path, server: Serving) -> None:
    served = server(lambda _: Reply.events(pieces(60.0)))
    limits = iter([len(WORDS), 99])

    def leaves(url: str) -> list[Any]:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        with client, client.chat.completions.create(model="m", messages=QUESTION, stream=True) as stream:
            return [chunk for _, chunk in zip(range(next(limits)), stream, strict=False)]

    with pytest.raises(ReplayDivergence, match="the recorded caller gave this call up here"):
        recorded_then_played(tmp_path, served.url, leaves)


def test_a_call_that_took_too_long(tmp_path: Path, server: Serving) -> None:
    served = server(lambda _: Reply.events(iter([30.0])))

    def impatient(url: str) -> str:
        async def go() -> str:
            async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
                call = client.chat.completions.create(model="m", messages=QUESTION)
                try:
                    await asyncio.wait_for(call, 0.2)
                except TimeoutError:
                    return "went on without it"
            return "got an answer"

        return asyncio.run(go())

    assert recorded_then_played(tmp_path, served.url, impatient) == ("went on without it", "went on without it")


def test_an_engine_that_was_not_there(tmp_path: Path) -> None:
    def program(url: str) -> list[Any]:
        with (
            openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client,
            pytest.raises(openai.APIConnectionError) as raised,
        ):
            client.chat.completions.create(model="m", messages=QUESTION)
        return [type(raised.value), str(raised.value), raised.value.request.url.path]

    first, again = recorded_then_played(tmp_path, "http://127.0.0.1:9/v1", program)
    assert again == first


def test_an_attempt_that_failed_before_one_that_did_not(tmp_path: Path, server: Serving) -> None:
    answers = iter([429, 500, 200])

    def answer(_: Request) -> Reply:
        status = next(answers)
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        good = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        headers: Any = {"retry-after-ms": "1"}
        return Reply.of(good if status == 200 else {"error": {"message": "busy"}}, status, **headers)

    served = server(answer)

    def program(url: str) -> str | None:
        with openai.OpenAI(base_url=url, api_key="none", max_retries=2) as client:
            return client.chat.completions.create(model="m", messages=QUESTION).choices[0].message.content

    assert recorded_then_played(tmp_path, served.url, program) == ("yes", "yes")
    assert len(served.requests) == 3
