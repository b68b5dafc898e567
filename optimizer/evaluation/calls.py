"""What an FM call is known again by, and decodes as an answer is made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from redecode.optimizer.evaluation.prefixes import without_salt
from redecode.replay.comparison.changes import without_tracers_own
from redecode.tracer import Choice, Decode, Fidelity, FmRequest, Span, SpanKind, plain
from redecode.tracer import conventions as c

Known = tuple[Decode, Span]
"""What answers a call: held in memory, since reading it from the store would be part of the time that is measured."""
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_CHAT, _TEXT, _RESPONSES = PATHS = ("/chat/completions", "/completions", "/responses")


def engine_of(engine_id: str | None, base_url: str | None, fingerprint: str | None) -> str:
    """What an engine is known by: the description it gave of itself, else where it is and its fingerprint."""
    return engine_id or f"{base_url} {fingerprint}"


def call_name(
    *, path: str, model: str, messages: Any, tools: Any, sampling: Mapping[str, Any], stream: bool, place: str
) -> str:
    """The name of a call: equal for calls of one engine that one answer can serve.

    Args:
        path: of the API that is asked.
        sampling: without what the tracer had added, and without the limit on its tokens (`limited`).
        place: case and step of the call.
    """
    drawn = sampling.get("temperature") != 0 and sampling.get("seed") is None
    what = [path, model, messages, tools or None, dict(sampling), stream, place if drawn else None]
    return hashlib.blake2b(json.dumps(what, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def limited(sampling: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """Sampling parameters without the limit on the tokens of the answer, and that limit, if there is just one."""
    named = [name for name in _LIMITS if isinstance(sampling.get(name), int)]
    if len(named) != 1:
        return dict(sampling), None
    return {k: v for k, v in sampling.items() if k not in _LIMITS}, sampling[named[0]]


def named(request: FmRequest, place: str) -> tuple[str, int | None]:
    """The name of a call that is made, and the limit on its tokens."""
    sampling, limit = limited(without_tracers_own(plain(request.sampling)))
    name = call_name(
        path=next(p for p in (*PATHS, request.path) if request.path.endswith(p)),
        model=request.model,
        messages=plain(request.messages),
        tools=plain(request.tools),
        sampling=sampling,
        stream=request.stream,
        place=place,
    )
    return name, limit


def recorded_name(row: Mapping[str, Any]) -> tuple[str, int | None]:
    """The name of a call that was answered, and the limit on its tokens."""
    attributes = c.from_json(row["attributes"]) or {}
    return _of_row(row, _path(attributes, c.from_json(row["output"])), attributes)


def possible_names(row: Mapping[str, Any]) -> Iterator[tuple[str, int | None]]:
    """The names that a call without an answer may have had: what API it asked is seen from the answer, and whether the
    logprobs were its own wish, too.
    """
    attributes = c.from_json(row["attributes"]) or {}
    for path in PATHS:
        yield from (_of_row(row, path, told) for told in (attributes, None))


def _of_row(row: Mapping[str, Any], path: str, attributes: Mapping[str, Any] | None) -> tuple[str, int | None]:
    sampling = without_salt(without_tracers_own(c.from_json(row["sampling"]) or {}, attributes))
    if row["seed_source"] == "tracer":
        sampling.pop("seed", None)
    sampling, limit = limited(sampling)
    name = call_name(
        path=path,
        model=row["model"],
        messages=c.from_json(row["messages"]),
        tools=c.from_json(row["tool_definitions"]),
        sampling=sampling,
        stream=bool(row["stream"]),
        place=f"{row['case_id']} {row['step_key']}",
    )
    return name, limit


def _path(attributes: Mapping[str, Any], output: Any) -> str:
    """Of the API that a recorded decode was asked of: the items of a response are in its message."""
    if attributes.get(c.OPERATION) == "text_completion":
        return _TEXT
    return _RESPONSES if any("output" in message for message in output or ()) else _CHAT


def known_of(row: Mapping[str, Any]) -> Known:
    """A decode and its span, as far as an answer is made of them."""
    tail = row["prompt_tail"]
    decode = Decode(
        run_id=row["run_id"],
        span_id=row["span_id"],
        step_key=row["step_key"],
        model=row["model"],
        fidelity=Fidelity(row["fidelity"] or Fidelity.TEXT),
        sent_ns=row["sent_ns"],
        first_chunk_ns=row["first_chunk_ns"],
        done_ns=row["done_ns"],
        base_url=row["base_url"],
        fingerprint=row["fingerprint"],
        sampling=c.from_json(row["sampling"]) or {},
        tool_definitions=c.from_json(row["tool_definitions"]),
        output=c.from_json(row["output"]),
        stream=bool(row["stream"]),
        prompt_ids=None if tail is None else (*(row["prompt_body"] or ()), *tail),
        sampled_ids=None if row["sampled_ids"] is None else tuple(row["sampled_ids"]),
        logprobs=None if row["logprobs"] is None else tuple(row["logprobs"]),
        chunk_times_ns=None if row["chunk_gaps_us"] is None else c.times_ns(row["chunk_gaps_us"]),
        chunk_tokens=None if row["chunk_tokens"] is None else tuple(row["chunk_tokens"]),
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cached_tokens=row["cached_tokens"],
        error=row["error"],
        more_choices=tuple(
            Choice(*(None if v is None else tuple(v) for v in (x["ids"], x["logprobs"])))
            for x in row["more_choices"] or ()
        ),
    )
    span = Span(
        run_id=row["run_id"],
        span_id=row["span_id"],
        parent_span_id=None,
        kind=SpanKind.DECODE,
        name=row["name"],
        step_key=row["step_key"],
        start_ns=row["start_ns"],
        end_ns=row["end_ns"],
        status="ok" if row["error"] is None else "error",
        attributes=c.from_json(row["attributes"]) or {},
    )
    return decode, span


def times_s(known: Known) -> tuple[float, tuple[float, ...]]:
    """How long a call took, with what its client tried again before, and when the parts of its stream came.

    Of a stream that failed the last part comes when it failed: nothing else tells how long that took.
    """
    decode, span = known
    attempts = c.from_json(span.attributes.get(c.ATTEMPTS)) or ()
    tried_ns = decode.sent_ns - min([decode.sent_ns, *(int(attempt["sent_ns"]) for attempt in attempts)])
    wait_s = (tried_ns + (decode.e2e_ns or 0)) / 1e9
    chunks_s = tuple((tried_ns + t) / 1e9 for t in decode.chunk_times_ns or ()) if decode.stream else ()
    return wait_s, (*chunks_s[:-1], wait_s) if chunks_s and decode.error is not None else chunks_s
