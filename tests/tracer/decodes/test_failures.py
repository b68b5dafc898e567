"""Calls that fail, or succeed at last: every attempt is recorded, and the caller gets the error it would have got."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any, TypedDict

import openai
import pytest

from redecode.tracer import Decode, Fidelity, Span, Store, instrument, uninstrument
from tests.tracer.decodes import vllm_like
from tests.tracer.decodes.conftest import Recorded, Serving
from tests.tracer.decodes.server import Cut, Reply, Request, Server

GIVEN: Any = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
SOON = {"retry-after-ms": "1"}


def failing(*statuses: int, then: Callable[[Request], Reply] = vllm_like.answer) -> Callable[[Request], Reply]:
    """Answers with these statuses one after the other (0: hangs up), then as `then`; begins again for a new caller."""
    left: Iterator[int] = iter(statuses)

    def answer(request: Request) -> Reply:
        status = next(left, None)
        if status is None:
            return then(request)
        if status == 0:
            raise Cut
        return Reply.of({"error": {"message": f"this is {status}", "code": status}}, status, **SOON)

    return answer


def sync(url: str, **settings: Any) -> Any:
    with openai.OpenAI(base_url=url, api_key="none", **{"max_retries": 0, **settings}) as client:
        return client.chat.completions.create(**GIVEN)


def asynchronous(url: str, **settings: Any) -> Any:
    async def go() -> Any:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", **{"max_retries": 0, **settings}) as client:
            return await client.chat.completions.create(**GIVEN)

    return asyncio.run(go())


either = pytest.mark.parametrize("call", [sync, asynchronous])


def one(recorded: Recorded) -> tuple[Decode, Span]:
    (found,) = recorded()
    return found


def attempts(span: Span) -> list[Any]:
    return [
        attempt.get("status") or attempt["error"]
        for attempt in json.loads(span.attributes.get("redecode.attempts", "[]"))
    ]


@either
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("owner", ["vllm", "someone"])
def test_an_error_status(
    store: Any, server: Serving, recorded: Recorded, call: Any, status: int, error: type[Exception], owner: str
) -> None:
    failed = server(failing(*[status] * 9), owner=owner)
    uninstrument()
    with pytest.raises(error) as plain:
        call(failed.url)
    instrument(store)
    with pytest.raises(error) as seen:
        call(failed.url)
    assert type(seen.value) is type(plain.value)
    assert (str(seen.value), seen.value.body) == (str(plain.value), plain.value.body)  # type: ignore[attr-defined]
    assert seen.value.__context__ is None or isinstance(seen.value.__context__, type(plain.value.__context__))
    decode, span = one(recorded)
    assert f"this is {status}" in str(decode.error)
    assert (span.status, span.attributes["error.type"]) == ("error", error.__name__)
    assert span.attributes["http.response.status_code"] == status
    assert decode.output == []
    assert decode.messages == GIVEN["messages"]
    assert decode.fidelity is Fidelity.TEXT
    limit = span.attributes["redecode.fidelity_limit"]
    assert ("is not vLLM" in limit) if owner == "someone" else limit
    # What vLLM refuses may be what we added: it is asked again without. Anything else goes out once.
    doubted = owner == "vllm" and status in (400, 422)
    assert len(failed.requests) == (3 if doubted else 2)
    assert failed.requests[-1].body == failed.requests[0].body if doubted or owner == "someone" else True


@either
@pytest.mark.parametrize("statuses", [(429,), (500, 503), (0, 429), (408,)], ids=str)
def test_the_clients_retries_are_kept(
    server: Serving, recorded: Recorded, call: Any, statuses: tuple[int, ...]
) -> None:
    vllm = server(failing(*statuses), owner="vllm")
    answer = call(vllm.url, max_retries=3)
    assert answer.choices[0].message.content == vllm_like.TEXT
    decode, span = one(recorded)
    assert decode.error is None
    assert decode.fidelity is Fidelity.ENGINE
    assert span.attributes["redecode.retries"] == len(statuses)
    kept = attempts(span)
    assert [status for status in kept if isinstance(status, int)] == [s for s in statuses if s]
    assert len(kept) == len(statuses)
    sent = [a["sent_ns"] for a in json.loads(span.attributes["redecode.attempts"])]
    assert span.start_ns <= sent[0]
    assert sent == sorted(sent)
    assert sent[-1] < decode.sent_ns  # the decode's own times begin with the attempt that was answered
    assert "http.response.status_code" not in span.attributes


@either
def test_retries_that_come_to_nothing(server: Serving, recorded: Recorded, call: Any) -> None:
    vllm = server(failing(500, 503, 429), owner="vllm")
    with pytest.raises(openai.RateLimitError):
        call(vllm.url, max_retries=2)
    decode, span = one(recorded)
    assert attempts(span) == [500, 503]
    assert span.attributes["redecode.retries"] == 2
    assert span.attributes["http.response.status_code"] == 429
    assert decode.error is not None


@either
def test_a_timeout(server: Serving, recorded: Recorded, call: Any) -> None:
    def never(request: Request) -> Reply:
        return Reply([60.0], headers={"content-type": "application/json"})

    with pytest.raises(openai.APITimeoutError):
        call(server(never, owner="vllm").url, timeout=0.3, max_retries=1)
    decode, span = one(recorded)
    assert span.attributes["error.type"] == "APITimeoutError"
    assert span.attributes["redecode.retries"] == 1
    assert len(attempts(span)) == 1
    assert decode.e2e_ns is not None
    assert 0.25e9 < decode.e2e_ns < 30e9
    assert decode.fidelity is Fidelity.TEXT


@either
def test_a_server_that_is_not_there(recorded: Recorded, call: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(openai.APIConnectionError):
            call(f"http://127.0.0.1:{port}/v1")
    decode, span = one(recorded)
    assert span.attributes["error.type"] == "APIConnectionError"
    assert "does not say what it is" in span.attributes["redecode.fidelity_limit"]
    assert decode.output == []


@either
def test_an_answer_that_is_no_json(store: Any, server: Serving, recorded: Recorded, call: Any) -> None:
    odd = server(lambda _: Reply(b"<html>", headers={"content-type": "application/json"}), owner="vllm")
    uninstrument()
    with pytest.raises(Exception) as plain:
        call(odd.url)
    instrument(store)
    with pytest.raises(type(plain.value)):
        call(odd.url)
    decode, _ = one(recorded)
    assert "cannot be read" in str(decode.error)


@pytest.mark.parametrize("owner", ["vllm", "someone"])
def test_an_error_in_the_middle_of_a_stream(server: Serving, recorded: Recorded, owner: str) -> None:
    def broken(request: Request) -> Reply:
        pieces = list(vllm_like.answer(request).body)[:4]
        error = {"error": {"message": "the engine died", "type": "InternalServerError", "code": 500}}
        pieces.append(f"data: {json.dumps(error)}\n\ndata: [DONE]\n\n".encode())
        return Reply(pieces, headers={"content-type": "text/event-stream"})

    client = openai.OpenAI(base_url=server(broken, owner=owner).url, api_key="none", max_retries=0)
    text = ""
    with client, pytest.raises(openai.APIError, match="the engine died"):
        for chunk in client.chat.completions.create(**GIVEN, stream=True):
            text += chunk.choices[0].delta.content or ""
    decode, span = one(recorded)
    assert decode.error == "APIError: the engine died"
    assert span.attributes["redecode.error_class"] == "openai:APIError"
    assert decode.output[0]["content"] == text == vllm_like.TEXT[:3]
    assert "only the part received" in span.attributes["redecode.fidelity_limit"]
    if owner == "vllm":
        assert decode.sampled_ids == tuple(map(ord, text))


def test_a_proxy_that_answers_for_vllm_with_a_page(server: Serving, recorded: Recorded) -> None:
    page = Reply(b"<html>busy</html>", 502, {"content-type": "text/html", **SOON})
    failed: Server = server(lambda _: page, owner="vllm")
    with pytest.raises(openai.InternalServerError):
        sync(failed.url)
    _, span = one(recorded)
    assert span.attributes["http.response.status_code"] == 502


def test_a_call_that_got_no_answer_does_not_lower_its_run(server: Serving, recording: Any) -> None:
    """What a fallback answered is known with every token; of the failed call there was nothing to know."""
    from langgraph.graph import StateGraph

    port = server(failing(503), owner="vllm")

    class State(TypedDict):
        answer: str

    def ask(state: State) -> State:
        with contextlib.suppress(openai.InternalServerError):
            sync(port.url)
        return {"answer": sync(port.url).choices[0].message.content}

    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.set_entry_point("ask")
    graph.compile().invoke({"answer": ""})
    run = Store(recording).runs()[0]
    assert (run.decodes, run.fidelity) == (2, Fidelity.ENGINE)
