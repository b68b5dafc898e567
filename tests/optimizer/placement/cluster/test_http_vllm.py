"""The front before a real vLLM: what it learns of it, and that nothing of an answer or a recording is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from redecode import tracer
from redecode.replay.engine import EngineClient
from redecode.tracer.records import Fidelity, TimeSource
from tests.optimizer.placement.cluster.conftest import Live
from tests.optimizer.placement.cluster.policies import MostCached

pytestmark = pytest.mark.vllm

Make = Callable[..., Awaitable[Live]]
MODEL = "redecode-fm-xs"


async def test_an_engine_is_known_by_its_own_words_and_polled(live: Make, engine_url: str) -> None:
    at = await live(MostCached(), engine_url)
    (replica,) = at.cluster.placing.replicas
    async with EngineClient(engine_url) as client:
        info = await client.info()
    limits = replica.engine.limits
    assert replica.engine.model == MODEL
    assert (limits.max_num_seqs, limits.max_model_len) == (info.max_num_seqs, info.max_model_len)
    assert (limits.kv_blocks, limits.block_size) == (info.kv_blocks, info.block_size)  # type: ignore[attr-defined]
    assert not limits.by_priority
    calls: list[asyncio.Future[Any]] = []
    async with asyncio.timeout(120):
        while replica.load is None or replica.load.running < 3:
            if all(c.done() for c in calls):  # it may be over before somebody has looked
                calls = [asyncio.ensure_future(ask(at, 200)) for _ in range(3)]
            await asyncio.sleep(0.01)
    assert replica.free_kv_blocks < limits.kv_blocks
    await asyncio.gather(*calls)


async def test_a_stream_through_the_front_is_that_of_the_engine(live: Make, engine_url: str) -> None:
    at = await live(MostCached(), engine_url)
    body = {"model": MODEL, "prompt": [5, 6, 7], "max_tokens": 12, "temperature": 0, "stream": True}
    texts = []
    for root in (engine_url.removesuffix("/v1"), at.url):
        async with at.client.post(f"{root}/v1/completions", json=body) as response:
            events = [line[6:] for line in (await response.text()).splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        texts.append("".join(c["text"] for e in events[:-1] for c in json.loads(e)["choices"]))
    assert texts[0] == texts[1]


async def test_an_agent_is_recorded_through_the_front_as_from_the_engine(
    live: Make, engine_url: str, store: Path
) -> None:
    at = await live(MostCached(), engine_url)

    def agent() -> None:
        tracer.instrument(store, agent="a")
        try:
            with openai.OpenAI(base_url=f"{at.url}/v1", api_key="k", max_retries=0) as client:
                client.completions.create(model=MODEL, prompt="Name: ", max_tokens=6, extra_body={"ignore_eos": True})
        finally:
            tracer.uninstrument()

    await asyncio.to_thread(agent)
    (run,) = tracer.Store(store).runs()
    (decode,) = tracer.Store(store).load(run.run_id).decodes
    assert decode.fidelity is Fidelity.ENGINE
    assert decode.token_time_source is TimeSource.ENGINE
    assert len(decode.sampled_ids or ()) == 6
    assert at.cluster.placing.choices[-1].call.step == decode.step_key


async def test_when_a_caller_leaves_the_engine_stops(live: Make, engine_url: str) -> None:
    at = await live(MostCached(), engine_url)
    (replica,) = at.cluster.placing.replicas

    async def made() -> float:
        async with at.client.get(f"{replica.name}/metrics") as response:
            lines = (await response.text()).splitlines()
        return sum(float(n.rpartition(" ")[2]) for n in lines if n.startswith("vllm:generation_tokens_total"))

    before = await made()
    call = asyncio.ensure_future(ask(at, 1000))
    async with asyncio.timeout(20):
        while replica.load is None or replica.load.running != 1:
            await asyncio.sleep(0.01)
        call.cancel()
        while replica.load.running:
            await asyncio.sleep(0.01)
    assert await made() - before < 1000


async def ask(at: Live, tokens: int) -> Any:
    body = {"model": MODEL, "prompt": [5, 6, 7], "max_tokens": tokens, "ignore_eos": True}
    timeout = aiohttp.ClientTimeout(total=60)
    async with at.client.post(f"{at.url}/v1/completions", json=body, timeout=timeout) as response:
        return await response.json()
