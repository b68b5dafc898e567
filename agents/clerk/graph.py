"""One node: ask for the contact, look up each field while or after it is written, put the answer together."""

from __future__ import annotations

import asyncio
import json
import threading
from asyncio import get_running_loop
from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, Literal

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from pydantic import Field as Bounded
from typing_extensions import TypedDict

from redecode.agents.clerk.fields import Fields, Part
from redecode.agents.clerk.tools import clerk_tools
from redecode.agents.contact import FIELDS, Field
from redecode.agents.contacts_desk import prompts as desk
from redecode.agents.contacts_desk.directory import Directory
from redecode.agents.contacts_desk.policy import MAX_ATTEMPTS
from redecode.agents.contacts_desk.service import AddressService
from redecode.agents.context import AgentContext, chat_model, close_clients
from redecode.agents.extraction.formats import Format, MalformedAnswer, parse
from redecode.agents.extraction.prompts import Layout, Prompt, Wording, ask_all
from redecode.agents.nodes import Update, current_context
from redecode.agents.pipelined import PlanRejected, Step, pipelined

Execution = Literal["plan_then_run", "pipelined"]


class ClerkContext(AgentContext):
    """Knobs: whether it waits for the whole answer; format and prompt; how slow the directory and the service are."""

    execution: Execution = "plan_then_run"
    format: Format = "json"
    wording: Wording = "plain"
    layout: Layout = "article_first"
    tool_wait_s: float = Bounded(default=0.2, ge=0.0)
    service_wait_s: float = Bounded(default=0.03, ge=0.0)


class ClerkState(TypedDict, total=False):
    """`article` goes in; `answer` comes out, or None and `error`."""

    article: str
    answer: dict[str, str | bool] | None
    error: str | None


Graph = CompiledStateGraph[ClerkState, ClerkContext, ClerkState, ClerkState]


def build(directory: Directory | None = None, service: AddressService | None = None) -> Graph:
    """Return the compiled graph over a directory and an address service (empty and seed 0 if not given)."""
    builder: StateGraph[ClerkState, ClerkContext, ClerkState, ClerkState] = StateGraph(
        ClerkState, context_schema=ClerkContext
    )
    tools = clerk_tools(directory or Directory(), service or AddressService(), _waits_s)
    builder.add_node("file", Filing(tools))
    builder.add_edge(START, "file")
    builder.add_edge("file", END)
    return builder.compile(name="clerk")


def _waits_s() -> tuple[float, float]:
    context = current_context(ClerkContext)
    return context.tool_wait_s, context.service_wait_s


class Filing(Runnable[ClerkState, Update]):
    """A bare Runnable, so that LangGraph's node is its only span."""

    def __init__(self, tools: dict[str, BaseTool]) -> None:
        self._tools = tools

    def invoke(self, input: ClerkState, config: RunnableConfig | None = None, **kwargs: Any) -> Update:
        """In an event loop of its own."""

        async def alone() -> Update:
            try:
                return await self.ainvoke(input, config)
            finally:
                await close_clients()

        try:
            get_running_loop()
        except RuntimeError:
            return asyncio.run(alone())
        out: list[Update] = []
        thread = threading.Thread(target=copy_context().run, args=(lambda: out.append(asyncio.run(alone())),))
        thread.start()
        thread.join()
        return out[0]

    async def ainvoke(self, input: ClerkState, config: RunnableConfig | None = None, **kwargs: Any) -> Update:
        """Stream the answer; each field is looked up in a task of its own."""
        context = current_context(ClerkContext)
        client = chat_model(context.model_copy(update={"stream": True}), get_running_loop())
        sampling: dict[str, Any] = {"temperature": context.temperature}
        if context.seed is not None:
            sampling["seed"] = context.seed
        asked = ask_all(input["article"], context.format, Prompt(context.wording, context.layout))

        async def words() -> AsyncIterator[str]:
            async for chunk in client.astream(asked, config, **sampling):
                yield str(chunk.text)

        try:
            done = await pipelined(
                words(),
                Fields(context.format),
                partial(self._step, config),
                partial(_accept, context.format),
                ahead=context.execution == "pipelined",
            )
        except PlanRejected as error:
            return {"answer": None, "error": str(error)}
        found = {field: result for (field, _), result in zip(done.parts, done.results, strict=True)}
        return {"answer": _answer(dict(done.parts), found), "error": None}

    def _step(self, config: RunnableConfig | None, part: Part) -> Step:
        field, value = part

        async def found(_: Sequence[Any]) -> Any:
            return json.loads(await self._tools[desk.FIND_PERSON].ainvoke({"name": value}, config))

        async def checked(_: Sequence[Any]) -> Any:
            for attempt in range(MAX_ATTEMPTS):
                asked = {"address": value, "attempt": attempt}
                verdict = json.loads(await self._tools[desk.VERIFY_ADDRESS].ainvoke(asked, config))
                if "error" not in verdict:
                    return verdict
            return None

        async def as_it_is(_: Sequence[Any]) -> Any:
            return value

        run = {"name": found, "address": checked, "email": as_it_is}[field]
        return Step(name=f"look up {field}", run=run, side_effect=False, recorded=False)


def _accept(fmt: Format, text: str, parts: Sequence[Part]) -> None:
    """The strict parser has the last word.

    Raises:
        PlanRejected: the answer is no contact, or another one than was seen on the way.
    """
    try:
        contact = parse(text, fmt)
    except MalformedAnswer as error:
        raise PlanRejected(str(error)) from error
    if sorted(parts) != sorted((f, contact.value(f)) for f in FIELDS):
        raise PlanRejected(f"the fields were seen otherwise than they are: {text[:120]!r}")


def _answer(contact: Mapping[Field, str], results: Mapping[Field, Any]) -> dict[str, str | bool]:
    """What the desk's rules make of it: a stored email beats the article's, a corrected address the one asked about."""
    person, verdict = results["name"], results["address"]
    known = "error" not in person
    address = contact["address"] if verdict is None else verdict.get("corrected", contact["address"])
    email = person["email"] if known else contact["email"]
    return {"name": contact["name"], "email": email, "known": known, "address": address, "checked": verdict is not None}
