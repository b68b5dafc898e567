"""vLLM's own spans (`vllm --otlp-traces-endpoint`): the engine's account of an FM call, and of its start-up.

Its names are private ones. A request's span has as parent whatever span the client named in `traceparent`: our
decode, or another tracer's.
"""

from __future__ import annotations

from collections.abc import Iterable

from redecode.tracer import conventions as c
from redecode.tracer.foreign.otlp import OtlpSpan
from redecode.tracer.foreign.reading import Reading, Role, decode_reading, known, seconds_ns, text
from redecode.tracer.records import JsonObject

_LATENCY = "gen_ai.latency."
_REQUEST_ID = "gen_ai.request.id"


def is_engine_span(span: OtlpSpan) -> bool:
    """Whether it is an engine's account of one request."""
    return f"{_LATENCY}time_in_queue" in span.attributes


def is_from_engine(span: OtlpSpan) -> bool:
    """Whether an engine's process made it: a request, or a part of its start-up."""
    return is_engine_span(span) or "vllm.instrumenting_module_name" in span.resource or span.scope.startswith("vllm.")


def engine_split(span: OtlpSpan) -> JsonObject:
    """The engine's split of one FM call as attributes of its decode, ns: queued, prefill (first scheduled → first
    token), decode phase (first → last token). A time the span does not have, or that makes no sense, is left out.
    """
    a = span.attributes
    return known(
        {
            c.QUEUE_NS: seconds_ns(a.get(f"{_LATENCY}time_in_queue")),
            c.PREFILL_NS: seconds_ns(a.get(f"{_LATENCY}time_in_model_prefill")),
            c.DECODE_NS: seconds_ns(a.get(f"{_LATENCY}time_in_model_decode")),
        }
    )


def engine_splits(spans: Iterable[OtlpSpan]) -> dict[str, JsonObject]:
    """Parent span id → `engine_split` of the engine's spans below it.

    A call that was tried again, or asked for several choices, has several; the one that ended last counts.
    """
    last: dict[str, OtlpSpan] = {}
    for span in spans:
        if span.parent is not None and is_engine_span(span):
            known_one = last.get(span.parent)
            if known_one is None or _order(known_one) < _order(span):
                last[span.parent] = span
    return {parent: engine_split(span) for parent, span in last.items()}


def _order(span: OtlpSpan) -> tuple[int, int, str]:
    return span.end_ns or 0, span.start_ns, span.span


def read(span: OtlpSpan) -> Reading:
    """A request's span by itself: a decode of which only numbers are known."""
    a = span.attributes
    sampling = {name: a.get(f"{c.REQUEST_PREFIX}{name}") for name in ("temperature", "top_p", "max_tokens", "n")}
    reading = decode_reading(
        span,
        model=text(a.get(c.REQUEST_MODEL)) or text(a.get("gen_ai.response.model")),
        sampling=sampling,
        attributes={
            c.PROVIDER: "vllm",
            c.INPUT_TOKENS: a.get("gen_ai.usage.prompt_tokens"),
            c.OUTPUT_TOKENS: a.get("gen_ai.usage.completion_tokens"),
            **engine_split(span),
        },
    )
    reading.role = Role.ENGINE
    return reading
