"""What a span without children is made of: an FM call's queue, prefill, decode, cut where a token launched something.

The parts tile the span exactly. The engine tells how long it queued, prefilled and decoded, in its own time. Where
these lie in the call is known if the step clock dates the tokens; else the last token is taken to have come when the
answer did, so that all other time of the call (client, network, the engine's front end) stands before the queue.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

from redecode.replay.analysis.model import Activity, ActivityKind
from redecode.tracer import Span, SpanKind
from redecode.tracer.conventions import HOST

if TYPE_CHECKING:
    from redecode.tracer import Decode
    from redecode.tracer.store import CallTimes

    Call = Decode | CallTimes

OWN = {
    SpanKind.RUN: ActivityKind.CODE,
    SpanKind.GRAPH: ActivityKind.CODE,
    SpanKind.NODE: ActivityKind.CODE,
    SpanKind.DECODE: ActivityKind.FM,
    SpanKind.TOOL: ActivityKind.TOOL,
    SpanKind.RETRIEVAL: ActivityKind.RETRIEVAL,
    SpanKind.CACHE: ActivityKind.CACHE,
    SpanKind.PARSE: ActivityKind.PARSE,
}
"""What a span does while nothing below it is at work."""
_Part = tuple[str, ActivityKind, int, int]
"""Name, kind, start, end."""


def label_of(span: Span, decode: Call | None) -> str:
    """The FM's name, the tool's, the node's."""
    return decode.model if decode is not None and decode.model else span.name


def parts_of(span: Span, end_ns: int, decode: Call | None, cuts: Sequence[int] = ()) -> list[Activity]:
    """The activities of a span without children, in order.

    Args:
        end_ns: its end, or the last known time while it is open.
        cuts: points in time at which it is cut as well.
    """
    kind = OWN[span.kind]
    parts: list[_Part] = [("", kind, span.start_ns, end_ns)]
    if decode is not None and decode.done_ns is not None:
        parts = _split(span.start_ns, end_ns, decode) or parts
    if cuts:
        parts = list(_cut(parts, sorted(set(cuts))))
    host, label = span.attributes.get(HOST), label_of(span, decode)
    return [
        Activity(
            span.span_id if len(parts) == 1 else f"{span.span_id}/{part}",
            start,
            end,
            what,
            span.span_id,
            span.step_key,
            part if len(parts) > 1 else "",
            span.status,
            host,
            None if decode is None else _tokens(decode, what, start, end, whole=not cuts),
            label,
        )
        for part, what, start, end in parts
    ]


def _split(start: int, end: int, decode: Call) -> list[_Part]:
    """The engine's split of a call; nothing if it gave none."""
    queue, prefill, decoding = decode.queue_ns, decode.prefill_ns, decode.decode_ns
    if decode.first_token_ns is not None and decode.last_token_ns is not None:
        first, last = decode.sent_ns + decode.first_token_ns, decode.sent_ns + decode.last_token_ns
    elif prefill is not None and decoding is not None:
        last = decode.done_ns if decode.done_ns is not None else end
        first = last - decoding
    else:
        return []
    wanted: list[tuple[str, ActivityKind, int]] = []
    if prefill is not None:
        wanted += [
            ("sending", ActivityKind.TRANSPORT, first - prefill - (queue or 0)),
            ("queue", ActivityKind.QUEUE, first - prefill),
            ("prefill", ActivityKind.PREFILL, first),
        ]
    else:
        wanted.append(("first token", ActivityKind.FM, first))
    wanted += [("decode", ActivityKind.DECODE, last), ("receiving", ActivityKind.TRANSPORT, end)]
    parts, at = [], start
    for name, kind, until in wanted:  # the engine's clock is not the client's: nothing may leave the call
        until = min(max(until, at), end)
        if until > at:
            parts.append((name, kind, at, until))
        at = until
    return parts


def _cut(parts: list[_Part], cuts: list[int]) -> list[_Part]:
    out: list[_Part] = []
    for name, kind, start, end in parts:
        at, piece = start, 1
        for cut in cuts:
            if at < cut < end:
                out.append((_piece(name, piece), kind, at, cut))
                at, piece = cut, piece + 1
        out.append((_piece(name, piece), kind, at, end))
    return out


def _piece(name: str, piece: int) -> str:
    return name if piece == 1 and name else f"{name} {piece}".strip()


def _tokens(decode: Call, kind: ActivityKind, start: int, end: int, *, whole: bool) -> int | None:
    """Tokens after the first that came in a part; `None` if that is not known."""
    if kind not in (ActivityKind.DECODE, ActivityKind.FM):
        return None
    if decode.token_times_ns:
        times = [decode.sent_ns + t for t in decode.token_times_ns[1:]]
        return bisect_right(times, end) - bisect_right(times, start)
    if kind is ActivityKind.DECODE and whole and decode.output_tokens is not None:
        return max(0, decode.output_tokens - 1)
    return None


def launched_at(decode: Call | None, begun_ns: int, span: Span) -> int:
    """When the part of a stream came on which something was begun at `begun_ns`: the last that had come by then."""
    start = span.start_ns
    if decode is not None:
        for times in (decode.chunk_times_ns, decode.token_times_ns):
            if times:
                n = bisect_right(times, begun_ns - decode.sent_ns)
                return max(start, decode.sent_ns + times[n - 1]) if n else start
        if decode.first_chunk_ns is not None and decode.first_chunk_ns <= begun_ns:
            return max(start, decode.first_chunk_ns)
    return max(start, begun_ns)  # nothing of the stream's times is known
