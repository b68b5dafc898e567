"""When two streams are the same to their caller: the measure that the tests on a real engine go by."""

from __future__ import annotations

from typing import Any

from openai.types import Completion, CompletionChoice
from openai.types.chat import ChatCompletionChunk

from tests.tracer.decodes.calls import Facts, facts, same_stream

NAMED = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "look_up", "arguments": ""}}


def argued(text: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}


def stream(*deltas: dict[str, Any], **more: Any) -> Facts:
    """Chunks of one choice with these deltas, the last of them its end."""
    ends = [None] * (len(deltas) - 1) + ["tool_calls"]
    choices = [{"index": 0, "delta": d, "finish_reason": e, **more} for d, e in zip(deltas, ends, strict=True)]
    head = {"id": "x", "created": 1, "model": "m", "object": "chat.completion.chunk"}
    return [facts(ChatCompletionChunk.model_validate({**head, "choices": [choice]})) for choice in choices]


BEGIN = {"role": "assistant", "content": ""}
ONE_BY_ONE = stream(BEGIN, {"tool_calls": [NAMED]}, argued('{"a'), argued('": 1}'), {})


def test_however_it_was_cut_it_is_the_same() -> None:
    named = {**NAMED, "function": {"name": "look_up", "arguments": '{"a'}}
    assert same_stream(ONE_BY_ONE, stream(BEGIN, {"tool_calls": [named]}, argued('": 1}')))
    assert same_stream(ONE_BY_ONE, stream(BEGIN, {"tool_calls": [NAMED], "content": None}, {}, argued('{"a": 1}'), {}))


def texts(*pieces: str) -> Facts:
    """A completion in pieces, as vLLM streams one: the first has the prompt's tokens, the last the end."""
    head: Any = {"id": "x", "created": 1, "model": "m", "object": "text_completion"}
    ends = [None] * (len(pieces) - 1) + ["length"]
    prompts = [[7, 8], *[None] * (len(pieces) - 1)]
    choices: list[Any] = [
        {"index": 0, "text": t, "finish_reason": e, "logprobs": None, "prompt_token_ids": p}
        for t, e, p in zip(pieces, ends, prompts, strict=True)
    ]
    made = [CompletionChoice.model_construct(**choice) for choice in choices]
    return [facts(Completion.model_construct(**head, choices=[choice])) for choice in made]


def test_a_text_that_came_all_at_once_is_the_same() -> None:
    assert same_stream(texts("a", "b", "c"), texts("abc"))
    assert not same_stream(texts("a", "b"), texts("abc"))


def test_what_it_says_besides_makes_it_another() -> None:
    parts = BEGIN, {"tool_calls": [NAMED]}
    assert not same_stream(ONE_BY_ONE, stream(*parts, argued('{"a": 2}'), {}))
    assert not same_stream(ONE_BY_ONE, stream(*parts, argued('{"a": 1}'), {}, logprobs=None))
    assert not same_stream(ONE_BY_ONE, stream(*parts, argued('{"a": 1}'), {}, token_ids=[1]))
    assert not same_stream(ONE_BY_ONE, stream(*parts, {**argued('{"a": 1}'), "reasoning": "hm"}, {}))
    assert not same_stream(ONE_BY_ONE, ONE_BY_ONE[1:])
    usage = {"completion_tokens": 1, "prompt_tokens": 1, "total_tokens": 2}
    counted = ChatCompletionChunk.model_validate(
        {"id": "x", "created": 1, "model": "m", "object": "chat.completion.chunk", "choices": [], "usage": usage}
    )
    assert not same_stream(ONE_BY_ONE, [*ONE_BY_ONE, facts(counted)])
