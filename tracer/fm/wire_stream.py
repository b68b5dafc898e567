"""Streams of server-sent events as they pass: read at their end, rewritten on the way only where they must be.

A tap is fed the bytes of a response as they arrive and returns what the caller is to see. Reading costs more
than passing on, so it waits until the stream has ended (`settle`), when everything is parsed at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import orjson

from redecode.tracer.fm import wire
from redecode.tracer.records import JsonObject


class Tap(Protocol):
    """What sits between a response's bytes and whoever reads them."""

    last_ns: int | None
    """When the last bytes arrived, monotonic ns."""

    def feed(self, data: bytes, now_ns: int) -> bytes:
        """Take bytes as they arrived; returns the bytes to hand on (possibly none yet)."""
        ...

    def rest(self) -> bytes:
        """What is still held back when the response has ended."""
        ...

    def settle(self) -> None:
        """Read all that has come so far into what is captured."""
        ...


class BodyTap:
    """A whole body that the caller reads in parts: it is handed on when all of it is there, if it is rewritten.

    Args:
        read: reads a body and returns the one the caller is to see.
        rewritten: whether that may be another one.
    """

    def __init__(self, read: Callable[[bytes], bytes], *, rewritten: bool) -> None:
        self._read, self.rewritten = read, rewritten
        self._parts: list[bytes] = []
        self._settled = False
        self.last_ns: int | None = None

    def feed(self, data: bytes, now_ns: int) -> bytes:
        """Keep the part, and hand it on if nothing can change in it."""
        self._parts.append(data)
        self.last_ns = now_ns
        return b"" if self.rewritten else data

    def rest(self) -> bytes:
        """The body the caller is to see, unless it had it in parts."""
        if not self.rewritten:
            return b""
        self._settled, whole = True, b"".join(self._parts)
        try:
            return self._read(whole)
        except ValueError:
            return whole

    def settle(self) -> None:
        """Read the body if nobody did."""
        if not self._settled and self._parts:
            self._settled = True
            self._read(b"".join(self._parts))


class PassTap:
    """A stream that is handed on untouched.

    Args:
        take: takes in the payloads of events and the times of their arrival, monotonic ns.
        captured: told when the stream said that it is at its end.
    """

    def __init__(self, take: Callable[[list[JsonObject], list[int]], None], captured: wire.Captured) -> None:
        self._take, self._captured = take, captured
        self._parts: list[bytes] = []
        self._times: list[int] = []
        self.last_ns: int | None = None

    def feed(self, data: bytes, now_ns: int) -> bytes:
        """Remember the part and hand it on."""
        self._parts.append(data)
        self._times.append(now_ns)
        self.last_ns = now_ns
        return data

    def rest(self) -> bytes:
        """Nothing is ever held back."""
        return b""

    def settle(self) -> None:
        """Parse what has come; an event arrived when its last byte did."""
        parts, times = self._parts, self._times
        self._parts, self._times = [], []
        data = b"".join(parts)
        if b"\r" in data:
            parts = [part.replace(b"\r", b"") for part in parts]
            data = b"".join(parts)
        *events, unfinished = data.split(b"\n\n")
        payloads = _payloads(events)
        arrivals = _arrivals(events, parts, times)
        known = [(payload, at) for payload, at in zip(payloads, arrivals, strict=True) if payload is not None]
        self._take([payload for payload, _ in known], [at for _, at in known])
        if len(known) < len(events) and any(b"[DONE]" in e for e, p in zip(events, payloads, strict=True) if p is None):
            self._captured.done = True
        if unfinished:
            self._parts, self._times = [unfinished], times[-1:]


def _arrivals(events: list[bytes], parts: list[bytes], times: list[int]) -> list[int]:
    """When the last byte of each event came."""
    if [len(part) - 2 for part in parts] == [len(event) for event in events]:
        return times  # each event in a part of its own
    arrivals, arrived, ends, part = [], 0, 0, -1
    for event in events:
        ends += len(event) + 2
        while arrived < ends:
            part += 1
            arrived += len(parts[part])
        arrivals.append(times[part])
    return arrivals


def _payloads(events: list[bytes]) -> list[JsonObject | None]:
    """The payloads of events; at once if each is one `data:` line, as they are from every server we know."""
    ended = bool(events) and events[-1] == b"data: [DONE]"
    lines = events[:-1] if ended else events
    if all(line.startswith(b"data: {") and b"\n" not in line for line in lines):
        try:
            found: list[JsonObject | None] = orjson.loads(b"[%s]" % b",".join([line[6:] for line in lines]))
        except orjson.JSONDecodeError:
            pass
        else:
            if len(found) == len(lines):
                return [*found, None] if ended else found
    return [payload_of(event) for event in events]


def payload_of(event: bytes) -> JsonObject | None:
    """The JSON object of one event; `None` for `[DONE]`, comments and anything that is not an object."""
    data = b"\n".join(line[5:].lstrip() for line in event.split(b"\n") if line.startswith(b"data:"))
    if not data.startswith(b"{"):
        return None
    try:
        return wire.loads(data)
    except ValueError:
        return None


