"""The seam of a fork's context: a task of LangGraph's may get another context than its graph was run with.

LangGraph hands each task its runtime in the task's own config, made when a superstep is prepared; that is where a fork
can change the context from some step on. It notices if it was never asked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from redecode.tracer.langgraph.pregel import Graphs
from redecode.tracer.langgraph.task_names import task_step
from redecode.tracer.player import Player

_RUNTIME = "__pregel_runtime"


def install(player: Callable[[], Player | None], graphs: Graphs) -> Callable[[], None]:
    """Wrap the loop's `tick`, after the tracer's own seam of it; returns what puts it back.

    Args:
        player: who is asked for the context of each task, `None` to leave it.
    """
    try:
        from langgraph.pregel._loop import PregelLoop

        original: Any = PregelLoop.tick
    except (ImportError, AttributeError):  # private: of another version
        return lambda: None

    @functools.wraps(original)
    def tick(loop: Any) -> Any:
        more = original(loop)
        playing = player()
        if more and playing is not None and loop.manager is not None:
            graph = graphs.graph(loop.manager.run_id)
            if graph is not None:
                for task in loop.tasks.values():
                    if not task.writes:
                        _offer(playing, graph, task, loop.step)
        return more

    loops: Any = PregelLoop
    loops.tick = tick

    def restore() -> None:
        loops.tick = original

    return restore


def _offer(playing: Player, graph: Any, task: Any, step: int) -> None:
    """Let the player change the context of one task."""
    configurable = task.config.get("configurable") or {}
    runtime: Any = configurable.get(_RUNTIME)
    context = getattr(runtime, "context", None)
    key = f"{graph.span.step_key}/{task_step(task.name, step, task.path)}"
    wanted = playing.context(graph.span, key, graph.edges(task.id), context)
    if wanted is not context:
        configurable[_RUNTIME] = runtime.override(context=wanted)
