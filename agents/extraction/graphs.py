"""Four cognitive architectures for one task, each a compiled LangGraph.

`single` asks once for everything; `parallel` asks three questions at once and joins the answers;
`sequential` asks one after the other, each seeing the answers before it. `debate` has its own module.
They cost different numbers of calls, wait differently, and err differently: that is what there is to tune.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from redecode.agents.contact import FIELDS, Field
from redecode.agents.extraction.debate import debate
from redecode.agents.extraction.prompts import ask_all, ask_one
from redecode.agents.extraction.state import ExtractionContext, ExtractionState, outcome
from redecode.agents.nodes import Call, FmNode, Update, reply_text

Architecture = Literal["single", "parallel", "sequential", "debate"]
Graph = CompiledStateGraph[ExtractionState, ExtractionContext, ExtractionState, ExtractionState]
Builder = StateGraph[ExtractionState, ExtractionContext, ExtractionState, ExtractionState]


def build(architecture: Architecture) -> Graph:
    """Return the compiled graph of an architecture."""
    return BUILDERS[architecture]()


def single() -> Graph:
    """One call asks for all fields."""
    builder: Builder = StateGraph(ExtractionState, context_schema=ExtractionContext)
    builder.add_node("extract", FmNode(ExtractionContext, _ask_all, _take_all))
    builder.add_edge(START, "extract")
    builder.add_edge("extract", END)
    return builder.compile(name="single")


def parallel() -> Graph:
    """Three calls at once ask for one field each; a join puts the contact together."""
    builder: Builder = StateGraph(ExtractionState, context_schema=ExtractionContext)
    for field in FIELDS:
        builder.add_node(f"ask_{field}", _field_node(field, follow_up=False))
        builder.add_edge(START, f"ask_{field}")
    builder.add_node("join", join)
    builder.add_edge([f"ask_{field}" for field in FIELDS], "join")
    builder.add_edge("join", END)
    return builder.compile(name="parallel")


def sequential() -> Graph:
    """Name, then email, then address; each call goes on with the conversation so far."""
    builder: Builder = StateGraph(ExtractionState, context_schema=ExtractionContext)
    before = START
    for field in FIELDS:
        builder.add_node(f"ask_{field}", _field_node(field, follow_up=True))
        builder.add_edge(before, f"ask_{field}")
        before = f"ask_{field}"
    builder.add_node("join", join)
    builder.add_edge(before, "join")
    builder.add_edge("join", END)
    return builder.compile(name="sequential")


def join(state: ExtractionState) -> Update:
    """Make one contact of the answers to single fields; an empty or many-lined answer is malformed."""
    answers = state["fields"]
    bad = [f for f in FIELDS if not answers[f].strip() or "\n" in answers[f]]
    if bad:
        return {"contact": None, "error": f"not a value for {bad[0]}: {answers[bad[0]][:120]!r}"}
    return {"contact": {f: answers[f] for f in FIELDS}, "error": None}


def _ask_all(state: ExtractionState, context: ExtractionContext) -> Call:
    messages = ask_all(context.read(state["article"]), context.format, context.prompt())
    return Call(messages=messages, temperature=context.temperature, seed=context.seed)


def _take_all(state: ExtractionState, context: ExtractionContext, reply: AIMessage) -> Update:
    return dict(outcome(reply_text(reply), context.format))


def _field_node(field: Field, *, follow_up: bool) -> FmNode[ExtractionState, ExtractionContext]:
    ask = partial(_ask_field, field=field, follow_up=follow_up)
    return FmNode(ExtractionContext, ask, partial(_take_field, field=field))


def _ask_field(state: ExtractionState, context: ExtractionContext, *, field: Field, follow_up: bool) -> Call:
    answered = state.get("fields", {})
    earlier = tuple((f, answered[f]) for f in FIELDS[: FIELDS.index(field)]) if follow_up else ()
    messages = ask_one(context.read(state["article"]), field, context.prompt(), earlier)
    return Call(
        messages=messages,
        temperature=context.temperature,
        seed=context.seed_for(FIELDS.index(field)),
    )


def _take_field(
    state: ExtractionState, context: ExtractionContext, reply: AIMessage, *, field: Field
) -> dict[str, Any]:
    return {"fields": {field: reply_text(reply)}}


BUILDERS: dict[Architecture, Callable[[], Graph]] = {
    "single": single,
    "parallel": parallel,
    "sequential": sequential,
    "debate": debate,
}
