"""Sorts support tickets: an agent of somebody's whose knobs are the format of its answers, repair, and a cache.

redecode record -- python your_program.py    # which calls `graph` of this file
redecode tune triage.py:spec --runs last-24h
"""

from typing import Annotated, Literal

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from redecode.optimizer import Case, Choice, Range, Spec
from redecode.optimizer.caching import CachedStep
from redecode.optimizer.formats import Answers, FormatName, MalformedAnswer, Repair


class Ticket(BaseModel):
    """What a ticket comes to."""

    product: str = Field(description="what it is about")
    urgent: bool


class State(TypedDict, total=False):
    """A customer's ticket, and what it comes to."""

    customer: str
    ticket: str
    product: str | None
    urgent: bool | None


class Context(BaseModel):
    """What may vary."""

    format: FormatName = "json"
    repair: Repair = "none"
    max_tokens: Annotated[int, Choice(24, 96)] = 96
    order: Literal["ticket_first", "task_first"] = "ticket_first"
    cache: Literal["none", "exact", "semantic"] = "none"
    threshold: Annotated[float, Range(0.9, 0.99, step=0.03, when={"cache": ["semantic"]})] = 0.99
    model: str = "m"


sorted_before = CachedStep(
    "sort",
    "tickets.sqlite",
    text=lambda state: state["ticket"],
    tenant=lambda state: state["customer"],
    side_effect=False,
)


def sort(state: State, runtime: Runtime[Context]) -> State:
    """As before, or anew."""
    return sorted_before.run(state, runtime.context, lambda: asked(state, runtime.context))


def asked(state: State, knobs: Context) -> State:
    """Asks the model, in one of two orders."""
    fm = ChatOpenAI(model=knobs.model, temperature=0, max_completion_tokens=knobs.max_tokens)
    task, ticket = "Sort this ticket.", f"Ticket: {state['ticket']}"
    prompt = [ticket, task] if knobs.order == "ticket_first" else [task, ticket]
    try:
        found = Answers(Ticket, knobs.format, repair=knobs.repair).ask(fm, "\n".join(prompt)).record
    except MalformedAnswer:
        return {"product": None, "urgent": None}
    return {"product": found.product, "urgent": found.urgent}


builder = StateGraph(State, context_schema=Context)
builder.add_node("sort", sort)
builder.add_edge(START, "sort")
builder.add_edge("sort", END)
graph = builder.compile(name="triage")


def right(output: State, case: Case) -> bool:
    """Whether both fields are right."""
    return all(output.get(name) == case.expected[name] for name in Ticket.model_fields)


spec = Spec(graph=graph, score=right, needs_expected=True, caches=[sorted_before])
