"""What is asked of vLLM, and that none of it reaches the caller."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redecode.tracer.fm import wire
from redecode.tracer.fm.wire_stream import ChatTap, PassTap
from tests.tracer.decodes import vllm_like
from tests.tracer.decodes.server import Request

PATH = "/chat/completions"


def test_nothing_is_added_for_an_engine_that_may_not_know_it() -> None:
    body = {"model": "m", "messages": []}
    prepared = wire.prepare(body, PATH, vllm=False, rid="r", seed=1)
    assert prepared.body == body
    assert not prepared.extended
    assert prepared.seed is None


@pytest.mark.parametrize(
    ("body", "seed", "source"),
    [
        ({"seed": 5}, 5, "caller"),
        ({}, 9, "tracer"),
        ({"temperature": 0}, None, None),
        ({"temperature": 0.0}, None, None),
    ],
    ids=["caller's seed is kept", "a missing seed is set", "greedy needs none", "greedy as a float"],
)
def test_seed(body: dict[str, Any], seed: int | None, source: str | None) -> None:
    prepared = wire.prepare({"model": "m", "messages": [], **body}, PATH, vllm=True, rid=None, seed=9)
    assert (prepared.seed, prepared.seed_source) == (seed, source)


def test_the_callers_own_extras_are_merged() -> None:
    body = {"model": "m", "messages": [], "stream": True, "vllm_xargs": {"mine": 1}, "stream_options": {"x": 1}}
    sent = wire.prepare(body, PATH, vllm=True, rid="r", seed=None).body
    assert sent["vllm_xargs"] == {"mine": 1, "redecode_rid": "r"}
    assert sent["stream_options"] == {"x": 1, "include_usage": True}
    assert body["vllm_xargs"] == {"mine": 1}


def sse(*payloads: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(p).encode() + b"\n\n" for p in payloads) + b"data: [DONE]\n\n"


def read_back(data: bytes) -> list[Any]:
    parts = [p.removeprefix(b"data: ") for p in data.split(b"\n\n") if p]
    return [json.loads(p) if p != b"[DONE]" else "[DONE]" for p in parts]


FROM_VLLM = (
    {
        "id": "1",
        "prompt_token_ids": [1, 2],
        "usage": None,
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "token_ids": None, "logprobs": None}],
    },
    {
        "id": "1",
        "usage": None,
        "choices": [
            {
                "index": 0,
                "delta": {"content": "ä"},
                "token_ids": [7, 8],
                "logprobs": {"content": [{"logprob": -1.0}, {"logprob": -2.0}]},
            }
        ],
    },
    {"id": "1", "usage": None, "choices": [{"index": 0, "delta": {}, "token_ids": [9], "finish_reason": "stop"}]},
    {"id": "1", "choices": [], "usage": {"completion_tokens": 3}, "system_fingerprint": "fp"},
)  # fmt: skip


@given(cuts=st.lists(st.integers(min_value=0, max_value=600), max_size=8))
def test_a_stream_is_rewritten_the_same_however_its_bytes_arrive(cuts: list[int]) -> None:
    prepared = wire.prepare({"model": "m", "messages": [], "stream": True}, PATH, vllm=True, rid=None, seed=None)
    captured = wire.Captured()
    tap = ChatTap(prepared, captured)
    data, out, at = sse(*FROM_VLLM), b"", 0
    for cut in [*sorted(cuts), len(data)]:
        out += tap.feed(data[at:cut], now_ns=cut)
        at = max(at, cut)
    out += tap.rest()
    tap.settle()
    *chunks, done = read_back(out)
    assert done == "[DONE]"
    assert [c["choices"][0]["delta"] for c in chunks] == [{"role": "assistant", "content": ""}, {"content": "ä"}, {}]
    assert not any("usage" in c for c in chunks)
    assert all(c["choices"][0].get("token_ids") is None and c["choices"][0].get("logprobs") is None for c in chunks)
    assert chunks[0]["prompt_token_ids"] is None
    assert chunks[-1]["system_fingerprint"] == "fp"  # where vLLM puts it when nobody asks for usage
    assert captured.first.token_ids == [7, 8, 9]
    assert captured.first.logprobs == [-1.0, -2.0]
    assert captured.prompt_ids == [1, 2]
    assert captured.first.message()["content"] == "ä"
    assert captured.chunk_tokens == [2, 1]
    assert captured.done


STREAMS: dict[str, dict[str, Any]] = {
    "text": {},
    "usage": {"stream_options": {"include_usage": True}},
    "tools": {"tools": [{}], "tool_choice": "required"},
    "reasoning": {"include_reasoning": True},
    "choices": {"n": 3},
    "logprobs": {"logprobs": True},
}


def events_of(body: dict[str, Any]) -> list[bytes]:
    """What a vLLM streams for a body: one event in each."""
    return [p for p in vllm_like.answer(Request(PATH, {}, body)).body if isinstance(p, bytes)]


@given(data=st.data(), name=st.sampled_from(sorted(STREAMS)))
def test_a_stream_of_vllm_is_what_it_would_have_been_however_it_arrives(data: st.DataObject, name: str) -> None:
    body = {"model": "m", "messages": [], "stream": True, **STREAMS[name]}
    prepared = wire.prepare(body, PATH, vllm=True, rid=None, seed=None)
    events = events_of(prepared.body)
    ends = list(accumulate(map(len, events)))
    # Reads end where events do, mostly: but several may be in one, and one in several.
    together_with_next = data.draw(st.sets(st.sampled_from(ends[:-1]), max_size=8))
    inside = data.draw(st.sets(st.integers(0, ends[-1]), max_size=4))
    together = b"".join(events)
    captured = wire.Captured()
    tap = ChatTap(prepared, captured)
    out, at = b"", 0
    cuts = sorted({*ends} - together_with_next | inside)
    for cut in cuts:
        out += tap.feed(together[at:cut], now_ns=cut)
        at = cut
    out += tap.rest()
    tap.settle()
    assert read_back(out) == read_back(b"".join(events_of(body)))
    alone = wire.Captured()
    for event, end in zip(events[:-1], ends, strict=False):
        alone.chunk(json.loads(event[6:]), min(cut for cut in cuts if cut >= end))  # when its last byte came
    assert captured.done
    assert [c.message() for c in captured.choices.values()] == [c.message() for c in alone.choices.values()]
    assert [c.token_ids for c in captured.choices.values()] == [c.token_ids for c in alone.choices.values()]
    assert [c.logprobs for c in captured.choices.values()] == [c.logprobs for c in alone.choices.values()]
    assert captured.chunk_tokens == alone.chunk_tokens
    assert captured.chunk_times == alone.chunk_times


def test_a_stream_is_passed_on_untouched_when_nothing_was_asked() -> None:
    captured = wire.Captured()
    tap = PassTap(captured.chunks, captured)
    data = b": comment\r\n\r\n" + sse({"choices": [{"index": 0, "delta": {"content": "a"}}]})
    assert tap.feed(data, now_ns=1) + tap.rest() == data
    tap.settle()
    assert captured.first.message()["content"] == "a"


def test_tool_calls_in_pieces_are_put_together() -> None:
    captured = wire.Captured()
    for arguments in ('{"a"', ": 1}"):
        call = {"index": 0, "id": "c1" if arguments[0] == "{" else None, "function": {"arguments": arguments}}
        if call["id"]:
            call["function"] = {"name": "look", "arguments": arguments}
        captured.add({"index": 0, "delta": {"tool_calls": [call]}})
    (whole,) = captured.first.tool_calls
    assert whole["function"] == {"name": "look", "arguments": '{"a": 1}'}
    assert whole["id"] == "c1"


def test_a_server_that_repeats_itself_in_every_part_of_a_tool_call() -> None:
    captured = wire.Captured()
    for call_id, arguments in (("c1", '{"a"'), ("c1", ": 1}"), ("c2", "{}")):  # all at one index, too
        function = {"name": "look", "arguments": arguments}
        call = {"index": 0, "id": call_id, "type": "function", "function": function}
        captured.add({"index": 0, "delta": {"role": "assistant", "tool_calls": [call]}})
    whole = captured.first.message()
    assert whole["role"] == "assistant"
    assert whole["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
    ]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_in_pieces_is_put_together_under_the_name_it_came(name: str) -> None:
    captured = wire.Captured()
    parts = ({"role": "assistant", "content": ""}, {name: "a"}, {name: "b"}, {name: None, "content": "c"})
    captured.chunks([{"choices": [{"index": 0, "delta": part}]} for part in parts], [1, 2, 3, 4])
    message = captured.first.message()
    assert (message[name], message["content"]) == ("ab", "c")
    assert captured.chunk_times == [2, 3, 4]  # the first brings nothing


def test_a_key_in_a_request_is_left_out_and_a_schema_with_such_a_field_is_kept() -> None:
    schema = {"properties": {"password": {"type": "string"}, "token": {"type": "string", "enum": ["a"]}}}
    body = {"stop": ["x"], "api_key": "k", "own": {"access_token": "k", "deep": [{"password": "k", "n": 1}]}}
    kept = wire.sampling({**body, "messages": [], "response_format": {"json_schema": {"schema": schema}}})
    assert kept == {
        "stop": ["x"],
        "own": {"deep": [{"n": 1}]},
        "response_format": {"json_schema": {"schema": schema}},
    }
