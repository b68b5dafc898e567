"""What a request says about its call: the model, the prompt, whose run it is, and until when that must have ended.

Headers (all optional; our own clients need none, the tracer sends `traceparent` and the step):

x-redecode-deadline   when its run must have ended, Unix seconds
x-redecode-slo        how long its run may take, seconds from the first call of the run that came by
x-redecode-run        names its run; else the trace id of `traceparent`; else the call is a run of its own
x-redecode-step       its step key, percent-encoded
x-redecode-agent      whose run it is, percent-encoded
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson

from redecode.optimizer.placement.cluster.errors import BadRequest
from redecode.tracer import conventions as c

_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_LONGEST_NAME = 512
_LONGEST_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Asked:
    """One FM call as it came in.

    Attributes:
        run: names its run; `None` if nothing does.
        deadline_unix_s, slo_s: as the headers gave them.
        prompt: its content in the order an engine reads it; of `tokens` ids four bytes each.
        tokens: how many ids it came as; `None` if it came as text.
        priority: the one its caller gave.
    """

    path: str
    model: str
    run: str | None
    step: str
    agent: str
    deadline_unix_s: float | None
    slo_s: float | None
    prompt: bytes
    tokens: int | None
    max_tokens: int | None
    stream: bool
    priority: int | None


def read_call(path: str, headers: Mapping[str, str], body: bytes) -> Asked:
    """Read a POST of the OpenAI API.

    Args:
        headers: names in lower case, or a mapping that does not care.

    Raises:
        BadRequest: the body is no JSON object that names a model, or a header of ours makes no sense.
    """
    try:
        document = orjson.loads(body)
    except ValueError as error:
        raise BadRequest(f"the body of POST {path} is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadRequest(f"the body of POST {path} must be a JSON object")
    model = document.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest(f'POST {path} must name its "model"')
    prompt, tokens = _prompt(document)
    limit = document.get("max_completion_tokens") or document.get("max_tokens") or document.get("max_output_tokens")
    return Asked(
        path=path,
        model=model,
        run=_run(headers),
        step=unquote(headers.get(c.STEP_HEADER, ""))[:_LONGEST_NAME],
        agent=unquote(headers.get(c.AGENT_HEADER, ""))[:_LONGEST_NAME],
        deadline_unix_s=_seconds(headers, c.DEADLINE_HEADER),
        slo_s=_seconds(headers, c.SLO_HEADER),
        prompt=prompt,
        tokens=tokens,
        max_tokens=limit if isinstance(limit, int) else None,
        stream=document.get("stream") is True,
        priority=priority if isinstance(priority := document.get("priority"), int) else None,
    )


def with_priority(body: bytes, priority: int) -> bytes:
    """The same JSON object with vLLM's `priority` in it; nothing else is touched. It must not be empty."""
    before, brace, rest = body.partition(b"{")
    return before + brace + b'"priority":%d,' % priority + rest


def _run(headers: Mapping[str, str]) -> str | None:
    given = headers.get(c.RUN_HEADER)
    if given:
        return given[:_LONGEST_NAME]
    match = _TRACEPARENT.match(headers.get("traceparent", ""))
    return match.group(1) if match else None


def _seconds(headers: Mapping[str, str], name: str) -> float | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise BadRequest(f"the header {name} must be seconds above 0, not {text[:40]!r}")
    return value


def _prompt(document: Mapping[str, Any]) -> tuple[bytes, int | None]:
    given = next((document[name] for name in ("prompt", "messages", "input") if name in document), "")
    if isinstance(given, str):
        return given.encode("utf-8", "surrogatepass"), None
    if not isinstance(given, list):
        return b"", None
    ids = given
    if given and isinstance(given[0], list):
        ids = [token for part in given for token in part] if all(isinstance(part, list) for part in given) else []
    if ids and all(type(token) is int and 0 <= token <= _LONGEST_ID for token in ids):
        return array("i", ids).tobytes(), len(ids)
    # What a chat template reads first comes first: tools, then messages in order.
    parts = [orjson.dumps(document["tools"])] if document.get("tools") else []
    return b"".join([*parts, *(_text(item) for item in given)]), None


def _text(item: Any) -> bytes:
    if isinstance(item, str):
        return item.encode("utf-8", "surrogatepass") + b"\n"
    if isinstance(item, dict) and isinstance(item.get("content"), str) and set(item) <= {"role", "content"}:
        return f"{item.get('role')}\n{item['content']}\n".encode("utf-8", "surrogatepass")
    return orjson.dumps(item) + b"\n"
