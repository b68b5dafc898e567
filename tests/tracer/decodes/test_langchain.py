"""LangChain on top of the OpenAI client: its caller gets the same, and the decode is what the client was given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("langchain_openai")

from langchain_core.messages import BaseMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from redecode.tracer import Decode, Fidelity, Span, SpanKind, Store, instrument, run, uninstrument
from tests.tracer.decodes import vllm_like
from tests.tracer.decodes.calls import TOOLS, decodes_of, lasting
from tests.tracer.decodes.conftest import Recorded, Serving
from tests.tracer.decodes.server import Reply, Request, Server


class Person(BaseModel):
    """Whether it is a person."""

    kind: bool


Use = Callable[[ChatOpenAI], Any]
STRUCTURED: dict[str, Use] = {
    method: lambda llm, method=method: llm.with_structured_output(Person, method=method)  # type: ignore[misc]
    for method in ("function_calling", "json_mode", "json_schema")
}
CHAINS: dict[str, Use] = {
    "plain": lambda llm: llm,
    "tools": lambda llm: llm.bind_tools(TOOLS, tool_choice="required"),
    "tools by choice": lambda llm: llm.bind_tools(TOOLS),
    "response_format": lambda llm: llm.bind(response_format={"type": "json_object"}),
    "logprobs": lambda llm: llm.bind(logprobs=True),
    "three choices": lambda llm: llm.bind(n=3),
    "the responses API": lambda llm: llm.model_copy(update={"use_responses_api": True}),
    **STRUCTURED,
}


def told(value: Any) -> Any:
    """What can be seen of an answer of LangChain's."""
    if isinstance(value, BaseMessage):
        seen = value.model_dump()
        seen["id"] = "…" if value.id else None
        return seen
    return [told(one) for one in value] if isinstance(value, list) else value


def invoked(llm: ChatOpenAI, use: Use) -> Any:
    return told(use(llm).invoke("Who is Ann Lee?"))


def streamed(llm: ChatOpenAI, use: Use) -> Any:
    return told(list(use(llm).stream("Who is Ann Lee?")))


async def ainvoked(llm: ChatOpenAI, use: Use) -> Any:
    return told(await use(llm).ainvoke("Who is Ann Lee?"))


async def astreamed(llm: ChatOpenAI, use: Use) -> Any:
    return told([part async for part in use(llm).astream("Who is Ann Lee?")])


def model(url: str, **given: Any) -> ChatOpenAI:
    return ChatOpenAI(base_url=url, api_key=SecretStr("none"), model="m", temperature=0, **given)


def both(server: Server, store: Path, use: Use, call: Callable[..., Any]) -> tuple[Any, Any, Decode, Span]:
    async def awaited() -> Any:
        async with httpx.AsyncClient() as http:
            return await call(model(server.url, http_async_client=http), use)

    def once() -> Any:
        if asyncio.iscoroutinefunction(call):
            return asyncio.run(awaited())
        with httpx.Client() as http:
            return call(model(server.url, http_client=http), use)

    plain = once()
    instrument(store)
    try:
        seen = once()
    finally:
        uninstrument()
    ((decode, span),) = decodes_of(store)
    return plain, seen, decode, span


@pytest.mark.filterwarnings("ignore:.*Pydantic serializer warnings")  # LangChain, of a parsed answer
@pytest.mark.parametrize("call", [invoked, ainvoked, streamed, astreamed])
@pytest.mark.parametrize("name", CHAINS)
def test_the_caller_gets_the_same(store: Path, server: Serving, name: str, call: Any) -> None:
    vllm = server(vllm_like.answer, owner="vllm")
    plain, seen, decode, _ = both(vllm, store, CHAINS[name], call)
    assert lasting(seen) == lasting(plain)
    assert decode.error is None
    assert decode.fidelity is (Fidelity.TOKENS if name in {"three choices", "the responses API"} else Fidelity.ENGINE)
    assert [(m["role"], m["content"]) for m in decode.messages] == [("user", "Who is Ann Lee?")]
    said = decode.output[0]
    if name in {"tools", "function_calling"}:
        assert [c["function"]["name"] for c in said["tool_calls"]] == ["look_up" if name == "tools" else "Person"] * 2
    elif name in {"response_format", "json_mode", "json_schema"}:
        assert said["content"] == '{"kind": true}'
    else:
        assert said["content"] == vllm_like.TEXT
    if name in STRUCTURED:
        last = seen[-1] if isinstance(seen, list) else seen
        assert last == Person(kind=True)
    assert (decode.tool_definitions is not None) == (name in {"tools", "tools by choice", "function_calling"})
    assert ("response_format" in decode.sampling) == (name in {"response_format", "json_mode", "json_schema"})
    assert len(decode.more_choices) == (2 if name == "three choices" else 0)
    assert decode.sampled_ids == tuple(map(ord, vllm_like._text(vllm.requests[-1].body, chat=True)))


def test_a_stream_left_in_the_middle(server: Serving, recorded: Recorded) -> None:
    def slowly(request: Request) -> Reply:
        pieces = list(vllm_like.answer(request).body)
        return Reply([*pieces[:4], 60.0, *pieces[4:]], headers={"content-type": "text/event-stream"})

    llm = ChatOpenAI(base_url=server(slowly, owner="vllm").url, api_key=SecretStr("none"), model="m")

    async def left() -> str:
        parts = llm.astream("?")
        text = "".join([str((await anext(parts)).content) for _ in range(3)])
        await parts.aclose()  # type: ignore[attr-defined]
        await llm.root_async_client.close()
        return text

    async def cancelled() -> str:
        text = ""

        async def read() -> None:
            nonlocal text
            async for part in llm.astream("?"):
                text += str(part.content)
                if len(text) == 3:
                    reached.set()

        reached = asyncio.Event()
        task = asyncio.ensure_future(read())
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return text

    with run("left"):
        parts = llm.stream("?")
        text = "".join(str(next(parts).content) for _ in range(3))
        parts.close()  # type: ignore[attr-defined]
        texts = [text, asyncio.run(cancelled()), asyncio.run(left())]
    llm.root_client.close()
    found = recorded()
    assert len(found) == 3
    for (decode, span), said in zip(found, texts, strict=True):
        assert vllm_like.TEXT.startswith(decode.output[0]["content"])
        assert decode.output[0]["content"].startswith(said.rstrip())
        assert decode.sampled_ids == tuple(map(ord, decode.output[0]["content"]))
        assert span.status == "error"
        assert span.attributes["redecode.fidelity_limit"].startswith("it was cut short")
    assert found[0][0].error == "stream closed before its end"
    assert "CancelledError" in str(found[1][0].error)


def test_its_embeddings(server: Serving, recording: Path) -> None:
    vllm = server(vllm_like.answer, owner="vllm")
    settings: Any = {"base_url": vllm.url, "api_key": SecretStr("none"), "model": "m"}
    texts = OpenAIEmbeddings(**settings, check_embedding_ctx_length=False).embed_documents(["a", "bc"])
    assert texts == [[1.0, 0.5, -0.25], [2.0, 0.5, -0.25]]
    uninstrument()
    (summary,) = Store(recording).runs()
    (span,) = [s for s in Store(recording).load(summary.run_id).spans if s.kind is SpanKind.RETRIEVAL]
    assert (span.attributes["redecode.embedded"], span.attributes["gen_ai.usage.input_tokens"]) == (2, 8)
