"""HTTP/1.1 to one engine: as much of it as replay needs, at a few microseconds per chunk of a stream.

A replay reads thousands of streams in one process beside the engine it measures, so the client's own CPU time is an
error of the measurement. Rejected for that: httpx2 (200 µs of CPU per streamed token, measured; this: 65) and
aiohttp (quick, and a dependency of its own). What it cannot do: redirects, compression, proxies, HTTP/2.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

_LONGEST_HEAD = 64 << 10
_CONNECT_S = 10.0


class ConnectionFailed(Exception):
    """The other side is not there, went away, or does not speak HTTP; says what was seen."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response. Clock readings are monotonic ns: the request asked for (as an SDK sees it), last byte read."""

    status: int
    body: bytes
    sent_ns: int
    done_ns: int


Take = Callable[[bytes, int], None]
"""Called with each part of a successful response's body and when it was read, instead of keeping it."""


class ResponseParser:
    """One response out of bytes, however they are cut.

    Raises:
        ConnectionFailed: from `feed` and `end`, when it is no HTTP/1 response or ends too early.
    """

    __slots__ = ("_buffer", "_left", "_state", "done", "keep", "status")

    def __init__(self) -> None:
        self.status, self.done, self.keep = 0, False, True
        self._buffer, self._left, self._state = b"", 0, "head"

    def feed(self, data: bytes) -> bytes:
        """Take in bytes; returns what of the body is new."""
        self._buffer += data
        parts: list[bytes] = []
        while not self.done and self._step(parts):
            pass
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def end(self) -> None:
        """The connection is closed: that may be how this body ends."""
        if self._state != "until_close":
            raise ConnectionFailed("the connection was closed in the middle of an answer")
        self.done, self.keep = True, False

    def _step(self, parts: list[bytes]) -> bool:
        """Do what the buffer allows; whether there may be more."""
        if self._state == "head":
            return self._head()
        if self._state == "chunk_size":
            line = self._line()
            if line is None:
                return False
            try:
                self._left = int(line.partition(b";")[0], 16)
            except ValueError:
                raise ConnectionFailed("an answer in chunks has no size where one belongs") from None
            self._state = "chunk" if self._left else "trailer"
            return True
        if self._state == "chunk_end" or self._state == "trailer":
            line = self._line()
            if line is not None and self._state == "trailer":
                self.done = not line
            elif line is not None:
                self._state = "chunk_size"
            return line is not None
        if not self._buffer:
            return False
        if self._state == "until_close":
            parts.append(self._buffer)
            self._buffer = b""
            return False
        part, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        parts.append(part)
        self._left -= len(part)
        if not self._left:
            self.done = self._state == "length"
            self._state = "chunk_end"
        return True

    def _line(self) -> bytes | None:
        line, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            if len(line) > _LONGEST_HEAD:
                raise ConnectionFailed("the answer is no HTTP")
            return None
        self._buffer = rest
        return line

    def _head(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not self._buffer.startswith(b"HTTP/1."[: len(self._buffer)]) or len(head) > _LONGEST_HEAD:
            raise ConnectionFailed("the answer is no HTTP/1")
        if not found:
            return False
        first, *lines = head.split(b"\r\n")
        try:
            self.status = int(first.split(b" ", 2)[1])
        except (IndexError, ValueError):
            raise ConnectionFailed("the answer is no HTTP/1") from None
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        self._buffer = rest
        if 100 <= self.status < 200:
            return True
        self.keep = first.startswith(b"HTTP/1.1") and fields.get(b"connection", b"").lower() != b"close"
        if self.status in (204, 304):
            self.done = True
        elif fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            self._state = "chunk_size"
        elif (length := fields.get(b"content-length")) is not None:
            if not length.isdigit():
                raise ConnectionFailed("the answer has no length where one belongs")
            self._state, self._left = "length", int(length)
            self.done = not self._left
        else:
            self._state = "until_close"
        return True


class EventParser:
    """The data of server-sent events, one line each, out of bytes however they are cut."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Data of the events that are whole by now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]


class _Connection(asyncio.Protocol):
    """One connection: one exchange at a time."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._parser = ResponseParser()
        self._parts: list[bytes] = []
        self._take: Take | None = None
        self._sent_ns = self.heard_ns = 0
        self.heard = False

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def exchange(self, request: bytes, take: Take | None, asked_ns: int) -> Answer:
        """Send a request, wait for the whole answer."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._parser, self._parts, self._take, self.heard = ResponseParser(), [], take, False
        self._sent_ns, self.heard_ns = asked_ns, self._now_ns()
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            if not self._answer.done() or self._answer.cancelled() or self._answer.exception() is not None:
                self.abort()  # given up: the engine notices and stops working on it
            self._answer = None

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None or answer.done():
            self.abort()  # nobody asked for that
            return
        self.heard, self.heard_ns = True, self._now_ns()
        parser = self._parser
        try:
            part = parser.feed(data)
            if self._take is not None and parser.status == 200:
                self._take(part, self.heard_ns)
            elif part:
                self._parts.append(part)
        except Exception as error:  # belongs to who waits for the answer
            answer.set_exception(error)
            return
        if parser.done:
            if not parser.keep:
                self.abort()
            answer.set_result(Answer(parser.status, b"".join(self._parts), self._sent_ns, self.heard_ns))

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        answer, self._transport = self._answer, None
        if answer is None or answer.done():
            return
        try:
            self._parser.end()
        except ConnectionFailed as failure:
            why = "the connection was closed without an answer" if not self.heard else str(exc or failure)
            answer.set_exception(ConnectionFailed(why))
            return
        answer.set_result(Answer(self._parser.status, b"".join(self._parts), self._sent_ns, self._now_ns()))

    def fail(self, why: str) -> None:
        """End the exchange that is going on."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionFailed(why))

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


class Connections:
    """Connections to one server, as many as there are exchanges at a time; kept open between them.

    Args:
        base_url: http or https; user and password in it become basic authentication.
        timeout_s: an answer may pause for so long; an answer that is not streamed is one pause.
    """

    def __init__(
        self,
        base_url: str,
        headers: dict[str, str],
        *,
        timeout_s: float,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        parts = urlsplit(base_url)
        self._host, self._path, self._timeout_s, self._now_ns = parts.hostname or "", parts.path, timeout_s, now_ns
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        try:
            self._port = parts.port or (443 if self._tls else 80)
        except ValueError:
            self._port = 0
        if parts.scheme not in ("http", "https") or not self._host or not self._port:
            raise ConnectionFailed("that is no http:// or https:// URL")
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers = {"authorization": "Basic " + base64.b64encode(user.encode()).decode(), **headers}
        fields = {"host": parts.netloc.rpartition("@")[2], "accept": "*/*", **headers}
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()

    async def exchange(self, method: str, path: str, body: bytes | None = None, take: Take | None = None) -> Answer:
        """One request and its answer.

        Raises:
            ConnectionFailed: it did not get there, or no whole answer came back.
        """
        asked_ns = self._now_ns()
        request = self._request(method, path, body)
        while True:
            connection = self._pick()
            kept = connection is not None
            if connection is None:
                connection = await self._connect()
            self._busy.add(connection)
            timer = asyncio.get_running_loop().call_later(self._timeout_s, self._check, connection)
            try:
                answer = await connection.exchange(request, take, asked_ns)
            except ConnectionFailed:
                if kept and not connection.heard:
                    continue  # the server had closed what we kept open: nothing of this request was answered
                raise
            finally:
                timer.cancel()
                self._busy.discard(connection)
            if connection.usable:
                self._idle.append(connection)
            return answer

    async def aclose(self) -> None:
        """Close every connection; exchanges that are going on fail."""
        for connection in [*self._idle, *self._busy]:
            connection.fail("the client was closed")
            connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # an abort closes the socket in the loop's next turn

    def _pick(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self._now_ns), self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            raise ConnectionFailed(f"no connection within {_CONNECT_S:.0f} s") from None
        except OSError as error:
            raise ConnectionFailed(str(error) or type(error).__name__) from error
        return connection

    def _check(self, connection: _Connection) -> None:
        if connection in self._busy:
            silent_s = (self._now_ns() - connection.heard_ns) / 1e9
            if silent_s >= self._timeout_s:
                connection.fail(f"no byte for {self._timeout_s:.0f} s")
            else:
                loop = asyncio.get_running_loop()
                loop.call_later(self._timeout_s - silent_s, self._check, connection)

    def _request(self, method: str, path: str, body: bytes | None) -> bytes:
        fields = self._fields
        if body is not None:
            fields += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        return f"{method} {self._path}{path} HTTP/1.1\r\n{fields}\r\n".encode() + (body or b"")
