"""The GenAI conventions, new and old: OpenTelemetry's own instrumentations, and OpenLLMetry's (`traceloop.*`) on top.

OpenLLMetry keeps LangGraph's metadata in `traceloop.association.properties.*`, with the parts of a path as Python
text; the same metadata is whole in `traceloop.entity.input`, where content is captured.
"""

from __future__ import annotations

from typing import Any

from redecode.tracer import conventions as c
from redecode.tracer.foreign import messages as m
from redecode.tracer.foreign.otlp import OtlpSpan
from redecode.tracer.foreign.reading import (
    Reading,
    Role,
    Task,
    as_json,
    boolean,
    decode_reading,
    known,
    parsed,
    read_labels,
    read_task,
    text,
    tool_reading,
    tool_result,
    unserialized,
)
from redecode.tracer.records import JsonObject

_OPENLLMETRY_LANGCHAIN = "opentelemetry.instrumentation.langchain"
_PROPERTIES = "traceloop.association.properties."
_DECODES = {"chat": "chat", "text_completion": "text_completion", "generate_content": "chat", "completion": "chat"}
_AGENTS = frozenset({"invoke_agent", "invoke_workflow"})
# Names of the conventions → the API's; the others (seed, temperature, top_p, max_tokens …) are the same.
_SAMPLING = {"stop_sequences": "stop", "choice.count": "n", "reasoning.level": "reasoning_effort"}
_NO_SAMPLING = frozenset({"model", "stream", "id", "encoding_formats", "is_stream", "previous_response_id"})


def is_genai(span: OtlpSpan) -> bool:
    """Whether it follows the GenAI conventions of any age, or OpenLLMetry's."""
    a = span.attributes
    return c.OPERATION in a or "traceloop.span.kind" in a or "llm.request.type" in a or "gen_ai.system" in a


def read(span: OtlpSpan) -> Reading:
    """One span of the GenAI conventions or OpenLLMetry."""
    a = _with_details(span)
    operation = text(a.get(c.OPERATION)) or text(a.get("llm.request.type")) or ""
    given = _entity(a, "input"), _entity(a, "output")
    task = _task(a, given[0])
    conversation = text(a.get(c.CONVERSATION)) or text(a.get(_PROPERTIES + "thread_id"))
    langchain = span.scope == _OPENLLMETRY_LANGCHAIN
    if operation in _DECODES:
        return _decode(span, a, _DECODES[operation], task, conversation)
    name = text(a.get("traceloop.entity.name"))
    kind = text(a.get("traceloop.span.kind"))
    if operation == "execute_tool" or kind == "tool":
        return _tool(span, a, task, conversation)
    if operation in {"retrieval", "vector_db_retrieve"}:
        return _retrieval(span, a, task, conversation)
    agent = text(a.get(c.AGENT_NAME)) or text(a.get("gen_ai.workflow.name")) or name
    reading = Reading(
        role=Role.PLAIN,
        name=agent or name or span.name,
        agent=agent,
        task=task,
        conversation=conversation,
        given=(_put_in(given[0], a), _came_out(given[1], a)),
        labels=read_labels(given[0].get("metadata")) if isinstance(given[0], dict) else {},
    )
    if langchain and name is not None:
        reading.role = Role.PARSE if name.endswith("OutputParser") else Role.CHAIN
        reading.name, reading.agent, reading.transparent = name, agent or name, reading.role is Role.CHAIN
    elif operation in _AGENTS or kind in {"workflow", "agent"}:
        reading.role = Role.AGENT
        reading.wraps = langchain
    elif operation:
        reading.name = name or span.name
        reading.attributes = {c.OPERATION: operation}
    return reading


