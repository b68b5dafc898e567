"""What of another tracer's span may be written down: the same policy as for our own (`tracer/privacy/redaction.py`).

Nobody can list all the attributes in which tracers put what was said. So without content only those stay that are
known to be structure: names from a list, and numbers under prefixes of which nothing else comes.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import orjson

from redecode.tracer import conventions as c
from redecode.tracer.events import SpanEvent
from redecode.tracer.foreign.otlp import OtlpSpan, SpanNote
from redecode.tracer.privacy.redaction import (
    MACHINE,
    NAMES,
    WITHHELD,
    Privacy,
    plain_sampling,
    redacted_attribute,
    structure,
)
from redecode.tracer.privacy.rules import Rules, failure, unspelled
from redecode.tracer.records import Fidelity, JsonObject

_TEXTS = frozenset(
    {
        "agent.name", "checkpoint_ns", "code.function.name", "db.system", "exception.type", "gen_ai.agent.id",
        "gen_ai.data_source.id", "gen_ai.openai.request.service_tier", "gen_ai.openai.response.service_tier",
        "gen_ai.openai.response.system_fingerprint", "gen_ai.openai.system_fingerprint", "gen_ai.output.type",
        "gen_ai.request.id", "gen_ai.response.model", "gen_ai.system", "gen_ai.tool.type", "gen_ai.workflow.name",
        "graph.node.id", "graph.node.name", "graph.node.parent_id", "input.mime_type", "llm.finish_reason",
        "llm.is_streaming", "llm.model_name", "llm.provider", "llm.request.type", "llm.response.finish_reason",
        "llm.system", "openai.request.service_tier", "openai.response.service_tier", "openinference.span.kind",
        "output.mime_type", "rpc.method", "rpc.service", "server.address", "session.id", "thread_id", "tool.name",
        "tool_call.id", "traceloop.entity.name", "traceloop.entity.path", "traceloop.span.kind",
        "traceloop.workflow.name", "url.scheme",
    }
)  # fmt: skip
_NUMBERS = (
    "gen_ai.latency.", "gen_ai.openai.request.", "gen_ai.request.", "gen_ai.response.", "gen_ai.server.",
    "gen_ai.usage.", "http.", "llm.frequency_penalty", "llm.presence_penalty", "llm.token_count.", "llm.top_k",
    "llm.usage.", "server.", "thread.",
)  # fmt: skip
_PROPERTIES = "traceloop.association.properties."
_METADATA = ("langgraph_", "ls_", "thread_id", "checkpoint_ns")
_RESOURCE = (
    "service.", "telemetry.", "host.name", "host.arch", "os.", "process.pid", "process.runtime.", "deployment.",
    "k8s.", "container.", "cloud.", "vllm.", c.ENGINES,
)  # fmt: skip
_PIECES = ("chunk", "token")  # in the names of span events that carry an answer piece by piece
_ERROR_TYPES = ("exception.type", c.ERROR_TYPE)


_Resources = dict[int, tuple[JsonObject, JsonObject]]


class SpanPrivacy:
    """A policy for spans that come in.

    Args:
        lose: told (run, why) when a user's rule failed; the span is then written without its content.
    """

    def __init__(self, privacy: Privacy, lose: Callable[[str | None, str], None]) -> None:
        self._privacy, self._lose = privacy, lose

    def spans(self, spans: Iterable[OtlpSpan]) -> list[OtlpSpan]:
        """What may be written of spans; those that share a resource share one afterwards."""
        resources: _Resources = {}
        return [self._span(span, resources) for span in spans]

    def _span(self, span: OtlpSpan, resources: _Resources) -> OtlpSpan:
        rules = self._privacy.rules
        if self._privacy.content and rules is not None:
            try:
                return self._redacted(span, rules, resources)
            except Exception as error:
                self._lose(span.run, failure(error))
        return self._structure(span, None if rules is None else rules.without_functions())

    def _redacted(self, span: OtlpSpan, rules: Rules, resources: _Resources) -> OtlpSpan:
        if id(span.resource) not in resources:  # kept as well: another one must not get its id
            kept = {n: rules.value(n, v, set()) for n, v in span.resource.items()}
            resources[id(span.resource)] = span.resource, kept
        _, resource = resources[id(span.resource)]
        found: set[str] = set()

        def treated(given: JsonObject) -> JsonObject:
            return {name: redacted_attribute(rules, name, value, found) for name, value in given.items()}

        attributes = treated(span.attributes)
        events: list[SpanNote] = [(name, at, treated(_whole(name, given))) for name, at, given in span.events]
        links = [(run, other, treated(given)) for run, other, given in span.links]
        name = rules.label(span.name, found)
        error = None if span.error is None else rules.text("error", span.error, found)
        if found:
            attributes = self._tokens_hidden({n: unspelled(v) for n, v in attributes.items()})
            attributes[c.REDACTED] = sorted(found)
        return replace(
            span, name=name, error=error, attributes=attributes, events=events, links=links, resource=resource
        )

    def _structure(self, span: OtlpSpan, rules: Rules | None) -> OtlpSpan:
        attributes, _ = structure(span.attributes)
        more = {name: _kept(name, value) for name, value in span.attributes.items() if name not in attributes}
        attributes |= {name: value for name, value in more.items() if value is not None}
        gone = span.attributes.keys() - attributes.keys() or span.error is not None or any(a for _, _, a in span.events)
        attributes |= self._lengths(span.attributes)
        if gone:
            attributes[c.REDACTED] = [WITHHELD]
            if c.FIDELITY in attributes:
                attributes[c.FIDELITY] = Fidelity.STRUCTURE.value
        name = span.name
        if rules is not None:
            found: set[str] = set()
            attributes = {n: rules.label(v, found) if _is_name(n, v) else v for n, v in attributes.items()}
            name = rules.label(name, found)
        return replace(
            span,
            name=name,
            error=None,
            attributes=attributes,
            events=[(n, at, {k: v for k, v in given.items() if k in _ERROR_TYPES}) for n, at, given in span.events],
            links=[(run, other, {}) for run, other, _ in span.links],
            resource={n: v for n, v in span.resource.items() if n.startswith(_RESOURCE)},
            trace_state="",
        )

    def _tokens_hidden(self, attributes: JsonObject) -> JsonObject:
        """Attributes of an exported decode of ours (arrays in base64) without what spells its text."""
        out = {n: v for n, v in attributes.items() if not Privacy.spells(n)} | self._lengths(attributes)
        if c.FIDELITY in out:
            out[c.FIDELITY] = Fidelity.STRUCTURE.value
        return out

    def _lengths(self, attributes: JsonObject) -> JsonObject:
        known: JsonObject = {n: attributes.get(n) for n in (c.INPUT_TOKENS, c.OUTPUT_TOKENS)}
        for name in (c.PROMPT_IDS, c.SAMPLED_IDS):
            if isinstance(value := attributes.get(name), str):
                try:
                    known[name] = base64.b64decode(value, validate=True)
                except ValueError:
                    continue
        lengths = self._privacy.lengths(known)
        return {n: base64.b64encode(v).decode() if isinstance(v, bytes) else v for n, v in lengths.items()}


def _is_name(name: str, value: Any) -> bool:
    return isinstance(value, str) and name not in MACHINE and (name in NAMES or name in _TEXTS)


def _whole(name: str, given: JsonObject) -> JsonObject:
    """A span event's attributes; none of one that carries a piece of an answer: what is cut up is not recognised."""
    return {} if any(word in name.lower() for word in _PIECES) else given


