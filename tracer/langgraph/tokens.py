"""A token's way from LangChain to our handler: straight, where nobody else listens.

LangChain hands every token of a stream to every handler by a general dispatch that looks up names, inspects functions
and (async) gathers futures: two thirds of what a traced token costs. The handler answers each token with a comparison.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from langchain_core.callbacks.manager import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun

from redecode.tracer.langgraph.models import ModelCallbacks


def install(handler: ModelCallbacks) -> Callable[[], None]:
    """Shorten the way to this handler where it is a model call's only one; returns what undoes it."""
    tell = handler.on_llm_new_token  # raises nothing
    sync, asynchronous = CallbackManagerForLLMRun.on_llm_new_token, AsyncCallbackManagerForLLMRun.on_llm_new_token

    @functools.wraps(sync)
    def on_llm_new_token(self: Any, token: Any, **kwargs: Any) -> None:
        handlers = self.handlers
        if len(handlers) == 1 and handlers[0] is handler:
            tell(token, run_id=self.run_id, **kwargs)
        else:
            sync(self, token, **kwargs)

    @functools.wraps(asynchronous)
    async def on_llm_new_token_async(self: Any, token: Any, **kwargs: Any) -> None:
        handlers = self.handlers
        if len(handlers) == 1 and handlers[0] is handler:
            tell(token, run_id=self.run_id, **kwargs)
        else:
            await asynchronous(self, token, **kwargs)

    CallbackManagerForLLMRun.on_llm_new_token = on_llm_new_token  # type: ignore[method-assign]
    AsyncCallbackManagerForLLMRun.on_llm_new_token = on_llm_new_token_async  # type: ignore[method-assign]

    def restore() -> None:
        CallbackManagerForLLMRun.on_llm_new_token = sync  # type: ignore[method-assign]
        AsyncCallbackManagerForLLMRun.on_llm_new_token = asynchronous  # type: ignore[method-assign]

    return restore
