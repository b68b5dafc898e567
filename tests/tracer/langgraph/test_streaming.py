"""However a graph is streamed, the same run is recorded, and the consumer gets what it would have got."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("langgraph")

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, BaseCallbackHandler, CallbackManagerForLLMRun
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph

from redecode.tracer import SpanKind
from tests.tracer.langgraph.support import Program, Seen, State, same, says

Record = Callable[[Program], list[Seen]]
MODES: list[Any] = ["values", "updates", "messages", "custom", "tasks", "debug", "checkpoints", ["updates", "messages"]]
ASK = "run/ask@1[pull:ask]"


def model() -> Any:
    return GenericFakeChatModel(messages=iter([AIMessage("one two three")]))


def graph() -> Any:
    def ask(state: State) -> dict[str, list[str]]:
        get_stream_writer()("custom")
        return {"out": [str(model().invoke("?").content)]}

    inner = StateGraph(State)
    inner.add_node("i", says("i"))
    inner.add_edge(START, "i")
    outer = StateGraph(State)
    outer.add_node("ask", ask)
    outer.add_node("sub", inner.compile())
    outer.add_edge(START, "ask")
    outer.add_edge("ask", "sub")
    return outer.compile()


@pytest.mark.parametrize("subgraphs", [False, True], ids=["alone", "with subgraphs"])
def test_every_mode_records_the_same_run(record: Record, subgraphs: bool) -> None:
    compiled = graph()

    async def collect(mode: Any) -> list[Any]:
        return [c async for c in compiled.astream({"out": []}, stream_mode=mode, subgraphs=subgraphs)]

    def stable(chunks: list[Any]) -> str:
        return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[\d:T.+-]{32}", "…", str(chunks))

    def program() -> list[str]:
        out = []
        for mode in MODES:
            out.append(stable(list(compiled.stream({"out": []}, stream_mode=mode, subgraphs=subgraphs))))
            out.append(stable(asyncio.run(collect(mode))))
        return out

    plain, streamed = program(), []
    runs = record(lambda: streamed.extend(program()))
    assert streamed == plain
    assert len(runs) == 2 * len(MODES)
    for other in runs[1:]:
        same(runs[0], other)
    assert {f"{ASK}/chat", "run/sub@2[pull:sub]/graph:LangGraph/i@1[pull:i]"} <= set(runs[0].keys)


def test_events_are_streamed_as_without_the_tracer(record: Record) -> None:
    compiled = graph()

    async def events() -> list[str]:
        return [f"{e['event']} {e['name']}" async for e in compiled.astream_events({"out": []}, version="v2")]

    plain, seen = asyncio.run(events()), []

    def program() -> None:
        seen.extend(asyncio.run(events()))
        compiled.invoke({"out": []})

    found, invoked = record(program)
    assert seen == plain
    same(found, invoked)


def test_a_stream_given_up_ends_the_run_there(record: Record) -> None:
    compiled = graph()

    async def take_one() -> None:
        stream = compiled.astream({"out": []}, stream_mode="updates")
        async for _ in stream:
            break
        await stream.aclose()

    def program() -> None:
        stream = compiled.stream({"out": []}, stream_mode="updates")
        next(stream)
        stream.close()
        asyncio.run(take_one())

    for found in record(program):
        assert (found.recorded.run.status, found.recorded.run.error) == ("error", "stream closed before its end")
        assert found.keys[:3] == ["run", ASK, f"{ASK}/chat"]
        assert all(s.end_ns is not None for s in found.recorded.spans)


def test_a_graph_streamed_inside_a_node(record: Record) -> None:
    inner = graph()

    async def node(state: State) -> dict[str, list[str]]:
        async for _ in inner.astream({"out": []}, stream_mode="updates"):
            pass
        return {"out": []}

    outer = StateGraph(State)
    outer.add_node("n", node)
    outer.add_edge(START, "n")
    (found,) = record(lambda: asyncio.run(outer.compile().ainvoke({"out": []})))
    base = "run/n@1[pull:n]/graph:LangGraph"
    assert found.of(SpanKind.GRAPH) == [base, f"{base}/sub@2[pull:sub]/graph:LangGraph"]
    assert found.of(SpanKind.DECODE) == [f"{base}/ask@1[pull:ask]/chat"]


class Listener(BaseCallbackHandler):
    def __init__(self) -> None:
        self.tokens: list[Any] = []

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.tokens.append(token)


@pytest.mark.parametrize("others", [0, 1, 2], ids=["alone", "with one more", "with two more"])
def test_a_token_reaches_every_handler(record: Record, others: int) -> None:
    listeners = [Listener() for _ in range(others)]
    config: Any = {"callbacks": listeners}
    ways = CallbackManagerForLLMRun.on_llm_new_token, AsyncCallbackManagerForLLMRun.on_llm_new_token

    def program() -> list[str]:
        assert (CallbackManagerForLLMRun.on_llm_new_token, AsyncCallbackManagerForLLMRun.on_llm_new_token) != ways
        return [str(part.content) for part in model().stream("?", config)]

    async def program_async() -> list[str]:
        return [str(part.content) async for part in model().astream("?", config)]

    for how in (program, lambda: asyncio.run(program_async())):
        for listener in listeners:
            listener.tokens.clear()
        (seen,) = record(how)
        (decode,) = seen.recorded.decodes
        assert len(decode.chunk_times_ns or ()) == 5  # three words and what is between them
        assert [listener.tokens for listener in listeners] == [["one", " ", "two", " ", "three"]] * others
    assert (CallbackManagerForLLMRun.on_llm_new_token, AsyncCallbackManagerForLLMRun.on_llm_new_token) == ways
