"""Three endpoints in vLLM's API server: who are you, when was each token made, forget the prefixes.

Loaded with `--middleware redecode.replay.engine.middleware.RedecodeMiddleware`; vLLM hands the
class to Starlette, which calls it with the next application. Every other request is passed on by
returning the next application's own awaitable: no extra task, no wrapped stream.

GET  /redecode/info                what the engine is (fingerprint.py), and its clocks
POST /redecode/steps               {"rids": [...]} -> the step clock of those requests
POST /redecode/reset_prefix_cache  {"success": true|false}

Rejected: vLLM's endpoint plug-ins (an entry point changes every vLLM of the environment) and
VLLM_SERVER_DEV_MODE (brings remote control without a password along with the cache reset). The
middleware stands before vLLM's authentication, which guards /v1 only, so it checks the key itself.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import orjson

from redecode.replay.engine.fingerprint import describe_engine, digest_model
from redecode.replay.engine.processes import boot_id
from redecode.replay.engine.step_log import STEP_LOG_ENV, StepIndex, StepLogTail

PROTOCOL = 1
PREFIX = "/redecode/"
MAX_RIDS = 10_000
_MAX_BODY_BYTES = 4 * 2**20
#: Weights of many GB take minutes to digest; until then /redecode/info says null.
_DIGEST_WAIT_S = 1.0

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Rejected(Exception):
    """A request that gets an error answer: an HTTP status and one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class StepClock:
    """The step log and its index, read on demand and never on the event loop."""

    def __init__(self, path: Path | None) -> None:
        self.index = StepIndex()
        self._tail = StepLogTail(path) if path is not None else None
        self._lock = threading.Lock()

    def tracks(self, rids: list[str]) -> dict[str, dict[str, list[int]]]:
        """Return steps by request id; ids without a step are absent. Reads the log up to now first."""
        with self._lock:
            if self._tail is not None:
                self.index.add(self._tail.poll())
            found = ((rid, self.index.get(rid)) for rid in rids)
            return {rid: track.as_dict() for rid, track in found if track is not None}

    def bounds(self) -> dict[str, int]:
        """How much is remembered before the oldest requests are forgotten."""
        return {"max_requests": self.index.max_requests, "max_steps": self.index.max_steps}


class RedecodeMiddleware:
    """ASGI middleware answering `/redecode/*`; everything else goes to `app` untouched."""

    def __init__(self, app: App, env: Mapping[str, str] | None = None) -> None:
        self._app = app
        self._env: Mapping[str, str] = os.environ if env is None else env
        path = self._env.get(STEP_LOG_ENV)
        self._clock = StepClock(Path(path) if path else None)
        self._instance_id = uuid.uuid4().hex
        self._digests: asyncio.Future[dict[str, str | None]] | None = None
        self._routes: dict[tuple[str, str], Callable[[Any, bytes], Awaitable[dict[str, Any]]]] = {
            ("GET", "info"): self._info,
            ("POST", "steps"): self._steps,
            ("POST", "reset_prefix_cache"): self._reset_prefix_cache,
        }

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer our own paths, pass on the rest."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not path.startswith(PREFIX):
            return self._app(scope, receive, send)
        return self._answer(path.removeprefix(PREFIX), scope, receive, send)

    async def _answer(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            state = scope["app"].state
            self._check_key(scope, state)
            route = self._routes.get((scope["method"], name))
            if route is None:
                known = any(path == name for _, path in self._routes)
                raise Rejected(405 if known else 404, f"no {scope['method']} {PREFIX}{name}")
            answer = await route(state, await _read_body(receive))
            await _send_json(send, 200, answer)
        except Rejected as error:
            await _send_json(send, error.status, {"error": str(error)})

    def _check_key(self, scope: Scope, state: Any) -> None:
        given = getattr(state.args, "api_key", None) or [self._env.get("VLLM_API_KEY")]
        keys = [key.encode() for key in given if key]
        if not keys:
            return
        header = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, token = header.partition(b" ")
        matches = [secrets.compare_digest(token, key) for key in keys]
        if scheme.lower() != b"bearer" or not any(matches):
            raise Rejected(401, "Unauthorized")

    async def _info(self, state: Any, _body: bytes) -> dict[str, Any]:
        info = describe_engine(state, self._env)
        if self._digests is None:
            folder = Path(info["model_path"]) if info["model_path"] else None
            template = getattr(state.args, "chat_template", None)
            self._digests = asyncio.ensure_future(asyncio.to_thread(digest_model, folder, template))
        await asyncio.wait([self._digests], timeout=_DIGEST_WAIT_S)
        ready = self._digests.done()
        digests = self._digests.result() if ready else dict.fromkeys(digest_model(None))
        return {
            "protocol": PROTOCOL,
            **info,
            **digests,
            "digests_pending": not ready,
            "steps_kept": self._clock.bounds(),
            "instance_id": self._instance_id,
            **_clocks(),
        }

    async def _steps(self, _state: Any, body: bytes) -> dict[str, Any]:
        steps = await asyncio.to_thread(self._clock.tracks, _parse_rids(body))
        return {**_clocks(), "instance_id": self._instance_id, "steps": steps}

    async def _reset_prefix_cache(self, state: Any, _body: bytes) -> dict[str, Any]:
        return {"success": bool(await state.engine_client.reset_prefix_cache())}


def _clocks() -> dict[str, Any]:
    """Both clocks, read together; monotonic times compare only under the same boot id."""
    return {"boot_id": boot_id(), "monotonic_ns": time.monotonic_ns(), "time_ns": time.time_ns()}


def _parse_rids(body: bytes) -> list[str]:
    try:
        rids = orjson.loads(body)["rids"]
    except (ValueError, KeyError, TypeError) as error:
        raise Rejected(400, 'the body must be {"rids": [...]}') from error
    if not isinstance(rids, list) or not all(isinstance(rid, str) for rid in rids):
        raise Rejected(400, "rids must be a list of strings")
    if len(rids) > MAX_RIDS:
        raise Rejected(400, f"{len(rids)} rids asked for, at most {MAX_RIDS} in one request")
    return rids


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _MAX_BODY_BYTES:
            raise Rejected(413, f"the body is larger than {_MAX_BODY_BYTES} bytes")
        if not message.get("more_body", False):
            return bytes(body)


async def _send_json(send: Send, status: int, answer: Mapping[str, Any]) -> None:
    body = orjson.dumps(answer)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
