"""The chunks that a recorded answer streams as: as many as there were, text in even parts, tokens as they came.

An answer is one line of characters: its reasoning, its text, the arguments of its tool calls, in that order. Chunk N of
M brings the Nth of M even parts of that line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from redecode.tracer.fm import wire
from redecode.tracer.player import ERROR_EVENT, Played
from redecode.tracer.records import JsonObject

_LINES = ("reasoning", "reasoning_content", "content", "refusal")


@dataclass(frozen=True, slots=True)
class _Track:
    """Characters of the line: of a field of the message, or of the arguments of a tool call.

    Attributes:
        begins: where on the line it begins.
    """

    field: str
    text: str
    begins: int
    call: int | None = None

    def piece(self, start: int, end: int) -> str | None:
        """What of it lies there, `None` if nothing; an empty one lies where it begins."""
        first, last = max(start, self.begins) - self.begins, min(end, self.begins + len(self.text)) - self.begins
        if first < last:
            return self.text[first:last]
        return "" if not self.text and start <= self.begins < end else None


def chunks_of(path: str, played: Played) -> Iterator[tuple[int, JsonObject]]:
    """The chunks of a chat or text completion, each with the number of the recorded chunk it comes with."""
    answer, chat = played.value, path.endswith(wire.CHAT)
    choices: list[JsonObject] = answer["choices"]
    slots = max(len(played.chunks_s), len(choices), 1)
    usage = answer.get("usage")
    common = {k: v for k, v in answer.items() if k not in ("choices", "usage", "prompt_token_ids", ERROR_EVENT)}
    if chat:
        common["object"] = "chat.completion.chunk"
    ended: JsonObject = {}
    if played.tokens:  # vLLM says it once, where it ends
        ended = {"system_fingerprint": common.pop("system_fingerprint", None)}
    first: JsonObject = {"prompt_token_ids": answer.get("prompt_token_ids")} if played.tokens and chat else {}
    for slot, choice in _slots(choices, slots, played, chat=chat):
        more = ended if choice["finish_reason"] and not usage else {}
        yield slot, {**common, **first, **more, "choices": [choice]}
        first = {}
    if usage:
        yield slots - 1, {**common, **ended, "choices": [], "usage": usage}
    if ERROR_EVENT in answer:
        yield slots - 1, answer[ERROR_EVENT]


def _slots(
    choices: Sequence[JsonObject], slots: int, played: Played, *, chat: bool
) -> Iterator[tuple[int, JsonObject]]:
    """The parts of all choices, which take turns, in the order of the recorded chunks."""
    streams = []
    for place, choice in enumerate(choices):
        mine = range(place, slots, len(choices))
        tokens = [played.chunk_tokens[n] for n in mine] if played.chunk_tokens and len(choices) == 1 else []
        streams.append(_parts(choice, len(mine), tokens, ended=played.cut is None, chat=chat))
    for slot in range(slots if choices else 0):  # a stream may fail before it has said anything
        yield slot, next(streams[slot % len(choices)])


def _parts(choice: JsonObject, parts: int, tokens: Sequence[int], *, ended: bool, chat: bool) -> Iterator[JsonObject]:
    message = choice.get("message") or {} if chat else {"content": choice.get("text")}
    tracks = _tracks(message)
    length = max((t.begins + max(1, len(t.text)) for t in tracks), default=0)
    held = choice.get("token_ids")
    ids = _cuts(len(held or _entries(choice) or ()), parts, tokens)
    besides = {k: v for k, v in message.items() if k not in (*_LINES, "tool_calls", "role")}
    extras = {
        k: v
        for k, v in choice.items()
        if k not in ("index", "message", "text", "finish_reason", "token_ids", "logprobs", "prompt_token_ids")
    }
    begun: set[int] = set()
    for n, ((start, end), (from_id, to_id)) in enumerate(
        zip(pairwise(even(length, parts)), pairwise(ids), strict=True)
    ):
        last = n == parts - 1
        delta: JsonObject = {"role": "assistant"} if n == 0 else {}
        for track in tracks:
            piece = track.piece(start, end)
            if piece is None:
                continue
            if track.call is None:
                delta[track.field] = piece
            else:
                delta.setdefault("tool_calls", []).append(_call_part(message, track.call, piece, begun))
        if last and ended:
            delta |= besides
        part = {"delta": delta} if chat else {"text": delta.get("content") or ""}
        out = {"index": choice["index"], **part, "finish_reason": choice.get("finish_reason") if last else None}
        out["logprobs"] = _cut_logprobs(choice.get("logprobs"), from_id, to_id)
        if held is not None:
            out["token_ids"] = held[from_id:to_id]
        if not chat and n == 0 and "prompt_token_ids" in choice:
            out["prompt_token_ids"] = choice["prompt_token_ids"]
        yield {**out, **extras} if last and ended else out


def _tracks(message: JsonObject) -> list[_Track]:
    tracks, at = [], 0
    for name in _LINES:
        if isinstance(text := message.get(name), str):
            tracks.append(_Track(name, text, at))
            at += len(text)
    for n, call in enumerate(message.get("tool_calls") or ()):
        text = (call.get("function") or {}).get("arguments") or ""
        tracks.append(_Track("arguments", text, at, n))
        at += max(1, len(text))
    return tracks


def _call_part(message: JsonObject, place: int, piece: str, begun: set[int]) -> JsonObject:
    call = message["tool_calls"][place]
    if place in begun:
        return {"index": place, "function": {"arguments": piece}}
    begun.add(place)
    whole = {"index": place, **call}
    if "function" in call:
        whole["function"] = {**call["function"], "arguments": piece}
    return whole


def even(length: int, parts: int) -> list[int]:
    """Where to cut something of that length into so many even parts."""
    return [length * n // parts for n in range(parts + 1)]


def _cuts(length: int, parts: int, counts: Sequence[int]) -> list[int]:
    """Where tokens are cut: as they were, if that is known of all of them."""
    if len(counts) == parts and sum(counts) == length:
        return [0, *accumulate(counts)]
    return even(length, parts)


def _entries(choice: JsonObject) -> list[Any] | None:
    """The logprobs of a choice, one for each token."""
    logprobs = choice.get("logprobs") or {}
    found: list[Any] | None = logprobs.get("content") or logprobs.get("tokens")
    return found


def _cut_logprobs(logprobs: JsonObject | None, start: int, end: int) -> JsonObject | None:
    if not logprobs:
        return None
    return {k: v[start:end] if isinstance(v, list) else v for k, v in logprobs.items()}