def _kept(name: str, value: Any) -> Any:
    """What stays of an attribute that our own conventions do not call structure; `None` if nothing."""
    if name in _TEXTS:
        return value if isinstance(value, str | bool | int | float) else None
    if name == "llm.invocation_parameters":
        return _filtered(value, plain_sampling)
    if name == "metadata":
        return _filtered(value, _langgraph)
    if name in {"traceloop.entity.input", "gen_ai.task.input"}:
        return _filtered(value, lambda whole: {"metadata": _langgraph(whole.get("metadata"))})
    if name.startswith(_PROPERTIES):
        return value if name.removeprefix(_PROPERTIES).startswith(_METADATA) else None
    if name.startswith(_NUMBERS) and isinstance(value, bool | int | float):
        return value
    return None


def _langgraph(metadata: Any) -> JsonObject:
    if not isinstance(metadata, dict):
        return {}
    return {k: v for k, v in metadata.items() if k.startswith(_METADATA)}


def _filtered(value: Any, keep: Callable[[JsonObject], JsonObject]) -> str | None:
    try:
        given = orjson.loads(value) if isinstance(value, str) else value
    except orjson.JSONDecodeError:
        return None
    return c.to_json(keep(given)) if isinstance(given, dict) else None


def marked(spans: Iterable[OtlpSpan], events: list[SpanEvent]) -> list[SpanEvent]:
    """Say on the spans derived from others what was taken out of those.

    Which span's content a derived one holds cannot always be told (two may be one): all of a run's are marked.
    """
    names = sorted({str(n) for span in spans for n in _names(span.attributes.get(c.REDACTED))})
    if names:
        for event in events:
            if event.kind in {"run", "decode", "tool"}:
                event.attributes[c.REDACTED] = names
                if c.FIDELITY in event.attributes:
                    event.attributes[c.FIDELITY] = Fidelity.STRUCTURE.value
    return events


def _names(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
