"""Callbacks of tools and retrievers."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from langchain_core.messages import ToolMessage

from redecode.tracer import conventions as c
from redecode.tracer.langgraph.callbacks import Callbacks, guarded
from redecode.tracer.langgraph.objects import is_plain, lost, written
from redecode.tracer.langgraph.task_names import attempt
from redecode.tracer.records import JsonObject, SpanKind

_OF_A_MESSAGE = ("artifact", "status", "additional_kwargs", "response_metadata", "id")


class ToolCallbacks(Callbacks):
    """Tool calls, with the place each has in the message that asked for it."""

    @guarded("the start of a tool")
    def on_tool_start(
        self,
        serialized: JsonObject,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: JsonObject | None = None,
        inputs: JsonObject | None = None,
        **kwargs: Any,
    ) -> None:
        """A tool is called."""
        name = kwargs.get("name") or (serialized or {}).get("name") or "tool"
        call_id = kwargs.get("tool_call_id")
        arguments = input_str if inputs is None else inputs  # without what is injected: LangChain has taken that out
        attributes = {
            c.OPERATION: "execute_tool",
            c.TOOL_NAME: name,
            c.TOOL_CALL_ID: call_id,
            c.TOOL_ARGUMENTS: c.to_json(arguments),
            c.SIDE_EFFECT: (metadata or {}).get("side_effect"),
        }
        above = self._above(parent_run_id)
        place = above.span.root.tool_order.pop(call_id, None) if above and above.span and call_id else None
        step = f"tool:{name}" if place is None else f"tool:{place}:{name}"
        entry = self._leaf(
            run_id,
            parent_run_id,
            SpanKind.TOOL,
            f"execute_tool {name}",
            step,
            name,
            attributes,
            again=attempt(tags),
            placed=place is not None,
        )
        if entry is not None and entry.span is not None and entry.span.parent is not None:
            entry.span.strands.enter_body(entry.span.parent.strands)

    @guarded("the end of a tool")
    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool has returned."""
        result = getattr(output, "content", output)
        failed = getattr(output, "status", None) == "error"
        span = self.span_of(run_id)
        called = span is not None and c.TOOL_CALL_ID in span.event.attributes
        attributes = {c.TOOL_RESULT: c.to_json(result), c.TOOL_OUTPUT: _more_than_plain(output, called=called)}
        self._end_leaf(run_id, attributes, str(result) if failed else None)

    @guarded("the failure of a tool")
    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool has raised."""
        if any(kind.__name__ == "GraphBubbleUp" for kind in type(error).__mro__):
            held = error.args[0] if error.args else None
            asked = [written(one.value) for one in held if hasattr(one, "value")] if isinstance(held, tuple) else []
            left = {c.LEFT_BY: type(error).__name__, c.TOOL_OUTPUT: c.to_json({"interrupts": asked})}
            self._end_leaf(run_id, left)
        else:
            self._end_leaf(run_id, {}, error)

    @guarded("the start of a retrieval")
    def on_retriever_start(
        self,
        serialized: JsonObject,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """A retriever is asked."""
        name = kwargs.get("name") or (serialized or {}).get("name") or "retriever"
        entry = self._leaf(
            run_id,
            parent_run_id,
            SpanKind.RETRIEVAL,
            f"retrieval {name}",
            f"retrieval:{name}",
            name,
            {c.OPERATION: "retrieval", c.TOOL_ARGUMENTS: c.to_json(query)},
            again=attempt(tags),
        )
        if entry is not None and entry.span is not None and entry.span.parent is not None:
            entry.span.strands.enter_body(entry.span.parent.strands)

    @guarded("the end of a retrieval")
    def on_retriever_end(self, documents: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever has answered."""
        self._end_leaf(run_id, {c.TOOL_RESULT: c.to_json(documents)})

    @guarded("the failure of a retrieval")
    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever has failed."""
        self._end_leaf(run_id, {}, error)


def _more_than_plain(output: Any, *, called: bool) -> str | None:
    """A tool's output as JSON that makes it again; `None` where its result alone does.

    Args:
        called: with a tool call, whose answer LangChain makes a message of.
    """
    try:
        if isinstance(output, ToolMessage) and called:
            kept = {k: v for k in _OF_A_MESSAGE if (v := getattr(output, k)) not in (None, {}, "success")}
            if isinstance(output.content, str) and not kept:
                return None
            return c.to_json({"message": written({"content": output.content, **kept})})
        return None if is_plain(output) else c.to_json({"value": written(output)})
    except Exception:  # an object of the host's may do anything when it is looked at
        return c.to_json({"value": lost(output)})
