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

from redecode.tracer.strands import HandOver, hand_over


def install() -> Callable[[], None]:
    """Wrap `ThreadPoolExecutor.submit` and `Thread.start`; returns what puts them back."""
    submit: Any = ThreadPoolExecutor.submit
    start: Any = threading.Thread.start

    @functools.wraps(submit)
    def submit_in_context(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        work = hand_over()
        if work is None:
            return submit(self, fn, *args, **kwargs)
        future = submit(self, functools.partial(_run, contextvars.copy_context(), work, fn), *args, **kwargs)
        future.result = _collecting(future.result, work, future.done)
        return future

    @functools.wraps(start)
    def start_in_context(self: Any) -> None:
        work = None if _is_worker(self) else hand_over()
        if work is not None:
            self.run = functools.partial(_run, contextvars.copy_context(), work, self.run)
            self.join = _collecting(self.join, work, lambda: not self.is_alive())
        start(self)

    ThreadPoolExecutor.submit = submit_in_context  # type: ignore[method-assign]
    threading.Thread.start = start_in_context  # type: ignore[method-assign]

    def restore() -> None:
        ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]
        threading.Thread.start = start  # type: ignore[method-assign]

    return restore


def _run(context: contextvars.Context, work: HandOver, fn: Any, *args: Any, **kwargs: Any) -> Any:
    context.run(work.begin)
    return context.run(fn, *args, **kwargs)


def _collecting(method: Any, work: HandOver, done: Callable[[], bool]) -> Any:
    """`method`, telling `work` when it was waited for (not when the wait timed out)."""

    @functools.wraps(method)
    def collecting(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        finally:
            if done():
                work.collect()

    return collecting


def _is_worker(thread: threading.Thread) -> bool:
    """A pool's worker outlives the call that started it and must not keep its context."""
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", "") == "concurrent.futures.thread" or thread.name.startswith("redecode")
