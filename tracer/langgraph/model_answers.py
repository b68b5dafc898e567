"""Answers of LangChain models as their callbacks saw them: written down whole, and made again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    BaseMessageChunk,
    message_chunk_to_message,
    message_to_dict,
    messages_from_dict,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation, GenerationChunk

from redecode.tracer import conventions as c
from redecode.tracer.records import JsonObject


def written(generations: list[Any], llm_output: Any) -> str:
    """Generations of one prompt as JSON: each one's message with all that it carries, or its text."""
    return c.to_json({"generations": [_written(one) for one in generations], "llm_output": llm_output})


def _written(generation: Any) -> JsonObject:
    message = getattr(generation, "message", None)
    if isinstance(message, BaseMessage):
        plain = message_chunk_to_message(message) if isinstance(message, BaseMessageChunk) else message
        return {"message": message_to_dict(plain), "info": generation.generation_info}
    return {"text": generation.text, "info": generation.generation_info}


def chat_result(answer: JsonObject) -> ChatResult:
    """The answer of a chat model."""
    generations = [ChatGeneration(message=_message(one), generation_info=one.get("info")) for one in _all(answer)]
    return ChatResult(generations=generations, llm_output=answer.get("llm_output"))


def texts(answer: JsonObject) -> list[Generation]:
    """The answer of a text model to one prompt."""
    return [Generation(text=one["text"], generation_info=one.get("info")) for one in _all(answer)]


def chat_chunks(answer: JsonObject, parts: int, *, cut: bool) -> Iterator[ChatGenerationChunk]:
    """The answer of a chat model in so many parts: even pieces of its text, and all else with the last.

    Args:
        cut: it was not given to its end, so nothing says that it has ended.
    """
    for one in _all(answer)[:1]:
        whole = _message(one)
        text = whole.content if isinstance(whole.content, str) else ""
        pieces = _pieces(text, parts)
        for piece in pieces[:-1]:
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece, id=whole.id))
        last = _chunk(whole, pieces[-1] if isinstance(whole.content, str) else whole.content)
        if not cut:
            last.chunk_position = "last"
        yield ChatGenerationChunk(message=last, generation_info=one.get("info"))


def text_chunks(answer: JsonObject, parts: int) -> Iterator[GenerationChunk]:
    """The answer of a text model in so many parts."""
    for one in _all(answer)[:1]:
        *before, last = _pieces(one["text"], parts)
        for piece in before:
            yield GenerationChunk(text=piece)
        yield GenerationChunk(text=last, generation_info=one.get("info"))


def _all(answer: JsonObject) -> list[JsonObject]:
    found: list[JsonObject] = answer.get("generations") or []
    return found


def _message(one: JsonObject) -> Any:
    return messages_from_dict([one["message"]])[0] if "message" in one else AIMessage(one["text"])


def _chunk(message: Any, content: Any) -> AIMessageChunk:
    calls = [
        {"name": call["name"], "args": c.to_json(call["args"]), "id": call.get("id"), "index": n}
        for n, call in enumerate(getattr(message, "tool_calls", ()))
    ]
    return AIMessageChunk(
        content=content,
        id=message.id,
        name=message.name,
        additional_kwargs=message.additional_kwargs,
        response_metadata=message.response_metadata,
        usage_metadata=getattr(message, "usage_metadata", None),
        tool_call_chunks=calls,
    )


def _pieces(text: str, parts: int) -> list[str]:
    cuts = [len(text) * n // parts for n in range(parts + 1)]
    return [text[start:end] for start, end in pairwise(cuts)]
