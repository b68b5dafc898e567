"""A real vLLM with our plug-in: forced tokens come out, and the step clock tells the engine's time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from itertools import pairwise
from statistics import mean
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from redecode.replay.engine.client import EngineClient, pack_tokens
from redecode.replay.engine.errors import EngineRefused, TokensNotForceable
from redecode.replay.engine.processes import boot_id

pytestmark = pytest.mark.vllm

PROMPT = "Article: Anna Smith lives in Berlin. Her email is anna@x.org. Question: name?"


@pytest_asyncio.fixture
async def engine(engine_url: str) -> AsyncIterator[EngineClient]:
    async with EngineClient(engine_url) as client:
        yield client


async def tokens_of(engine: EngineClient, seed: int, n: int = 40) -> list[int]:
    """Tokens that the model would hardly sample, so that only forcing explains them."""
    vocab = (await engine.info()).vocab_size
    assert vocab is not None
    rng = random.Random(seed)
    return [rng.randrange(vocab) for _ in range(n)]


async def post(engine: EngineClient, path: str, body: dict[str, Any]) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=engine.base_url, timeout=60, trust_env=False) as http:
        return await http.post(path, json=body)


async def test_info_says_what_a_recording_needs(engine: EngineClient) -> None:
    info = await engine.info()
    assert (info.engine, info.force, info.step_clock, info.runner) == ("vllm", True, True, "v1")
    assert info.boot_id == boot_id()
    assert info.weights_sha256 is not None
    assert len(info.weights_sha256) == 64
    known = info.model_dump(exclude={"digests_pending", "trace_replay"})
    unknown = [name for name, value in known.items() if value is None]
    assert set(unknown) <= {"quantization"}
    assert info.chunked_prefill is False
    assert info.threads == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_forced_tokens_come_out(engine: EngineClient, temperature: float, stream: bool) -> None:
    prompt, force = await engine.tokenize(PROMPT), await tokens_of(engine, 1)
    answer = await engine.complete(
        prompt, sampling={"temperature": temperature}, force=force, rid=f"out-{temperature}-{stream}", stream=stream
    )
    assert list(answer.token_ids) == force
    assert answer.finish_reason == "length"
    assert answer.logprobs is not None
    assert max(answer.logprobs) < 0  # the model's own, not those of the forced distribution
    assert answer.prompt_tokens == len(prompt)
    if stream:
        assert sum(n for _, n in answer.chunks) == len(force)


@pytest.mark.parametrize("form", ["list", "base64"])
@pytest.mark.parametrize("route", ["completions", "chat"])
async def test_both_forms_and_both_routes_force(engine: EngineClient, form: str, route: str) -> None:
    force, info = await tokens_of(engine, 2), await engine.info()
    body: dict[str, Any] = {
        "model": info.served_model_name,
        "max_tokens": len(force),
        "ignore_eos": True,
        "return_token_ids": True,
        "vllm_xargs": {"redecode_force": force if form == "list" else pack_tokens(force)},
    }
    if route == "chat":
        path = "/v1/chat/completions"
        body["messages"] = [{"role": "user", "content": PROMPT}]
    else:
        path = "/v1/completions"
        body["prompt"] = PROMPT
    response = await post(engine, path, body)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["token_ids"] == force


async def test_an_end_token_in_the_middle_does_not_end_it(engine: EngineClient) -> None:
    force = await tokens_of(engine, 3)
    force[5] = force[20] = 2  # the models' </s>
    answer = await engine.complete(await engine.tokenize(PROMPT), sampling={"stop": ["e"]}, force=force, rid="eos")
    assert list(answer.token_ids) == force


async def test_no_sampling_parameter_gets_in_the_way(engine: EngineClient) -> None:
    force = await tokens_of(engine, 4)
    sampling = {
        "temperature": 0.7,
        "top_k": 1,
        "top_p": 0.01,
        "min_p": 0.9,
        "repetition_penalty": 2.0,
        "presence_penalty": 2.0,
        "logit_bias": {str(force[0]): -100.0},
        "seed": 5,
        "stop": ["a"],
        "max_tokens": 3,
    }
    answer = await engine.complete(await engine.tokenize(PROMPT), sampling=sampling, force=force, rid="sampling")
    assert list(answer.token_ids) == force


async def test_the_logprobs_are_those_of_the_recording(engine: EngineClient) -> None:
    prompt = await engine.tokenize(PROMPT)
    await engine.reset_prefix_cache()
    recorded = await engine.complete(prompt, sampling={"temperature": 1.0, "seed": 3, "max_tokens": 30}, rid="rec")
    await engine.reset_prefix_cache()
    forced = await engine.complete(prompt, sampling={"temperature": 1.0}, force=recorded.token_ids, rid="rep")
    assert forced.token_ids == recorded.token_ids
    assert forced.logprobs == recorded.logprobs
    assert forced.system_fingerprint == recorded.system_fingerprint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vllm_xargs": {"redecode_force": []}}, "non-empty"),
        ({"vllm_xargs": {"redecode_force": [-1]}}, "integers"),
        ({"vllm_xargs": {"redecode_force": "?"}}, "base64"),
        ({"ignore_eos": False}, "ignore_eos"),
        ({"stop": ["x"]}, "no stop"),
        ({"stop_token_ids": [7]}, "no stop"),
        ({"n": 2}, "n=1"),
        ({"vllm_xargs": {"redecode_rid": ""}}, "redecode_rid"),
    ],
    ids=["empty", "negative", "no base64", "eos", "stop", "stop ids", "n", "rid"],
)
async def test_a_request_that_could_not_be_exact_gets_400(
    engine: EngineClient, change: dict[str, Any], words: str
) -> None:
    body = {"prompt": [5, 6], "max_tokens": 1, "ignore_eos": True, "vllm_xargs": {"redecode_force": [1]}}
    response = await post(engine, "/v1/completions", body | {"model": (await engine.info()).served_model_name} | change)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


async def test_a_prompt_that_does_not_fit_is_refused_in_one_line(engine: EngineClient) -> None:
    limit = (await engine.info()).max_model_len
    assert limit is not None
    with pytest.raises(EngineRefused, match=str(limit)):
        await engine.complete([5] * (limit + 1), sampling={"max_tokens": 1}, rid="long")
    with pytest.raises(TokensNotForceable, match=f"--max-model-len {limit + 1}"):
        await engine.complete([5] * (limit - 1), sampling={}, force=[1, 2], rid="long forced")
    answer = await engine.complete([5] * (limit - 2), sampling={}, force=[1, 2], rid="just fits")
    assert answer.token_ids == (1, 2)


async def test_eight_at_once_keep_their_own_tokens(engine: EngineClient) -> None:
    prompt = await engine.tokenize(PROMPT)
    forces = [await tokens_of(engine, 100 + i, n=150 + i) for i in range(8)]
    answers = await asyncio.gather(
        *(engine.complete(prompt, sampling={}, force=f, rid=f"eight-{i}") for i, f in enumerate(forces))
    )
    assert [list(answer.token_ids) for answer in answers] == forces
    steps = [answer.steps for answer in answers]
    assert all(s is not None and s.k == list(range(len(f))) for s, f in zip(steps, forces, strict=True))
    assert max(max(s.rows) for s in steps if s is not None) > 1  # they did share steps
    assert all(max(s.rows) <= 8 for s in steps if s is not None)


async def test_the_step_clock_agrees_with_the_engines_own_metrics(engine: EngineClient) -> None:
    prompt, force = await engine.tokenize(PROMPT), await tokens_of(engine, 7, n=200)
    answer = await engine.complete(prompt, sampling={}, force=force, rid="clock")
    times = answer.token_times_ns
    assert times is not None
    assert answer.decode_ns is not None
    assert answer.prefill_ns is not None
    gaps_ns = [b - a for a, b in pairwise(times)]
    assert min(gaps_ns) > 0
    assert answer.sent_ns < times[0] < times[-1] < answer.done_ns
    # vLLM stamps a token when the step's output leaves the engine core, we when its logits are ready:
    # the two may differ by the tail of one step at either end, so the mean gap by that over n.
    assert mean(gaps_ns) == pytest.approx(answer.decode_ns / (len(force) - 1), rel=0.1)
    assert abs((times[-1] - times[0]) - answer.decode_ns) < max(gaps_ns) + 2_000_000
    assert answer.steps is not None
    assert answer.steps.context_tokens == [len(prompt) + k for k in range(len(force))]
    assert answer.steps.prefill_tokens == [len(prompt)] + [0] * (len(force) - 1)
    assert all(start < t for start, t in zip(answer.steps.start_ns, answer.steps.t_ns, strict=True))


async def test_steps_of_many_calls_at_once_and_of_none_that_is_unknown(engine: EngineClient) -> None:
    prompt = await engine.tokenize(PROMPT)
    for i in range(3):
        await engine.complete(prompt, sampling={}, force=[1, 2, 3], rid=f"many-{i}", with_steps=False)
    answer = await engine.steps(["many-0", "many-1", "many-2", "never"])
    assert list(answer.steps) == ["many-0", "many-1", "many-2"]
    assert all(steps.k == [0, 1, 2] for steps in answer.steps.values())
    assert answer.boot_id == boot_id()


async def test_a_reset_prefix_cache_is_cold(engine: EngineClient) -> None:
    prompt = (await engine.tokenize(PROMPT)) * 4
    cached = []
    for i, reset in enumerate((True, False, True)):
        if reset:
            assert await engine.reset_prefix_cache()
        answer = await engine.complete(prompt, sampling={}, force=[1], rid=f"cold-{i}")
        cached.append(answer.cached_tokens)
    assert cached[0] == cached[2] == 0
    assert cached[1]


async def test_calls_without_our_fields_are_untouched(engine: EngineClient) -> None:
    body = {"model": (await engine.info()).served_model_name, "prompt": PROMPT, "max_tokens": 5, "temperature": 0}
    first, second = [(await post(engine, "/v1/completions", body)).json()["choices"][0]["text"] for _ in range(2)]
    assert first == second
