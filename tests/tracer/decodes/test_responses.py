"""The `/responses` endpoint beyond plain text: reasoning, tool calls, ends of all kinds, streams cut in the middle."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from redecode.tracer import Fidelity
from redecode.tracer.fm import wire
from redecode.tracer.fm.wire_responses import Events, ResponsesTap, take_response
from tests.tracer.decodes import vllm_like
from tests.tracer.decodes.conftest import Recorded, Serving
from tests.tracer.decodes.server import Reply, Request

THOUGHT: Any = {"id": "r", "type": "reasoning", "content": [{"text": "hm "}], "summary": [{"text": "so"}]}
CALL: Any = {"id": "f", "type": "function_call", "call_id": "c1", "name": "look_up", "arguments": '{"a":1}'}
TEXT: Any = {"id": "m", "type": "message", "content": [{"type": "output_text", "text": "Ann"}, {"refusal": "no"}]}


def response(*items: Any, **fields: Any) -> Any:
    return {"id": "resp-1", "object": "response", "status": "completed", "output": list(items), **fields}


def taken(document: Any) -> wire.Captured:
    captured = wire.Captured()
    take_response(document, captured)
    return captured


def test_items_become_one_message() -> None:
    captured = taken(response(THOUGHT, TEXT, CALL, usage={"input_tokens": 3}))
    message = captured.first.message()
    assert (message["content"], message["reasoning"]) == ("Annno", "hm so")
    function = {"name": "look_up", "arguments": '{"a":1}'}
    assert message["tool_calls"] == [{"id": "c1", "type": "function", "function": function}]
    assert message["finish_reason"] == "tool_calls"
    assert message["output"] == [THOUGHT, TEXT, CALL]  # as they were, to be given back
    assert captured.usage == {"input_tokens": 3}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "stop"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"status": "cancelled"}, "cancelled"),
        ({"status": "queued"}, None),
    ],
    ids=["completed", "too long", "filtered", "cancelled", "in the background"],
)
def test_how_it_ended(fields: Any, reason: str | None) -> None:
    assert taken(response(TEXT, **fields)).first.finish_reason == reason


def test_tokens_of_several_turns_are_not_taken_for_one_decode() -> None:
    turn = {"tokens": [1, 2], "message": "x"}
    once = taken(response(TEXT, input_messages=[turn], output_messages=[{**turn, "tokens": [3]}]))
    assert (once.prompt_ids, once.first.token_ids) == ([1, 2], [3])
    twice = taken(response(TEXT, input_messages=[turn], output_messages=[turn, turn]))  # vLLM called a tool in between
    assert (twice.prompt_ids, twice.first.token_ids) == (None, None)


def test_parts_of_a_stream_that_has_no_end() -> None:
    captured = wire.Captured()
    at = {"output_index": 1, "item_id": "f"}
    events: list[Any] = [
        {"type": "response.created", "response": {"id": "resp-1"}},
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "content": []}},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "An"},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "n"},
        {"type": "response.output_item.added", "output_index": 1, "item": {**CALL, "arguments": ""}},
        {"type": "response.function_call_arguments.delta", **at, "delta": '{"a"'},
    ]
    Events(captured).take(events, list(range(6)))
    message = captured.first.message()
    assert message["content"] == "Ann"
    assert message["tool_calls"][0]["function"] == {"name": "look_up", "arguments": '{"a"'}
    assert captured.chunk_times == [2, 3, 5]
    assert (captured.response_id, captured.complete) == ("resp-1", False)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "message": "died"},
        {"type": "error", "error": {"message": "died"}},
        {"type": "response.failed", "response": response(status="failed", error={"message": "died"})},
    ],
)
def test_errors_in_a_stream(event: Any) -> None:
    captured = wire.Captured()
    Events(captured).take([event], [1])
    assert captured.error == "APIError: died"


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_the_tokens_asked_for_are_taken_out_however_the_bytes_are_cut(size: int) -> None:
    body = {"model": "m", "input": "?", "stream": True}
    prepared = wire.prepare(body, "/responses", vllm=True, rid=None, seed=None)

    def data(asked: Any) -> bytes:
        return b"".join(p for p in vllm_like.answer(Request("/responses", {}, asked)).body if isinstance(p, bytes))

    sent, captured = data(prepared.body), wire.Captured()
    tap = ResponsesTap(prepared, captured)
    out = b"".join(tap.feed(sent[at : at + size], at) for at in range(0, len(sent), size)) + tap.rest()
    tap.settle()
    assert b"[11,12,13]" in sent
    assert events(out) == events(data(body))
    assert captured.prompt_ids == vllm_like.PROMPT
    assert captured.first.token_ids == [ord(ch) for ch in vllm_like.TEXT]


def test_a_torn_end_reaches_the_caller() -> None:
    prepared = wire.prepare({"model": "m", "input": "?", "stream": True}, "/responses", vllm=True, rid=None, seed=None)
    tap = ResponsesTap(prepared, wire.Captured())
    torn = b'event: x\ndata: {"type": "x"'
    assert tap.feed(torn, 1) + tap.rest() == torn
    assert tap.rest() == b""


def events(data: bytes) -> list[tuple[str, Any]]:
    split = [event.split("\n") for event in data.decode().split("\n\n") if event]
    return [(name, json.loads(payload.removeprefix("data: "))) for name, payload in split]


def test_a_stream_given_up(server: Serving, recorded: Recorded) -> None:
    def slowly(request: Request) -> Reply:
        pieces = list(vllm_like.answer(request).body)
        return Reply([*pieces[:6], 60.0, *pieces[6:]], headers={"content-type": "text/event-stream"})

    client = openai.OpenAI(base_url=server(slowly, owner="vllm").url, api_key="none")
    with client, client.responses.create(model="m", input="?", stream=True) as stream:
        for _ in range(6):
            next(stream)
    ((decode, span),) = recorded()
    assert decode.output[0]["content"] == vllm_like.TEXT[:3]
    assert decode.error == "stream closed before its end"
    assert decode.fidelity is Fidelity.TEXT  # the ids come with the end
    assert span.attributes["redecode.fidelity_limit"].startswith("it was cut short: only the part received is recorded")
    assert len(decode.chunk_times_ns or ()) == 3
    assert decode.messages == [{"role": "user", "content": "?"}]
