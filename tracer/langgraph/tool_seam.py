"""The tool seam of a playback: LangChain tools answer from the recording instead of running.

Callbacks only watch, so while something is played back each call runs on a copy of the tool whose body is
the recorded answer; argument checks, callbacks and message formatting stay LangChain's own.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import time
from collections.abc import Callable
from typing import Any

from redecode.tracer.player import Played, Player
from redecode.tracer.recorder import LiveSpan


def install(player: Callable[[], Player | None], parent: Callable[[], LiveSpan | None]) -> Callable[[], None]:
    """Wrap `BaseTool.run` and `arun`; returns what puts them back.

    Args:
        player: who answers now, `None` to let tools run.
        parent: the span of the tool being run (LangChain's current run, inside the tool's body).
    """
    from langchain_core.tools import BaseTool  # only where the host has it

    run: Any = BaseTool.run
    arun: Any = BaseTool.arun

    def answer(tool: Any, playing: Player, arguments: dict[str, Any]) -> Played:
        span = parent()
        if span is None:
            raise RuntimeError(f"tool {tool.name} runs outside any recorded step; it cannot be played back")
        return playing.tool(span, tool.name, arguments)

    def value(tool: Any, played: Played) -> Any:
        if played.error is not None:
            raise played.error
        return (played.value, None) if tool.response_format == "content_and_artifact" else played.value

    def stand_in(tool: Any, playing: Player) -> Any:
        clone = copy.copy(tool)

        def body(*args: Any, **kwargs: Any) -> Any:
            played = answer(tool, playing, kwargs)
            time.sleep(played.wait_s)
            return value(tool, played)

        async def body_async(*args: Any, **kwargs: Any) -> Any:
            played = answer(tool, playing, kwargs)
            await asyncio.sleep(played.wait_s)
            return value(tool, played)

        object.__setattr__(clone, "_run", body)
        object.__setattr__(clone, "_arun", body_async)
        return clone

    @functools.wraps(run)
    def run_or_play(self: Any, *args: Any, **kwargs: Any) -> Any:
        playing = player()
        return run(self if playing is None else stand_in(self, playing), *args, **kwargs)

    @functools.wraps(arun)
    async def arun_or_play(self: Any, *args: Any, **kwargs: Any) -> Any:
        playing = player()
        return await arun(self if playing is None else stand_in(self, playing), *args, **kwargs)

    BaseTool.run = run_or_play  # type: ignore[method-assign]
    BaseTool.arun = arun_or_play  # type: ignore[method-assign]

    def restore() -> None:
        BaseTool.run = run  # type: ignore[method-assign]
        BaseTool.arun = arun  # type: ignore[method-assign]

    return restore
