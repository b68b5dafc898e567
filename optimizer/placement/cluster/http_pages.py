"""What an HTTP front answers besides calls: models, health, its replicas and decisions, and what the tracer asks.

`/redecode/info` is that of a replica where all say the same, so that a recorded agent gets token ids and step clocks
through the front as it gets them from an engine; `/redecode/steps` asks all of them.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from redecode.optimizer.placement.cluster.errors import BadReplica, BadRequest, CallError, NoReplica
from redecode.optimizer.placement.cluster.http_cluster import HttpCluster
from redecode.optimizer.placement.cluster.reading import read_call
from redecode.optimizer.placement.cluster.shown import decided, number, plain_replica
from redecode.replay.simulator.views import State

_OF_ONE = frozenset({"instance_id", "monotonic_ns", "time_ns", "digests_pending", "served_by"})
"""What `/redecode/info` says that differs from replica to replica."""
_ASK_S = 10.0


class Pages:
    """Answers everything but calls."""

    def __init__(self, cluster: HttpCluster, admin_key: str | None) -> None:
        self._cluster, self._admin_key = cluster, admin_key

    def add_to(self, app: web.Application) -> None:
        """Make them reachable."""
        add = app.router.add_route
        add("GET", "/health", self.health)
        add("GET", "/v1/models", self.models)
        add("GET", "/version", self.version)
        add("POST", "/tokenize", self.tokens)
        add("POST", "/detokenize", self.tokens)
        add("GET", "/redecode/info", self.info)
        add("POST", "/redecode/steps", self.steps)
        add("GET", "/redecode/replicas", self.replicas)
        add("POST", "/redecode/replicas", self.add_replica)
        add("DELETE", "/redecode/replicas/{number}", self.remove_replica)
        add("GET", "/redecode/decisions", self.decisions)

    async def health(self, request: web.Request) -> web.Response:
        """200 while a replica is up."""
        up = any(r.state is State.READY for r in self._cluster.placing.replicas)
        return web.Response(status=200 if up else 503)

    async def models(self, request: web.Request) -> web.Response:
        """Of all replicas, each once."""
        found = [f for number, f in sorted(self._cluster.found.items()) if self._is_up(number)]
        cards = {card["id"]: card for f in reversed(found) for card in f.models}
        return web.json_response({"object": "list", "data": list(cards.values())})

    async def version(self, request: web.Request) -> web.Response:
        """Of the first replica that is up."""
        return await self._ask_one("GET", "/version")

    async def tokens(self, request: web.Request) -> web.Response:
        """Of the first replica that is up and has the model."""
        body = await request.read()
        try:
            model = read_call(request.path, request.headers, body).model
        except BadRequest:
            model = None
        return await self._ask_one("POST", request.path, body, model)

    async def info(self, request: web.Request) -> web.Response:
        """Of a replica, if all that are up say the same but for their names."""
        infos = [f.info for number, f in sorted(self._cluster.found.items()) if self._is_up(number)]
        lasting = [{k: v for k, v in info.items() if k not in _OF_ONE} for info in infos]
        if not infos or not infos[0] or any(other != lasting[0] for other in lasting):
            why = "the replicas are not all alike, or run without redecode's plug-in"
            return web.json_response({"error": why}, status=404)
        return await self._ask_one("GET", "/redecode/info")

    async def steps(self, request: web.Request) -> web.Response:
        """Of all replicas together."""
        body = await request.read()
        urls = [r.name for r in self._cluster.placing.replicas if r.state is not State.STOPPED]
        answers = [a for a in await asyncio.gather(*(self._steps_of(url, body) for url in urls)) if a]
        if not answers:
            return web.json_response({"error": "no replica keeps a step clock"}, status=404)
        together = dict(answers[0])
        together["steps"] = {rid: steps for a in answers for rid, steps in a.get("steps", {}).items()}
        return web.json_response(together)

    async def replicas(self, request: web.Request) -> web.Response:
        """As the policy sees them."""
        return web.json_response(
            {
                "now_s": self._cluster.time.now_s(),
                "held": self._cluster.placing.held,
                "replicas": [plain_replica(r) for r in self._cluster.placing.replicas],
            }
        )

    async def decisions(self, request: web.Request) -> web.Response:
        """The last ones (`?last=100`), the newest last."""
        try:
            return web.json_response(decided(list(self._cluster.placing.choices), request.query.get("last", "100")))
        except CallError as error:
            return web.json_response(error.document(), status=error.status)

    async def add_replica(self, request: web.Request) -> web.Response:
        """`{"url": ...}`: one more, which must be up."""
        try:
            self._check_key(request)
            try:
                url = orjson.loads(await request.read())["url"]
            except (ValueError, KeyError, TypeError) as error:
                raise BadRequest('want {"url": "http://..."}') from error
            try:
                replica = await self._cluster.add(str(url))
            except BadReplica as error:
                raise BadRequest(str(error)) from error
        except CallError as error:
            return web.json_response(error.document(), status=error.status)
        return web.json_response({"number": replica.number, "url": replica.name, "model": replica.engine.model})

    async def remove_replica(self, request: web.Request) -> web.Response:
        """It gets no more calls."""
        try:
            self._check_key(request)
            words = request.match_info["number"]
            asked = number(words)
            if asked is None:
                raise BadRequest(f"{words[:40]} is no number of a replica; /redecode/replicas has them")
            try:
                await self._cluster.remove(asked)
            except BadReplica as error:
                raise BadRequest(str(error)) from error
        except CallError as error:
            return web.json_response(error.document(), status=error.status)
        return web.json_response({"removed": asked})

    # --- below -----------------------------------------------------------------------------

    def _is_up(self, number: int) -> bool:
        return any(r.number == number and r.state is State.READY for r in self._cluster.placing.replicas)

    def _check_key(self, request: web.Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._admin_key is None or not secrets.compare_digest(given.encode(), self._admin_key.encode()):
            raise _NotAllowed("replicas are added and removed with the front's admin key")

    async def _ask_one(
        self, method: str, path: str, data: bytes | None = None, model: str | None = None
    ) -> web.Response:
        timeout, ask = aiohttp.ClientTimeout(total=_ASK_S), self._cluster.session.request
        headers = None if data is None else {"content-type": "application/json"}
        for replica in self._cluster.placing.replicas:
            if replica.state is State.READY and model in (None, replica.engine.model):
                try:
                    async with ask(method, replica.name + path, data=data, headers=headers, timeout=timeout) as answer:
                        body, kind = await answer.read(), answer.headers.get("content-type", "application/json")
                        return web.Response(body=body, status=answer.status, headers={"content-type": kind})
                except (aiohttp.ClientError, OSError, TimeoutError):
                    continue
        error = NoReplica("no replica is up")
        return web.json_response(error.document(), status=error.status, headers=error.headers())

    async def _steps_of(self, url: str, body: bytes) -> dict[str, Any] | None:
        timeout = aiohttp.ClientTimeout(total=_ASK_S)
        headers = {"content-type": "application/json"}
        try:
            async with self._cluster.session.post(
                f"{url}/redecode/steps", data=body, headers=headers, timeout=timeout
            ) as answer:
                found = orjson.loads(await answer.read()) if answer.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None
        return found if isinstance(found, dict) else None


class _NotAllowed(CallError):
    status, kind = 403, "permission_error"
