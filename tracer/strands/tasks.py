"""asyncio tasks: each started inside a recorded step is a strand of its own, in the order they are started.

Tasks inherit the context, so their calls find their step by themselves; what is lost without this is which of them
is which. Everything that starts one (`create_task`, `gather`, `TaskGroup`, `ensure_future`) goes through the loop's
`create_task`. A task that is given a context is not handed anything: it is how LangChain, LangGraph and `asyncio.run`
go on elsewhere and wait; nor is one of `asyncio.wait_for`, which is a task on Python 3.11 only.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import weakref
from collections.abc import Callable
from types import CodeType
from typing import Any

from redecode.tracer.recorder import count_fault, never_raise
from redecode.tracer.strands.strands import go_on, hand_over, move_to, recording_here
from redecode.tracer.strands.threads import plain_name

_WAIT_FOR: CodeType = asyncio.wait_for.__code__


def install(loop_class: Any = asyncio.BaseEventLoop) -> Callable[[], None]:
    """Wrap `create_task` of a class of loops; returns what puts it back."""
    create: Any = loop_class.create_task
    inherited = "create_task" not in vars(loop_class)

    @functools.wraps(create)
    def create_task(self: Any, coro: Any, **kwargs: Any) -> Any:
        work, same = None, False
        try:
            if (context := kwargs.get("context")) is not None:
                move_to(context)
            elif recording_here():
                same = _waits()
                work = go_on() if same else hand_over(_name_of(coro))
        except Exception as error:
            count_fault("following a task", None, error)
        if work is None:
            return create(self, coro, **kwargs)
        task = work.start(lambda: create(self, coro, **kwargs))
        if not same:
            with never_raise("following a task"):
                work.awaited(awaited(task))
        return task

    loop_class.create_task = create_task

    def restore() -> None:
        if inherited:
            del loop_class.create_task
        else:
            loop_class.create_task = create

    return restore


def _name_of(coro: Any) -> str:
    frame = getattr(coro, "cr_frame", None)
    return plain_name(coro, frame.f_globals.get("__name__") if frame is not None else None)


def _waits() -> bool:
    """Whether the task is about to be made by `asyncio.wait_for`, for the one who waits."""
    frame = sys._getframe(2)  # whoever called `create_task`: `ensure_future`, called by `wait_for`
    for _ in range(3):
        if frame.f_code is _WAIT_FOR:
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False


def awaited(future: Any, *, own: int = 0) -> Callable[[], bool]:
    """Whether somebody waits for a task or future: all that asyncio tells is who is to be called at its end.

    Args:
        own: so many of those are not waiting.
    """
    there = weakref.ref(future)

    def asked() -> bool:
        known = there()
        return known is None or len(getattr(known, "_callbacks", None) or ()) > own

    return asked
