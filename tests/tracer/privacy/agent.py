"""A LangGraph agent with a planted secret in every place a secret can be."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.prebuilt import ToolNode


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    notes: Annotated[list[str], operator.add]


@tool
def lookup(what: str) -> str:
    """Look it up (planted-description-1)."""
    return f"planted-result-1 of {what}"


@tool
def explode(what: str) -> str:
    """Fail."""
    raise ValueError(f"planted-error-1 of {what}")


def converse(url: str, *, fail: bool = False) -> list[str]:
    """Ask the model, call its tools, ask again; returns the notes taken."""
    model = ChatOpenAI(
        model="m",
        base_url=url.replace("http://", "http://user:planted-password-1@"),
        api_key="planted-key-1",
        max_retries=0,
        stop=["planted-stop-1"],
        default_headers={"x-custom": "planted-header-1"},
        default_query={"q": "planted-query-1"},
        extra_body={"note": "planted-body-1"},
    )

    def ask(state: State) -> dict[str, Any]:
        answer = model.bind_tools([lookup, explode]).invoke(state["messages"])
        return {"messages": [answer], "notes": ["planted-state-1"]}

    def tell(state: State) -> dict[str, Any]:
        text = "".join(str(chunk.content) for chunk in model.stream([HumanMessage("once more planted-prompt-2")]))
        if fail:
            raise RuntimeError("planted-failure-1")
        return {"notes": [text]}

    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_node("tools", ToolNode([lookup, explode], handle_tool_errors=True))
    graph.add_node("tell", tell)
    for here, there in [(START, "ask"), ("ask", "tools"), ("tools", "tell"), ("tell", END)]:
        graph.add_edge(here, there)
    out = graph.compile(name="desk").invoke(
        {"messages": [HumanMessage("planted-prompt-1")], "notes": ["planted-input-1"]},
        {"configurable": {"thread_id": "t1"}, "metadata": {"about": "planted-metadata-1"}, "tags": ["planted-tag-1"]},
    )
    notes: list[str] = out["notes"]
    return notes
