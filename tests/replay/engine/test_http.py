"""HTTP to an engine: as many connections as calls; whatever goes wrong, a typed error."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redecode.replay.engine.http import ConnectionFailed, Connections, EventParser
from tests.replay.engine.small_server import Request, Response, listening, serving


@given(st.lists(st.integers(0, 40), max_size=8))
def test_events_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    wire = b"data: {1}\r\n\r\n: ping\n\ndata:{2}\n\nevent: x\ndata: [DONE]\n\n"
    places = sorted({0, len(wire), *(c for c in cuts if c < len(wire))})
    parser = EventParser()
    found = [event for a, b in pairwise(places) for event in parser.feed(wire[a:b])]
    assert found == [b"{1}", b"{2}", b"[DONE]"]


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN = {
    "not http": b"SSH-2.0-x\r\n\r\n",
    "no status": b"HTTP/1.1 what\r\n\r\n",
    "no size": HEAD + b"zz\r\n",
    "no length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000,
    "ends in a chunk": HEAD + b"5\r\nhel",
    "ends before its length": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
    "nothing": b"",
}


@pytest.mark.parametrize("wire", BROKEN.values(), ids=BROKEN)
async def test_what_is_no_whole_answer_is_refused(wire: bytes) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(wire)
        writer.close()

    async with listening(connected) as url:
        connections = Connections(url, {}, timeout_s=5)
        with pytest.raises(ConnectionFailed):
            await connections.exchange("GET", "/")
        await connections.aclose()


async def test_a_connection_is_kept_and_one_the_server_has_closed_is_replaced() -> None:
    opened = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        for _ in range(2):  # then it closes, as uvicorn does with what idles
            if not await reader.readuntil(b"\r\n\r\n"):
                break
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
        writer.close()

    async with listening(connected) as url:
        connections = Connections(url, {}, timeout_s=5)
        for _ in range(5):
            assert (await connections.exchange("GET", "/")).body == b"ok"
        assert opened == 3
        await connections.aclose()


async def test_as_many_connections_as_calls_at_a_time() -> None:
    together, most = 0, 0
    all_there = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal together, most
        await reader.readuntil(b"\r\n\r\n")
        together += 1
        most = max(most, together)
        if together == 600:
            all_there.set()
        await all_there.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with listening(connected) as url:
        connections = Connections(url, {}, timeout_s=20)
        answers = await asyncio.gather(*(connections.exchange("GET", "/") for _ in range(600)))
        assert (len(answers), most) == (600, 600)
        await connections.aclose()


async def test_a_server_that_says_nothing_is_given_up() -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with listening(connected) as url:
        connections = Connections(url, {}, timeout_s=0.05)
        with pytest.raises(ConnectionFailed, match="no byte for"):
            await connections.exchange("GET", "/")
        await connections.aclose()


async def test_a_call_that_is_cancelled_closes_its_connection() -> None:
    there, gone = asyncio.Event(), asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            there.set()
        gone.set()
        writer.close()

    async with listening(connected) as url:
        connections = Connections(url, {}, timeout_s=5)
        call = asyncio.create_task(connections.exchange("GET", "/"))
        await asyncio.wait_for(there.wait(), 5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(gone.wait(), 5)
        await connections.aclose()


@pytest.mark.parametrize("url", ["ftp://x", "http://", "localhost:8000", "http://x:99999"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConnectionFailed, match="URL"):
        Connections(url, {}, timeout_s=1)


async def test_path_user_and_headers_of_a_request() -> None:
    seen: list[Request] = []

    def handler(request: Request) -> Response:
        seen.append(request)
        return Response(200, json={})

    async with serving(handler) as url:
        connections = Connections(url.replace("//", "//me:s%3Ac@") + "/base", {"x-extra": "1"}, timeout_s=5)
        await connections.exchange("POST", "/v1/y", b"{}")
        await connections.aclose()
    (request,) = seen
    assert (request.method, request.url.path, request.content) == ("POST", "/base/v1/y", b"{}")
    assert request.headers["authorization"] == "Basic bWU6czpj"
    assert request.headers["host"] == url.removeprefix("http://")
    assert (request.headers["x-extra"], request.headers["content-type"]) == ("1", "application/json")
