"""What a paced engine answers, as vLLM words it, and a server of its own for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from aiohttp import web

from redecode.optimizer.placement.cluster.calls import Calls, SinceStart
from redecode.optimizer.placement.cluster.errors import BadRequest, CallError, NoSuchModel
from redecode.optimizer.placement.cluster.paced import PacedEngine
from redecode.optimizer.placement.cluster.prometheus import Load
from redecode.optimizer.placement.cluster.reading import Asked, read_call
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import CallView

FINGERPRINT = "redecode-paced"
"""Its `system_fingerprint`: nobody should take its answers for a model's."""
_DEFAULT_TOKENS = 16
_WORD = " token"


async def paced_answer(
    engine: PacedEngine, call: CallView, *, chat: bool, stream: bool, priority: int
) -> AsyncIterator[bytes]:
    """The body of an answer: one part, or the events of a stream when their tokens are there.

    Raises:
        BadRequest: the call can never run on this engine.
    """
    tokens = call.max_tokens or _DEFAULT_TOKENS
    common = {"id": f"paced-{call.call}", "created": 0, "model": call.model, "system_fingerprint": FINGERPRINT}
    made, cached = 0, 0
    try:
        async for paced in engine.call(call.prompt_tokens, tokens, call.hashes, priority):
            new, made, cached = paced.tokens - made, paced.tokens, paced.cached_blocks
            if stream and new:
                yield _event({**common, **_piece(new, chat=chat, last=made == tokens)})
    except ValueError as error:
        raise BadRequest(str(error)) from error
    usage = {
        "prompt_tokens": call.prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": call.prompt_tokens + tokens,
        "prompt_tokens_details": {"cached_tokens": cached * engine.engine.limits.block_size},
    }
    if stream:
        kind = "chat.completion.chunk" if chat else "text_completion"
        yield _event({**common, "object": kind, "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"
    else:
        yield orjson.dumps({**common, **_whole(tokens, chat=chat), "usage": usage})


def _event(document: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"


def _piece(tokens: int, *, chat: bool, last: bool) -> dict[str, Any]:
    text, reason = _WORD * tokens, "length" if last else None
    content = {"delta": {"role": "assistant", "content": text}} if chat else {"text": text}
    kind = "chat.completion.chunk" if chat else "text_completion"
    return {"object": kind, "choices": [{"index": 0, **content, "finish_reason": reason}]}


def _whole(tokens: int, *, chat: bool) -> dict[str, Any]:
    text = _WORD * tokens
    content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    kind = "chat.completion" if chat else "text_completion"
    return {"object": kind, "choices": [{"index": 0, **content, "finish_reason": "length"}]}


def metrics_text(load: Load, engine: Engine) -> str:
    """As vLLM's `/metrics`."""
    limits, label = engine.limits, f'engine="0",model_name="{engine.model}"'
    config = f'block_size="{limits.block_size}",enable_prefix_caching="{limits.prefix_caching}"'
    return (
        f"vllm:num_requests_running{{{label}}} {float(load.running)}\n"
        f"vllm:num_requests_waiting{{{label}}} {float(load.waiting)}\n"
        f"vllm:kv_cache_usage_perc{{{label}}} {load.kv_used}\n"
        f'vllm:cache_config_info{{{config},num_gpu_blocks="{limits.kv_blocks + 1}"}} 1.0\n'
    )


def paced_server(engine: Engine, *, seed: int | None = None) -> web.Application:
    """A server that takes as long as the engine would: chat and text completions, models, health, metrics."""
    paced = PacedEngine(engine, seed=seed)
    calls = Calls(SinceStart.now())

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            asked = read_call(request.path, request.headers, await request.read())
            if asked.model != engine.model:
                raise NoSuchModel(f"the model {asked.model!r} is not served here; there is {engine.model}")
            parts = paced_answer(
                paced,
                calls.view(asked, engine),
                chat=is_chat(asked),
                stream=asked.stream,
                priority=asked.priority or 0,
            )
            first = await anext(parts)
        except CallError as error:
            return web.json_response(error.document(), status=error.status)
        kind = "text/event-stream" if asked.stream else "application/json"
        response = web.StreamResponse(headers={"content-type": kind})
        await response.prepare(request)
        await response.write(first)
        async for part in parts:
            await response.write(part)
        await response.write_eof()
        return response

    async def models(request: web.Request) -> web.Response:
        card = {"id": engine.model, "object": "model", "owned_by": "vllm", "max_model_len": engine.limits.max_model_len}
        return web.json_response({"object": "list", "data": [card]})

    async def health(request: web.Request) -> web.Response:
        return web.Response()

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=metrics_text(paced.load(), engine))

    async def close(app: web.Application) -> None:
        paced.close()

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_post("/v1/completions", answer)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/health", health)
    app.router.add_get("/metrics", metrics)
    app.on_cleanup.append(close)
    return app


def is_chat(asked: Asked) -> bool:
    """Whether its answer is a message."""
    return asked.path.endswith("/chat/completions")
