"""What runs in the replicas of a cluster on Ray Serve: an endpoint, a vLLM of their own, or an engine's pace.

Imports nothing of Ray: these are plain classes, which `ray_cluster` makes deployments of.
"""

from __future__ import annotations

import asyncio
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from redecode.optimizer.placement.cluster.errors import CallError, ReplicaLost
from redecode.optimizer.placement.cluster.http_engine import find
from redecode.optimizer.placement.cluster.paced import PacedEngine
from redecode.optimizer.placement.cluster.paced_answers import paced_answer
from redecode.optimizer.placement.cluster.prometheus import Load, read_metrics
from redecode.optimizer.placement.cluster.ray_spec import RayCall, RayReplica
from redecode.optimizer.placement.cluster.reading import with_priority

_POLL_S = 0.5
_CONNECT_S, _ANSWER_S = 5.0, 1800.0


class Backend(ABC):
    """What makes answers."""

    load: Load | None = None

    @abstractmethod
    async def open(self) -> None:
        """Begin; when it returns, calls can come."""

    @abstractmethod
    def answer(self, call: RayCall) -> AsyncIterator[Any]:
        """(status, headers), then the body in parts."""

    @abstractmethod
    async def check(self) -> None:
        """Raises if it cannot go on."""

    @abstractmethod
    def close(self) -> None:
        """End."""


class PacedReplica(Backend):
    """Takes an engine's times, and computes nothing."""

    def __init__(self, spec: RayReplica, seed: int | None) -> None:
        self._engine = PacedEngine(spec.engine, seed=seed)

    @property
    def load(self) -> Load:  # type: ignore[override]
        """Now."""
        return self._engine.load()

    async def open(self) -> None:
        """Nothing to begin."""

    async def check(self) -> None:
        """It can always go on."""

    async def answer(self, call: RayCall) -> AsyncIterator[Any]:
        """As long as the engine would take."""
        view = call.view
        chat = call.path.endswith("/chat/completions")
        parts = paced_answer(self._engine, view, chat=chat, stream=call.stream, priority=call.priority)
        try:
            first = await anext(parts)
        except CallError as error:
            yield error.status, {"content-type": "application/json"}
            yield orjson.dumps(error.document())
            return
        yield 200, {"content-type": "text/event-stream" if call.stream else "application/json"}
        yield first
        async for part in parts:
            yield part

    def close(self) -> None:
        """Stop its clock."""
        self._engine.close()


class EndpointReplica(Backend):
    """Passes calls on to a server that is there.

    Raises:
        BadReplica: on `open`, nothing answers there, or another model than it should be.
    """

    def __init__(self, spec: RayReplica) -> None:
        self._spec, self._url = spec, (spec.endpoint or "").rstrip("/").removesuffix("/v1")
        self._session: aiohttp.ClientSession | None = None
        self._poll: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, and ask from then on how it is."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_ANSWER_S)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=timeout,
            auto_decompress=False,
            skip_auto_headers=("accept", "accept-encoding", "user-agent", "content-type"),
        )
        found = await find(self._session, self._url)
        found.engine(self._spec.engine)
        self._poll = asyncio.get_running_loop().create_task(self._ask())

    async def answer(self, call: RayCall) -> AsyncIterator[Any]:
        """What the server answers."""
        assert self._session is not None
        body = call.body
        if self._spec.engine.limits.by_priority and call.priority and not call.own_priority:
            body = with_priority(body, call.priority)
        begun = False
        try:
            async with self._session.post(self._url + call.path, data=body, headers=call.headers) as response:
                kept = ("content-type", "x-request-id", "retry-after", "content-encoding")
                yield response.status, {n: v for n in kept if (v := response.headers.get(n)) is not None}
                begun = True
                async for part in response.content.iter_any():
                    yield part
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            lost = ReplicaLost(f"the replica at {self._url} went away in the middle of the call ({error})")
            if begun:
                raise lost from error
            yield lost.status, {"content-type": "application/json"}
            yield orjson.dumps(lost.document())

    async def check(self) -> None:
        """Raises if the server does not answer: Serve then starts the replica anew."""
        assert self._session is not None
        async with self._session.get(f"{self._url}/v1/models", timeout=aiohttp.ClientTimeout(total=20.0)) as response:
            response.raise_for_status()

    def close(self) -> None:
        """Ask no more. Connections end with the process."""
        if self._poll is not None:
            self._poll.cancel()

    async def _ask(self) -> None:
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=10.0)
        while True:
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with self._session.get(f"{self._url}/metrics", timeout=timeout) as response:
                    metrics = read_metrics((await response.read()).decode(errors="replace"))
                    self.load = None if metrics is None else metrics.load
            await asyncio.sleep(_POLL_S)


class VllmReplica(EndpointReplica):
    """Starts a vLLM of its own, and passes calls on to it. It ends with the replica, if that is let end."""

    def __init__(self, spec: RayReplica) -> None:
        super().__init__(spec)
        self._home = tempfile.TemporaryDirectory(prefix="redecode-vllm-")

    async def open(self) -> None:
        """Start it: seconds on a CPU, minutes for a large model."""
        from redecode.replay.engine import start
        from redecode.replay.engine.launch import EngineOptions

        spec = self._spec
        assert spec.model is not None
        extra = [*spec.vllm_args]
        if spec.engine.limits.by_priority:
            extra += ["--scheduling-policy", "priority"]
        options = EngineOptions(
            served_name=spec.engine.model or None,
            max_num_seqs=spec.engine.limits.max_num_seqs,
            max_model_len=spec.engine.limits.max_model_len,
            extra_args=extra,
        )
        home = Path(self._home.name)
        state = await asyncio.to_thread(start, spec.model, home=home, options=options)
        self._url = state.base_url.rstrip("/").removesuffix("/v1")
        await super().open()

    def close(self) -> None:
        """Stop it, and leave nothing of it."""
        from redecode.replay.engine import stop
        from redecode.replay.engine.errors import EngineError

        super().close()
        with suppress(EngineError):
            stop(Path(self._home.name))
        self._home.cleanup()


def backend(spec: RayReplica, seed: int | None) -> Backend:
    """The one that this replica is."""
    if spec.endpoint is not None:
        return EndpointReplica(spec)
    return VllmReplica(spec) if spec.model is not None else PacedReplica(spec, seed)
