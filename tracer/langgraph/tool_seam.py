"""The seam of tools and retrievers in a playback: they answer from the recording instead of running.

Callbacks only watch, so while something is played back each call runs on a copy of the tool whose body is
the recorded answer; argument checks, callbacks and message formatting stay LangChain's own. Where a fork lets a tool
run, its body is the tool's own.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import time
from collections.abc import Callable
from typing import Any, Protocol
from uuid import UUID

from langchain_core.documents import Document
from langchain_core.messages import ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool, ToolException

from redecode.tracer import conventions as c
from redecode.tracer.langgraph.objects import Lost, made
from redecode.tracer.player import Live, Played, Player
from redecode.tracer.recorder import LiveSpan


class Spans(Protocol):
    """Knows which span is being run."""

    def parent(self) -> LiveSpan | None:
        """That of LangChain's current run; inside the body of a tool, the tool's."""
        ...

    def span_of(self, run_id: UUID) -> LiveSpan | None:
        """That of a LangChain run."""
        ...


def install(player: Callable[[], Player | None], spans: Spans) -> Callable[[], None]:
    """Wrap `run` and `arun` of tools, `invoke` and `ainvoke` of retrievers; returns what puts them back.

    Args:
        player: who answers now, `None` to let everything run.
    """
    undo = []
    for owner, name, stand_in in (
        (BaseTool, "run", _tool),
        (BaseTool, "arun", _tool),
        (BaseRetriever, "invoke", _retriever),
        (BaseRetriever, "ainvoke", _retriever),
    ):
        original: Any = getattr(owner, name)
        setattr(owner, name, _wrapped(original, player, spans, stand_in))
        undo.append(functools.partial(setattr, owner, name, original))

    def restore() -> None:
        for put_back in undo:
            put_back()

    return restore


def _wrapped(original: Any, player: Callable[[], Player | None], spans: Spans, stand_in: Any) -> Any:
    @functools.wraps(original)
    def run_or_play(self: Any, *args: Any, **kwargs: Any) -> Any:
        playing = player()
        return original(self if playing is None else stand_in(self, playing, spans), *args, **kwargs)

    return run_or_play


def _tool(tool: Any, playing: Player, spans: Spans) -> Any:
    clone = copy.copy(tool)

    def answer() -> tuple[LiveSpan, Played | Live]:
        span = spans.parent()
        if span is None:
            raise playing.unmade(None, f"tool {tool.name} runs outside any recorded step")
        return span, playing.tool(span, tool.name, c.from_json(span.event.attributes.get(c.TOOL_ARGUMENTS)))

    @functools.wraps(tool._run)
    def body(*args: Any, **kwargs: Any) -> Any:
        span, played = answer()
        if isinstance(played, Live):
            return tool._run(*args, **kwargs)
        time.sleep(played.wait_s)
        return _result(clone, playing, span, played)

    @functools.wraps(tool._arun)
    async def body_async(*args: Any, **kwargs: Any) -> Any:
        span, played = answer()
        if isinstance(played, Live):
            return await tool._arun(*args, **kwargs)
        await asyncio.sleep(played.wait_s)
        return _result(clone, playing, span, played)

    object.__setattr__(clone, "_run", body)
    object.__setattr__(clone, "_arun", body_async)
    return clone


def _result(tool: Any, playing: Player, span: LiveSpan, played: Played) -> Any:
    """What the recorded tool returned, or what it did instead."""
    if played.error is not None:
        raise played.error
    form = played.form or {}
    try:
        if "interrupts" in form:
            from langgraph.types import interrupt  # it is there, or nobody had interrupted

            return [interrupt(made(value)) for value in form["interrupts"]]
        value = made(form["value"]) if "value" in form else played.value
        message = made(form["message"]) if "message" in form else None
    except Lost as lost:
        what = f"tool {tool.name} returned an object of class {lost}, which cannot be made again from a recording"
        raise playing.unmade(span, what) from None
    if message is not None and message.get("status") == "error":
        # As the tool's own failure had become an answer.
        object.__setattr__(tool, "handle_tool_error", lambda _: message["content"])
        raise ToolException(str(message["content"]))
    if tool.response_format == "content_and_artifact":
        return (message["content"], message.get("artifact")) if message is not None else (value, None)
    call_id = span.event.attributes.get(c.TOOL_CALL_ID)
    if message is not None:
        return ToolMessage(**message, tool_call_id=call_id or "", name=tool.name) if call_id else message["content"]
    return value


def _retriever(retriever: Any, playing: Player, spans: Spans) -> Any:
    clone = copy.copy(retriever)

    def answer(query: str, run_manager: Any) -> tuple[LiveSpan, Played | Live]:
        span = (spans.span_of(run_manager.run_id) if run_manager is not None else None) or spans.parent()
        if span is None:
            raise playing.unmade(None, f"retriever {retriever.get_name()} runs outside any recorded step")
        return span, playing.retrieval(span, query)

    def body(query: str, *, run_manager: Any = None, **kwargs: Any) -> Any:
        _, played = answer(query, run_manager)
        if isinstance(played, Live):
            given = {"run_manager": run_manager} if retriever._new_arg_supported else {}
            return retriever._get_relevant_documents(query, **given, **kwargs)
        time.sleep(played.wait_s)
        return _documents(played)

    async def body_async(query: str, *, run_manager: Any = None, **kwargs: Any) -> Any:
        _, played = answer(query, run_manager)
        if isinstance(played, Live):
            given = {"run_manager": run_manager} if retriever._new_arg_supported else {}
            return await retriever._aget_relevant_documents(query, **given, **kwargs)
        await asyncio.sleep(played.wait_s)
        return _documents(played)

    object.__setattr__(clone, "_get_relevant_documents", body)
    object.__setattr__(clone, "_aget_relevant_documents", body_async)
    if not retriever._new_arg_supported:  # it would not be told which call it is
        object.__setattr__(clone, "_new_arg_supported", True)
    return clone


def _documents(played: Played) -> list[Document]:
    if played.error is not None:
        raise played.error
    return [Document(**document) for document in played.value or ()]
