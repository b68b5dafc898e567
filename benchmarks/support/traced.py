"""One LangGraph workload under one tracer: usage `traced.py TRACER MODEL_URL SINK`.

SINK is a store directory for redecode, else the URL of an OTLP/HTTP sink. Turns come as JSON lines on standard input,
`{"how": "sync" | "async", "stream": bool, "tokens": int, "width": int, "runs": int}`, and are answered on standard
output with the CPU time of this process (all its threads) and the wall time, in seconds; both include handing over all
that was recorded.

One run of the graph is four FM calls (a plan, an agent that calls a tool by `ToolNode`, a draft, and a check of it) and
`width` questions at once (`Send`).
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import operator
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

TRACER, MODEL, SINK = sys.argv[1:4]
# Every tracer records content: by default, but for the official one.
os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "span_only"
os.environ["LANGSMITH_TRACING"] = "false"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"

from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage  # noqa: E402
from langchain_core.runnables import RunnableLambda  # noqa: E402
from langchain_core.tools import tool  # noqa: E402
from langchain_openai import ChatOpenAI  # noqa: E402
from langgraph.graph import END, START, StateGraph, add_messages  # noqa: E402
from langgraph.prebuilt import ToolNode  # noqa: E402
from langgraph.types import Send  # noqa: E402

PEERS = {
    "openinference": ("openinference.instrumentation.langchain", "LangChainInstrumentor"),
    "openllmetry": ("opentelemetry.instrumentation.langchain", "LangchainInstrumentor"),
    "otel-genai": ("opentelemetry.instrumentation.genai.langchain", "LangChainInstrumentor"),
}
SYSTEM = SystemMessage(" ".join(f"Rule {n}: answer in the fewest words that are still true." for n in range(20)))


class State(TypedDict):
    """The graph's state."""

    messages: Annotated[list[AnyMessage], add_messages]
    found: Annotated[list[str], operator.add]


@tool
def look_up(text: str) -> str:
    """Look something up."""
    return f"{len(text)} characters were looked up"


def build(*, stream: bool, tokens: int, width: int) -> Any:
    """The graph with calls of so many tokens and so many questions at once, compiled."""
    model = ChatOpenAI(
        model="m",
        base_url=MODEL,
        api_key="x",
        seed=7,
        temperature=0.7,
        max_tokens=tokens,
        streaming=stream,
        max_retries=0,
    )

    def node(model: Any, prompt: Callable[[Any], list[AnyMessage]], write: Callable[[Any], Any]) -> Any:
        def body(state: Any) -> Any:
            return write(model.invoke([SYSTEM, *prompt(state)]))

        async def body_async(state: Any) -> Any:
            return write(await model.ainvoke([SYSTEM, *prompt(state)]))

        return RunnableLambda(body, body_async)

    def ask(what: Callable[[Any], str]) -> Any:
        return node(model, lambda state: [HumanMessage(what(state))], lambda answer: {"found": [answer.content]})

    def talk(model: Any) -> Any:
        return node(model, lambda state: state["messages"], lambda answer: {"messages": [answer]})

    graph = StateGraph(State)
    graph.add_node("plan", ask(lambda state: "Plan the work on question number 0."))
    graph.add_node("ask", ask(lambda state: f"Answer question number {state['number']}."))
    graph.add_node("agent", talk(model.bind_tools([look_up])))
    graph.add_node("tools", ToolNode([look_up]))
    graph.add_node("draft", talk(model))
    graph.add_node("check", ask(lambda state: f"Check {len(state['found'])} findings."))
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", lambda state: [Send("ask", {"number": n}) for n in range(width)], ["ask"])
    graph.add_edge("ask", "agent")
    graph.add_edge("agent", "tools")
    graph.add_edge("tools", "draft")
    graph.add_edge("draft", "check")
    graph.add_edge("check", END)
    return graph.compile(name="benchmark")


def start() -> tuple[Callable[[], object], Callable[[], object]]:
    """Start tracing; returns what hands over everything recorded so far, and what ends it."""
    if TRACER == "redecode":
        from redecode.tracer import instrument, uninstrument

        return instrument(Path(SINK)).flush, uninstrument
    if TRACER == "untraced":
        return lambda: None, lambda: None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{SINK}/{TRACER}/v1/traces")))
    module, name = PEERS[TRACER]
    getattr(importlib.import_module(module), name)().instrument(tracer_provider=provider)
    return lambda: provider.force_flush(60_000), provider.shutdown


def main() -> None:
    """Take turns until standard input ends."""
    flush, end = start()
    loop = asyncio.new_event_loop()
    graphs: dict[tuple[bool, int, int], Any] = {}
    for line in sys.stdin:
        turn = json.loads(line)
        shape = turn["stream"], turn["tokens"], turn["width"]
        graph = graphs.get(shape) or graphs.setdefault(shape, build(stream=shape[0], tokens=shape[1], width=shape[2]))
        gc.collect()  # a full collection falls into some turns and not into others, and is as long as a turn
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(turn["runs"]):
            given = {"messages": [HumanMessage("Who lives in question number 9?")], "found": []}
            if turn["how"] == "sync":
                graph.invoke(given)
            else:
                loop.run_until_complete(graph.ainvoke(given))
        flush()
        used = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        sys.stdout.write(json.dumps(used) + "\n")
        sys.stdout.flush()
    end()


if __name__ == "__main__":
    main()
