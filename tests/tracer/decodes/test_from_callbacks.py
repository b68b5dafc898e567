"""LangChain models that do not call the OpenAI client: recorded from their callbacks, at fidelity `text`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any

import httpx
import pytest

pytest.importorskip("langchain_core")

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from redecode.tracer import Decode, Fidelity, Span, TimeSource, run
from tests.tracer.decodes import vllm_like
from tests.tracer.decodes.conftest import Recorded, Serving
from tests.tracer.decodes.server import Reply, Request

WORDS = ["one ", "two ", "three"]
ONLY_CALLBACKS = "known from LangChain's callbacks alone: its model does not call the OpenAI client"
USAGE: Any = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10, "input_token_details": {"cache_read": 4}}


class NoWords(Exception):
    """As the errors of HTTP clients, whose response LangChain passes on as if it were an answer."""

    response = httpx.Response(500, text="no")


class Slow(BaseChatModel):
    """A model of somebody's own: 20 ms a word."""

    temperature: float = 0.3
    secret: SecretStr = SecretStr("not-to-be-written")
    fails_after: int = 99

    @property
    def _llm_type(self) -> str:
        return "slow"

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        time.sleep(0.02)
        if self.fails_after == 0:
            raise NoWords("no words")
        calls: Any = [{"name": "look", "args": {"at": 1}, "id": "c1", "type": "tool_call"}]
        made = {"finish_reason": "tool_calls"}
        message = AIMessage("".join(WORDS), tool_calls=calls, usage_metadata=USAGE, response_metadata=made)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> Iterator[Any]:
        for place, word in enumerate(WORDS):
            if place == self.fails_after:
                raise NoWords("no more words")
            time.sleep(0.02)
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> AsyncIterator[Any]:
        for word in WORDS:
            await asyncio.sleep(0.02)
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))


@tool
def look(at: int) -> str:
    """Look at something."""
    return str(at)


def one(recorded: Recorded) -> tuple[Decode, Span]:
    (found,) = recorded()
    return found


@pytest.mark.parametrize("awaits", [False, True], ids=["sync", "async"])
def test_what_is_asked_and_answered(recorded: Recorded, *, awaits: bool) -> None:
    asked = [
        SystemMessage("be short"),
        HumanMessage("?"),
        AIMessage("", tool_calls=[{"name": "look", "args": {"at": 0}, "id": "c0"}]),
        ToolMessage("0", tool_call_id="c0"),
    ]
    model = Slow()
    answer = asyncio.run(model.ainvoke(asked, stop=["."])) if awaits else model.invoke(asked, stop=["."])
    assert answer.content == "one two three"
    decode, span = one(recorded)
    assert (decode.fidelity, span.attributes["redecode.fidelity_limit"]) == (Fidelity.TEXT, ONLY_CALLBACKS)
    assert decode.messages == [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "id": "c0", "function": {"name": "look", "arguments": '{"at": 0}'}}],
        },
        {"role": "tool", "tool_call_id": "c0", "content": "0"},
    ]
    (message,) = decode.output
    assert (message["role"], message["content"]) == ("assistant", "one two three")
    (call,) = message["tool_calls"]
    assert (call["id"], call["function"]) == ("c1", {"name": "look", "arguments": '{"at": 1}'})
    assert message["finish_reason"] == decode.finish_reason == "tool_calls"
    assert (decode.input_tokens, decode.output_tokens, decode.cached_tokens) == (7, 3, 4)
    assert decode.sampling == {"temperature": 0.3, "stop": ["."]}
    assert decode.model == "slow"
    assert (decode.stream, decode.chunk_times_ns, decode.token_time_source) == (False, None, None)
    assert decode.e2e_ns is not None
    assert 20e6 <= decode.e2e_ns < 10e9
    assert decode.prompt_ids is decode.sampled_ids is None


@pytest.mark.parametrize("awaits", [False, True], ids=["sync", "async"])
def test_a_stream_has_the_times_of_its_chunks(recorded: Recorded, *, awaits: bool) -> None:
    async def go() -> str:
        return "".join([str(part.content) async for part in Slow().astream("?")])

    text = asyncio.run(go()) if awaits else "".join(str(part.content) for part in Slow().stream("?"))
    decode, _ = one(recorded)
    assert decode.output == [{"role": "assistant", "content": text, "finish_reason": None}]
    assert decode.stream
    assert decode.token_time_source is TimeSource.CLIENT
    times = decode.chunk_times_ns or ()
    assert len(times) == len(decode.chunk_tokens or ()) == len(WORDS)
    assert all(b - a >= 15e6 for a, b in pairwise((0, *times)))
    assert decode.first_chunk_ns is not None
    assert abs(decode.first_chunk_ns - decode.sent_ns - times[0]) <= 1000
    assert decode.e2e_ns is not None
    assert times[-1] <= decode.e2e_ns


