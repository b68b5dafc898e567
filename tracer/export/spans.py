"""A recorded run as the spans it was written down as: the store's columns put back under their names on the wire."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from redecode.tracer import conventions as c
from redecode.tracer.events import SpanEdge, SpanEvent
from redecode.tracer.fm.decode_attributes import decode_attributes
from redecode.tracer.records import Decode, JsonObject, Run, SpanKind, ToolStep

if TYPE_CHECKING:
    from redecode.tracer.store import RecordedRun


def span_events(recorded: RecordedRun) -> list[SpanEvent]:
    """Every span of a run, complete: written into a journal, they are that run again.

    An edge to a span that is not in the run has nowhere to be written and is left out.
    """
    edges: dict[str, list[SpanEdge]] = {}
    for edge in recorded.edges:
        edges.setdefault(edge.dst, []).append((edge.src, edge.kind.value, edge.provenance.value))
    decodes = {decode.span_id: decode for decode in recorded.decodes}
    tools = {tool.span_id: tool for tool in recorded.tools}
    events = []
    for span in recorded.spans:
        attributes: JsonObject = {}
        if span.kind is SpanKind.RUN:
            attributes = _run(recorded.run)
        elif span.span_id in decodes:
            attributes = _decode(decodes[span.span_id])
        elif span.span_id in tools:
            attributes = _tool(tools[span.span_id])
        events.append(
            SpanEvent(
                run=span.run_id,
                span=span.span_id,
                parent=span.parent_span_id,
                kind=span.kind.value,
                name=span.name,
                step_key=span.step_key,
                start_ns=span.start_ns,
                end_ns=span.end_ns,
                status=span.status,
                error=span.error,
                # An open run's span holds what will be columns at its end, unknown or not.
                attributes={**attributes, **_known(span.attributes, c.COLUMNS)},
                edges=edges.get(span.span_id, []),
            )
        )
    return events


def _run(run: Run) -> JsonObject:
    return _known(
        {
            c.AGENT_NAME: run.agent,
            c.AGENT_VERSION: run.agent_version,
            c.CONVERSATION: run.conversation_id,
            c.SOURCE_RUN: run.source_run_id,
            c.REPLAY_MODE: run.replay_mode,
            c.RUN_INPUT: _json(run.input),
            c.RUN_OUTPUT: _json(run.output),
            c.LABELS: c.to_json(run.labels) if run.labels else None,
            c.SLO: run.slo_s,
        }
    )


def _decode(decode: Decode) -> JsonObject:
    # Only what the store keeps in columns: the rest is among the span's own attributes, if it was recorded.
    attributes = {name: value for name, value in decode_attributes(decode).items() if name in c.COLUMNS}
    attributes[c.DIGEST] = decode.digest
    for number, choice in enumerate(decode.more_choices, 1):
        for name, values in ((c.SAMPLED_IDS, choice.sampled_ids), (c.LOGPROBS, choice.logprobs)):
            attributes[f"{name}.{number}"] = None if values is None else c.pack(values, c.ARRAYS[name])
    return _known(attributes)


def _tool(tool: ToolStep) -> JsonObject:
    return _known(
        {
            c.TOOL_NAME: tool.tool,
            c.TOOL_CALL_ID: tool.call_id,
            c.TOOL_ARGUMENTS: _json(tool.arguments),
            c.TOOL_RESULT: _json(tool.result),
            c.SIDE_EFFECT: tool.side_effect,
        }
    )


def _json(value: Any) -> str | None:
    return None if value is None else c.to_json(value)


def _known(attributes: JsonObject, only: Collection[str] | None = None) -> JsonObject:
    """Without what is unknown (of `only` these names)."""
    return {k: v for k, v in attributes.items() if v is not None or (only is not None and k not in only)}
