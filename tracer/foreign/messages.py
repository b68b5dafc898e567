"""Messages as the OpenAI API has them (and as our record keeps them), from the forms other tracers put them in.

Three forms: the GenAI conventions' parts, OpenInference's attributes with a number per message, and the older
`gen_ai.prompt.N` / `gen_ai.completion.N`.
"""

from __future__ import annotations

import json
from typing import Any

from redecode.tracer import conventions as c
from redecode.tracer.foreign.reading import REDACTED, integer, listed, parsed, text
from redecode.tracer.records import JsonObject

_ROLES = {"human": "user", "ai": "assistant", "function": "tool"}
_FINISH = {"tool_call": "tool_calls"}  # the GenAI conventions' word → the API's
_MAX_DEPTH = 12


def numbered(attributes: JsonObject, prefix: str) -> list[Any]:
    """The list that attributes `PREFIX.0.a.b`, `PREFIX.1.c` … spell out, nested lists and objects included."""
    tree: JsonObject = {}
    start = prefix + "."
    for name in sorted(attributes):
        if not name.startswith(start):
            continue
        at = tree
        *above, last = name[len(start) :].split(".", _MAX_DEPTH)
        for part in above:
            below = at.get(part)
            if not isinstance(below, dict):
                below = at[part] = {}
            at = below
        if not isinstance(at.get(last), dict):
            at[last] = attributes[name]
    out = _lists(tree)
    return out if isinstance(out, list) else []


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {k: _lists(v) for k, v in value.items()}
    if inner and all(k.isdecimal() and len(k) < 6 for k in inner):
        return [inner[k] for k in sorted(inner, key=int)]
    return inner


def from_parts(messages: Any) -> list[JsonObject] | None:
    """Messages of the GenAI conventions: `[{"role", "parts": [{"type", …}], "finish_reason"?}]`, as JSON or parsed."""
    messages = parsed(messages)
    if not isinstance(messages, list):
        return None
    out: list[JsonObject] = []
    for message in messages:
        if isinstance(message, dict):
            out += _from_parts(message)
    return out


def _from_parts(message: JsonObject) -> list[JsonObject]:
    role = _role(message.get("role"))
    parts = message.get("parts")
    if not isinstance(parts, list):  # some senders use the API's own form
        return [{**message, "role": role, "content": message.get("content")}]
    contents: list[Any] = []
    calls: list[JsonObject] = []
    answers: list[JsonObject] = []
    reasoning: list[str] = []
    for part in parts:
        if not isinstance(part, dict):
            continue
        match part.get("type"):
            case "text":
                contents.append(part.get("content"))
            case "reasoning" | "thinking":
                reasoning.append(str(part.get("content") or ""))
            case "tool_call":
                calls.append(tool_call(part.get("id"), part.get("name"), part.get("arguments")))
            case "tool_call_response":
                answer = part.get("response", part.get("result"))
                answers.append({"role": "tool", "content": _as_text(answer), "tool_call_id": part.get("id")})
            case _:
                contents.append(part)
    if answers and not contents and not calls:
        return answers
    out: JsonObject = {"role": role, "content": _content(contents), **_name(message)}
    if reasoning:
        out["reasoning"] = "".join(reasoning)
    if calls:
        out["tool_calls"] = calls
    if (finish := finish_reason(message.get("finish_reason"))) is not None:
        out["finish_reason"] = finish
    return [out, *answers]


def _content(contents: list[Any]) -> Any:
    if not contents:
        return None
    if len(contents) == 1 and isinstance(contents[0], str):
        return contents[0]
    return [{"type": "text", "text": item} if isinstance(item, str) else item for item in contents]


def system_message(instructions: Any) -> list[JsonObject]:
    """`gen_ai.system_instructions`: what was said to the model before any message."""
    parts = parsed(instructions)
    if isinstance(parts, str):
        parts = [{"type": "text", "content": parts}]
    return _from_parts({"role": "system", "parts": parts}) if isinstance(parts, list) and parts else []


