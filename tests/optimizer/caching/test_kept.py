"""What a cache keeps comes back as what it was, and into another run as a message of its own."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import CachePolicy, Command
from pydantic import BaseModel

from redecode.optimizer.caching import CachedStep, FileCache, exact_key
from redecode.optimizer.caching.kept import SameSerializer


class Heat(Enum):
    LOW = "low"


class Found(BaseModel):
    name: str
    heat: Heat = Heat.LOW


@dataclass
class Pair:
    one: int


CALL = {"name": "look", "args": {"x": 1}, "id": "c1", "type": "tool_call"}


@pytest.mark.parametrize(
    "result",
    [
        {"a": [1, "é\udc80", None, True, 1.5]},
        {"messages": [AIMessage("hi", tool_calls=[CALL]), HumanMessage("you")]},
        {"found": Found(name="x"), "heat": Heat.LOW},
        [Pair(1), {2, 3}, b"x"],
        Command(goto="next", update={"messages": [AIMessage("hi")]}),
    ],
    ids=["plain", "messages", "models", "others", "command"],
)
def test_it_comes_back_as_what_it_was(result: Any) -> None:
    serde = SameSerializer()
    kept = serde.dumps_typed(result)
    again = serde.loads_typed(kept)
    assert again == result and type(again) is type(result)


@pytest.mark.parametrize("result", [{"a": (1,)}, {"a": [(Heat.LOW,)]}, {"a": len}, {"a": object()}])
def test_what_would_come_back_as_something_else_is_refused(result: Any) -> None:
    with pytest.raises(TypeError):
        SameSerializer().dumps_typed(result)


def test_without_langgraph_plain_data_alone_is_kept_and_the_way_out_is_said() -> None:
    program = """
import sys
from redecode.optimizer.caching.kept import SameSerializer
assert "langgraph" not in sys.modules
print(SameSerializer().dumps_typed({"a": 1}))
SameSerializer().dumps_typed({"a": {1}})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "('json', b'{\"a\": 1}')" in done.stdout
    assert "a dict is no plain data throughout; give the cache a `serde`" in done.stderr


def chat(step: CachedStep, reply: Callable[[], Any]) -> Any:
    async def answer(state: MessagesState) -> Any:
        async def make() -> Any:
            return reply()

        return await step.arun(state, {"cache": "exact"}, make)

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    return graph.compile(checkpointer=InMemorySaver())


def said(graph: Any, thread: str, *asked: str) -> list[str]:
    async def go() -> list[str]:
        for words in asked:
            got = await graph.ainvoke({"messages": [("user", words)]}, {"configurable": {"thread_id": thread}})
        return [str(m.content) for m in got["messages"]]

    return asyncio.run(go())


def test_two_hits_in_one_conversation_are_two_messages(tmp_path: Path) -> None:
    """A reducer of messages puts one in the place of another of the same id."""
    replies = iter(range(9))
    step = CachedStep(
        "answer", tmp_path / "a", text=lambda s: s["messages"][-1].content, side_effect=False, kind="cache"
    )
    graph = chat(step, lambda: {"messages": [AIMessage(f"reply {next(replies)}", id="run-1")]})
    assert said(graph, "one", "q", "q", "q") == ["q", "reply 0"] * 3
    assert said(graph, "two", "q") == ["q", "reply 0"] and next(replies) == 1


def test_so_they_are_in_langgraphs_own_cache(tmp_path: Path) -> None:
    ran = []

    def answer(state: MessagesState) -> Any:
        ran.append(state)
        return {"messages": [AIMessage("reply", id="run-1")]}

    def last(state: MessagesState) -> str:
        return str(state["messages"][-1].content)

    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer, cache_policy=CachePolicy(key_func=last))
    builder.add_edge(START, "answer")
    cache = FileCache(tmp_path / "a", serde=JsonPlusSerializer())
    graph = builder.compile(checkpointer=InMemorySaver(), cache=cache)  # type: ignore[arg-type]
    assert said(graph, "one", "q", "q", "q") == ["q", "reply"] * 3 and len(ran) == 1


def test_what_removes_messages_is_not_kept_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    step = CachedStep(
        "forgets", tmp_path / "a", text=lambda s: s["messages"][-1].content, side_effect=False, kind="cache"
    )
    removed: list[str] = []

    async def answer(state: MessagesState) -> Any:
        async def make() -> Any:
            removed.append(str(state["messages"][-1].id))
            return {"messages": [RemoveMessage(id=removed[-1]), AIMessage("gone")]}

        return await step.arun(state, {"cache": "exact"}, make)

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    with caplog.at_level(logging.WARNING):
        assert said(graph.compile(checkpointer=InMemorySaver()), "one", "q", "q") == ["gone", "gone"]
    assert len(removed) == 2
    assert [r.message for r in caplog.records if "cannot keep" in r.message] == [
        "redecode: the cache around 'forgets' cannot keep its answer: it removes messages by their ids, which no other "
        "run has"
    ]


def test_exact_keys_and_messages_go_together() -> None:
    assert exact_key("messages")({"messages": [HumanMessage("q", id="1")]}) == exact_key("messages")(
        {"messages": [HumanMessage("q", id="2")]}
    )
