"""The `/responses` endpoint: its items read as one message, and what we asked of vLLM taken out again.

vLLM gives the token ids of prompt and answer here too (`enable_response_messages`), so such a call can be
replayed; logprobs are kept only if the caller asked for them. The raw items stay in the message under
`output`, because a playback has to give them back.
"""

from __future__ import annotations

from typing import Any

from redecode.tracer.fm import wire
from redecode.tracer.fm.wire_stream import PassTap, payload_of
from redecode.tracer.records import JsonObject

RAW = ("input_messages", "output_messages")
_KEPT = frozenset({"id", "object", "created_at", "model", "output", "usage", "error"})
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})


def read_response(data: bytes, prepared: wire.Prepared, captured: wire.Captured) -> bytes:
    """Read a whole response body; returns the body the caller is to see.

    Raises:
        ValueError: it is not a JSON object.
    """
    payload = wire.loads(data)
    take_response(payload, captured)
    if not prepared.extended or prepared.asked.token_ids:
        return data
    _strip(payload)
    return wire.dumps(payload)


def _strip(response: JsonObject) -> None:
    for name in RAW:
        if name in response:
            response[name] = None  # as vLLM has it where nobody asked


def take_response(response: JsonObject, captured: wire.Captured) -> None:
    """Take in a response object."""
    captured.envelope(response)
    captured.extras = {k: v for k, v in response.items() if v is not None and k not in _KEPT}
    choice = captured.choice(0)
    items: list[JsonObject] = [item for item in response.get("output") or () if isinstance(item, dict)]
    choice.parts = {**_message(items), "output": items}
    status, details = response.get("status"), response.get("incomplete_details") or {}
    if status == "incomplete":
        reason = details.get("reason")
        choice.finish_reason = "length" if reason == "max_output_tokens" else reason or "incomplete"
    elif status not in (None, "in_progress", "queued"):
        choice.finish_reason = "tool_calls" if choice.tool_calls else "stop" if status == "completed" else status
    logprobs = [entry.get("logprob") for part in _texts(items) for entry in part.get("logprobs") or ()]
    choice.logprobs = logprobs or None
    _token_ids(response, captured, choice)
    captured.done = True


def _token_ids(response: JsonObject, captured: wire.Captured, choice: wire.Choice) -> None:
    asked: list[JsonObject] = response.get("input_messages") or []
    given: list[JsonObject] = response.get("output_messages") or []
    one_turn = len(asked) == 1 and len(given) == 1  # more: vLLM called its own tools in between
    if one_turn and "tokens" in asked[0] and "tokens" in given[0]:
        captured.prompt_ids, choice.token_ids = asked[0]["tokens"], given[0]["tokens"]


def _texts(items: list[JsonObject]) -> list[JsonObject]:
    return [part for item in items if item.get("type") == "message" for part in item.get("content") or ()]


def _message(items: list[JsonObject]) -> JsonObject:
    """The items as a chat message."""
    parts: JsonObject = {"role": "assistant"}
    text = [part.get("text") or part.get("refusal") or "" for part in _texts(items)]
    if text:
        parts["content"] = "".join(text)
    reasoning = [
        part.get("text") or ""
        for item in items
        if item.get("type") == "reasoning"
        for part in (*(item.get("content") or ()), *(item.get("summary") or ()))
    ]
    if reasoning:
        parts["reasoning"] = "".join(reasoning)
    calls = [
        {
            "id": item.get("call_id"),
            "type": "function",
            "function": {"name": item.get("name"), "arguments": item.get("arguments")},
        }
        for item in items
        if item.get("type") == "function_call"
    ]
    if calls:
        parts["tool_calls"] = calls
    return parts


class Events:
    """Reads the events of a stream: the parts until the end comes, then the response that the end brings.

    Args:
        captured: what the response said so far.
    """

    def __init__(self, captured: wire.Captured) -> None:
        self._captured = captured
        self._items: dict[int, JsonObject] = {}

    def take(self, payloads: list[JsonObject], times_ns: list[int]) -> None:
        """Take in events, as they arrived."""
        for payload, now_ns in zip(payloads, times_ns, strict=True):
            self._one(payload, str(payload.get("type")), now_ns)
        if self._items and not self._captured.done:
            self._captured.choice(0).parts = _message([self._items[i] for i in sorted(self._items)])

    def _one(self, payload: JsonObject, kind: str, now_ns: int) -> None:
        captured = self._captured
        if kind.endswith(".delta"):
            captured.chunk_times.append(now_ns)
            captured.chunk_tokens.append(len(payload.get("logprobs") or ()))
            self._delta(payload, kind)
        elif kind == "response.output_item.added":
            self._items[payload.get("output_index") or 0] = dict(payload.get("item") or {})
        elif kind in _ENDS:
            response = payload.get("response") or {}
            take_response(response, captured)
        elif kind == "error" or payload.get("error"):
            error = payload.get("error")
            text = error.get("message") if isinstance(error, dict) else payload.get("message")
            captured.error, captured.error_event = f"APIError: {text}", payload
        elif kind == "response.created":
            captured.response_id = (payload.get("response") or {}).get("id")

    def _delta(self, payload: JsonObject, kind: str) -> None:
        item = self._items.setdefault(payload.get("output_index") or 0, {"type": "message"})
        delta = payload.get("delta")
        if not isinstance(delta, str):
            return
        if kind == "response.function_call_arguments.delta":
            item["arguments"] = (item.get("arguments") or "") + delta
            return
        parts: list[Any] = item.get("content") or [{"text": ""}]
        item["content"] = [{**parts[0], "text": (parts[0].get("text") or "") + delta}]


class ResponsesTap(PassTap):
    """A stream of vLLM's responses; the last event loses the token ids that only we asked for."""

    def __init__(self, prepared: wire.Prepared, captured: wire.Captured) -> None:
        super().__init__(Events(captured).take, captured)
        self._buffer = b""

    def feed(self, data: bytes, now_ns: int) -> bytes:
        """Remember the events and hand them on."""
        self._buffer += data.replace(b"\r\n", b"\n") if b"\r" in data else data
        *events, self._buffer = self._buffer.split(b"\n\n")
        out = []
        for event in events:
            super().feed(event + b"\n\n", now_ns)
            out.append(_without_ids(event) if b'"output_messages":[' in event else event)
        self.last_ns = now_ns
        return b"".join([event + b"\n\n" for event in out])

    def rest(self) -> bytes:
        """What came after the last whole event."""
        out, self._buffer = self._buffer, b""
        return out


def _without_ids(event: bytes) -> bytes:
    payload = payload_of(event)
    if payload is None:
        return event
    if isinstance(response := payload.get("response"), dict):
        _strip(response)
    lines = [line for line in event.split(b"\n") if not line.startswith(b"data:")]
    return b"\n".join([*lines, b"data: " + wire.dumps(payload)])