def from_openinference(messages: list[Any]) -> list[JsonObject]:
    """Messages as `numbered` gives those of `llm.input_messages` and `llm.output_messages`."""
    out = []
    for item in messages:
        message = item.get("message") if isinstance(item, dict) else None
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        if content is None and isinstance(message.get("contents"), list):
            content = _content([_openinference_part(part) for part in message["contents"]])
        one: JsonObject = {"role": _role(message.get("role")), "content": None if content == REDACTED else content}
        one |= _name(message)
        calls = [_openinference_call(call) for call in listed(message.get("tool_calls"))]
        if message.get("function_call_name"):
            calls.append(
                tool_call(None, message["function_call_name"], message.get("function_call_arguments_json") or "")
            )
        if calls:
            one["tool_calls"] = calls
        if message.get("tool_call_id") is not None:
            one["tool_call_id"] = message["tool_call_id"]
        out.append(one)
    return out


def _openinference_part(part: Any) -> Any:
    inner = part.get("message_content") if isinstance(part, dict) else None
    if isinstance(inner, dict) and isinstance(inner.get("text"), str):
        return inner["text"]
    return inner if inner is not None else part


def _openinference_call(call: Any) -> JsonObject:
    inner = call.get("tool_call") if isinstance(call, dict) else None
    inner = inner if isinstance(inner, dict) else {}
    function = inner.get("function")
    function = function if isinstance(function, dict) else {}
    return tool_call(inner.get("id"), function.get("name"), function.get("arguments"))


def from_numbered(messages: list[Any]) -> list[JsonObject]:
    """Messages as `numbered` gives those of `gen_ai.prompt` and `gen_ai.completion`."""
    out = []
    for message in messages:
        if not isinstance(message, dict):
            continue
        one: JsonObject = {"role": _role(message.get("role")), "content": message.get("content"), **_name(message)}
        calls = [
            tool_call(call.get("id"), call.get("name"), call.get("arguments"))
            for call in listed(message.get("tool_calls"))
            if isinstance(call, dict)
        ]
        if calls:
            one["tool_calls"] = calls
        if message.get("tool_call_id") is not None:
            one["tool_call_id"] = message["tool_call_id"]
        if (finish := finish_reason(message.get("finish_reason"))) is not None:
            one["finish_reason"] = finish
        out.append(one)
    return out


def tool_call(call_id: Any, name: Any, arguments: Any) -> JsonObject:
    """A tool call as the API has it: its arguments are JSON text, spaced as LangChain spaces them."""
    if not isinstance(arguments, str):
        arguments = _dumps(arguments if arguments is not None else {})
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool_definitions(value: Any) -> list[Any] | None:
    """Tool definitions as the API has them: the function inside an object that says it is one."""
    tools = parsed(value)
    if not isinstance(tools, list) or not tools:
        return None
    return [_tool_definition(parsed(tool)) for tool in tools]


def _tool_definition(tool: Any) -> Any:
    if not isinstance(tool, dict) or "function" in tool or "name" not in tool:
        return tool
    if tool.get("type", "function") != "function":
        return tool
    parameters = parsed(tool.get("parameters"))
    function = {k: v for k, v in {**tool, "parameters": parameters}.items() if k != "type" and v is not None}
    return {"type": "function", "function": function}


def finish_reason(value: Any) -> str | None:
    """A finish reason in the API's words, from one or a list of them."""
    value = parsed(value)
    if isinstance(value, list):
        value = value[0] if value else None
    reason = text(value)
    return None if reason is None else _FINISH.get(reason, reason)


def called_tools(output: Any) -> list[JsonObject]:
    """The tool calls of the first choice of a decode's output, in order."""
    message = output[0] if isinstance(output, list) and output else None
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    return [call for call in listed(calls) if isinstance(call, dict)]


def first_count(*values: Any) -> int | None:
    """The first of several names' values that is a count."""
    return next((n for n in map(integer, values) if n is not None and n >= 0), None)


def _role(role: Any) -> str:
    known = text(role) or "user"
    return _ROLES.get(known, known)


def _name(message: JsonObject) -> JsonObject:
    """Who said it, where several may have; the API's tool messages have no name, LangChain's have the tool's."""
    name = text(message.get("name"))
    return {"name": name} if name is not None and _role(message.get("role")) != "tool" else {}


def _as_text(value: Any) -> Any:
    return value if isinstance(value, str) or value is None else _dumps(value)


def _dumps(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return c.to_json(value)
