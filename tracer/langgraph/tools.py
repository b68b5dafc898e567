"""Callbacks of tools and retrievers."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from redecode.tracer import conventions as c
from redecode.tracer.langgraph.callbacks import Callbacks, guarded
from redecode.tracer.langgraph.task_names import attempt
from redecode.tracer.records import JsonObject, SpanKind


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
        self._end_leaf(run_id, {c.TOOL_RESULT: c.to_json(result)}, str(result) if failed else None)

    @guarded("the failure of a tool")
    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool has raised."""
        if any(kind.__name__ == "GraphBubbleUp" for kind in type(error).__mro__):
            self._end_leaf(run_id, {c.LEFT_BY: type(error).__name__})
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
