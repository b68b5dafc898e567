"""Pictures, sound and files have no meaning that a text would tell: they are equal, or there is no hit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

from redecode import tracer
from redecode.optimizer.caching import (
    CachedStep,
    ExactCache,
    HashedNgrams,
    Recorded,
    SemanticCache,
    prefix_use,
    recorded_calls,
    semantic_hits,
    worth,
)
from redecode.optimizer.caching.calls import _answer, said, shown, unsaid
from redecode.optimizer.caching.replayed import noise
from redecode.optimizer.evaluation.warming import Past
from redecode.optimizer.spec import Case
from redecode.tracer import Store
from tests.optimizer.caching.made import call

VECTORS = HashedNgrams(dimensions=256)
QUESTION = "What is on this picture?"


def asked(n: int, words: str = QUESTION) -> list[dict[str, Any]]:
    """A message about a picture."""
    picture = {"type": "image_url", "image_url": {"url": f"https://pictures.example/{n}.png"}}
    return [{"role": "user", "content": [{"type": "text", "text": words}, picture]}]


# -- recorded --


@pytest.fixture
def pictured(recording: Path, serve: Callable[..., Any]) -> Recorded:
    """Three pictures, each asked about twice, in other words."""
    server = serve(lambda body: body["messages"][0]["content"][1]["image_url"]["url"])
    with openai.OpenAI(base_url=server.base_url, api_key="x", max_retries=0) as client:
        for words in (QUESTION, QUESTION + "!"):
            for n in range(3):
                with tracer.run("desk"), tracer.step("look"):
                    messages: Any = asked(n, words)
                    client.chat.completions.create(model="m", messages=messages, temperature=0, seed=n)
    tracer.uninstrument()
    return recorded_calls(Store(recording))


def test_the_same_words_about_another_picture_ask_something_else(pictured: Recorded) -> None:
    calls = pictured.calls
    assert {c.text for c in calls} == {QUESTION, QUESTION + "!"} and len({c.scope for c in calls}) == 3
    assert len({c.parts for c in calls}) == 3 and all(c.parts for c in calls)
    hits = semantic_hits(calls, VECTORS.of([c.text for c in calls]), 0.7)
    assert [(h.call.answer == h.source.answer, h.false, h.equal) for h in hits] == [(True, False, False)] * 3
    assert noise(calls) == (0, 0)
    (found,) = worth(pictured, vectors=VECTORS)
    assert all((level.hits, level.false_hits) == (3, 0) for level in found.semantic[:1])


def test_a_seed_makes_no_other_prompt(recording: Path, serve: Callable[..., Any]) -> None:
    server = serve(lambda body: f"as {body['seed']}")
    with openai.OpenAI(base_url=server.base_url, api_key="x", max_retries=0) as client:
        for seed in range(4):
            with tracer.run("desk"), tracer.step("look"):
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": "q"}], seed=seed)
    tracer.uninstrument()
    calls = recorded_calls(Store(recording)).calls
    assert len({c.exact for c in calls}) == 4 and len({c.prompt for c in calls}) == 1
    assert noise(calls) == (2, 2) and {c.parts for c in calls} == {""}


def test_the_ids_of_prompts_do_not_tell_pictures_apart() -> None:
    ids = tuple(range(64))
    plain = [call(f"p{n}", "x", n, prompt_ids=ids, model="m") for n in range(3)]
    some = [call(f"p{n}", "x", n, prompt_ids=ids, model="m", parts=f"picture {n}") for n in range(3)]
    assert prefix_use(some)[""].calls == 0
    assert prefix_use([*plain, *some]) == prefix_use(plain)


PNG = {"source": {"data": "AA"}}


@pytest.mark.parametrize(
    ("messages", "text", "rest"),
    [
        ("a prompt", "a prompt", []),
        (["two", "prompts"], "two\nprompts", []),
        ([{"role": "user", "content": "q"}, {"role": "tool", "tool_call_id": "c1", "content": "r"}], "q\nr", []),
        ([{"role": "user", "content": ["q", {"type": "text", "text": "r", "cache_control": {}}]}], "q r", []),
        ([{"role": "assistant", "content": None, "tool_calls": [{"n": 1}]}], '[{"n":1}]', []),
        ([{"role": "assistant", "function_call": {"name": "f"}}], '{"name":"f"}', []),
        ([{"role": "user", "content": [{"type": "input_text", "text": "q"}, {"type": "input_image", "file_id": "f"}]}],
         "q", [{"file_id": "f"}]),
        ([{"type": "function_call_output", "call_id": "c1", "output": "sunny"}], "sunny", []),
        ([{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "u", "content": [
            {"type": "text", "text": "r"}, {"type": "image", **PNG}]}]}], "r", [PNG]),
        ([{"role": "assistant", "content": "q", "audio": {"id": "a1"}}], "q", [{"audio": {"id": "a1"}}]),
    ],
    ids=["text", "texts", "tool", "parts", "calls", "function", "picture", "output", "result", "audio"],
)  # fmt: skip
def test_what_is_said_in_words_and_what_is_not(messages: Any, text: str, rest: list[Any]) -> None:
    assert (said(messages), unsaid(messages)) == (text, rest)


def test_answers_that_say_something_else_are_not_equal() -> None:
    def answer(**fields: Any) -> str:
        return _answer([{"role": "assistant", "content": None, "finish_reason": "stop", **fields}])

    assert answer(refusal="No.") != answer(refusal="Never.") != answer()
    assert answer(function_call={"name": "f"}) != answer(function_call={"name": "g"})
    assert answer(audio={"id": "1", "transcript": "a"}) == answer(audio={"id": "2", "transcript": "a"})
    assert answer(audio={"id": "1", "transcript": "a"}) != answer(audio={"id": "1", "transcript": "b"})
    custom = [{"id": f"c{n}", "type": "custom", "custom": {"name": "f", "input": "x"}} for n in range(2)]
    assert answer(tool_calls=custom[:1]) == answer(tool_calls=custom[1:])


def test_the_ids_of_a_response_make_no_other_answer() -> None:
    def answer(number: int, **item: Any) -> str:
        return _answer([{"role": "assistant", **item.pop("read", {}), "output": [{"id": f"i{number}", **item}]}])

    assert answer(1, type="message", read={"content": "a"}) == answer(2, type="message", read={"content": "a"})
    assert answer(1, type="drawn", result="AA") == answer(2, type="drawn", result="AA") != answer(1, result="BB")


# -- in use --


def state(n: int, words: str = QUESTION) -> dict[str, Any]:
    return {"messages": asked(n, words)}


def words_of(given: Any) -> str:
    return str(given["messages"][-1]["content"][0]["text"])


@pytest.mark.parametrize("kind", ["semantic", "exact"])
def test_a_cache_in_use_tells_pictures_apart_though_its_text_does_not(tmp_path: Path, kind: str) -> None:
    cache = (
        ExactCache(tmp_path / "answers")
        if kind == "exact"
        else SemanticCache(tmp_path / "answers", threshold=0.7, vectors=VECTORS)
    )
    ran: list[int] = []

    def look(given: Any) -> int:
        ran.append(len(ran))
        return ran[-1]

    node, anode = cache.around("look", look, text=words_of, side_effect=False)
    assert [node(state(n)) for n in (0, 1, 0, 1)] == [0, 1, 0, 1]

    async def awaited() -> int:
        return await anode(state(1))

    assert asyncio.run(awaited()) == 1 and len(ran) == 2


def test_langchain_messages_are_read_too(tmp_path: Path) -> None:
    messages = pytest.importorskip("langchain_core.messages")
    cache = ExactCache(tmp_path / "answers")
    node, _ = cache.around("look", lambda s: s["n"], text=lambda s: s["messages"][-1].text, side_effect=False)
    found = [
        node({"n": n, "messages": [messages.HumanMessage(asked(n % 2)[0]["content"], id=f"m{n}")]}) for n in range(4)
    ]
    assert found == [0, 1, 0, 1]


def test_a_state_without_pictures_has_nothing_to_show() -> None:
    assert shown({"question": "q", "messages": [{"role": "user", "content": "q"}], "content": [1, {"text": "x"}]}) == []
    picture = {"image_url": {"url": "u"}}
    parts = [{"type": "text", "text": "q"}, {"type": "image_url", **picture}]
    assert shown({"question": parts}) == shown([[{"content": parts[1:]}]]) == [picture]


def looks(path: Path, **more: Any) -> CachedStep:
    return CachedStep("look", path, text=words_of, side_effect=False, vectors=VECTORS, **more)


@pytest.mark.parametrize("more", [{}, {"scope": lambda s, c: c["model"]}], ids=["context", "scope"])
@pytest.mark.parametrize("kind", ["semantic", "exact"])
def test_a_cached_step_tells_pictures_apart_in_use_and_in_the_recorded_past(
    tmp_path: Path, kind: str, more: dict[str, Any]
) -> None:
    context = {"cache": kind, "threshold": 0.7, "model": "m"}
    step, made = looks(tmp_path / "answers", **more), list[int]()

    def answer(n: int) -> int:
        made.append(n)
        return n

    assert [step.run(state(n % 2), context, partial(answer, n)) for n in range(4)] == [0, 1, 0, 1]
    assert made == [0, 1]

    runs = [Case(id=str(n), input=state(n % 2), started_ns=n * 10**10, duration_s=1.0) for n in range(4)]
    later = looks(tmp_path / "other", **more)
    past = Past(runs, [later])
    setting, scopes = later.setting(context), past.scopes(later, lambda _: context, each=False)
    assert [past.source(later, setting, str(n), (), scopes) for n in range(4)] == [None, None, "0", "1"]
