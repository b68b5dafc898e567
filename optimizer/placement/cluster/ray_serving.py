"""The two deployments of a cluster on Ray Serve: `Replicas`, and one `Front` that callers talk to.

There is one front, since its handle's router is where all calls are seen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from redecode.optimizer.placement.cluster.calls import Calls, SinceStart
from redecode.optimizer.placement.cluster.errors import BadRequest, CallError, NoSuchModel
from redecode.optimizer.placement.cluster.ray_replicas import backend
from redecode.optimizer.placement.cluster.ray_spec import RANK, RayCall, shown_placing, unpack
from redecode.optimizer.placement.cluster.reading import read_call
from redecode.optimizer.placement.cluster.shown import decided, plain_replica
from redecode.tracer.clock import Clock

_ONWARD = ("authorization", "content-type", "traceparent", "tracestate", "x-request-id", "accept")


class Replicas:
    """One replica: of the kind that is the turn of its rank."""

    async def __init__(self, packed: str) -> None:  # type: ignore[misc]
        spec = unpack(packed)
        self._rank = serve.get_replica_context().rank.rank
        replica = spec.replicas[self._rank % len(spec.replicas)]
        self._backend = backend(replica, None if spec.seed is None else spec.seed + self._rank)
        self._outstanding = self._prompt_tokens = 0
        await self._backend.open()

    async def answer(self, call: RayCall) -> AsyncIterator[Any]:
        """(status, headers), then the body in parts."""
        self._outstanding += 1
        self._prompt_tokens += call.view.prompt_tokens
        try:
            async for part in self._backend.answer(call):
                yield part
        finally:
            self._outstanding -= 1
            self._prompt_tokens -= call.view.prompt_tokens

    def record_replica_metadata(self) -> dict[str, Any]:
        """Serve's: once, for the router."""
        return {RANK: self._rank}

    def record_routing_stats(self) -> dict[str, Any]:
        """Serve's: every so often, for the router."""
        own = {"outstanding": self._outstanding, "outstanding_prompt_tokens": self._prompt_tokens}
        load = self._backend.load
        if load is None:
            return own
        return {**own, "running": load.running, "waiting": load.waiting, "kv_used": load.kv_used}

    async def check_health(self) -> None:
        """Serve's: raises if the replica is to be started anew."""
        await self._backend.check()

    def __del__(self) -> None:
        if (opened := getattr(self, "_backend", None)) is not None:
            opened.close()


class Front:
    """What callers talk to: reads calls, hands them to the replicas, and their answers back."""

    def __init__(self, replicas: Any, packed: str) -> None:
        spec = unpack(packed)
        self._spec = spec
        self._calls = Calls(SinceStart(Clock.start(), spec.began_ns), spec.slo_s, spec.slo_by_agent)
        self._replicas = replicas.options(stream=True, method_name="answer")

    async def __call__(self, request: Request) -> Response:
        """One request of any kind."""
        path = request.url.path
        try:
            if request.method == "POST":
                return await self._answer(request, path)
            return self._page(path, request)
        except CallError as error:
            return JSONResponse(error.document(), status_code=error.status, headers=error.headers())

    async def _answer(self, request: Request, path: str) -> Response:
        body = await request.body()
        asked = read_call(path, request.headers, body)
        engine = self._spec.serving(asked.model)
        if engine is None:
            known = ", ".join(sorted({r.engine.model for r in self._spec.replicas}))
            raise NoSuchModel(f"the model {asked.model!r} is not served here; there is {known}")
        headers = {name: value for name in _ONWARD if (value := request.headers.get(name)) is not None}
        call = RayCall(
            view=self._calls.view(asked, engine),
            path=path,
            body=body,
            headers=headers,
            stream=asked.stream,
            priority=asked.priority or 0,
            own_priority=asked.priority is not None,
        )
        parts = self._replicas.remote(call)
        done = False
        try:
            status, back = await anext(parts)
            if asked.stream and status == 200:
                done = True
                return StreamingResponse(_rest(parts), status_code=status, headers=back)
            whole = b"".join([part async for part in parts])
            done = True
        finally:
            if not done:
                parts.cancel()
        if status == 200 and asked.tokens is None:
            self._learn(asked, whole)
        return Response(whole, status_code=status, headers=back)

    def _learn(self, asked: Any, whole: bytes) -> None:
        try:
            tokens = orjson.loads(whole)["usage"]["prompt_tokens"]
        except (ValueError, KeyError, TypeError):
            return
        if isinstance(tokens, int):
            self._calls.measured(asked, tokens)

    def _page(self, path: str, request: Request) -> Response:
        placing = shown_placing(self._spec.name)
        if path.endswith("/v1/models"):
            names = dict.fromkeys(r.engine.model for r in self._spec.replicas)
            return JSONResponse(
                {"object": "list", "data": [{"id": n, "object": "model", "owned_by": "vllm"} for n in names]}
            )
        if path.endswith("/health"):
            return Response()
        if path.endswith("/redecode/replicas"):
            known = [] if placing is None else [plain_replica(r) for r in placing.replicas]
            return JSONResponse({"replicas": known})
        if path.endswith("/redecode/decisions"):
            kept = [] if placing is None else list(placing.choices.copy())
            return JSONResponse(decided(kept, request.query_params.get("last", "100")))
        raise _NoSuchPage(f"there is no {request.method} {path} here")


class _NoSuchPage(BadRequest):
    status, kind = 404, "not_found_error"


async def _rest(parts: Any) -> AsyncIterator[bytes]:
    done = False
    try:
        async for part in parts:
            yield part
        done = True
    finally:
        if not done:
            parts.cancel()
