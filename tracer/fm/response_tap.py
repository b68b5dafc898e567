"""Puts a tap between an HTTP response and whoever reads it, on either HTTP library, sync and async.

The tap sits where the bytes are decoded: at `iter_raw`, through which every way of reading goes, or, for a
compressed response, at `iter_bytes`.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

from redecode.tracer.fm.call import InFlight
from redecode.tracer.fm.wire_stream import BodyTap, Tap
from redecode.tracer.recorder import count_fault


def answered(response: Any, call: InFlight, *, asynchronous: bool) -> None:
    """Read a successful response as the caller does, and take out what the caller did not ask for."""
    now = time.monotonic_ns()
    kind = response.headers.get("content-type", "")
    events = "text/event-stream" in kind or (call.streams and "json" not in kind)
    if not hasattr(response, "_content"):
        tap = call.open_tap(events=events)
        if isinstance(tap, BodyTap) and tap.rewritten:
            response.headers.pop("content-length", None)
        call.wait(tap)
        _Tapped(response, call, tap).install(asynchronous=asynchronous)
        # Streams that nobody began to read say nothing when they are dropped; the others do.
        weakref.finalize(response, call.dropped).atexit = False
        return
    data = response.content
    if events:  # made whole, by a test or a playback
        call.wait(tap := call.open_tap(events=True))
        response._content = tap.feed(data, now) + tap.rest()
        call.finish()
        return
    call.arrived = now
    try:
        seen = call.read(data)
    except ValueError as error:
        call.finish(f"the answer cannot be read: {error}")
        return
    if seen is not data:
        response._content = seen
        if "content-length" in response.headers:
            response.headers["content-length"] = str(len(seen))
    call.finish()


class _Tapped:
    """A response with a tap in it."""

    def __init__(self, response: Any, call: InFlight, tap: Tap) -> None:
        self._response, self._call, self._tap = response, call, tap
        self._reading = False  # inside the HTTP library, which closes a response before it raises
        self._feed = tap.feed

    def install(self, *, asynchronous: bool) -> None:
        """Take the place of the methods that read and close."""
        response = self._response
        name = "iter_bytes" if response.headers.get("content-encoding") else "iter_raw"
        if asynchronous:
            self._read, self._close = getattr(response, f"a{name}"), response.aclose
            setattr(response, f"a{name}", self._aiterate)
            response.aclose = self._aclose
        else:
            self._read, self._close = getattr(response, name), response.close
            setattr(response, name, self._iterate)
            response.close = self._close_sync

    def _without(self, error: Exception, data: bytes) -> bytes:
        """A fault of ours: from here on the caller gets what the server sends."""
        self._feed = _pass_on
        count_fault(f"reading {self._call.what}", self._call.recorder, error, self._call.span.run_id)
        with contextlib.suppress(Exception):
            return self._tap.rest() + data
        return data

    def _rest(self) -> bytes:
        try:
            return self._tap.rest() if self._feed is not _pass_on else b""
        except Exception as error:
            return self._without(error, b"")

    def _iterate(self, chunk_size: int | None = None) -> Iterator[bytes]:
        parts, clock = self._read(chunk_size), time.monotonic_ns
        try:
            self._reading = True
            for data in parts:
                self._reading = False
                try:
                    out = self._feed(data, clock())
                except Exception as error:
                    out = self._without(error, data)
                if out:
                    self._call.span.flows()
                    yield out
                self._reading = True
            self._reading = False
            if out := self._rest():
                yield out
        except BaseException as error:
            self._call.finish(error)
            raise
        finally:
            self._reading = False
            parts.close()
        self._call.finish()

    def _close_sync(self) -> None:
        self._close()
        if not self._reading:
            self._call.finish()

    async def _aiterate(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        parts, clock = self._read(chunk_size), time.monotonic_ns
        try:
            self._reading = True
            async for data in parts:
                self._reading = False
                try:
                    out = self._feed(data, clock())
                except Exception as error:
                    out = self._without(error, data)
                if out:
                    yield out
                self._reading = True
            self._reading = False
            if out := self._rest():
                yield out
        except BaseException as error:
            self._call.finish(error)
            raise
        finally:
            self._reading = False
            await _ended(parts)
        self._call.finish()

    async def _aclose(self) -> None:
        await self._close()
        if not self._reading:
            self._call.finish()


async def _ended(parts: Any) -> None:
    try:
        await parts.aclose()
    except RuntimeError as error:
        if "already running" not in str(error):  # the event loop closes all that hang on a dropped stream, in any order
            raise


def _pass_on(data: bytes, now_ns: int) -> bytes:
    return data
