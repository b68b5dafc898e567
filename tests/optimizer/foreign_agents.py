"""Agents under another tracer's instrumentation, their spans sent by OTLP/HTTP: run as a program of its own.

Usage: foreign_agents.py INSTRUMENTATION WHERE

WHERE is a collector's URL. Two agents that ask an FM (`capitals`, `talker`: their specs are tuned), and small graphs
without one, each of another shape of input (`SHAPES`).
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.func import entrypoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.runtime import Runtime
from pydantic import BaseModel
from typing_extensions import TypedDict

CONTENT = {
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_only",
    "OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental",
}
RUNS = 4
ran: list[str] = []
"""What the tool was really asked in this process."""


class State(TypedDict, total=False):
    country: str
    capital: str


class Context(BaseModel):
    wording: Literal["Capital of", "please"] = "Capital of"


def answer(state: State, runtime: Runtime[Context]) -> State:
    fm = ChatOpenAI(model="m", temperature=0)
    return {"capital": str(fm.invoke(f"{runtime.context.wording} {state['country']}").content)}


@tool
def population(city: str) -> int:
    """How many people live in a city."""
    ran.append(city)
    return len(city)


def says(state: MessagesState, runtime: Runtime[Context]) -> dict[str, Any]:
    fm = ChatOpenAI(model="m", temperature=0).bind_tools([population])
    return {"messages": [fm.invoke([SystemMessage(runtime.context.wording), *state["messages"]])]}


def talking() -> Any:
    builder = StateGraph(MessagesState, context_schema=Context)
    builder.add_node("says", says)
    builder.add_node("tools", ToolNode([population]))
    builder.add_edge(START, "says")
    builder.add_conditional_edges("says", lambda s: "tools" if s["messages"][-1].tool_calls else END, ["tools", END])
    builder.add_edge("tools", "says")
    return builder.compile(name="talker")


def one_node(name: str, schema: Any, does: Callable[..., Any], **options: Any) -> Any:
    builder = StateGraph(schema, **options)
    builder.add_node("does", does)
    builder.add_edge(START, "does")
    builder.add_edge("does", END)
    return builder.compile(name=name)


capitals = {"graph": one_node("capitals", State, answer, context_schema=Context)}
talker = {"graph": talking()}


def right(output: Any, case: Any) -> bool:
    return bool(output["capital"] == f"{case.input['country']} City")


def counted(output: Any, case: Any) -> bool:
    said = case.input["messages"][0]["content"]
    return bool(output["messages"][-1].content == str(len(said.rpartition(" ")[2])))


scored_capitals = {**capitals, "score": right}
scored_talker = {**talker, "score": counted}


class Asked(BaseModel):
    question: str
    answer: str | None = None


class Number(TypedDict):
    input: int


class Doubled(TypedDict):
    input: int
    doubled: int


class Count(TypedDict, total=False):
    n: int
    more: int


class Parts(TypedDict):
    input: dict[str, int]


class Whole(Parts):
    total: int


class Rephrased(TypedDict, total=False):
    question: str
    asked: str


class Two(TypedDict):
    first: str
    second: str


class Answer(TypedDict):
    answer: str


class Hidden(TypedDict, total=False):
    first: str
    second: str
    answer: str


class Talk(MessagesState):
    user: str


def _echo(state: Any) -> dict[str, Any]:
    return {"messages": [AIMessage(f"{len(state['messages'])} messages, {state.get('user')}", id="end")]}


class Plain(TypedDict, total=False):
    messages: list[AnyMessage]
    answer: str


def _last(state: Any) -> Any:
    return {"answer": state["messages"][-1].content.upper()}


def _upper(state: Any) -> Any:
    return {"capital": state["country"].upper()}


@entrypoint()
def function(text: str) -> str:
    return text.upper()


@entrypoint()
def function_of_number(number: int) -> int:
    return int(number) * 2


CALL = {"name": "population", "args": {"city": "Rome"}, "id": "call_7", "type": "tool_call"}
HISTORY = [
    HumanMessage("How many in Rome?", id="1"),
    AIMessage("", tool_calls=[CALL], id="2"),
    ToolMessage("4", tool_call_id="call_7", id="3"),
    AIMessage("4", id="4"),
    HumanMessage("And in Paris?", id="5"),
]
PICTURE: Any = [
    {"type": "text", "text": "What is it?"},
    {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x"}},
]
SHAPES: dict[str, tuple[Any, Any]] = {
    "two_optional": (one_node("two_optional", State, _upper), {"country": "Peru"}),
    "one_required": (
        one_node("one_required", Asked, lambda s: {"answer": s.question * 2}),
        {"question": "why"},
    ),
    "number": (
        one_node("number", Doubled, lambda s: {"doubled": s["input"] * 2}, input_schema=Number),
        {"input": 5},
    ),
    "count": (one_node("count", Count, lambda s: {"more": s["n"] + 1}), {"n": 5}),
    "whole": (
        one_node("whole", Whole, lambda s: {"total": sum(s["input"].values())}, input_schema=Parts),
        {"input": {"a": 1, "b": 2}},
    ),
    "rephrased": (
        one_node("rephrased", Rephrased, lambda s: {"question": "why not", "asked": s["question"]}),
        {"question": "why"},
    ),
    "two": (one_node("two", Two, lambda s: {"second": s["first"]}), {"first": "a", "second": "b"}),
    "json_text": (one_node("json_text", State, _upper), {"country": '{"name":  "Peru"}'}),
    "answer_only": (
        one_node("answer_only", Asked, lambda s: {"answer": s.question * 2}, output_schema=Answer),
        {"question": "why"},
    ),
    "hidden": (
        one_node("hidden", Hidden, lambda s: {"answer": s["second"]}, output_schema=Answer),
        {"second": "b"},
    ),
    "history": (one_node("history", MessagesState, _echo), {"messages": HISTORY}),
    "no_reducer": (one_node("no_reducer", Plain, _last), {"messages": HISTORY}),
    "said": (one_node("said", MessagesState, _echo), {"messages": "hello"}),
    "picture": (one_node("picture", MessagesState, _echo), {"messages": [HumanMessage(PICTURE, id="1")]}),
    "more_than_messages": (
        one_node("more_than_messages", Talk, _echo),
        {"messages": [HumanMessage("hello", id="1")], "user": "Ann"},
    ),
    "function": (function, "hello"),
    "a_none": (one_node("a_none", State, _upper), {"country": "Peru", "capital": None}),
    "function_of_number": (function_of_number, 5),
    "root": (one_node("root", Annotated[list[str], operator.add], lambda s: ["z"]), ["a", "b"]),
    "root_messages": (
        one_node("root_messages", list[AnyMessage], lambda s: [AIMessage("yes", id="2")]),
        [HumanMessage("hello", id="1")],
    ),
}
"""Name → a graph and what it is given."""


TWO: Any = {"knobs": {"n": [1, 2]}, "incumbent": {"n": 1}}
hidden = {"graph": SHAPES["hidden"][0], **TWO}
picture = {"graph": SHAPES["picture"][0], **TWO}


def instrument(which: str, where: str) -> Callable[[], None]:
    """Begin; returns what ends it, when all has been handed over."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    os.environ.update(CONTENT)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=where)))
    match which:
        case "openinference":
            from openinference.instrumentation.langchain import LangChainInstrumentor as Instrumentor
        case "openllmetry":
            from opentelemetry.instrumentation.langchain import LangchainInstrumentor as Instrumentor
        case "otel-genai":
            from opentelemetry.instrumentation.genai.langchain import LangChainInstrumentor as Instrumentor
    Instrumentor().instrument(tracer_provider=provider)
    return provider.shutdown


def main() -> None:
    end = instrument(*sys.argv[1:])
    for number in range(RUNS):
        capitals["graph"].invoke({"country": f"C{number}"}, context=Context())
        asked = HumanMessage(f"How many live in City{number}")
        talker["graph"].invoke({"messages": [asked]}, context=Context())
    for name, (graph, given) in SHAPES.items():
        graph.invoke(given, {"run_name": name})
    end()


if __name__ == "__main__":
    main()
