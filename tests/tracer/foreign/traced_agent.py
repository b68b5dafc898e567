"""LangGraph agents under one instrumentation, its spans sent by OTLP/HTTP: run as a program of its own.

Usage: traced_agent.py INSTRUMENTATION WHERE MODEL_URL [THREAD_ID...]

WHERE is a collector's URL. Five runs, told apart by thread_id: `sync` and `async` of one graph (in sequence, eight
branches, a tool, a streamed call), `team` (sub-agents), `threads`, and `shapes`, which fails; or those that are
named. With `redecode` our own recorder records them into the store WHERE; with `playback` they are answered from the
runs there.
"""

from __future__ import annotations

import asyncio
import contextlib
import operator
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import RetryPolicy, Send

INSTRUMENTATION, WHERE, MODEL, *GRAPHS = sys.argv[1:]
GRAPHS = GRAPHS or ["sync", "async", "team", "threads", "shapes"]
CONTENT = {
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_only",
    "OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental",
}


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    out: Annotated[list[str], operator.add]


@tool
def population(city: str) -> str:
    """How many people live in a city."""
    return f"{len(city)} people live in {city}"


@tool
def divide(a: int, b: int) -> float:
    """Divide."""
    return a / b


def chat(**options: Any) -> ChatOpenAI:
    return ChatOpenAI(model="m", base_url=MODEL, api_key="x", max_retries=0, **options)


plain = chat(seed=42, temperature=0.5)
streamed = chat(seed=7, streaming=True, stream_usage=True)


def asks(model: Any, prompt: Callable[[Any], Any], write: Callable[[Any], Any], *, use_async: bool) -> Any:
    """A node that calls a model once."""

    def body(state: Any) -> Any:
        return write(model.invoke(prompt(state)))

    async def body_async(state: Any) -> Any:
        return write(await model.ainvoke(prompt(state)))

    return body_async if use_async else body


def guide(*, use_async: bool) -> Any:
    """In sequence, then eight branches with one prompt, a tool that the model asks for, a streamed answer."""

    def says(answer: Any) -> dict[str, Any]:
        return {"out": [answer.content]}

    def replies(answer: Any) -> dict[str, Any]:
        return {"messages": [answer]}

    graph = StateGraph(State)
    graph.add_node("plan", asks(plain, lambda s: "plan", says, use_async=use_async))
    graph.add_node("ask", asks(plain, lambda s: "ask", says, use_async=use_async))
    graph.add_node("agent", asks(plain.bind_tools([population]), lambda s: s["messages"], replies, use_async=use_async))
    graph.add_node("tools", ToolNode([population]))
    graph.add_node("write", asks(streamed, lambda s: s["messages"], replies, use_async=use_async))
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", lambda state: [Send("ask", {"n": i}) for i in range(8)], ["ask"])
    for one, then in (("ask", "agent"), ("agent", "tools"), ("tools", "write"), ("write", END)):
        graph.add_edge(one, then)
    return graph.compile(name="guide")


class Out(TypedDict):
    out: Annotated[list[str], operator.add]


def shapes() -> Any:
    """A retried node, a chain, a subgraph, a graph and functional tasks called from a node, a join, failures."""
    attempts: list[int] = []
    chain = ChatPromptTemplate.from_messages([("system", "be brief"), ("user", "{q}")]) | plain | StrOutputParser()

    def flaky(state: Any) -> Any:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError("first")
        return {"out": [chain.invoke({"q": "hi"})]}

    def nested(node: str, name: str | None = None) -> Any:
        inner = StateGraph(Out)
        inner.add_node(node, asks(plain, lambda s: node, lambda a: {"out": [a.content]}, use_async=False))
        inner.add_edge(START, node)
        return inner.compile(name=name)

    called = nested("deep", "called")

    @task
    def part(n: int) -> Any:
        return plain.invoke(f"part {n}").content

    @entrypoint()
    def work(n: int) -> Any:
        return [future.result() for future in [part(i) for i in range(n)]]

    def caller(state: Any) -> Any:
        called.invoke({"out": []})
        work.invoke(2)
        with contextlib.suppress(ZeroDivisionError):
            divide.invoke({"type": "tool_call", "id": "call_9", "name": "divide", "args": {"a": 1, "b": 0}})
        return {"out": [str(divide.invoke({"a": 1, "b": 2}))]}

    def bad(state: Any) -> Any:
        raise RuntimeError("node broke")

    graph = StateGraph(Out)
    graph.add_node("flaky", flaky, retry_policy=RetryPolicy(initial_interval=0.01, max_attempts=3))
    graph.add_node("sub", nested("inner"))
    graph.add_node("caller", caller)
    graph.add_node("bad", bad)
    graph.add_edge(START, "flaky")
    graph.add_edge("flaky", "sub")
    graph.add_edge("flaky", "caller")
    graph.add_edge(["sub", "caller"], "bad")
    return graph.compile(name="shapes")


