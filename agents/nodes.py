"""A graph node that makes one FM call, usable by `invoke` and by `ainvoke` alike.

LangGraph runs a plain function in a thread when the graph is awaited, which would hide how the call really
waits. So a node is two pure functions, what to ask and what to make of the reply, with the call between
them made the caller's way. It is a bare Runnable: LangGraph's node is its only span.
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.runtime import get_runtime

from redecode.agents.context import AgentContext, chat_model

State = TypeVar("State")
Context = TypeVar("Context", bound=AgentContext)
Update = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One FM call to make. `model`: another than the context's."""

    messages: Sequence[dict[str, Any] | BaseMessage]
    temperature: float
    seed: int | None
    model: str | None = None
    tools: tuple[dict[str, Any], ...] = field(default=())


class FmNode(Runnable[State, Update], Generic[State, Context]):
    """Asks the model once and turns its reply into a state update."""

    def __init__(
        self,
        context_type: type[Context],
        ask: Callable[[State, Context], Call],
        take: Callable[[State, Context, AIMessage], Update],
    ) -> None:
        self._context_type = context_type
        self._ask = ask
        self._take = take

    def invoke(self, input: State, config: RunnableConfig | None = None, **kwargs: Any) -> Update:
        """Make the call and wait for it."""
        context = self._context()
        call = self._ask(input, context)
        model, messages, sampling = _prepared(chat_model(_of(context, call)), call)
        return self._take(input, context, model.invoke(messages, config, **sampling))

    async def ainvoke(self, input: State, config: RunnableConfig | None = None, **kwargs: Any) -> Update:
        """Make the call without holding a thread."""
        context = self._context()
        call = self._ask(input, context)
        client = chat_model(_of(context, call), get_running_loop())
        model, messages, sampling = _prepared(client, call)
        return self._take(input, context, await model.ainvoke(messages, config, **sampling))

    def _context(self) -> Context:
        return current_context(self._context_type)


def current_context(context_type: type[Context]) -> Context:
    """Return the context of the run this node belongs to; the defaults where none was given."""
    context = get_runtime(context_type).context
    # LangGraph types a missing context as present.
    return context_type() if context is None else context


def reply_text(reply: AIMessage) -> str:
    """Return what the model wrote."""
    return str(reply.text)


def _of(context: AgentContext, call: Call) -> AgentContext:
    return context if call.model is None else context.model_copy(update={"model": call.model})


def _prepared(
    client: ChatOpenAI, call: Call
) -> tuple[Runnable[LanguageModelInput, AIMessage], list[Any], dict[str, Any]]:
    sampling: dict[str, Any] = {"temperature": call.temperature}
    if call.seed is not None:
        sampling["seed"] = call.seed
    bound: Runnable[LanguageModelInput, AIMessage] = client.bind_tools(call.tools) if call.tools else client
    return bound, list(call.messages), sampling
