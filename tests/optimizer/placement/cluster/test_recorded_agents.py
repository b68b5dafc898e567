"""A recorded agent before a cluster: nothing in it is changed, and the router knows its run, step and deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from redecode import tracer
from redecode.optimizer.placement.cluster.paced_answers import paced_server
from tests.optimizer.placement.cluster.conftest import Live, an_engine
from tests.optimizer.placement.cluster.policies import First

Make = Callable[..., Awaitable[Live]]
ServeApp = Callable[[web.Application], Awaitable[str]]


def call(url: str, store: Path) -> None:
    """As a program would that is recorded."""
    tracer.instrument(store, agent="naïve agent", slo_s=2.5)
    try:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
            ask: Any = [{"role": "user", "content": "hi"}]
            client.chat.completions.create(model="m", messages=ask, max_tokens=2)
    finally:
        tracer.uninstrument()


async def test_the_router_is_told_run_step_agent_and_slo(live: Make, serve_app: ServeApp, store: Path) -> None:
    at = await live(First(), await serve_app(paced_server(an_engine())))
    await asyncio.to_thread(call, at.url, store)
    (run,) = tracer.Store(store).runs()
    (decode,) = tracer.Store(store).load(run.run_id).decodes
    (choice,) = at.cluster.placing.choices
    assert (choice.call.agent, choice.call.step) == ("naïve agent", decode.step_key)
    assert choice.call.deadline_s == pytest.approx(choice.call.run_began_s + 2.5)


@pytest.mark.parametrize(("owner", "told"), [("vllm", True), ("someone", False)])
async def test_only_a_vllm_is_told(serve_app: ServeApp, store: Path, owner: str, told: bool) -> None:
    got: list[list[str]] = []

    async def answer(request: web.Request) -> web.Response:
        got.append([name.lower() for name in request.headers if name.lower().startswith("x-redecode")])
        message = {"role": "assistant", "content": "hi"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"id": "1", "created": 1, "model": "m", "choices": [choice]})

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "owned_by": owner}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_get("/v1/models", models)
    await asyncio.to_thread(call, await serve_app(app), store)
    names = ["x-redecode-agent", "x-redecode-run", "x-redecode-slo", "x-redecode-step"]
    assert [sorted(headers) for headers in got] == [names if told else []]
