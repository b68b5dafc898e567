"""Recorded answers as the OpenAI client would have got them, and recorded failures as the exceptions they were."""

from __future__ import annotations

import sys
from typing import Any

import orjson

from redecode.replay.errors import ReplayError
from redecode.tracer import ERROR_CLASS, RESPONSE_ID, USAGE, Decode, Span

CHAT, RESPONSES = "/chat/completions", "/responses"


class RecordedError(ReplayError):
    """Stands for a recorded exception whose class cannot be made again here."""


def response_body(decode: Decode, path: str, span: Span) -> dict[str, Any]:
    """The body of the response to a call at `path` (of chat, of text completion, or of `/responses`)."""
    extras = span.attributes
    usage = orjson.loads(extras[USAGE]) if USAGE in extras else None
    common = {"id": extras.get(RESPONSE_ID) or f"playback-{decode.span_id}", "model": decode.model, "usage": usage}
    created = decode.sent_ns // 1_000_000_000
    if path.endswith(RESPONSES):
        return {**common, "object": "response", "created_at": created, **_response(decode)}
    choices = []
    for index, message in enumerate(decode.output or ()):
        finish = message.get("finish_reason")
        plain = {k: v for k, v in message.items() if k != "finish_reason"}
        part = {"message": plain} if path.endswith(CHAT) else {"text": plain.get("content") or ""}
        choices.append({"index": index, **part, "finish_reason": finish, "logprobs": None})
    kind = "chat.completion" if path.endswith(CHAT) else "text_completion"
    return {
        **common, "object": kind, "created": created, "choices": choices, "system_fingerprint": decode.fingerprint
    }  # fmt: skip


def _response(decode: Decode) -> dict[str, Any]:
    message: dict[str, Any] = next(iter(decode.output or ()), {})
    finish = message.get("finish_reason")
    cut = {"length": "max_output_tokens"}.get(finish, finish) if finish not in ("stop", "tool_calls", None) else None
    return {
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": cut} if cut else None,
        "error": None,
        "instructions": None,
        "metadata": None,
        "output": message.get("output") or [],
        "parallel_tool_calls": decode.sampling.get("parallel_tool_calls", True),
        "temperature": decode.sampling.get("temperature"),
        "top_p": decode.sampling.get("top_p"),
        "max_output_tokens": decode.sampling.get("max_output_tokens"),
        "tool_choice": decode.sampling.get("tool_choice") or "auto",
        "tools": decode.tool_definitions or [],
    }


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
