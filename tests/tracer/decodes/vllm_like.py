"""What vLLM 0.32 answers, field by field: what is null and what is absent depends on what was asked.

Held to the real one by `test_on_vllm.py`, which makes the same calls there.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from typing import Any

from tests.tracer.decodes.server import Reply, Request

FINGERPRINT = "vllm-0.32.0-test"
METRICS = {"queue_time_ms": 1.5, "time_to_first_token_ms": 20.0, "generation_time_ms": 40.0}
PROMPT = [11, 12, 13]
TEXT = "héllo {you}\n"
Json = dict[str, Any]


def logprob(token: str) -> float:
    """The logprob of a token of the answer."""
    return -(ord(token) % 97) / 16 - 1e-7


def answer(request: Request) -> Reply:
    """The answer to any of vLLM's calls."""
    body = request.body
    if "/embeddings" in request.path:
        return _embeddings(body)
    if request.path.partition("?")[0].endswith("/responses"):
        return _response(body)
    if body.get("stream"):
        return Reply.events(_chunks(body, chat="/chat/completions" in request.path))
    return Reply.of(_whole(body, chat="/chat/completions" in request.path))


def _embeddings(body: Json) -> Reply:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = []
    for index, text in enumerate(texts):
        vector: Any = [float(len(text)), 0.5, -0.25]
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack("<3f", *vector)).decode()
        data.append({"index": index, "object": "embedding", "embedding": vector})
    usage = {"prompt_tokens": 4 * len(texts), "total_tokens": 4 * len(texts), "completion_tokens": 0}
    return Reply.of({"id": "embd-1", "object": "list", "created": 1, "model": "m", "data": data, "usage": usage})


def _message(body: Json) -> Json:
    if body.get("tools") and body.get("tool_choice") not in (None, "auto", "none"):
        name = body["tools"][0].get("function", {}).get("name", "look_up")
        call = {"name": name, "arguments": '{"name": "Ann"}' if name == "look_up" else '{"kind": true}'}
        calls = [{"id": f"call-{n}", "type": "function", "function": call} for n in range(2)]
        return {"role": "assistant", "content": None, "reasoning": None, "tool_calls": calls}
    text = '{"kind": true}' if body.get("response_format") else TEXT
    reasoning = "thinking" if body.get("include_reasoning") else None
    return {"role": "assistant", "content": text, "reasoning": reasoning, "tool_calls": []}


def _text(body: Json, *, chat: bool) -> str:
    if not chat:
        return TEXT
    message = _message(body)
    calls = "".join(call["function"]["arguments"] for call in message["tool_calls"])
    return str((message["reasoning"] or "") + (message["content"] or "<tool>" + calls))


def _chat_logprobs(text: str, top: int | None) -> Json:
    def entry(token: str) -> Json:
        return {"token": token, "logprob": logprob(token), "bytes": list(token.encode())}

    content = [{**entry(t), "top_logprobs": [entry(t) for _ in range(top or 0)]} for t in text]
    return {"content": content}


def _text_logprobs(text: str, at: int = 0) -> Json:
    return {
        "text_offset": [at + n for n in range(len(text))],
        "token_logprobs": [logprob(t) for t in text],
        "tokens": list(text),
        "top_logprobs": [{t: logprob(t)} for t in text],
    }


def _prompts(body: Json) -> int:
    prompt = body.get("prompt")
    return len(prompt) if isinstance(prompt, list) else 1


def _whole(body: Json, *, chat: bool) -> Json:
    ids, choices = body.get("return_token_ids"), (body.get("n") or 1) * _prompts(body)
    text, out = _text(body, chat=chat), []
    for index in range(choices):
        choice: Json = {"index": index, "finish_reason": "stop", "stop_reason": None}
        choice["token_ids"] = [ord(t) for t in text] if ids else None
        choice["routed_experts"] = None
        if chat:
            choice["message"] = {**_message(body), "refusal": None, "annotations": None, "audio": None}
            choice["logprobs"] = _chat_logprobs(text, body.get("top_logprobs")) if body.get("logprobs") else None
        else:
            choice["text"] = ("" if ids else str(body["prompt"])) + text if body.get("echo") else text
            choice["logprobs"] = _text_logprobs(text) if body.get("logprobs") is not None else None
            choice["prompt_logprobs"], choice["prompt_token_ids"] = None, PROMPT if ids else None
        out.append(choice)
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion" if chat else "text_completion",
        "created": 1,
        "model": body["model"],
        "choices": out,
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": _usage(choices * len(text)),
        "metrics": METRICS if choices == 1 else None,
    }
    if chat:
        document |= {"prompt_logprobs": None, "prompt_token_ids": PROMPT if ids else None}
    return document