def test_a_stream_given_up_and_one_that_fails(recorded: Recorded) -> None:
    with run("streams"):
        parts = Slow().stream("?")
        assert next(parts).content == "one "
        parts.close()  # type: ignore[attr-defined]
        with pytest.raises(NoWords):
            list(Slow(fails_after=2).stream("?"))
        with pytest.raises(NoWords):
            Slow(fails_after=0).invoke("?")
    (left, left_span), (failed, failed_span), (nothing, nothing_span) = recorded()
    assert left.output[0]["content"] == "one "
    assert left.error == "stream closed before its end"
    assert failed.output[0]["content"] == "one two "
    assert failed.error == "NoWords: no more words"
    assert len(failed.chunk_times_ns or ()) == 2
    assert nothing.output == []
    assert nothing.error == "NoWords: no words"
    part = f"it was cut short: only the part received is recorded; {ONLY_CALLBACKS}"
    limits = [s.attributes["redecode.fidelity_limit"] for s in (left_span, failed_span, nothing_span)]
    assert limits == [part, part, ONLY_CALLBACKS]


def test_models_that_come_with_langchain(recorded: Recorded) -> None:
    with run("fakes"):
        FakeListChatModel(responses=["hello"]).invoke("?")
        assert "".join(str(p.content) for p in FakeListChatModel(responses=["hello"]).stream("?")) == "hello"
        FakeListLLM(responses=["text"]).invoke("prompt")
        "".join(FakeListLLM(responses=["text"]).stream("prompt"))
        asyncio.run(FakeListLLM(responses=["text"]).abatch(["a", "b"]))
    found = [decode for decode, _ in recorded()]
    assert [d.output[0]["content"] for d in found] == ["hello", "hello", "text", "text", "text", "text"]
    assert [d.model for d in found] == ["fake-list-chat-model"] * 2 + ["fake-list"] * 4
    assert [d.messages for d in found[2:4]] == ["prompt", "prompt"]
    assert sorted(str(d.messages) for d in found[4:]) == ["a", "b"]
    assert [len(d.chunk_times_ns or ()) for d in found] == [0, 5, 0, 0, 0, 0]
    assert {d.fidelity for d in found} == {Fidelity.TEXT}


def test_a_model_that_wraps_one_of_the_client_is_two_decodes(server: Serving, recorded: Recorded) -> None:
    inner = ChatOpenAI(base_url=server(vllm_like.answer, owner="vllm").url, api_key=SecretStr("none"), model="m")

    class Wrapping(Slow):
        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
            answer = inner.invoke(messages)
            return ChatResult(generations=[ChatGeneration(message=AIMessage(f"<{answer.content}>"))])

    Wrapping().invoke("?")
    inner.root_client.close()
    outer, within = (decode for decode, _ in recorded())
    assert (outer.fidelity, outer.output[0]["content"]) == (Fidelity.TEXT, f"<{vllm_like.TEXT}>")
    assert (within.fidelity, within.output[0]["content"]) == (Fidelity.ENGINE, vllm_like.TEXT)


@pytest.mark.filterwarnings("ignore:Unexpected type for token usage")  # LangChain, of what vLLM leaves null
@pytest.mark.parametrize("awaits", [False, True], ids=["sync", "async"])
def test_each_of_a_batch_in_one_call_has_its_own_answer(server: Serving, recorded: Recorded, *, awaits: bool) -> None:
    def echo(request: Request) -> Reply:
        reply = vllm_like.answer(request)
        said = request.body["messages"][0]["content"]
        assert isinstance(reply.body, bytes)
        return Reply(reply.body.replace(rb"h\u00e9llo {you}\n", said.encode()), headers=reply.headers)

    llm = ChatOpenAI(base_url=server(echo, owner="vllm").url, api_key=SecretStr("none"), model="m")
    prompts: list[list[BaseMessage]] = [[HumanMessage(f"prompt {n}")] for n in range(4)]

    async def go() -> Any:
        found = await llm.agenerate(prompts)
        await llm.root_async_client.close()
        return found

    with run("batch"):
        made = asyncio.run(go()) if awaits else llm.generate(prompts)
    llm.root_client.close()
    assert [g[0].text for g in made.generations] == [f"prompt {n}" for n in range(4)]
    found = recorded()
    assert len(found) == 4
    for decode, _ in found:
        assert decode.fidelity is Fidelity.ENGINE
        assert decode.messages[0]["content"] == decode.output[0]["content"]
    order = [decode.messages[0]["content"] for decode, _ in sorted(found, key=lambda pair: pair[1].step_key)]
    assert order == [f"prompt {n}" for n in range(4)]
