"""How an answer ended: whether it is whole, by the word its provider has for that.

Only good ends are listed. They are few and stay; of ways to stop short there are more every year (`model_length`,
`content_filter`, `refusal`, `guardrail_intervened`), and one that nobody has listed must not pass for a whole answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

from redecode.optimizer.formats.errors import MalformedAnswer, short

_GOOD = (
    *("stop", "tool_calls", "tool_call", "function_call"),  # OpenAI and who speaks like it, Gemini, Ollama, Mistral
    *("end_turn", "stop_sequence", "tool_use"),  # Anthropic, Bedrock
    *("complete", "eos", "eos_token"),  # Cohere; Together; Hugging Face, watsonx
    *("finish", "finished", "stop_criteria_met", "end_of_text", "normal"),  # Titan; SambaNova; ERNIE
    *("completed", "success", "succeeded", "ok", "done"),  # `status`: of OpenAI's responses, of models of one's own
)
_NOT_YET = ("finish_reason_unspecified", "not_finished", "null")
"""What some say with each piece of a stream until it ends."""
_WHOLE = re.compile(f"(?:(?:{'|'.join(_NOT_YET)})*(?:{'|'.join(_GOOD)}))*", re.IGNORECASE)
"""Merging the pieces of a stream, LangChain writes their words one behind the other: `STOPSTOP`."""

_NAMES = ("finish_reason", "finishReason", "stop_reason", "stopReason", "done_reason", "completionReason")
"""Where LangChain's integrations have it. The first counts: to vLLM a `stop_reason` is the text that it stopped at."""


def reason_of(told: Mapping[str, Any]) -> str | None:
    """Why an answer ended, of the `response_metadata` of a LangChain message.

    Returns:
        "stop" if nothing is told, as by models that never say; `None` if OpenAI's own word is there and empty: what
        its stream says until it ends.
    """
    details = told.get("incomplete_details")
    said = [details.get("reason") if isinstance(details, Mapping) else details]
    said += [told.get(name) for name in _NAMES]
    said += [status for status in (told.get("status"),) if isinstance(status, str)]  # a number is one of HTTP
    for word in said:
        if word is not None and word != "":
            return word.name if isinstance(word, Enum) else str(word)
    return None if "finish_reason" in told and told["finish_reason"] is None else "stop"


def cut_off(reason: str | None, *, shows_its_end: bool) -> bool:
    """Whether an answer was cut off: its reason is `None`, or none of a good end.

    Args:
        shows_its_end: whether that can be seen in its format, too.

    Raises:
        MalformedAnswer: it was, and cannot be seen: its last value may be half a value.
    """
    cut = reason is None or _WHOLE.fullmatch(reason.strip()) is None
    if cut and not shows_its_end:
        why = "" if reason is None else f" ({short(reason)})"
        raise MalformedAnswer(f"the answer was cut off{why}, and where a value ends cannot be seen in this format")
    return cut
