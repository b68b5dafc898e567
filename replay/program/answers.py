"""Recorded answers as the OpenAI client would have got them, and recorded failures as the exceptions they were."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from redecode.replay.errors import ReplayError
from redecode.tracer import (
    ANSWER_EXTRAS,
    ERROR_ANSWER,
    ERROR_CLASS,
    ERROR_EVENT,
    LANGCHAIN_ANSWER,
    LEFT_BY,
    PROVIDER,
    RESPONSE_ID,
    TOOL_OUTPUT,
    USAGE,
    Choice,
    Decode,
    Played,
    Span,
    ToolStep,
)

_PATIENCE_S = 2.0
CHAT, RESPONSES = "/chat/completions", "/responses"


class RecordedError(ReplayError):
    """Stands for a recorded exception whose class cannot be made again here."""


def answer(
    decode: Decode,
    path: str,
    span: Span,
    *,
    wait_s: float,
    chunks_s: tuple[float, ...],
    patience: Callable[[], BaseException],
) -> Played:
    """The answer that the recorded caller got to a call at `path`: whole, cut short, or an HTTP error.

    Args:
        chunks_s: of a stream, when its parts come; the failure of a stream comes after what it had brought.
        patience: what to raise in a caller that wants more than the recorded one waited for.
    """
    said = _error_answer(span)
    if decode.error is None and decode.output is not None:
        return _spoken(decode, path, span, wait_s, chunks_s)
    if "status" in said:
        body, headers = str(said.get("body") or "").encode(), said.get("headers") or {}
        return Played(body, status=said["status"], headers=headers, wait_s=wait_s)
    given_up = gave_up(span, decode.error)
    if given_up and not (decode.stream and decode.output):
        # Nothing came before the caller lost its patience, which takes as long again, however fast all else is.
        return Played({"choices": []}, wait_s=(decode.e2e_ns or 0) / 1e9 + _PATIENCE_S, cut=patience)
    if not decode.stream or not (decode.output or "event" in said):
        return Played(error=recorded_error(span, decode.error), wait_s=wait_s)
    played = _spoken(decode, path, span, wait_s, chunks_s)
    if (event := plain_json(said.get("event"))) is not None:
        played.value[ERROR_EVENT] = event
        return played
    return replace(played, cut=patience if given_up else lambda: recorded_error(span, decode.error))


def model_answer(
    decode: Decode, span: Span, *, wait_s: float, chunks_s: tuple[float, ...], patience: Callable[[], BaseException]
) -> Played | None:
    """The answer of a LangChain model that calls no OpenAI client; `None` if that was not recorded.

    Args:
        wait_s, chunks_s, patience: as `answer`.
    """
    said = plain_json(span.attributes.get(LANGCHAIN_ANSWER)) or _said(decode)
    if decode.error is None:
        return Played(said, wait_s=wait_s, chunks_s=chunks_s) if said else None
    if gave_up(span, decode.error) and not (chunks_s and said):
        return Played({"generations": []}, wait_s=(decode.e2e_ns or 0) / 1e9 + _PATIENCE_S, cut=patience)
    if not (chunks_s and said):
        return Played(error=recorded_error(span, decode.error), wait_s=wait_s)
    cut = patience if gave_up(span, decode.error) else lambda: recorded_error(span, decode.error)
    return Played(said, wait_s=wait_s, chunks_s=chunks_s, cut=cut)


def _said(decode: Decode) -> dict[str, Any] | None:
    """A message as LangChain writes it, from the one that was recorded in the form of the OpenAI API."""
    if not decode.output:
        return None
    generations = []
    for message in decode.output:
        calls = [
            {"name": c["function"]["name"], "args": plain_json(c["function"].get("arguments")) or {}, "id": c.get("id")}
            for c in message.get("tool_calls") or ()
        ]
        finish = message.get("finish_reason")
        data = {"content": message.get("content") or "", "tool_calls": calls}
        data["response_metadata"] = {"finish_reason": finish} if finish else {}
        generations.append({"message": {"type": "ai", "data": data}, "text": data["content"]})
    return {"generations": generations}


def tool_answer(recorded: ToolStep, span: Span, *, wait_s: float) -> Played:
    """What a recorded tool returned, or raised."""
    form = plain_json(span.attributes.get(TOOL_OUTPUT))
    if recorded.error is not None and form is None:
        return Played(error=recorded_error(span, recorded.error), wait_s=wait_s)
    if form is None and LEFT_BY in span.attributes:
        return Played(error=RecordedError(f"it was left by {span.attributes[LEFT_BY]}"), wait_s=wait_s)
    return Played(recorded.result, wait_s=wait_s, form=form)


def gave_up(span: Span, error: str | None) -> bool:
    """Whether a call ended because its caller wanted no more of it: it left a stream, or was cancelled."""
    kind = str(span.attributes.get(ERROR_CLASS, "")).rpartition(":")[2]
    return kind in ("CancelledError", "GeneratorExit") or error == "stream closed before its end"


def _spoken(decode: Decode, path: str, span: Span, wait_s: float, chunks_s: tuple[float, ...]) -> Played:
    tokens = span.attributes.get(PROVIDER) == "vllm" and decode.sampled_ids is not None
    body = response_body(decode, path, span, tokens=tokens)
    counts = (decode.chunk_tokens or ()) if chunks_s else ()
    return Played(body, wait_s=wait_s, chunks_s=chunks_s, chunk_tokens=counts, tokens=tokens)


def response_body(decode: Decode, path: str, span: Span, *, tokens: bool) -> dict[str, Any]:
    """The body of the response to a call at `path` (of chat, of text completion, or of `/responses`).

    Args:
        tokens: with the token ids and logprobs that vLLM gives where it is asked for them.
    """
    extras = plain_json(span.attributes.get(ANSWER_EXTRAS)) or {}
    usage = plain_json(span.attributes.get(USAGE))
    response_id = span.attributes.get(RESPONSE_ID) or f"playback-{decode.span_id}"
    common = {"id": response_id, "model": decode.model, "usage": usage, **extras.get("body", {})}
    created = decode.sent_ns // 1_000_000_000
    if path.endswith(RESPONSES):
        message: dict[str, Any] = next(iter(decode.output or ()), {})
        told = {} if "status" in common else _response(decode, message)
        items = message.get("output") or _items(message)
        response = {"object": "response", "created_at": created, "output": items, **told, **common}
        return {**response, **_raw(decode)} if tokens and "output_messages" not in common else response
    chat = path.endswith(CHAT)
    choices = []
    for index, message in enumerate(decode.output or ()):
        choice = _choice(decode, index, message, chat=chat, tokens=tokens)
        choices.append({**choice, **extras.get("choices", {}).get(str(index), {})})
    body = {
        **common,
        "object": "chat.completion" if chat else "text_completion",
        "created": created,
        "choices": choices,
        "system_fingerprint": decode.fingerprint,
    }
    return {**body, "prompt_token_ids": decode.prompt_ids} if tokens and chat else body


def _choice(decode: Decode, index: int, message: Any, *, chat: bool, tokens: bool) -> dict[str, Any]:
    finish = message.get("finish_reason")
    plain = {k: v for k, v in message.items() if k != "finish_reason"}
    part = {"message": plain} if chat else {"text": plain.get("content") or ""}
    choice = {"index": index, **part, "finish_reason": finish, "logprobs": None}
    if not tokens:
        return choice
    of: Choice | Decode | None = decode
    if index:
        of = decode.more_choices[index - 1] if index <= len(decode.more_choices) else None
    choice["token_ids"] = of.sampled_ids if of is not None else None
    if of is not None and of.logprobs is not None:  # the caller gets them as recorded, if it asked for them
        values = of.logprobs
        bare: list[dict[str, Any]] = [{"token": "", "logprob": v, "bytes": None, "top_logprobs": []} for v in values]
        choice["logprobs"] = {"content": bare} if chat else {"tokens": [""] * len(values), "token_logprobs": values}
    if not chat:
        choice["prompt_token_ids"] = decode.prompt_ids
    return choice


def _raw(decode: Decode) -> dict[str, Any]:
    """Token ids as vLLM gives them of a response."""
    kind = "raw_message_tokens"
    return {
        "input_messages": [{"message": "", "tokens": decode.prompt_ids, "type": kind}],
        "output_messages": [{"message": "", "tokens": decode.sampled_ids, "type": kind}],
    }


def _response(decode: Decode, message: dict[str, Any]) -> dict[str, Any]:
    """What a response says of itself, where that was not recorded."""
    finish = message.get("finish_reason")
    cut = {"length": "max_output_tokens"}.get(finish, finish) if finish not in ("stop", "tool_calls", None) else None
    return {
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": cut} if cut else None,
        "error": None,
        "instructions": None,
        "metadata": None,
        "parallel_tool_calls": decode.sampling.get("parallel_tool_calls", True),
        "temperature": decode.sampling.get("temperature"),
        "top_p": decode.sampling.get("top_p"),
        "max_output_tokens": decode.sampling.get("max_output_tokens"),
        "tool_choice": decode.sampling.get("tool_choice") or "auto",
        "tools": decode.tool_definitions or [],
    }


def _items(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The items of a response of which only a part had come."""
    if not message.get("content"):
        return []
    part = {"type": "output_text", "text": message["content"], "annotations": []}
    return [{"id": "msg-0", "type": "message", "role": "assistant", "status": "incomplete", "content": [part]}]


