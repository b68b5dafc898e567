"""The seam of chat and text models in a playback: those that do not call the OpenAI client answer from the recording.

While something is played back each call runs on a copy of the model whose `_generate` and `_stream` (and their async
twins) are the recorded answer; callbacks, structured output, tools bound to it and message formatting stay LangChain's
own, and its cache is not asked. A call that was recorded beneath, at the OpenAI client, runs through to there; if it
gets by without asking there, that is said.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any, Protocol
from uuid import UUID

from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import convert_to_messages, convert_to_openai_messages
from langchain_core.outputs import LLMResult

from redecode.tracer.errors import RedecodeError
from redecode.tracer.langgraph import model_answers
from redecode.tracer.langgraph.callbacks import Chat
from redecode.tracer.langgraph.models import request_of
from redecode.tracer.player import Live, Played, Player

_STANDS_IN = "_redecode_stands_in"
# The LangChain runs that the call in hand is of: one for each prompt.
_called: ContextVar[tuple[UUID, ...]] = ContextVar("redecode_model_calls", default=())
_CHAT = ("generate", "agenerate", "stream", "astream", "_chat_model_stream_v3", "_achat_model_stream_v3")
_TEXT = ("generate", "agenerate", "stream", "astream")


class Chats(Protocol):
    """Knows the model calls that are going on."""

    def chat_of(self, run_id: UUID | None) -> Chat | None:
        """That of a LangChain run; without one, the one opened last in this context."""
        ...


def install(player: Callable[[], Player | None], chats: Chats) -> Callable[[], None]:
    """Wrap the ways to call a model; returns what puts them back.

    Args:
        player: who answers now, `None` to let models answer.
    """
    undo = []
    for owner, names, stand_in in ((BaseChatModel, _CHAT, _ChatStandIn), (BaseLLM, _TEXT, _TextStandIn)):
        for name in names:
            if (original := vars(owner).get(name)) is None:
                continue  # of a later or an earlier version
            setattr(owner, name, _wrapped(original, player, chats, stand_in))
            undo.append(functools.partial(setattr, owner, name, original))

    def restore() -> None:
        for put_back in undo:
            put_back()

    return restore


def _wrapped(original: Any, player: Callable[[], Player | None], chats: Chats, stand_in: Any) -> Any:
    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        playing = player()
        if playing is None or _STANDS_IN in vars(self):
            return original(self, *args, **kwargs)
        return original(stand_in(self, playing, chats).made(), *args, **kwargs)

    return call


class _StandIn:
    """What answers in place of one model."""

    def __init__(self, model: Any, playing: Player, chats: Chats) -> None:
        self._model, self._playing, self._chats = model, playing, chats
        self._clone: Any = None

    def _copy(self, **methods: Any) -> Any:
        clone = self._clone = copy.copy(self._model)
        for name, value in {**methods, "cache": False, _STANDS_IN: True}.items():
            object.__setattr__(clone, name, value)
        return clone

    def _ask(self, run_manager: Any, place: int = 0) -> tuple[Chat, Played | Live | None]:
        called = (run_manager.run_id,) if run_manager is not None else _called.get()
        chat = self._chats.chat_of(called[place] if called else None)
        if chat is None:
            raise self._playing.unmade(None, f"{type(self._model).__name__} is called outside any recorded step")
        answer = self._playing.model(chat.span, request_of(chat))
        chat.live = isinstance(answer, Live)
        return chat, answer

    def _answered(self, chat: Chat, answer: Live | None) -> None:
        """After a call that was not answered here: unless it may be live, the OpenAI client must have asked."""
        if answer is None and not chat.claimed:
            what = f"{type(self._model).__name__} answered without the OpenAI client that was recorded beneath it"
            raise self._playing.unmade(chat.span, what)


class _ChatStandIn(_StandIn):
    def made(self) -> Any:
        """The copy of the model."""
        # Native protocol events would go around `_stream`, which LangChain bridges to them.
        native = {"_stream_chat_model_events": None, "_astream_chat_model_events": None}
        return self._copy(
            _generate_with_cache=self._generate_with_cache,
            _agenerate_with_cache=self._agenerate_with_cache,
            _generate=self._generate,
            _agenerate=self._agenerate,
            _stream=self._stream,
            _astream=self._astream,
            **{name: held for name, held in native.items() if hasattr(self._model, name)},
        )

    def _generate_with_cache(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        token = _called.set((run_manager.run_id,) if run_manager is not None else ())
        try:
            return type(self._model)._generate_with_cache(self._clone, messages, stop, run_manager, **kwargs)
        finally:
            _called.reset(token)

    async def _agenerate_with_cache(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        token = _called.set((run_manager.run_id,) if run_manager is not None else ())
        try:
            kind = type(self._model)
            return await kind._agenerate_with_cache(self._clone, messages, stop, run_manager, **kwargs)
        finally:
            _called.reset(token)

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        chat, answer = self._ask(run_manager)
        if isinstance(answer, Played):
            time.sleep(answer.wait_s)
            return _whole(answer)
        messages = self._changed(messages, answer)
        result = self._model._generate(messages, stop=stop, **_taken(self._model._generate, run_manager), **kwargs)
        self._answered(chat, answer)
        return result

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        chat, answer = self._ask(run_manager)
        if isinstance(answer, Played):
            await asyncio.sleep(answer.wait_s)
            return _whole(answer)
        messages = self._changed(messages, answer)
        given = _taken(self._model._agenerate, run_manager)
        result = await self._model._agenerate(messages, stop=stop, **given, **kwargs)
        self._answered(chat, answer)
        return result

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[Any]:
        chat, answer = self._ask(run_manager)
        if isinstance(answer, Played):
            begin = time.monotonic()
            for due, chunk in _chunks(answer):
                time.sleep(max(0.0, begin + due - time.monotonic()))
                yield chunk
            _end(answer)
            return
        messages = self._changed(messages, answer)
        given = _taken(self._model._stream, run_manager)
        yield from self._model._stream(messages, stop=stop, **given, **kwargs)
        self._answered(chat, answer)

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        chat, answer = self._ask(run_manager)
        if isinstance(answer, Played):
            begin = time.monotonic()
            for due, chunk in _chunks(answer):
                await asyncio.sleep(max(0.0, begin + due - time.monotonic()))
                yield chunk
            _end(answer)
            return
        messages = self._changed(messages, answer)
        given = _taken(self._model._astream, run_manager)
        async for chunk in self._model._astream(messages, stop=stop, **given, **kwargs):
            yield chunk
        self._answered(chat, answer)

    def _changed(self, messages: Any, answer: Live | None) -> Any:
        """The messages of a call that goes live, as a fork changes them; those of the OpenAI client change there."""
        if answer is None or answer.change is None or _calls_openai(self._model):
            return messages
        given = {"messages": convert_to_openai_messages(messages)}
        changed = answer.change(given)
        if others := sorted(set(changed) - set(given)) or ([] if answer.base_url is None else ["the engine"]):
            raise RedecodeError(
                f"{', '.join(others)} cannot be changed in a call of {type(self._model).__name__}, which is not made "
                "by the OpenAI client; only its messages can"
            )
        return convert_to_messages(changed["messages"]) if changed != given else messages


class _TextStandIn(_StandIn):
    def made(self) -> Any:
        """The copy of the model."""
        return self._copy(
            _generate_helper=self._generate_helper,
            _agenerate_helper=self._agenerate_helper,
            _generate=self._generate,
            _agenerate=self._agenerate,
            _stream=self._stream,
            _astream=self._astream,
        )

    def _generate_helper(self, prompts: Any, stop: Any, run_managers: list[Any], **kwargs: Any) -> Any:
        token = _called.set(tuple(manager.run_id for manager in run_managers))
        try:
            return type(self._model)._generate_helper(self._clone, prompts, stop, run_managers, **kwargs)
        finally:
            _called.reset(token)

    async def _agenerate_helper(self, prompts: Any, stop: Any, run_managers: list[Any], **kwargs: Any) -> Any:
        token = _called.set(tuple(manager.run_id for manager in run_managers))
        try:
            return await type(self._model)._agenerate_helper(self._clone, prompts, stop, run_managers, **kwargs)
        finally:
            _called.reset(token)

    def _generate(self, prompts: list[str], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> LLMResult:
        asked = [self._ask(None, place) for place in range(len(prompts))]
        time.sleep(max((a.wait_s for _, a in asked if isinstance(a, Played)), default=0.0))
        results = []
        for prompt, (chat, answer) in zip(prompts, asked, strict=True):
            if isinstance(answer, Played):
                results.append(_text(answer))
                continue
            self._unchanged(answer)
            given = _taken(self._model._generate, run_manager)
            results.append(self._model._generate([prompt], stop=stop, **given, **kwargs))
            self._answered(chat, answer)
        return _joined(results)

    async def _agenerate(
        self, prompts: list[str], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> LLMResult:
        asked = [self._ask(None, place) for place in range(len(prompts))]
        await asyncio.sleep(max((a.wait_s for _, a in asked if isinstance(a, Played)), default=0.0))
        results = []
        for prompt, (chat, answer) in zip(prompts, asked, strict=True):
            if isinstance(answer, Played):
                results.append(_text(answer))
                continue
            self._unchanged(answer)
            given = _taken(self._model._agenerate, run_manager)
            results.append(await self._model._agenerate([prompt], stop=stop, **given, **kwargs))
            self._answered(chat, answer)
        return _joined(results)

    def _stream(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[Any]:
        chat, answer = self._ask(run_manager)
        if isinstance(answer, Played):
            begin = time.monotonic()
            for due, chunk in _chunks(answer, chat=False):
                time.sleep(max(0.0, begin + due - time.monotonic()))
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
            _end(answer)
            return
        self._unchanged(answer)
        yield from self._model._stream(prompt, stop=stop, **_taken(self._model._stream, run_manager), **kwargs)
        self._answered(chat, answer)

    async def _astream(
        self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        chat, answer = self._ask(run_manager)
        if isinstance(answer, Played):
            begin = time.monotonic()
            for due, chunk in _chunks(answer, chat=False):
                await asyncio.sleep(max(0.0, begin + due - time.monotonic()))
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
            _end(answer)
            return
        self._unchanged(answer)
        given = _taken(self._model._astream, run_manager)
        async for chunk in self._model._astream(prompt, stop=stop, **given, **kwargs):
            yield chunk
        self._answered(chat, answer)

    def _unchanged(self, answer: Live | None) -> None:
        if answer is not None and not _calls_openai(self._model) and answer != Live():
            raise RedecodeError(
                f"a call of {type(self._model).__name__}, which is not made by the OpenAI client, cannot be changed"
            )


def _whole(answer: Played) -> Any:
    """A chat model's answer, or its failure."""
    _end(answer)
    return model_answers.chat_result(answer.value)


