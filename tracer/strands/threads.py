"""Context for plain threads: work handed to a thread belongs to the step that handed it over.

LangChain keeps its run in a context variable, which a `ThreadPoolExecutor` or `Thread` started by hand does
not inherit (before Python's own `thread_inherit_context`), so calls made there used to vanish from the run.
While recording, and only inside a recorded step, both are given a copy of the context, and the thread a strand
of its own. Two ways of going to a thread are not a hand-over: an event loop's own (`asyncio.to_thread`, LangChain's
`run_in_executor`), where the task goes on when the thread has ended.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from redecode.tracer.recorder import count_fault, never_raise
from redecode.tracer.strands.strands import HandOver, end_in_thread, hand_over, move_to, recording_here


def install() -> Callable[[], None]:
    """Wrap `ThreadPoolExecutor.submit` and `Thread.start`; returns what puts them back."""
    submit: Any = ThreadPoolExecutor.submit
    start: Any = threading.Thread.start

    @functools.wraps(submit)
    def submit_in_context(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        work = _to_hand_over(self, fn)
        if work is None:
            return submit(self, fn, *args, **kwargs)
        future = submit(self, functools.partial(_run, contextvars.copy_context(), work, fn), *args, **kwargs)
        with never_raise("following a thread"):
            future.result = collecting(future.result, work, future.done)
        return future

    @functools.wraps(start)
    def start_in_context(self: Any) -> None:
        work = _to_hand_over(None, self)
        if work is not None:
            with never_raise("following a thread"):
                self.join = collecting(self.join, work, lambda: not self.is_alive())
                self.run = functools.partial(_run, contextvars.copy_context(), work, self.run)
        start(self)

    ThreadPoolExecutor.submit = submit_in_context  # type: ignore[method-assign]
    threading.Thread.start = start_in_context  # type: ignore[method-assign]

    def restore() -> None:
        ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]
        threading.Thread.start = start  # type: ignore[method-assign]

    return restore


def _to_hand_over(pool: Any, work: Any) -> HandOver | None:
    """The hand-over of a function to a pool, or of a thread to itself; `None` if there is none."""
    try:
        if not recording_here():
            return None
        if pool is None:
            return None if _is_worker(work) else hand_over(_name_of(getattr(work, "_target", None) or work))
        context = _own_context(work)
        if context is not None and type(pool) is ThreadPoolExecutor and asyncio._get_running_loop() is not None:
            move_to(context)
            return None
        return hand_over(_name_of(work))
    except Exception as error:  # what is going to run matters more than whose it is
        count_fault("following a thread", None, error)
        return None


def _name_of(fn: Any) -> str:
    """What a function to be run elsewhere is called in a step key."""
    while isinstance(fn, functools.partial):
        fn = fn.args[0] if _own_context(fn) is not None and fn.args else fn.func
    return plain_name(fn, getattr(fn, "__module__", None))


def plain_name(work: Any, module: str | None) -> str:
    """The name of a function or coroutine; "" for the helpers of LangChain and LangGraph, which nobody knows."""
    if module is not None and module.startswith(("langchain", "langgraph")):
        return ""
    return str(getattr(work, "__name__", type(work).__name__)).strip("<>")


def _own_context(fn: Any) -> contextvars.Context | None:
    """The context that a function brings along: `partial(context.run, …)`."""
    owner = getattr(fn.func, "__self__", None) if isinstance(fn, functools.partial) else None
    return owner if isinstance(owner, contextvars.Context) else None


def _run(context: contextvars.Context, work: HandOver, fn: Any, *args: Any, **kwargs: Any) -> Any:
    with never_raise("following a thread"):
        context.run(work.begin)
        work.in_thread()  # LangChain's executors bring a context of their own, made before anybody knew of this one
    try:
        return context.run(fn, *args, **kwargs)
    finally:
        with never_raise("following a thread"):
            end_in_thread()


def collecting(method: Any, work: HandOver, done: Callable[[], bool]) -> Any:
    """`method`, telling `work` when it was waited for (not when the wait timed out)."""

    @functools.wraps(method)
    def collecting(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        finally:
            with never_raise("following a thread"):
                if done():
                    work.collect()

    return collecting


def _is_worker(thread: threading.Thread) -> bool:
    """A pool's worker outlives the call that started it and must not keep its context."""
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", "") == "concurrent.futures.thread" or thread.name.startswith("redecode")
