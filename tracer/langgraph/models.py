"""Callbacks of chat and text models: a decode, filled in by the client seam beneath or, without one, from the text."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from langchain_core.messages import convert_to_openai_messages

from redecode.tracer import conventions as c
from redecode.tracer.fm import wire
from redecode.tracer.fm.call import PART
from redecode.tracer.fm.decode_attributes import decode_attributes
from redecode.tracer.langgraph.callbacks import Callbacks, Chat, guarded
from redecode.tracer.langgraph.model_answers import written
from redecode.tracer.langgraph.task_names import attempt
from redecode.tracer.player import FmRequest
from redecode.tracer.recorder import LiveSpan
from redecode.tracer.records import Decode, Fidelity, JsonObject, SpanKind, TimeSource

# The model calls opened last in this context: one, or all of a batch, whose requests are sent in their order.
_open_chats: ContextVar[tuple[Chat, ...]] = ContextVar("redecode_chats", default=())
ONLY_CALLBACKS = "known from LangChain's callbacks alone: its model does not call the OpenAI client"
# Of what a model says it is invoked with; the rest are settings of its own class.
_SAMPLING = frozenset(
    {"temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "seed",
     "stop", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "response_format", "tool_choice",
     "parallel_tool_calls", "reasoning", "reasoning_effort"}
)  # fmt: skip
_TOLD_BESIDES = ("temperature", "max_tokens", "stop")  # LangChain knows them of most models


class ModelCallbacks(Callbacks):
    """Model calls, and how the client seam finds the one whose request it is sending."""

    def open_decode(self, body: JsonObject) -> LiveSpan | None:
        """The model call opened in this context whose request is about to be sent."""
        waiting = [chat for chat in _open_chats.get() if not chat.claimed and not chat.span.ended]
        if not waiting:
            return None
        chat = waiting[0]
        if len(waiting) > 1:  # of a batch that is awaited, the requests go out in any order
            chat = next((one for one in waiting if _last_said(one.messages) == _last_said(_sent(body))), chat)
        chat.claimed = True
        return chat.span

    def chat_of(self, run_id: UUID | None) -> Chat | None:
        """The model call of that LangChain run; without one, the one opened last in this context."""
        if run_id is not None:
            entry = self._entries.get(run_id)
            return entry.chat if entry is not None else None
        return next((chat for chat in reversed(_open_chats.get()) if not chat.span.ended), None)

    def goes_live(self) -> bool:
        """Whether a model call that is open here may go live."""
        return any(chat.live and not chat.span.ended for chat in _open_chats.get())

    def claim(self, finish: Callable[[], None]) -> None:
        """The client seam's way to record what a stream had given when the model call ends first."""
        claimed = [chat for chat in _open_chats.get() if chat.claimed and not chat.span.ended]
        if claimed:
            claimed[-1].finish = finish

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
        given = {"serialized": serialized, "metadata": metadata, **kwargs}
        self._begin(run_id, parent_run_id, "chat", list(messages[0]), tags, given)

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
        given = {"serialized": serialized, "metadata": metadata, **kwargs}
        self._begin(run_id, parent_run_id, "text_completion", list(prompts), tags, given)

    def _begin(
        self,
        run_id: UUID,
        parent_run_id: UUID | None,
        operation: str,
        messages: list[Any],
        tags: list[str] | None,
        given: JsonObject,
    ) -> None:
        params, metadata = given.get("invocation_params") or {}, given.get("metadata") or {}
        known = params.get("model") or params.get("model_name") or metadata.get("ls_model_name") or params.get("_type")
        model = str(known or (given.get("serialized") or {}).get("name") or "unknown")
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
            besides = {name: metadata.get(f"ls_{name}") for name in _TOLD_BESIDES}
            entry.chat = Chat(entry.span, messages, {**besides, **params}, run_id=run_id)
            batch = _open_chats.get() if (given.get("batch_size") or 1) > 1 else ()
            siblings = tuple(chat for chat in batch if chat.span.parent is entry.span.parent and not chat.span.ended)
            _open_chats.set((*siblings, entry.chat))

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A part of the answer is about to reach the caller."""
        # Called for every token: nothing is looked up where the client seam sees to the call that is open here.
        chats = _open_chats.get()
        if len(chats) == 1 and chats[0].claimed and chats[0].run_id is run_id:
            if (call := chats[0].span.call) is not None:
                call.flowing = True
            return
        self._part(token, run_id=run_id, **kwargs)

    @guarded("a part of an answer")
    def _part(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        entry = self._entries.get(run_id)
        if entry is None or entry.span is None:
            return
        entry.span.flows()
        if entry.chat is not None and not entry.chat.claimed and _brings_something(token, kwargs.get("chunk")):
            entry.chat.times.append(self.recorder.clock.now_ns())

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
        told = self._told(run_id, kwargs.get("response"), error)
        self._end_leaf(run_id, told, c.CUT_SHORT if isinstance(error, GeneratorExit) else error)

    def _told(self, run_id: UUID, response: Any, error: BaseException | None = None) -> JsonObject:
        """A decode known from callbacks alone: fidelity `text`. Nothing if the client seam saw the call."""
        entry = self._entries.get(run_id)
        if entry is None or entry.chat is None or entry.chat.claimed or entry.span is None:
            return {}
        span, chat = entry.span, entry.chat
        generations = [g for some in (response.generations if response is not None else ()) for g in some]
        if error is not None:  # LangChain adds the body of an HTTP error as one more
            generations = generations[: 1 if chat.times else 0]
        first = generations[0] if generations else None
        message = getattr(first, "message", None)
        usage = getattr(message, "usage_metadata", None) or {}
        for place, call in enumerate(getattr(message, "tool_calls", None) or ()):
            if call.get("id"):
                span.root.tool_order[call["id"]] = place
        output = [_answer(generation) for generation in generations]
        sent = span.start_ns
        asked = request_of(chat)
        decode = Decode(
            run_id=span.run_id,
            span_id=span.span_id,
            step_key=span.step_key,
            model=asked.model,
            fidelity=Fidelity.TEXT,
            sent_ns=sent,
            first_chunk_ns=chat.times[0] if chat.times else None,
            done_ns=self.recorder.clock.now_ns(),
            sampling=asked.sampling,
            messages=asked.messages,
            tool_definitions=asked.tools,
            output=output,
            stream=bool(chat.times),
            token_time_source=TimeSource.CLIENT if chat.times else None,
            chunk_times_ns=tuple([t - sent for t in chat.times]) if chat.times else None,
            chunk_tokens=(0,) * len(chat.times) if chat.times else None,  # nobody says how many they are
            finish_reason=output[0].get("finish_reason") if output else None,
            input_tokens=usage.get("input_tokens"),
            output_tokens=usage.get("output_tokens"),
            cached_tokens=(usage.get("input_token_details") or {}).get("cache_read"),
        )
        operation = str(span.event.attributes.get(c.OPERATION))
        attributes = decode_attributes(decode, operation=operation)
        attributes[c.USAGE] = c.to_json(usage) if usage else None
        if generations:
            attributes[c.LANGCHAIN_ANSWER] = written(generations, getattr(response, "llm_output", None))
        attributes[c.FIDELITY_LIMIT] = f"{PART}; {ONLY_CALLBACKS}" if error is not None and output else ONLY_CALLBACKS
        return attributes


def request_of(chat: Chat) -> FmRequest:
    """What a model is asked, as far as its callbacks are told."""
    return FmRequest(
        path="",
        model=str(chat.span.event.attributes.get(c.REQUEST_MODEL)),
        messages=_asked(chat.messages),
        tools=wire.tools_of(chat.params),
        sampling=wire.sampling({k: v for k, v in chat.params.items() if k in _SAMPLING and v is not None}),
        stream=False,
    )


def _sent(body: JsonObject) -> list[Any]:
    asked = wire.prompt_of(body)
    return asked if isinstance(asked, list) else [asked]


def _last_said(messages: list[Any]) -> str:
    last = messages[-1] if messages else None
    return str(last.get("content") if isinstance(last, dict) else getattr(last, "content", last))


def _brings_something(token: Any, chunk: Any) -> bool:
    """Whether a part of a stream has anything of the answer; LangChain ends each with an empty one."""
    message = getattr(chunk, "message", None)
    return bool(token or getattr(message, "tool_call_chunks", None) or getattr(message, "additional_kwargs", None))


def _asked(messages: list[Any]) -> Any:
    if messages and isinstance(messages[0], str):
        return messages[0] if len(messages) == 1 else messages
    return _as_openai(messages)


def _answer(generation: Any) -> JsonObject:
    message = getattr(generation, "message", None)
    said = {"role": "assistant", "content": generation.text} if message is None else _as_openai([message])[0]
    info = getattr(message, "response_metadata", None) or getattr(generation, "generation_info", None) or {}
    finish = info.get("finish_reason") or info.get("stop_reason") or info.get("done_reason")
    plain: JsonObject = said if isinstance(said, dict) else c.from_json(c.to_json(said))
    return {**plain, "finish_reason": finish}


def _as_openai(messages: list[Any]) -> list[Any]:
    try:
        found = convert_to_openai_messages(messages)
    except Exception:  # something in them that OpenAI has no form for: as LangChain has it
        return messages
    return found if isinstance(found, list) else [found]