def _with_details(span: OtlpSpan) -> JsonObject:
    """The span's attributes with those of the span events that older conventions kept content in."""
    a = dict(span.attributes)
    prompts: list[JsonObject] = []
    choices: list[JsonObject] = []
    for name, _, details in span.events:
        match name:
            case "gen_ai.client.inference.operation.details":
                a = {**details, **a}
            case "gen_ai.content.prompt":
                a.setdefault(c.INPUT_MESSAGES, details.get("gen_ai.prompt"))
            case "gen_ai.content.completion":
                a.setdefault(c.OUTPUT_MESSAGES, details.get("gen_ai.completion"))
            case "gen_ai.choice":
                choices.append(_choice(details))
            case "gen_ai.system.message" | "gen_ai.user.message" | "gen_ai.assistant.message" | "gen_ai.tool.message":
                prompts.append(_event_message(name.split(".")[1], details))
    if prompts:
        a.setdefault(c.INPUT_MESSAGES, prompts)
    if choices:
        a.setdefault(c.OUTPUT_MESSAGES, choices)
    return a


def _event_message(role: str, details: JsonObject) -> JsonObject:
    out: JsonObject = {"role": text(details.get("role")) or role, "content": details.get("content")}
    if (calls := parsed(details.get("tool_calls"))) is not None:
        out["tool_calls"] = calls
    if (call_id := text(details.get("id"))) is not None and role == "tool":
        out["tool_call_id"] = call_id
    return out


def _choice(details: JsonObject) -> JsonObject:
    message = parsed(details.get("message"))
    message = message if isinstance(message, dict) else {"content": message if message else details.get("content")}
    return {"role": "assistant", **message, "finish_reason": m.finish_reason(details.get("finish_reason"))}


def _entity(a: JsonObject, which: str) -> Any:
    """What OpenLLMetry puts around an input or output: `{"inputs": …, "metadata": …}`."""
    return parsed(a.get(f"traceloop.entity.{which}", a.get(f"gen_ai.task.{which}")))


def _put_in(entity: Any, a: JsonObject) -> Any:
    if isinstance(entity, dict) and "inputs" in entity:
        return unserialized(entity["inputs"])
    return unserialized(entity) if entity is not None else m.from_parts(a.get(c.INPUT_MESSAGES))


def _came_out(entity: Any, a: JsonObject) -> Any:
    if isinstance(entity, dict) and "outputs" in entity:
        return unserialized(entity["outputs"])
    return unserialized(entity) if entity is not None else m.from_parts(a.get(c.OUTPUT_MESSAGES))


def _task(a: JsonObject, entity: Any) -> Task | None:
    whole = read_task(entity.get("metadata")) if isinstance(entity, dict) else None
    if whole is not None:
        return whole
    return read_task({k.removeprefix(_PROPERTIES): v for k, v in a.items() if k.startswith(_PROPERTIES)})


def _decode(span: OtlpSpan, a: JsonObject, operation: str, task: Task | None, conversation: str | None) -> Reading:
    inputs = m.from_parts(a.get(c.INPUT_MESSAGES))
    if inputs is None:
        inputs = m.from_numbered(m.numbered(a, "gen_ai.prompt"))
    inputs = m.system_message(a.get("gen_ai.system_instructions")) + inputs
    outputs = m.from_parts(a.get(c.OUTPUT_MESSAGES))
    if outputs is None:
        outputs = m.from_numbered(m.numbered(a, "gen_ai.completion"))
    finish = m.finish_reason(a.get(c.FINISH_REASONS)) or m.finish_reason(a.get("llm.response.finish_reason"))
    finish = finish or next((o["finish_reason"] for o in outputs if o.get("finish_reason")), None)
    for message in outputs:
        message.setdefault("finish_reason", finish)
    stream = a.get(c.REQUEST_STREAM, a.get("llm.is_streaming", a.get("gen_ai.is_streaming")))
    functions = m.numbered(a, "llm.request.functions")
    return decode_reading(
        span,
        operation=operation,
        model=text(a.get(c.REQUEST_MODEL)) or text(a.get("gen_ai.response.model")),
        sampling=_sampling(a),
        ttft_s=a.get(c.TIME_TO_FIRST_CHUNK, a.get("gen_ai.server.time_to_first_token")),
        stream=boolean(stream),
        task=task,
        conversation=conversation,
        attributes={
            c.PROVIDER: text(a.get(c.PROVIDER)) or text(a.get("gen_ai.system")),
            c.INPUT_MESSAGES: c.to_json(inputs) if inputs else None,
            c.OUTPUT_MESSAGES: c.to_json(outputs) if outputs else None,
            c.TOOL_DEFINITIONS: as_json(m.tool_definitions(a.get(c.TOOL_DEFINITIONS) or functions)),
            c.FINISH_REASONS: finish,
            c.INPUT_TOKENS: m.first_count(a.get(c.INPUT_TOKENS), a.get("gen_ai.usage.prompt_tokens")),
            c.OUTPUT_TOKENS: m.first_count(a.get(c.OUTPUT_TOKENS), a.get("gen_ai.usage.completion_tokens")),
            c.CACHED_TOKENS: m.first_count(a.get(c.CACHED_TOKENS), a.get("gen_ai.usage.cache_read_input_tokens")),
            c.FINGERPRINT: next((f for f in map(text, map(a.get, _FINGERPRINTS)) if f), None),
            c.RESPONSE_ID: text(a.get(c.RESPONSE_ID)),
            c.BASE_URL: text(a.get("gen_ai.openai.api_base")),
        },
    )


