"""Names of LangGraph's tasks: what of its metadata is the same on every run, and what tells two tasks of one apart."""

from __future__ import annotations

from typing import Any

from redecode.tracer.records import JsonObject

PULL, PUSH = "__pregel_pull", "__pregel_push"
SENDS = "__pregel_tasks"
"""The channel of `Send`s."""
_HANDLER = "node_error_handler"
_SCHEDULED = "graph:step:"


def is_scheduled(tags: list[str] | None) -> bool:
    """Whether a run is a task that LangGraph scheduled in a superstep."""
    return any(tag.startswith(_SCHEDULED) for tag in tags or ())


def task_id(metadata: JsonObject) -> str:
    """The id of the task that a run belongs to; new on every run of the graph, but the same for all its attempts."""
    return str(metadata.get("langgraph_checkpoint_ns", "")).rsplit("|", 1)[-1].rsplit(":", 1)[-1]


def task_step(name: str, step: int, path: Any) -> str:
    """A task's part of the step key: `ask@1[pull:ask]`, `ask@1[push:3]`."""
    return f"{name}@{step}[{path_text(path)}]"


def path_text(path: Any) -> str:
    """A `langgraph_path` as text: `pull:ask`, `push:1`; the same on every run."""
    parts = []
    for part in path:
        if isinstance(part, tuple | list):
            parts.append(f"({path_text(part)})")
        elif not isinstance(part, bool):
            parts.append(str(part).removeprefix("__pregel_"))
    return ":".join(parts)


def caller_path(path: Any) -> Any:
    """The path of the task that called this one, if it is one of the functional API; else `None`."""
    return path[1] if len(path) == 4 and path[0] == PUSH and path[3] is True else None


def failed_path(path: Any) -> Any:
    """The path of the task whose error this one handles, if it is an error handler; else `None`."""
    return tuple(path[:-2]) if len(path) > 3 and path[-2] == _HANDLER else None


def attempt(tags: list[str] | None) -> bool:
    """Whether a run is a second or later attempt of `Runnable.with_retry`."""
    return any(tag.startswith("retry:attempt:") for tag in tags or ())