def _error_answer(span: Span) -> dict[str, Any]:
    return plain_json(span.attributes.get(ERROR_ANSWER)) or {}


def plain_json(text: Any) -> Any:
    """The value of a recorded JSON text; `None` where there is none."""
    try:
        return orjson.loads(text) if isinstance(text, str) else None
    except orjson.JSONDecodeError:  # a secret was taken out of it, and a quote with it
        return None


def recorded_error(span: Span | None, text: str | None) -> BaseException:
    """The recorded exception again, of its own class where that class is there and can be made."""
    name = str((span.attributes if span is not None else {}).get(ERROR_CLASS, ":"))
    module, _, qualname = name.partition(":")
    message = (text or "").partition(": ")[2] or (text or "failed when recorded")
    found = getattr(sys.modules.get(module), qualname, None)
    if isinstance(found, type) and issubclass(found, Exception):
        try:
            return found(message)
        except TypeError:
            return _by_hand(found, message)
    return RecordedError(text or "failed when recorded")


def _by_hand(kind: type[Exception], message: str) -> BaseException:
    """An exception whose class wants more than a message, as those of the OpenAI client: caught like the recorded."""
    made = kind.__new__(kind, message)
    Exception.__init__(made, message)
    for name, value in (("message", message), ("response", None), ("request", None), ("body", None), ("code", None)):
        if not hasattr(made, name):
            setattr(made, name, value)
    return made
