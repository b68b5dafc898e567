"""HTTP to one engine, by aiohttp: its parser is C, and a replay's client must not cost what it measures.

A replay reads thousands of streams in one process beside the engine. Rejected: httpx2, which takes about 200 µs of CPU
for each streamed token (measured; aiohttp 3 to 45, by how many come in one read).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

_CONNECT_S = 10.0
_KEPT_S = 3.0
"""How long an idle connection is kept; uvicorn closes it after 5 s."""


class ConnectionFailed(Exception):
    """The other side is not there, went away, or does not speak HTTP; says what was seen."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response. Clock readings are monotonic ns: request handed over, last byte read."""

    status: int
    body: bytes
    sent_ns: int
    done_ns: int


Take = Callable[[bytes, int], None]
"""Called with each part of a successful response's body and when it was read, instead of keeping it."""


class EventParser:
    """The data of server-sent events, one line each, out of bytes however they are cut."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Data of the events that are whole by now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]


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
        try:
            parts = urlsplit(base_url)
            fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            fits = False
        if not fits:
            raise ConnectionFailed("that is no http:// or https:// URL")
        self._base, self._headers, self._timeout_s, self._now_ns = base_url, headers, timeout_s, now_ns
        self._session: aiohttp.ClientSession | None = None

    async def exchange(self, method: str, path: str, body: bytes | None = None, take: Take | None = None) -> Answer:
        """One request and its answer.

        Raises:
            ConnectionFailed: it did not get there, or no whole answer came back.
        """
        sent_ns, again = self._now_ns(), True
        headers = None if body is None else {"content-type": "application/json"}
        while True:
            parts: list[bytes] = []
            heard = False
            try:
                async with self._open().request(method, self._base + path, data=body, headers=headers) as response:
                    heard, done_ns = True, self._now_ns()
                    async for part in response.content.iter_any():
                        done_ns = self._now_ns()
                        if take is not None and response.status == 200:
                            take(part, done_ns)
                        else:
                            parts.append(part)
                    return Answer(response.status, b"".join(parts), sent_ns, done_ns)
            except aiohttp.ServerDisconnectedError as error:
                if heard or not again:
                    raise ConnectionFailed(_words(error)) from error
                again = False  # the server had closed what we kept open: nothing of this request was answered
            except TimeoutError as error:
                where = "no connection within" if isinstance(error, aiohttp.ConnectionTimeoutError) else "no byte for"
                limit = _CONNECT_S if where.endswith("within") else self._timeout_s
                raise ConnectionFailed(f"{where} {limit:.0f} s") from error
            except (aiohttp.ClientError, OSError) as error:
                raise ConnectionFailed(_words(error)) from error

    async def aclose(self) -> None:
        """Close every connection; exchanges that are going on fail."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        """The session; made where a loop runs."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=self._timeout_s)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
                timeout=timeout,
            )
        return self._session


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
