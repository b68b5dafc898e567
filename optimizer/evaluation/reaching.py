"""Whether an engine could be reached where a run failed: where not the run is made again, else it has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

NOT_THERE = frozenset(
    {"APIConnectionError", "ConnectError", "ConnectionError", "ClientConnectorError", "RemoteProtocolError"}
)
"""What clients raise who could not reach an engine, and some who had reached it."""
_REFUSED = frozenset({"ConnectError", "ConnectTimeout", "ClientConnectorError", "ConnectionRefusedError", "gaierror"})
_SLOW = frozenset({"APITimeoutError", "TimeoutError", "ReadTimeout", "TimeoutException"})
_LOOKS_S = 2.0


def not_there(error: BaseException) -> str | None:
    """Why an engine could not be reached, if that is why a run failed; one that is slow is there."""
    for found in _chain(error):
        names = {kind.__name__ for kind in type(found).__mro__}
        if names & _SLOW:
            return None
        if names & NOT_THERE:
            return f"{type(found).__name__}: {found}"[:200] + (f" (at {asked})" if (asked := _asked(found)) else "")
    return None


async def dropped(error: BaseException) -> bool:
    """Whether an engine that is there has dropped a connection, which is its failure and no reason to wait for it: one
    that had taken it, and takes another now.
    """
    if any(kind.__name__ in _REFUSED for found in _chain(error) for kind in type(found).__mro__):
        return False
    for found in _chain(error):
        url = urlsplit(_asked(found))
        if url.hostname:
            return await _takes(url.hostname, url.port or (443 if url.scheme == "https" else 80))
    return False


def _asked(error: BaseException) -> str:
    """The URL of the request that failed; nothing where that is not known."""
    with suppress(RuntimeError):  # httpx raises it of an error without a request
        return str(getattr(getattr(error, "request", None), "url", ""))
    return ""


async def _takes(host: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _LOOKS_S)
    except OSError:
        return False
    writer.close()
    return True


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came of."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__