# A chunk of vLLM's with tokens, behind the part that all chunks of a call have in common, is rewritten by its form and
# without a parser. Inside JSON strings a quote has a backslash before it, so these match nowhere else.
_LOGPROBS, _IDS, _END = b',"logprobs":{"content":[', b']},"finish_reason":null,"token_ids":[', b"]}]}\n\n"
_NULLED = b',"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
# Such a chunk with one token and nothing but text, as almost all are: its delta, logprob and id.
_TOKEN = re.compile(
    rb'(\{"content":"[^"\\]*(?:\\.[^"\\]*)*"\}),"logprobs":\{"content":\[\{"token":"[^"\\]*(?:\\.[^"\\]*)*",'
    rb'"logprob":(-?[\d.]+(?:[eE]-?\d+)?),"bytes":[^\]]*\],"top_logprobs":\[\]\}\]\},'
    rb'"finish_reason":null,"token_ids":\[(\d+)\]\}\]\}\n'
)


class ChatTap:
    """A stream of vLLM's chat or text completions, rewritten to what the caller asked for.

    With usage asked only by the tracer, vLLM moves the fingerprint from the last content chunk to the usage
    chunk; so the last content chunk waits for the one after it, gets the fingerprint back, and the usage chunk is
    dropped. Asked for token ids, vLLM also sends a chunk for tokens that make no text
    (inside a tool call, say): dropped too.
    """

    def __init__(self, prepared: wire.Prepared, captured: wire.Captured) -> None:
        self._prepared, self._captured = prepared, captured
        self._buffer = b""
        self._held: list[JsonObject] = []
        asked = prepared.asked
        self._bare = not (asked.logprobs or asked.token_ids)
        self._head: bytes | None = None  # what every chunk of choice 0 begins with
        self._chunks: list[bytes] = []  # those that were not read yet
        self._times: list[int] = []
        self.last_ns: int | None = None

    def feed(self, data: bytes, now_ns: int) -> bytes:
        """Take bytes as they arrived; returns the bytes to hand on (possibly none yet)."""
        self.last_ns = now_ns
        head = self._head
        if head is not None and data.startswith(head) and not self._buffer and not self._held:
            # Cheap on purpose: this runs between the client's parsing of chunks, when no cache is warm for it.
            cut = data.find(_LOGPROBS, len(head))
            ids = data.find(_IDS, cut) + len(_IDS)
            end = data.find(b"]", ids)
            if cut > 0 and ids > cut and end + len(_END) == len(data) and data.endswith(_END):
                self._chunks.append(data)
                self._times.append(now_ns)
                return b"" if cut == len(head) + 2 else data[:cut] + _NULLED  # a delta of 2 bytes is an empty one
        self._buffer += data.replace(b"\r\n", b"\n") if b"\r" in data else data
        *events, self._buffer = self._buffer.split(b"\n\n")
        return b"".join([self._rewrite(event, now_ns) for event in events])

    def rest(self) -> bytes:
        """What is still held back when the stream has ended."""
        out = self._release() + self._buffer
        self._buffer = b""
        return out

    def settle(self) -> None:
        """Take in the chunks that were handed on unread."""
        chunks, times = self._chunks, self._times
        if not chunks:
            return
        self._chunks, self._times = [], []
        captured, found = self._captured, _TOKEN.findall(b"".join(chunks))
        if len(found) < len(chunks):
            captured.chunks([wire.loads(chunk[6:]) for chunk in chunks], times)
            return
        texts, logprobs, ids = zip(*found, strict=True)
        choice = captured.choice(0)
        text = "".join([delta["content"] for delta in _all(texts)])
        choice.parts["content"] = (choice.parts.get("content") or "") + text
        choice.logprobs = (choice.logprobs or []) + _all(logprobs)
        choice.token_ids = (choice.token_ids or []) + _all(ids)
        captured.chunk_times += times
        captured.chunk_tokens += [1] * len(times)

    def _rewrite(self, event: bytes, now_ns: int) -> bytes:
        captured, asked = self._captured, self._prepared.asked
        payload = payload_of(event)
        if payload is None:
            captured.done = captured.done or b"[DONE]" in event
            return self._release() + event + b"\n\n"
        self.settle()  # what came before this chunk goes before it
        captured.chunk(payload, now_ns)
        if self._bare and self._head is None:
            self._head = _head(event)
        wire.strip(payload, asked)
        if self._silent(payload):
            return b""
        if not self._prepared.usage_added:
            return _event(payload)
        if not payload.get("choices") and "usage" in payload:
            return self._release()
        payload.pop("usage", None)
        if any(choice.get("finish_reason") for choice in payload.get("choices") or ()):
            self._held.append(payload)
            return b""
        return self._release() + _event(payload)

    def _silent(self, payload: JsonObject) -> bool:
        """Whether the chunk is there only for the tokens we asked for."""
        asked = self._prepared.asked
        if asked.logprobs or asked.token_ids:
            return False
        choices = payload.get("choices") or ()
        return bool(choices) and all(c.get("delta") == {} and not c.get("finish_reason") for c in choices)

    def _release(self) -> bytes:
        held, self._held = self._held, []
        for payload in held:
            if self._captured.fingerprint is not None:
                payload["system_fingerprint"] = self._captured.fingerprint
        return b"".join([_event(payload) for payload in held])


def _all(values: Iterable[bytes]) -> list[Any]:
    whole = b"[%s]" % b",".join(values)
    try:
        parsed: list[Any] = orjson.loads(whole)
    except orjson.JSONDecodeError:  # half a surrogate pair
        parsed = json.loads(whole)
    return parsed


def _head(event: bytes) -> bytes | None:
    """What comes before the delta in every chunk of the call's only choice."""
    before, found, _ = event.partition(b'"choices":[{"index":0,"delta":')
    return before + found if found and before.startswith(b"data: {") and b"\n" not in event else None


def _event(payload: JsonObject) -> bytes:
    return b"data: " + wire.dumps(payload) + b"\n\n"
