"""What callers of an HTTP cluster talk to: an OpenAI-compatible server that sends each call where the policy says.

Bodies pass as they come, both ways, byte for byte and piece by piece; nothing but vLLM's `priority` is added, and only
where the engine schedules by it.

A call goes to another replica only when the first could not be connected to. One that got there is never sent again:
an engine may have died of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import aiohttp
import orjson
from aiohttp import web
from multidict import CIMultiDict

from redecode.optimizer.placement.cluster.errors import BadReplica, CallError, NoReplica, ReplicaLost
from redecode.optimizer.placement.cluster.http_cluster import HttpCluster
from redecode.optimizer.placement.cluster.http_pages import Pages
from redecode.optimizer.placement.cluster.placing import Placed
from redecode.optimizer.placement.cluster.reading import Asked, read_call, with_priority

MOST_BYTES = 256 * 2**20
"""Of a request."""
_CALLS = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings", "/pooling", "/score",
    "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank", "/classify", "/inference/v1/generate",
)  # fmt: skip
_OF_A_HOP = frozenset(
    {
        "connection", "content-length", "host", "keep-alive", "proxy-authenticate", "proxy-authorization", "te",
        "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_PROMPT_TOKENS = re.compile(rb'"prompt_tokens":\s*(\d+)')
_REPLICA = "x-redecode-replica"


class _NotConnected(Exception):
    """The call did not get there."""


def front(cluster: HttpCluster, *, admin_key: str | None = None) -> web.Application:
    """The server, to be run by aiohttp; with `handler_cancellation`, or calls go on when their callers are gone.

    Args:
        admin_key: lets one add and take away replicas (`Authorization: Bearer ...`); nobody may without.
    """
    app = web.Application(client_max_size=MOST_BYTES)
    calls = Front(cluster)
    for path in _CALLS:
        app.router.add_post(path, calls.answer)
    Pages(cluster, admin_key).add_to(app)
    return app


async def listen(app: web.Application, host: str, port: int) -> web.AppRunner:
    """Serve it; `cleanup()` ends that.

    Raises:
        BadReplica: the port cannot be had.
    """
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise BadReplica(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another port") from error
    return runner


class Front:
    """Answers calls."""

    def __init__(self, cluster: HttpCluster) -> None:
        self._cluster = cluster

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One call."""
        try:
            body = await request.read()
            asked = read_call(request.path, request.headers, body)
            call = self._cluster.view(asked)
            tried: list[int] = []
            while True:
                placed = await self._cluster.place(call, without=tried)
                try:
                    return await self._pass(request, asked, body, placed)
                except _NotConnected as error:
                    self._cluster.lost(placed.replica)
                    tried.append(placed.replica.number)
                    if len(tried) >= len(self._cluster.placing.replicas):
                        raise NoReplica(f"no replica of {call.model} can be reached: {error}") from error
                finally:
                    self._cluster.placing.ended(placed)
        except CallError as error:
            return web.json_response(error.document(), status=error.status, headers=error.headers())

    async def _pass(self, request: web.Request, asked: Asked, body: bytes, placed: Placed) -> web.StreamResponse:
        """Send it, and hand on what comes back.

        Raises:
            _NotConnected: nobody is there.
            ReplicaLost: it went away before anything of its answer was handed on.
        """
        replica = placed.replica
        if replica.engine.limits.by_priority and placed.priority and asked.priority is None:
            body = with_priority(body, placed.priority)
        try:
            upstream = await self._cluster.session.post(
                replica.name + request.raw_path,
                data=body,
                headers=_onward(request.headers, own_key=self._cluster.api_key is None),
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _NotConnected(str(error)) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ReplicaLost(_lost(replica.name, error)) from error
        try:
            if asked.stream and upstream.status == 200:
                return await self._stream(request, upstream, asked, placed)
            try:
                whole = await upstream.read()
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise ReplicaLost(_lost(replica.name, error)) from error
            self._learn(asked, whole)
            return web.Response(body=whole, status=upstream.status, headers=_back(upstream.headers, replica.number))
        finally:
            upstream.close() if not upstream.content.at_eof() else upstream.release()

    async def _stream(
        self, request: web.Request, upstream: aiohttp.ClientResponse, asked: Asked, placed: Placed
    ) -> web.StreamResponse:
        replica = placed.replica
        response = web.StreamResponse(status=upstream.status, headers=_back(upstream.headers, replica.number))
        await response.prepare(request)
        last = b"\n\n"
        try:
            async for part in upstream.content.iter_any():
                await response.write(part)
                last = part if len(part) > 1 else last[-1:] + part
                if b"usage" in part:
                    self._learn(asked, part)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if request.transport is None or request.transport.is_closing():
                return response  # the caller has gone; leaving closes the connection to the engine, which stops
            lost = ReplicaLost(_lost(replica.name, error))
            if last.endswith(b"\n\n"):  # between two events: a client can still be told
                await response.write(b"data: " + orjson.dumps(lost.document()) + b"\n\n")
            else:
                request.transport.abort()  # within one: a cut stream must not look whole
                return response
        await response.write_eof()
        return response

    def _learn(self, asked: Asked, data: bytes) -> None:
        if asked.tokens is None and (found := _PROMPT_TOKENS.search(data)) is not None:
            self._cluster.calls.measured(asked, int(found.group(1)))


def _lost(name: str, error: BaseException) -> str:
    words = str(error) or type(error).__name__
    return f"the replica at {name} went away in the middle of the call ({words}); it was not sent again"


def _onward(headers: Mapping[str, str], *, own_key: bool) -> CIMultiDict[str]:
    out: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        lower = name.lower()
        if lower not in _OF_A_HOP and (own_key or lower != "authorization"):
            out.add(name, value)
    return out


def _back(headers: Mapping[str, str], replica: int) -> CIMultiDict[str]:
    out: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        if name.lower() not in _OF_A_HOP:
            out.add(name, value)
    out[_REPLICA] = str(replica)
    return out