def _text(answer: Played) -> LLMResult:
    """A text model's answer to one prompt, or its failure."""
    _end(answer)
    return LLMResult(generations=[model_answers.texts(answer.value)], llm_output=answer.value.get("llm_output"))


def _joined(results: list[LLMResult]) -> LLMResult:
    return LLMResult(
        generations=[generation for result in results for generation in result.generations],
        llm_output=next((result.llm_output for result in results if result.llm_output), None),
    )


def _chunks(answer: Played, *, chat: bool = True) -> Iterator[tuple[float, Any]]:
    """The parts of a streamed answer, each with when it is due, in seconds from the call."""
    if answer.error is not None and answer.value is None:
        return
    due = answer.chunks_s or (answer.wait_s,)
    if chat:
        parts: Iterator[Any] = model_answers.chat_chunks(answer.value, len(due), cut=answer.cut is not None)
    else:
        parts = model_answers.text_chunks(answer.value, len(due))
    yield from zip(due, parts, strict=False)


def _end(answer: Played) -> None:
    """Fail as the recorded call did."""
    if answer.error is not None:
        raise answer.error
    if answer.cut is not None:
        raise answer.cut()


def _taken(method: Any, run_manager: Any) -> dict[str, Any]:
    """The run manager, for a method that takes it."""
    takes = "run_manager" in inspect.signature(method).parameters
    return {"run_manager": run_manager} if takes and run_manager is not None else {}


def _calls_openai(model: Any) -> bool:
    """Whether it is one of LangChain's models that call the OpenAI client."""
    return any(kind.__module__.startswith("langchain_openai.") for kind in type(model).__mro__)
