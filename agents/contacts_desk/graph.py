"""The tool-calling agent: ask the model, run the tools it asks for, until it answers or its turns are used up."""

from __future__ import annotations

from dataclasses import asdict

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode

from redecode.agents.contacts_desk import prompts
from redecode.agents.contacts_desk.directory import Directory
from redecode.agents.contacts_desk.service import AddressService
from redecode.agents.contacts_desk.state import DeskContext, DeskState
from redecode.agents.contacts_desk.tools import desk_tools, on_busy
from redecode.agents.nodes import Call, FmNode, Update, current_context, reply_text

Graph = CompiledStateGraph[DeskState, DeskContext, DeskState, DeskState]


def build(directory: Directory | None = None, service: AddressService | None = None) -> Graph:
    """Return the compiled graph over a directory and an address service (empty and seed 0 if not given)."""
    builder: StateGraph[DeskState, DeskContext, DeskState, DeskState] = StateGraph(
        DeskState, context_schema=DeskContext
    )
    tools = desk_tools(directory or Directory(), service or AddressService())
    builder.add_node("agent", FmNode(DeskContext, _ask, _take))
    builder.add_node("tools", ToolNode(tools, handle_tool_errors=on_busy))
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", after_agent, ["tools", END])
    builder.add_edge("tools", "agent")
    return builder.compile(name="contacts_desk")


def after_agent(state: DeskState) -> str:
    """Run the tools the model asked for, unless its turns are used up."""
    last = state["messages"][-1]
    wants_tools = isinstance(last, AIMessage) and bool(last.tool_calls)
    return "tools" if wants_tools and _turns_left(state, current_context(DeskContext)) else END


def _ask(state: DeskState, context: DeskContext) -> Call:
    opening = prompts.start(state["article"], state["request"], context.wording, system=context.system)
    return Call(
        messages=[*opening, *state.get("messages", [])],
        temperature=context.temperature,
        seed=context.seed_for(state.get("turns", 0)),
        tools=prompts.TOOLS,
    )


def _take(state: DeskState, context: DeskContext, reply: AIMessage) -> Update:
    turns = state.get("turns", 0) + 1
    update: Update = {"messages": [reply], "turns": turns, "answer": None}
    if reply.tool_calls:
        return update | {"error": f"no answer within {context.max_turns} turns"}
    try:
        answer = prompts.parse_answer(reply_text(reply))
    except prompts.MalformedDeskAnswer as err:
        return update | {"error": str(err)}
    given = {k: v for k, v in asdict(answer).items() if v is not None}
    return update | {"answer": given, "error": None}


def _turns_left(state: DeskState, context: DeskContext) -> bool:
    return state["turns"] < context.max_turns
