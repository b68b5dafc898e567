"""Two agents solve the task independently, a judge decides where they differ, in a bounded loop.

The two read the same article in different order (question last, question first), so they can differ even
without sampling. Where they agree there is nothing to judge. A judge first writes the answer it finds right,
then names A or B; the verdict is clear when what it wrote is the answer it named. An unclear verdict sends
both back for another round, now sampling, until `max_rounds`; then the named one stands.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from redecode.agents.extraction.formats import MalformedAnswer, parse
from redecode.agents.extraction.prompts import Layout, Prompt, ask_all, ask_judge
from redecode.agents.extraction.state import ExtractionContext, ExtractionState, outcome
from redecode.agents.nodes import Call, FmNode, Update, current_context, reply_text

Side = Literal["first", "second"]
_OTHER_LAYOUT: dict[Layout, Layout] = {
    "article_first": "question_first",
    "question_first": "article_first",
}


def debate() -> CompiledStateGraph[ExtractionState, ExtractionContext, ExtractionState, ExtractionState]:
    """Return the compiled graph: solvers, comparison, judge, loop."""
    builder: StateGraph[ExtractionState, ExtractionContext, ExtractionState, ExtractionState] = StateGraph(
        ExtractionState, context_schema=ExtractionContext
    )
    builder.add_node("solve_first", _solver("first"))
    builder.add_node("solve_second", _solver("second"))
    builder.add_node("compare", compare)
    builder.add_node("judge", FmNode(ExtractionContext, _ask_judge, _take_judgement))
    builder.add_node("again", again)
    builder.add_edge(START, "solve_first")
    builder.add_edge(START, "solve_second")
    builder.add_edge(["solve_first", "solve_second"], "compare")
    builder.add_conditional_edges("compare", after_compare, ["judge", "again", END])
    builder.add_conditional_edges("judge", after_judge, ["again", END])
    builder.add_edge("again", "solve_first")
    builder.add_edge("again", "solve_second")
    return builder.compile(name="debate")


def compare(state: ExtractionState) -> Update:
    """Settle it where both answers say the same."""
    fmt = current_context(ExtractionContext).format
    first, second = outcome(state["first"], fmt), outcome(state["second"], fmt)
    if first["contact"] is None and second["contact"] is None:
        return {"contact": None, "error": first["error"]}
    if first["contact"] == second["contact"]:
        return {"contact": first["contact"], "error": None}
    return {"contact": None, "error": "the two answers differ"}


def after_compare(state: ExtractionState) -> str:
    """Go to the end when settled, to the judge when there is something to judge, else round again."""
    if state["contact"] is not None:
        return END
    context = current_context(ExtractionContext)
    readable = [_readable(state[side], context) for side in ("first", "second")]
    if any(readable):
        return "judge"
    return "again" if _rounds_left(state, context) else END


def after_judge(state: ExtractionState) -> str:
    """Go to the end with a clear verdict or when the rounds are used up."""
    context = current_context(ExtractionContext)
    if not _rounds_left(state, context) or _clear(state, context):
        return END
    return "again"


def again(state: ExtractionState) -> Update:
    """Begin another round."""
    return {"round": state.get("round", 0) + 1}


def split_judgement(text: str) -> tuple[str, Side | None]:
    """Return what the judge wrote before the letter, and the side it named (None: no letter)."""
    body, _, letter = text.rpartition("\n")
    if letter == "A":
        return body, "first"
    if letter == "B":
        return body, "second"
    return text, None


def _solver(side: Side) -> FmNode[ExtractionState, ExtractionContext]:
    return FmNode(ExtractionContext, partial(_ask_solver, side=side), partial(_take_solution, side=side))


def _ask_solver(state: ExtractionState, context: ExtractionContext, *, side: Side) -> Call:
    number = state.get("round", 0)
    prompt = context.prompt()
    if side == "second":
        prompt = Prompt(prompt.wording, _OTHER_LAYOUT[prompt.layout], prompt.system)
    hot = max(context.temperature, context.debate_temperature)
    return Call(
        messages=ask_all(context.read(state["article"]), context.format, prompt),
        temperature=context.temperature if number == 0 else hot,
        seed=context.seed_for(3 * number + (0 if side == "first" else 1)),
    )


def _take_solution(state: ExtractionState, context: ExtractionContext, reply: AIMessage, *, side: Side) -> Update:
    return {side: reply_text(reply)}


def _ask_judge(state: ExtractionState, context: ExtractionContext) -> Call:
    return Call(
        messages=ask_judge(context.read(state["article"]), state["first"], state["second"], context.prompt()),
        temperature=context.temperature,
        seed=context.seed_for(3 * state.get("round", 0) + 2),
        model=context.judge_model,
    )


def _take_judgement(state: ExtractionState, context: ExtractionContext, reply: AIMessage) -> Update:
    judgement = reply_text(reply)
    _, side = split_judgement(judgement)
    if side is None:
        return {
            "judgement": judgement,
            "contact": None,
            "error": f"the judge named neither answer: {judgement[:120]!r}",
        }
    return {"judgement": judgement, **outcome(state[side], context.format)}


def _clear(state: ExtractionState, context: ExtractionContext) -> bool:
    own, side = split_judgement(state["judgement"])
    try:
        return side is not None and parse(own, context.format) == parse(state[side], context.format)
    except MalformedAnswer:
        return False


def _readable(text: str, context: ExtractionContext) -> bool:
    return outcome(text, context.format)["contact"] is not None


def _rounds_left(state: ExtractionState, context: ExtractionContext) -> bool:
    return state.get("round", 0) + 1 < context.max_rounds
