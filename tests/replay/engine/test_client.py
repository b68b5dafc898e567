"""The client against small servers of our own: what it asks, what it makes of the answer, what it refuses."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from redecode.replay.engine.client import EngineClient, pack_tokens
from redecode.replay.engine.errors import (
    EngineLacksPlugin,
    EngineRefused,
    EngineUnreachable,
    TokensNotForceable,
)
from redecode.replay.engine.processes import boot_id
from tests.replay.engine.small_server import Request, Response, serving

INFO: dict[str, Any] = {
    "protocol": 1,
    "engine": "vllm",
    "force": True,
    "step_clock": True,
    "model": "/models/tiny",
    "served_model_name": "tiny",
    "vocab_size": 100,
    "boot_id": boot_id(),
    "monotonic_ns": 1,
    "time_ns": 2,
}
METRICS = {"queue_time_ms": 0.5, "time_to_first_token_ms": 2.25, "generation_time_ms": 10.0}
STEPS = {
    "t_ns": [10, 20],
    "start_ns": [5, 15],
    "rows": [1, 1],
    "k": [0, 1],
    "context_tokens": [3, 4],
    "prefill_tokens": [3, 0],
}


class Engine:
    """Answers as vLLM does, always with tokens 7 and 2, and remembers what it was asked."""

    def __init__(self, info: dict[str, Any] | None = None) -> None:
        self.info = INFO | (info or {})
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, request: Request) -> Response:
        path = request.url.path
        if path == "/redecode/info":
            return Response(200, json=self.info)
        body = orjson.loads(request.content)
        self.asked.append((path, body))
        if path == "/redecode/steps":
            clocks = {"boot_id": boot_id(), "monotonic_ns": 1, "time_ns": 2}
            return Response(200, json={**clocks, "steps": dict.fromkeys(body["rids"], STEPS)})
        if path == "/tokenize":
            return Response(200, json={"tokens": [1, 2, 3]})
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}}
        tail = {"usage": usage, "metrics": METRICS, "system_fingerprint": "vllm-x"}
        choices = [
            {"token_ids": [token], "logprobs": self._logprobs(path, logprob), "finish_reason": reason}
            for token, logprob, reason in ((7, -0.5, None), (2, -1.5, "length"))
        ]
        if body.get("stream"):
            parts = [*({"choices": [choice]} for choice in choices), {"choices": [], **tail}]
            return Response(200, parts=[*(b"data: " + orjson.dumps(part) for part in parts), b"data: [DONE]"])
        whole = {"token_ids": [7, 2], "logprobs": self._logprobs(path, -0.5, -1.5), "finish_reason": "length"}
        return Response(200, json={"choices": [whole], **tail})

    @staticmethod
    def _logprobs(path: str, *values: float) -> dict[str, Any]:
        if path == "/v1/completions":
            return {"token_logprobs": list(values)}
        return {"content": [{"token_id": 1, "logprob": value} for value in values]}


@asynccontextmanager
async def client(handler: Callable[[Request], Response], **settings: Any) -> AsyncIterator[EngineClient]:
    async with serving(handler) as url, EngineClient(f"{url}/v1/", **settings) as engine:
        yield engine


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("info", [{}, {"trace_replay": True}], ids=["ours", "native"])
async def test_an_answer_is_put_together(stream: bool, info: dict[str, Any]) -> None:
    async with client(Engine(info)) as engine:
        answer = await engine.complete([1, 2, 3], sampling={}, force=[7, 2], rid="r", stream=stream)
    assert answer.token_ids == (7, 2)
    assert answer.logprobs == (-0.5, -1.5)
    assert (answer.finish_reason, answer.system_fingerprint) == ("length", "vllm-x")
    assert (answer.prompt_tokens, answer.cached_tokens) == (3, 0)
    assert (answer.queue_ns, answer.prefill_ns, answer.decode_ns) == (500_000, 2_250_000, 10_000_000)
    assert answer.token_times_ns == (10, 20)
    assert 0 < answer.sent_ns < answer.done_ns
    if stream:
        assert answer.sent_ns < (answer.first_chunk_ns or 0) <= answer.done_ns
        assert [n for _, n in answer.chunks] == [1, 1]
        assert answer.chunks[0][0] == answer.first_chunk_ns
    else:
        assert (answer.first_chunk_ns, answer.chunks) == (None, ())


async def test_a_forced_call_asks_for_exactly_these_tokens() -> None:
    handler = Engine()
    sampling = {"temperature": 0.7, "top_p": 0.9, "seed": 1, "stop": ["x"], "max_tokens": 99, "top_k": None}
    async with client(handler) as engine:
        await engine.complete([1, 2], sampling=sampling, force=[7, 2], rid="r1", with_steps=False, priority=3)
    ((path, body),) = handler.asked
    assert path == "/v1/completions"
    assert body == {
        "model": "tiny",
        "prompt": [1, 2],
        "request_id": "r1",
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 2,
        "ignore_eos": True,
        "return_token_ids": True,
        "logprobs": 0,
        "priority": 3,
        "vllm_xargs": {"redecode_rid": "r1", "redecode_force": base64.b64encode(struct.pack("<2i", 7, 2)).decode()},
    }


async def test_the_native_way_is_taken_where_it_is_offered() -> None:
    handler = Engine({"force": False, "trace_replay": True})
    async with client(handler) as engine:
        await engine.complete(
            [1, 2], sampling={"temperature": 0.7, "seed": 1}, force=[7, 2], rid="r1", with_steps=False
        )
    ((path, body),) = handler.asked
    assert path == "/inference/v1/generate"
    assert body["token_ids"] == [1, 2]
    assert body["sampling_params"] == {
        "temperature": 0.7,
        "trace_decode_token_ids": [7, 2],
        "max_tokens": 2,
        "logprobs": 0,
    }


async def test_a_free_call_keeps_its_sampling() -> None:
    handler = Engine()
    async with client(handler) as engine:
        await engine.complete([1], sampling={"seed": 5, "stop": ["x"], "top_k": None}, rid="r", with_steps=False)
    body = handler.asked[0][1]
    assert (body["seed"], body["stop"], body["max_tokens"]) == (5, ["x"], None)
    assert "top_k" not in body
    assert body["vllm_xargs"] == {"redecode_rid": "r"}


@pytest.mark.parametrize(
    "info",
    [{"step_clock": False}, {"boot_id": "another host"}, {"boot_id": None}],
    ids=["no clock", "other boot", "unknown boot"],
)
async def test_times_of_a_clock_that_is_not_ours_are_not_used(info: dict[str, Any]) -> None:
    async with client(Engine(info)) as engine:
        answer = await engine.complete([1], sampling={}, rid="r")
    assert answer.steps is None
    assert answer.token_times_ns is None


async def test_many_step_clocks_are_fetched_in_parts() -> None:
    handler = Engine()
    rids = [f"r{i}" for i in range(2_500)]
    async with client(handler) as engine:
        answer = await engine.steps(rids)
    assert list(answer.steps) == rids
    assert [len(body["rids"]) for _, body in handler.asked] == [1000, 1000, 500]


@pytest.mark.parametrize(
    ("info", "force", "words"),
    [
        ({}, [], "no tokens"),
        ({}, [3, 100], r"ids 3\.\.100, but tiny knows 0\.\.99"),
        ({}, [-1], "another model"),
        ({"force": False}, [1], "cannot force"),
        ({"max_model_len": 4}, [1, 2, 3, 4], "5 tokens long .*takes 4: start it with --max-model-len 5"),
    ],
    ids=["none", "past the vocabulary", "negative", "no plug-in", "too long"],
)
async def test_what_cannot_be_forced_is_not_sent(info: dict[str, Any], force: list[int], words: str) -> None:
    handler = Engine(info)
    async with client(handler) as engine:
        with pytest.raises(TokensNotForceable, match=words):
            await engine.complete([1], sampling={}, force=force, rid="r")
    assert handler.asked == []


async def test_nothing_at_the_url() -> None:
    async with EngineClient("http://127.0.0.1:9") as engine:
        with pytest.raises(EngineUnreachable, match=r"http://127\.0\.0\.1:9 .*redecode engine start"):
            await engine.info()


async def test_an_engine_without_our_plugin() -> None:
    async with client(lambda _: Response(404, json={"detail": "Not Found"})) as engine:
        with pytest.raises(EngineLacksPlugin, match=r"--logits-processors .*--middleware"):
            await engine.complete([1], sampling={}, force=[1], rid="r")


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (Response(400, json={"error": {"message": "no such thing"}}), "answered 400: no such thing"),
        (Response(401, json={"error": "Unauthorized"}), "401: Unauthorized .set the API key"),
        (Response(500, content=b"oops"), "answered 500: oops"),
        (Response(200, content=b"<html>"), "no JSON"),
        (Response(200, json=INFO | {"protocol": 2}), "speaks protocol 2, not 1"),
        (Response(200, json={"protocol": 1}), "does not fit"),
    ],
    ids=["bad request", "no key", "broken", "no JSON", "newer", "fields missing"],
)
async def test_errors_say_what_the_engine_said(response: Response, words: str) -> None:
    async with client(lambda _: response) as engine:
        with pytest.raises(EngineRefused, match=words):
            await engine.info()


async def test_an_error_inside_a_stream_is_an_error() -> None:
    def handler(request: Request) -> Response:
        if request.url.path == "/redecode/info":
            return Response(200, json=INFO)
        return Response(200, parts=[b'data: {"error": {"message": "engine died"}}'])

    async with client(handler) as engine:
        with pytest.raises(EngineRefused, match="engine died"):
            await engine.complete([1], sampling={}, rid="r", stream=True)


async def test_the_key_goes_with_every_request() -> None:
    seen: list[str | None] = []

    def handler(request: Request) -> Response:
        seen.append(request.headers.get("authorization"))
        return Engine()(request)

    async with client(handler, api_key="k") as engine:
        await engine.complete([1], sampling={}, rid="r")
        assert await engine.tokenize("text") == [1, 2, 3]
    assert set(seen) == {"Bearer k"}


@pytest.mark.parametrize(
    ("answers", "done"),
    [
        ({"/redecode/reset_prefix_cache": 200}, True),
        ({"/redecode/reset_prefix_cache": 404, "/reset_prefix_cache": 200}, True),
        ({"/redecode/reset_prefix_cache": 404, "/reset_prefix_cache": 404}, False),
    ],
    ids=["ours", "vLLM's", "none"],
)
async def test_the_prefix_cache_is_reset_where_that_is_possible(answers: dict[str, int], done: bool) -> None:
    async with client(lambda r: Response(answers[r.url.path], json={"success": True})) as engine:
        assert await engine.reset_prefix_cache() is done


def test_tokens_are_packed_as_the_plugin_reads_them() -> None:
    assert pack_tokens([1, 256, 2**31 - 1]) == base64.b64encode(b"\1\0\0\0\0\1\0\0\xff\xff\xff\x7f").decode()