def _usage(tokens: int) -> Json:
    return {
        "prompt_tokens": len(PROMPT),
        "total_tokens": len(PROMPT) + tokens,
        "completion_tokens": tokens,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


def _deltas(body: Json) -> Iterator[tuple[str, Json | None]]:
    """Tokens and the delta each makes; `None` where it makes none."""
    message = _message(body)
    for token in message["reasoning"] or "":
        yield token, {"reasoning": token}
    if not message["tool_calls"]:
        for token in message["content"]:
            yield token, {"content": token}
        return
    for token in "<tool>":
        yield token, None
    for index, call in enumerate(message["tool_calls"]):
        function, pieces = call["function"], list(call["function"]["arguments"])
        first = {"name": function["name"], "arguments": pieces[0]}
        yield pieces[0], {"tool_calls": [{**call, "index": index, "function": first}]}
        for token in pieces[1:]:
            yield token, {"tool_calls": [{"index": index, "function": {"arguments": token}}]}


def _chunks(body: Json, *, chat: bool) -> Iterator[Json]:
    ids, options = body.get("return_token_ids"), body.get("stream_options") or {}
    usage = bool(options.get("include_usage"))
    continuous = usage and bool(options.get("continuous_usage_stats"))
    kind = "chat.completion.chunk" if chat else "text_completion"
    common = {"id": "chatcmpl-1", "object": kind, "created": 1, "model": body["model"]}
    choices = (body.get("n") or 1) * _prompts(body)
    tokens: list[tuple[str, Json | None]] = list(_deltas(body)) if chat else [(t, {"text": t}) for t in TEXT]
    for index in range(choices if chat else 0):
        first = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        chunk: Json = {**common, "choices": [first], "prompt_token_ids": PROMPT if ids else None}
        yield {**chunk, "usage": _usage(0)} if continuous else chunk
    total = 0
    for place, (token, delta) in enumerate(tokens):
        # Choices do not end together: choice N ends N tokens before the last.
        for index in range(choices):
            left = len(tokens) - index - 1 - place
            if left < 0:
                continue
            total += 1
            asked = body.get("logprobs") not in (None, False)
            if delta is None and not ids and not asked and left:
                continue
            chunk = {**common, "choices": [_choice(body, index, place, token, delta, last=not left, chat=chat)]}
            if not left and not usage:
                chunk["system_fingerprint"] = FINGERPRINT
            yield {**chunk, "usage": _usage(total)} if continuous else chunk
    if usage:
        tail: Json = {**common, "choices": [], "usage": _usage(total), "system_fingerprint": FINGERPRINT}
        yield {**tail, "metrics": METRICS} if choices == 1 else tail


def _choice(body: Json, index: int, place: int, token: str, delta: Json | None, *, last: bool, chat: bool) -> Json:
    ids, asked = body.get("return_token_ids"), body.get("logprobs")
    choice: Json = {"index": index, **({"delta": delta or {}} if chat else (delta or {}))}
    if chat:
        choice["logprobs"] = _chat_logprobs(token, body.get("top_logprobs")) if asked else None
    else:
        if body.get("echo") and not place and not ids:
            choice["text"] = f"{body['prompt']}{token}"
        choice["logprobs"] = _text_logprobs(token, place) if asked is not None else None
    choice["finish_reason"] = ("tool_calls" if chat and _message(body)["tool_calls"] else "stop") if last else None
    if last or not chat:
        choice["stop_reason"] = None
    if not chat:
        choice["prompt_token_ids"] = PROMPT if ids and not place else None
    choice["token_ids"] = [ord(token)] if ids else None
    return choice


def _response(body: Json) -> Reply:
    tokens = [ord(t) for t in TEXT]
    raw = body.get("enable_response_messages")
    part: Json = {"annotations": [], "text": TEXT, "type": "output_text", "logprobs": None}
    item = {"id": "msg-1", "content": [part], "role": "assistant", "status": "completed", "type": "message"}
    response: Json = {
        "id": "resp-1",
        "created_at": 1,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "model": body["model"],
        "object": "response",
        "output": [item],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "none",
        "tools": [],
        "status": "completed",
        "usage": {"input_tokens": 3, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": len(tokens)},
        "metrics": METRICS,
        "input_messages": [{"message": "<user>", "tokens": PROMPT, "type": "raw_message_tokens"}] if raw else None,
        "output_messages": [{"message": TEXT, "tokens": tokens, "type": "raw_message_tokens"}] if raw else None,
    }
    if not body.get("stream"):
        return Reply.of(response)
    begun = {**response, "output": [], "status": "in_progress", "input_messages": None, "output_messages": None}
    at = {"content_index": 0, "item_id": "msg-1", "output_index": 0}
    events: list[Json] = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "item": {**item, "content": []}, "output_index": 0},
        {"type": "response.content_part.added", "part": {**part, "text": ""}, **at},
        *({"type": "response.output_text.delta", "delta": t, "logprobs": [], **at} for t in TEXT),
        {"type": "response.output_text.done", "text": TEXT, "logprobs": [], **at},
        {"type": "response.content_part.done", "part": part, **at},
        {"type": "response.output_item.done", "item": item, "output_index": 0},
        {"type": "response.completed", "response": response},
    ]
    numbered = [{**event, "sequence_number": n} for n, event in enumerate(events)]
    return Reply.events(numbered, named=True, done=False)
