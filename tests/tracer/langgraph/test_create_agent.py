"""`create_agent` on an OpenAI-compatible server: decodes, tools in parallel, structured output."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("langchain.agents")

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from redecode.tracer import Fidelity, SpanKind
from tests.tracer.langgraph.support import Program, Seen, same

Record = Callable[[Program], list[Seen]]
Serve = Callable[..., Any]
ASKED: Any = {"messages": [{"role": "user", "content": "add"}]}


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


class Sum(BaseModel):
    """The sum."""

    value: int


def calls(*wanted: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    made = [
        {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for n, (name, arguments) in enumerate(wanted)
    ]
    return {"content": None, "tool_calls": made}


def adds_twice(body: dict[str, Any]) -> Any:
    """Asks for two sums at once, then for their sum, then says it."""
    results = [int(m["content"]) for m in body["messages"] if m["role"] == "tool"]
    if len(results) < 2:
        return calls(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4}))
    if len(results) == 2:
        return calls(("add", {"a": results[0], "b": results[1]}))
    if any(t["function"]["name"] == "Sum" for t in body["tools"]):
        return calls(("Sum", {"value": results[-1]}))
    return f"It is {results[-1]}."


@pytest.mark.parametrize("structured", [False, True], ids=["text", "structured"])
def test_an_agent_with_tools(record: Record, serve: Serve, structured: bool) -> None:
    llm = ChatOpenAI(base_url=serve(adds_twice, vllm=True).base_url, api_key=SecretStr("none"), model="m")
    agent: Any = create_agent(llm, [add], response_format=Sum if structured else None)
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await agent.ainvoke(ASKED))
        await llm.root_async_client.close()

    def program() -> None:
        answers.append(agent.invoke(ASKED))
        asyncio.run(ask())
        llm.root_client.close()

    one, two = record(program)
    same(one, two)
    for answer in answers:
        if structured:
            assert answer["structured_response"] == Sum(value=10)
        else:
            assert answer["messages"][-1].content == "It is 10."
    model = [f"run/model@{n}[pull:model]" for n in (1, 3, 5)]
    tools = ["run/tools@2[push:0]", "run/tools@2[push:1]", "run/tools@4[push:0]"]
    assert one.of(SpanKind.DECODE) == [f"{m}/chat" for m in model]
    assert one.of(SpanKind.TOOL) == [f"{tools[0]}/tool:0:add", f"{tools[1]}/tool:1:add", f"{tools[2]}/tool:0:add"]
    for key in tools[:2]:
        assert {(model[0], "data"), (model[0], "barrier")} <= one.into(key)
    assert {(t, k) for t in tools[:2] for k in ("data", "barrier")} <= one.into(model[1])
    assert (model[0], model[1]) in one.reads  # the messages it had written
    assert one.recorded.run.fidelity is Fidelity.TOKENS
    names = [t["function"]["name"] for t in one.recorded.decodes[0].tool_definitions]
    assert names == (["add", "Sum"] if structured else ["add"])


class Watches(AgentMiddleware):
    """Runs a node before and after the model, and stands around the model and the tools."""

    def before_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        return None

    def after_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        return None

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request)

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(request)

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        return handler(request)

    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        return await handler(request)


def test_middleware_is_nodes_and_what_stands_around_a_call_leaves_it_where_it_is(record: Record, serve: Serve) -> None:
    llm = ChatOpenAI(base_url=serve(adds_twice, vllm=True).base_url, api_key=SecretStr("none"), model="m")
    agent: Any = create_agent(llm, [add], middleware=[Watches()])

    async def ask() -> None:
        await agent.ainvoke(ASKED)
        await llm.root_async_client.close()

    one, two = record(lambda: (agent.invoke(ASKED), asyncio.run(ask()), llm.root_client.close()))
    same(one, two)
    before, model, after = (
        f"run/{name}@{step}[pull:{name}]"
        for step, name in enumerate(("Watches.before_model", "model", "Watches.after_model"), start=1)
    )
    tools = [f"run/tools@4[push:{n}]" for n in range(2)]
    assert one.into(model) == {(before, "data"), (before, "barrier"), (f"{model}/chat", "return")}
    assert one.into(after) == {(model, "data"), (model, "barrier")}
    for key in tools:
        assert one.into(key) >= {(after, "data"), (after, "barrier")}
    assert {f"{model}/chat", f"{tools[0]}/tool:0:add", f"{tools[1]}/tool:1:add"} <= set(one.keys)
