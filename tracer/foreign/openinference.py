"""OpenInference: `openinference.span.kind`, messages as numbered attributes, LangGraph's metadata as JSON.

Its LangChain instrumentation puts what the conventions lack into the text of `input.value` and `output.value`
(LangChain's own serialization): the fingerprint, the response id, the tool call id and logprobs are read there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from redecode.tracer import conventions as c
from redecode.tracer.foreign import messages as m
from redecode.tracer.foreign.otlp import OtlpSpan
from redecode.tracer.foreign.reading import (
    REDACTED,
    Reading,
    Role,
    as_json,
    decode_reading,
    integer,
    known,
    number,
    parsed,
    read_labels,
    read_task,
    text,
    tool_reading,
    tool_result,
    unserialized,
)
from redecode.tracer.records import JsonObject

_LANGCHAIN = "openinference.instrumentation.langchain"
# In `llm.invocation_parameters`, but no sampling parameter.
_CONTENT = frozenset({"model", "model_name", "_type", "stream", "tools", "functions", "messages", "input", "stop"})


def is_openinference(span: OtlpSpan) -> bool:
    """Whether an OpenInference instrumentation made it."""
    return "openinference.span.kind" in span.attributes


def read(span: OtlpSpan) -> Reading:
    """One span of OpenInference."""
    a = span.attributes
    metadata = parsed(a.get("metadata"))
    task = read_task(metadata)
    conversation = text(a.get("session.id")) or _thread(metadata)
    langchain = span.scope == _LANGCHAIN or task is not None
    match a["openinference.span.kind"]:
        case "LLM":
            return _decode(span, task, conversation)
        case "TOOL":
            return _tool(span, task, conversation)
        case "RETRIEVER" | "RERANKER":
            return _retrieval(span, task, conversation)
        case "AGENT" if not langchain:
            role = Role.AGENT
        case "CHAIN" | "AGENT" | "PROMPT" | "UNKNOWN" if langchain:
            role = Role.PARSE if span.name.endswith("OutputParser") else Role.CHAIN
        case _:
            role = Role.PLAIN
    return Reading(
        role=role,
        name=span.name,
        agent=text(a.get("agent.name")) or span.name,
        task=task,
        transparent=langchain and role is Role.CHAIN,
        conversation=conversation,
        given=(unserialized(_value(a, "input")), unserialized(_value(a, "output"))),
        labels=read_labels(metadata),
    )


def _decode(span: OtlpSpan, task: Any, conversation: str | None) -> Reading:
    a = span.attributes
    parameters = parsed(a.get("llm.invocation_parameters"))
    parameters = parameters if isinstance(parameters, dict) else {}
    sampling = {k: v for k, v in parameters.items() if k not in _CONTENT}
    if parameters.get("stop") is not None:
        sampling["stop"] = parameters["stop"]
    tools = [t["tool"].get("json_schema") for t in m.numbered(a, "llm.tools") if _has_tool(t)]
    inputs = m.from_openinference(m.numbered(a, "llm.input_messages"))
    outputs = m.from_openinference(m.numbered(a, "llm.output_messages"))
    result = unserialized(parsed(a.get("output.value")))
    reasons = [m.finish_reason(g.get("generation_info", {}).get("finish_reason")) for g in _generations(result)]
    finish = m.finish_reason(a.get("llm.finish_reason")) or next((r for r in reasons if r), None)
    for place, message in enumerate(outputs):
        message["finish_reason"] = reasons[place] if place < len(reasons) and reasons[place] else finish
    usage = _usage(result)
    return decode_reading(
        span,
        model=text(parameters.get("model")) or text(a.get("llm.model_name")) or text(parameters.get("model_name")),
        sampling=sampling,
        stream=parameters.get("stream") if isinstance(parameters.get("stream"), bool) else None,
        task=task,
        conversation=conversation,
        attributes={
            c.PROVIDER: text(a.get("llm.provider")) or text(a.get("llm.system")),
            c.INPUT_MESSAGES: c.to_json(inputs) if inputs else None,
            c.OUTPUT_MESSAGES: c.to_json(outputs) if outputs else None,
            c.TOOL_DEFINITIONS: as_json(m.tool_definitions(tools or parameters.get("tools"))),
            c.FINISH_REASONS: finish,
            c.INPUT_TOKENS: m.first_count(a.get("llm.token_count.prompt"), usage.get("prompt_tokens")),
            c.OUTPUT_TOKENS: m.first_count(a.get("llm.token_count.completion"), usage.get("completion_tokens")),
            c.CACHED_TOKENS: m.first_count(a.get("llm.token_count.prompt_details.cache_read")),
            c.FINGERPRINT: _said(result, "system_fingerprint"),
            c.RESPONSE_ID: _said(result, "id"),
            c.LOGPROBS: _logprobs(result),
        },
    )


def _has_tool(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("tool"), dict)


def _generations(result: Any) -> list[JsonObject]:
    """The generations of LangChain's LLMResult, as far as `output.value` is one."""
    groups = result.get("generations") if isinstance(result, dict) else None
    first = groups[0] if isinstance(groups, list) and groups else None
    found = [g for g in first if isinstance(g, dict)] if isinstance(first, list) else []
    return [{**g, "generation_info": info} for g in found if isinstance(info := g.get("generation_info") or {}, dict)]


