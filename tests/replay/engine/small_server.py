"""A small HTTP server in the event loop of a test, answering as a function says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson


@dataclass(frozen=True)
class Url:
    path: str


@dataclass(frozen=True)
class Request:
    method: str
    url: Url
    headers: dict[str, str]
    content: bytes


class Response:
    """An answer; with `parts` it is a stream of server-sent events, each sent by itself."""

    def __init__(
        self, status: int, *, json: Any = None, content: bytes = b"", parts: Sequence[bytes] | None = None
    ) -> None:
        self.status, self.parts = status, parts
        self.content = orjson.dumps(json) if json is not None else content


@asynccontextmanager
async def listening(
    connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """The URL of a server that does this with each connection; when it ends, so do they."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await connected(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client is done, or the test
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=1024)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


@asynccontextmanager
async def serving(handler: Callable[[Request], Response | Awaitable[Response]]) -> AsyncIterator[str]:
    """The URL of a server that answers so."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            first, *lines = head.decode().strip().split("\r\n")
            method, path, _ = first.split(" ")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
            content = await reader.readexactly(int(headers.get("content-length", 0)))
            answer = handler(Request(method, Url(path), headers, content))
            await _send(writer, answer if isinstance(answer, Response) else await answer)

    async with listening(connected) as url:
        yield url


async def _send(writer: asyncio.StreamWriter, response: Response) -> None:
    head = f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n"
    if response.parts is None:
        head += f"content-length: {len(response.content)}\r\n"
    else:
        head += "content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    writer.write(f"{head}\r\n".encode() + (response.content if response.parts is None else b""))
    for part in response.parts or ():
        event = part + b"\n\n"
        writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
        await writer.drain()
    if response.parts is not None:
        writer.write(b"0\r\n\r\n")
    await writer.drain()