_FINGERPRINTS = (
    c.FINGERPRINT,
    "gen_ai.openai.response.system_fingerprint",
    "gen_ai.openai.system_fingerprint",
)


def _sampling(a: JsonObject) -> JsonObject:
    out: JsonObject = {}
    for name, value in a.items():
        for prefix in (c.REQUEST_PREFIX, "gen_ai.openai.request."):
            own = name.removeprefix(prefix)
            if own != name and own not in _NO_SAMPLING:
                out[_SAMPLING.get(own, own)] = value
    for name in ("frequency_penalty", "presence_penalty", "top_k"):
        if (value := a.get(f"llm.{name}")) is not None:
            out.setdefault(name, value)
    return out


def _tool(span: OtlpSpan, a: JsonObject, task: Task | None, conversation: str | None) -> Reading:
    name = text(a.get(c.TOOL_NAME)) or text(a.get("traceloop.entity.name")) or span.name
    arguments = parsed(a.get(c.TOOL_ARGUMENTS, a.get("traceloop.entity.input")))
    result = a.get(c.TOOL_RESULT, a.get("traceloop.entity.output"))
    call_id = text(a.get(c.TOOL_CALL_ID))
    if isinstance(arguments, dict) and "input_str" in arguments:  # OpenLLMetry: what the callback was called with
        said = arguments.get("kwargs")
        call_id = call_id or text(said.get("tool_call_id") if isinstance(said, dict) else None)
        arguments = arguments["inputs"] if arguments.get("inputs") is not None else arguments["input_str"]
        whole = parsed(result)
        result = whole["output"] if isinstance(whole, dict) and "output" in whole else whole
    elif isinstance(inner := parsed(result), dict | list):
        result = inner  # a text that happens to be a number stays the text that the tool returned
    result, from_message, failed = tool_result(result)
    return tool_reading(
        name,
        call_id=call_id or from_message,
        arguments=None if arguments is None else c.to_json(arguments),
        result=result,
        failed=failed,
        task=task,
        conversation=conversation,
    )


def _retrieval(span: OtlpSpan, a: JsonObject, task: Task | None, conversation: str | None) -> Reading:
    asked, found = _entity(a, "input"), _entity(a, "output")
    query = text(a.get("gen_ai.retrieval.query.text")) or text(asked.get("query") if isinstance(asked, dict) else None)
    documents = parsed(a.get("gen_ai.retrieval.documents"))
    if documents is None and isinstance(found, dict):
        documents = found.get("documents")
    name = text(a.get("traceloop.entity.name")) or text(a.get("gen_ai.data_source.id")) or "retriever"
    values = {
        c.TOOL_ARGUMENTS: None if query is None else c.to_json(query),
        c.TOOL_RESULT: None if documents is None else c.to_json(documents),
    }
    return Reading(
        role=Role.RETRIEVAL, name=name, agent=name, task=task, conversation=conversation, attributes=known(values)
    )