def _response(result: Any) -> JsonObject:
    for generation in _generations(result):
        message = generation.get("message")
        response = message.get("response_metadata") if isinstance(message, dict) else None
        if isinstance(response, dict):
            return response
    return {}


def _said(result: Any, name: str) -> str | None:
    output = result.get("llm_output") if isinstance(result, dict) else None
    return text(_response(result).get(name)) or text(output.get(name) if isinstance(output, dict) else None)


def _usage(result: Any) -> JsonObject:
    usage = _response(result).get("token_usage")
    return usage if isinstance(usage, dict) else {}


def _logprobs(result: Any) -> bytes | None:
    given = _response(result).get("logprobs")
    content = given.get("content") if isinstance(given, dict) else None
    if not isinstance(content, list) or not content:
        return None
    values = [number(item.get("logprob")) if isinstance(item, dict) else None for item in content]
    fits = [v for v in values if v is not None and abs(v) < 3e38]
    return c.pack(fits, "f") if len(fits) == len(content) else None


def _tool(span: OtlpSpan, task: Any, conversation: str | None) -> Reading:
    a = span.attributes
    name = text(a.get("tool.name")) or span.name
    result, call_id, failed = tool_result(_value(a, "output"))
    arguments = _value(a, "input")  # of a tool with one argument: its value alone
    return tool_reading(
        name,
        call_id=text(a.get("tool_call.id")) or call_id,
        arguments=as_json(a.get("tool.parameters")) or (None if arguments is None else c.to_json(arguments)),
        result=result,
        failed=failed,
        task=task,
        conversation=conversation,
    )


def _value(attributes: JsonObject, which: str) -> Any:
    """`input.value` or `output.value`: JSON only where its type says so."""
    value = attributes.get(f"{which}.value")
    if attributes.get(f"{which}.mime_type") == "application/json":
        return parsed(value)
    return None if value == REDACTED else value


def state_given(told: Any, came: Any, made: Sequence[Any]) -> Any:
    """A graph's input, of which the instrumentation has the value alone where it is a text in a state of one field.

    What comes out of a graph is what was given and what its nodes wrote. So the field is known if all others of the
    answer were written (or are empty), and the one that is left has that text; else the text stays as it is.

    Args:
        came: out of the graph.
        made: what each of its nodes did; of a single field likewise the value alone.
    """
    if not isinstance(told, str) or not isinstance(came, dict):
        return told
    texts = {out for out in made if isinstance(out, str)}
    written = {name for out in made if isinstance(out, dict) for u in (out, out.get("update")) for name in _names(u)}
    left = [n for n, v in came.items() if v and n not in written and not (isinstance(v, str) and v in texts)]
    return {left[0]: told} if len(left) == 1 and came[left[0]] == told else told


def _names(update: Any) -> Iterable[str]:
    return update if isinstance(update, dict) else ()


def _retrieval(span: OtlpSpan, task: Any, conversation: str | None) -> Reading:
    a = span.attributes
    documents = [
        item["document"]
        for prefix in ("retrieval.documents", "reranker.output_documents")
        for item in m.numbered(a, prefix)
        if isinstance(item, dict) and "document" in item
    ]
    query = text(a.get("input.value")) or text(a.get("reranker.query"))
    values = {
        c.TOOL_ARGUMENTS: None if query is None else c.to_json(query),
        c.TOOL_RESULT: c.to_json(documents) if documents else as_json(a.get("output.value")),
    }
    return Reading(
        role=Role.RETRIEVAL,
        name=span.name,
        agent=span.name,
        task=task,
        conversation=conversation,
        attributes=known(values),
    )


def _thread(metadata: Any) -> str | None:
    thread = metadata.get("thread_id") if isinstance(metadata, dict) else None
    return text(thread) or (str(thread) if integer(thread) is not None else None)
