"""Context for plain threads: work handed to a thread belongs to the step that handed it over.

LangChain keeps its run in a context variable, which a `ThreadPoolExecutor` or `Thread` started by hand does
not inherit (before Python's own `thread_inherit_context`), so calls made there used to vanish from the run.
While recording, and only inside a recorded step, both are given a copy of the context.
"""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from redecode.tracer.strands import handing_over


def install() -> Callable[[], None]:
    """Wrap `ThreadPoolExecutor.submit` and `Thread.start`; returns what puts them back."""
    submit: Any = ThreadPoolExecutor.submit
    start: Any = threading.Thread.start

    @functools.wraps(submit)
    def submit_in_context(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        adopt = handing_over()
        if adopt is None:
            return submit(self, fn, *args, **kwargs)
        return submit(self, functools.partial(_run, contextvars.copy_context(), adopt, fn), *args, **kwargs)

    @functools.wraps(start)
    def start_in_context(self: threading.Thread) -> None:
        adopt = None if _is_worker(self) else handing_over()
        if adopt is not None:
            self.run = functools.partial(_run, contextvars.copy_context(), adopt, self.run)  # type: ignore[method-assign]
        start(self)

    ThreadPoolExecutor.submit = submit_in_context  # type: ignore[method-assign]
    threading.Thread.start = start_in_context  # type: ignore[method-assign]

    def restore() -> None:
        ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]
        threading.Thread.start = start  # type: ignore[method-assign]

    return restore


def _run(context: contextvars.Context, adopt: Callable[[], None], fn: Any, *args: Any, **kwargs: Any) -> Any:
    context.run(adopt)
    return context.run(fn, *args, **kwargs)


def _is_worker(thread: threading.Thread) -> bool:
    """A pool's worker outlives the call that started it and must not keep its context."""
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", "") == "concurrent.futures.thread" or thread.name.startswith("redecode")
