"""OTLP over HTTP: an ASGI application, of which there is too little for a framework."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any

import orjson

from redecode.tracer.collector import bodies
from redecode.tracer.collector.intake import Intake, Ticket
from redecode.tracer.collector.refusals import BadMediaType, Refusal, Unauthorized
from redecode.tracer.collector.signals import BY_PATH, Signal

_log = logging.getLogger("redecode")
PROTOBUF, JSON = "application/x-protobuf", "application/json"

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Gone(Exception):
    """The client left before its request was whole."""


def application(intake: Intake) -> App:
    """The ASGI application that takes requests into `intake`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        signal = BY_PATH.get(path)
        if signal is not None and method == "POST":
            await _export(intake, signal, scope, receive, send)
        elif signal is not None:
            await _reply(send, HTTPStatus.METHOD_NOT_ALLOWED, JSON, b'{"message":"want POST"}', [(b"allow", b"POST")])
        elif path == "/healthz" and method in {"GET", "HEAD"}:
            health = intake.health()
            status = HTTPStatus.OK if health["ok"] else HTTPStatus.SERVICE_UNAVAILABLE
            await _reply(send, status, JSON, orjson.dumps(health))
        elif path == "/healthz":
            await _reply(send, HTTPStatus.METHOD_NOT_ALLOWED, JSON, b'{"message":"want GET"}', [(b"allow", b"GET")])
        else:
            paths = ", ".join([*BY_PATH, "/healthz"])
            await _reply(send, HTTPStatus.NOT_FOUND, JSON, orjson.dumps({"message": f"there is only {paths}"}))

    return app


async def _export(intake: Intake, signal: Signal, scope: Scope, receive: Receive, send: Send) -> None:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    content_type = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    is_json = content_type == JSON
    try:
        intake.authorize(headers.get(b"authorization"))
        if content_type not in {PROTOBUF, JSON}:
            raise BadMediaType(f"content type {content_type[:80]!r}: want {PROTOBUF} or {JSON}")
        with intake.admit() as ticket:
            body = await _body(intake, ticket, headers, receive)
            encoding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
            answer = await intake.receive(ticket, signal, body, encoding, is_json=is_json)
    except Gone:
        return
    except Refusal as refusal:
        intake.refused += 1
        status = refusal.status()
        document = bodies.to_json(status) if is_json else status.SerializeToString()
        extra = []
        if refusal.retry_after_s is not None:
            extra.append((b"retry-after", str(refusal.retry_after_s).encode()))
        if isinstance(refusal, Unauthorized):
            extra.append((b"www-authenticate", b"Bearer"))
        await _reply(send, refusal.http, JSON if is_json else PROTOBUF, document, extra)
        return
    document = bodies.to_json(answer) if is_json else answer.SerializeToString()
    await _reply(send, HTTPStatus.OK, content_type, document)


async def _body(intake: Intake, ticket: Ticket, headers: dict[bytes, bytes], receive: Receive) -> bytes:
    """The whole body, refused as soon as it is seen to be too large."""
    limit = intake.limits.body_bytes
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
        raise bodies.too_large(limit)
    pieces: list[bytes] = []
    size = 0
    async with intake.arriving():
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            piece: bytes = message.get("body", b"")
            size += len(piece)
            if size > limit:
                raise bodies.too_large(limit)
            ticket.hold(len(piece))
            pieces.append(piece)
            more = message.get("more_body", False)
    return b"".join(pieces)


async def _reply(
    send: Send, status: HTTPStatus, content_type: str, body: bytes, extra: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    length = str(len(body)).encode()
    headers = [(b"content-type", content_type.encode()), (b"content-length", length), *extra]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})
