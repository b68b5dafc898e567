"""Callbacks of chat and text models: a decode, filled in by the client seam beneath or, without one, from the text."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from redecode.tracer import conventions as c
from redecode.tracer.callbacks import Callbacks, Chat, guarded
from redecode.tracer.recorder import LiveSpan
from redecode.tracer.records import Fidelity, JsonObject, SpanKind
from redecode.tracer.task_names import attempt

_open_chat: ContextVar[Chat | None] = ContextVar("redecode_chat", default=None)


class ModelCallbacks(Callbacks):
    """Model calls, and how the client seam finds the one whose request it is sending."""

    def open_decode(self) -> LiveSpan | None:
        """The model call opened in this context whose request is about to be sent."""
        chat = _open_chat.get()
        if chat is None or chat.claimed or chat.span.ended:
            return None
        chat.claimed = True
        return chat.span

    def claim(self, finish: Callable[[], None]) -> None:
        """The client seam's way to record what a stream had given when the model call ends first."""
        chat = _open_chat.get()
        if chat is not None:
            chat.finish = finish

    @guarded("the start of an FM call")
    def on_chat_model_start(
        self,
        serialized: JsonObject,
        messages: list[list[Any]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: JsonObject | None = None,
        **kwargs: Any,
    ) -> None:
        """A chat model is called."""
        params = kwargs.get("invocation_params") or {}
        model = params.get("model") or params.get("model_name") or (metadata or {}).get("ls_model_name")
        self._begin(run_id, parent_run_id, "chat", str(model), list(messages[0]), tags)

    @guarded("the start of an FM call")
    def on_llm_start(
        self,
        serialized: JsonObject,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: JsonObject | None = None,
        **kwargs: Any,
    ) -> None:
        """A text completion model is called."""
        params = kwargs.get("invocation_params") or {}
        model = params.get("model") or params.get("model_name") or (metadata or {}).get("ls_model_name")
        self._begin(run_id, parent_run_id, "text_completion", str(model), list(prompts), tags)

    def _begin(
        self,
        run_id: UUID,
        parent_run_id: UUID | None,
        operation: str,
        model: str,
        messages: list[Any],
        tags: list[str] | None,
    ) -> None:
        attributes = {c.OPERATION: operation, c.REQUEST_MODEL: model}
        entry = self._leaf(
            run_id,
            parent_run_id,
            SpanKind.DECODE,
            f"{operation} {model}",
            "chat",
            model,
            attributes,
            again=attempt(tags),
        )
        if entry is not None and entry.span is not None:
            entry.chat = Chat(entry.span, messages)
            _open_chat.set(entry.chat)

    @guarded("a part of an answer")
    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A part of the answer is about to reach the caller."""
        entry = self._entries.get(run_id)
        if entry is not None and entry.span is not None and entry.span.call is not None:
            entry.span.call.flowing = True

    @guarded("the end of an FM call")
    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """The model has answered."""
        self._end_leaf(run_id, self._told(run_id, response))

    @guarded("the failure of an FM call")
    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """The model has failed, or its stream was given up."""
        entry = self._entries.get(run_id)
        if entry is not None and entry.chat is not None and entry.chat.finish is not None:
            entry.chat.finish()
        self._end_leaf(run_id, self._told(run_id, kwargs.get("response")), error)

    def _told(self, run_id: UUID, response: Any) -> JsonObject:
        """A decode known from callbacks alone: fidelity `text`. Nothing if the client seam saw the call."""
        entry = self._entries.get(run_id)
        if entry is None or entry.chat is None or entry.chat.claimed or entry.span is None:
            return {}
        message = usage = text = None
        if response is not None and response.generations and response.generations[0]:
            generation = response.generations[0][0]
            message, text = getattr(generation, "message", None), getattr(generation, "text", None)
            usage = getattr(message, "usage_metadata", None)
        usage = usage or {}
        for place, call in enumerate(getattr(message, "tool_calls", None) or ()):
            if call.get("id"):
                entry.span.root.tool_order[call["id"]] = place
        answered = None if message is None and text is None else message if message is not None else {"content": text}
        return {
            c.FIDELITY: Fidelity.TEXT.value,
            c.INPUT_MESSAGES: c.to_json(entry.chat.messages),
            c.OUTPUT_MESSAGES: c.to_json([answered]) if answered is not None else None,
            c.INPUT_TOKENS: usage.get("input_tokens"),
            c.OUTPUT_TOKENS: usage.get("output_tokens"),
            c.CACHED_TOKENS: (usage.get("input_token_details") or {}).get("cache_read"),
            c.SENT_NS: entry.span.start_ns,
            c.DONE_NS: self.recorder.clock.now_ns(),
        }