class Talk(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def team() -> Any:
    """Sub-agents made by `create_agent`, with a tool each: one is a node, the other is called from a node."""
    researcher = create_agent(plain, tools=[population], name="researcher")
    expert = create_agent(plain, tools=[population], name="expert")

    def boss(state: Talk) -> Any:
        said = expert.invoke({"messages": [HumanMessage("And in Rome?", id="q3")]})
        return {"messages": [AIMessage(said["messages"][-1].content, id="a1")]}

    graph = StateGraph(Talk)
    graph.add_node("research", researcher)
    graph.add_node("boss", boss)
    graph.add_edge(START, "research")
    graph.add_edge("research", "boss")
    return graph.compile(name="team")


def threads() -> Any:
    """A node with a thread pool of its own, into which LangChain's context does not reach."""

    def spread(state: Any) -> Any:
        with ThreadPoolExecutor(2) as pool:
            return {"out": [str(answer.content) for answer in pool.map(plain.invoke, ["one", "two"])]}

    graph = StateGraph(Out)
    graph.add_node("spread", spread)
    graph.add_edge(START, "spread")
    return graph.compile(name="threads")


def instrument() -> Callable[[], None]:
    """Begin; returns what ends it, when all has been handed over."""
    if INSTRUMENTATION == "redecode":
        from redecode import tracer

        tracer.instrument(Path(WHERE))
        return tracer.uninstrument
    if INSTRUMENTATION == "playback":
        from redecode.replay import playback
        from redecode.tracer import Store

        recorded = Store(Path(WHERE))
        runs = [recorded.load(run.run_id) for run in recorded.runs() if run.conversation_id in GRAPHS]
        playing = playback(*runs, into=Path(f"{WHERE}-played"), pace=0)
        player = playing.__enter__()
        return lambda: check_played(player, playing)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    os.environ.update(CONTENT)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=WHERE)))
    match INSTRUMENTATION:
        case "openinference":
            from openinference.instrumentation.langchain import LangChainInstrumentor as Instrumentor
        case "openllmetry":
            from opentelemetry.instrumentation.langchain import LangchainInstrumentor as Instrumentor
        case "otel-genai":
            from opentelemetry.instrumentation.genai.langchain import LangChainInstrumentor as Instrumentor
    Instrumentor().instrument(tracer_provider=provider)
    return provider.shutdown


def check_played(player: Any, playing: Any) -> None:
    playing.__exit__(None, None, None)
    assert player.played == len(GRAPHS) and player.unasked() == [], (player.played, player.unasked())


def run(name: str) -> None:
    labels = {"redecode.labels": {"expected": {"graph": name}}}
    config: Any = {"configurable": {"thread_id": name}, "metadata": labels}
    asked = HumanMessage("Who lives in Paris?", id="q1")
    match name:
        case "sync":
            answers = guide(use_async=False).invoke({"messages": [asked], "out": []}, config)
            print(answers["messages"][-1].content)  # noqa: T201
        case "async":
            asyncio.run(guide(use_async=True).ainvoke({"messages": [asked], "out": []}, config))
        case "team":
            team().invoke({"messages": [asked]}, config)
        case "threads":
            threads().invoke({"out": []}, config)
        case "shapes":
            try:
                shapes().invoke({"out": []}, config)
            except RuntimeError as error:
                assert str(error) == "node broke"


def main() -> None:
    end = instrument()
    for name in GRAPHS:
        run(name)
    end()


main()
