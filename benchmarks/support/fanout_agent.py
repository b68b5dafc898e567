"""A graph that asks the same question in eight branches at once: usage `fanout_agent.py sync|async URL`.

Prints the answers as a JSON list, branch 0 first (LangGraph merges in the order of the branches).
"""

from __future__ import annotations

import asyncio
import json
import operator
import os
import sys
from typing import Annotated, Any, TypedDict

os.environ["LANGSMITH_TRACING"] = "false"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

HOW, URL = sys.argv[1:3]
WIDTH = 8


class State(TypedDict):
    """The graph's state."""

    answers: Annotated[list[str], operator.add]


def main() -> None:
    """Run the graph and print."""
    model = ChatOpenAI(model="m", base_url=URL, api_key="x", temperature=1.0, max_retries=0)

    def ask(state: State) -> Any:
        return {"answers": [model.invoke("Propose a name.").content]}

    async def ask_async(state: State) -> Any:
        return {"answers": [(await model.ainvoke("Propose a name.")).content]}

    graph = StateGraph(State)
    graph.add_node("ask", ask if HOW == "sync" else ask_async)
    graph.add_conditional_edges(START, lambda state: [Send("ask", {"answers": []}) for _ in range(WIDTH)], ["ask"])
    graph.add_edge("ask", END)
    compiled: Any = graph.compile(name="fanout")
    given: State = {"answers": []}
    out = compiled.invoke(given) if HOW == "sync" else asyncio.run(compiled.ainvoke(given))
    sys.stdout.write(json.dumps(out["answers"]) + "\n")


if __name__ == "__main__":
    main()
