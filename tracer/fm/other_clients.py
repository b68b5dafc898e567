"""Inference requests that are not the OpenAI client's: a playback must not let them by.

They are not recorded, so a playback has no answer to them, and whoever makes them (another provider's SDK, an HTTP
library in a node) goes around all other seams. So while something is played back the HTTP libraries themselves ask
before a request goes out whose URL is one of an inference API. Rejected: to hold up every request, since a program may
well have a database or a service of its own to talk to.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

Refuse = Callable[[str], None]
"""Told of a request that is about to go out; raises unless it may."""

_INFERENCE = re.compile(
    r"/(?:(?:chat/)?completions|embeddings|rerank|v\d+/(?:messages|responses|chat|embed)|api/(?:chat|generate|embed))/?$"
    r"|/model/[^/]+/(?:invoke|converse)[\w-]*$"
    r"|/runs/(?:stream|wait)$"  # a graph that runs elsewhere
    r"|:(?:(?:streamG|g)enerateContent|(?:batchE|e)mbedContents?|(?:\w+P|p)redict)$"
)


def is_inference(method: str, url: str) -> bool:
    """Whether a request asks a model in the API of OpenAI, Anthropic, Google, Cohere, Bedrock, Ollama or their like."""
    return method.upper() == "POST" and _INFERENCE.search(url.partition("?")[0].partition("#")[0]) is not None


def _of_request(self: Any, request: Any, *_: Any, **__: Any) -> tuple[str, str]:
    return str(request.method), str(request.url)


def _of_arguments(self: Any, method: str, url: Any, *_: Any, **__: Any) -> tuple[str, str]:
    return method, str(url)


# Module, class, method, and how its arguments say what is asked.
_DOORS: tuple[tuple[str, str, str, Callable[..., tuple[str, str]]], ...] = (
    ("httpx", "Client", "send", _of_request),
    ("httpx", "AsyncClient", "send", _of_request),
    ("httpx2", "Client", "send", _of_request),
    ("httpx2", "AsyncClient", "send", _of_request),
    ("requests.sessions", "Session", "send", _of_request),
    ("aiohttp.client", "ClientSession", "_request", _of_arguments),
    ("botocore.httpsession", "URLLib3Session", "send", _of_request),
)
MODULES = tuple(dict.fromkeys(module for module, *_ in _DOORS))
"""The libraries that are watched, once they are imported."""


def install(module: str, watching: Callable[[], bool], refuse: Refuse) -> Callable[[], None]:
    """Wrap what sends requests in one of `MODULES`; returns what puts it back.

    Args:
        watching: whether anything is played back now.
    """
    undo = []
    for owner, kind, name, said in _DOORS:
        holder = getattr(sys.modules.get(module), kind, None) if owner == module else None
        if holder is None or name not in vars(holder):
            continue
        original = vars(holder)[name]
        setattr(holder, name, _asking(original, said, watching, refuse))
        undo.append(functools.partial(setattr, holder, name, original))

    def restore() -> None:
        for put_back in undo:
            put_back()

    return restore


def _asking(original: Any, said: Callable[..., tuple[str, str]], watching: Callable[[], bool], refuse: Refuse) -> Any:
    def ask(*args: Any, **kwargs: Any) -> None:
        if watching():
            method, url = said(*args, **kwargs)
            if is_inference(method, url):
                refuse(f"{method.upper()} {url.partition('?')[0]}")

    @functools.wraps(original)
    def send(*args: Any, **kwargs: Any) -> Any:
        ask(*args, **kwargs)
        return original(*args, **kwargs)

    @functools.wraps(original)
    async def send_async(*args: Any, **kwargs: Any) -> Any:
        ask(*args, **kwargs)
        return await original(*args, **kwargs)

    return send_async if inspect.iscoroutinefunction(original) else send
