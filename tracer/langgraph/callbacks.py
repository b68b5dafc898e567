"""What all of LangChain's callbacks share: which span a LangChain run has, and that no fault of ours reaches it.

Chains that are neither a graph nor a node (prompt templates, sequences) leave no span; what they call hangs below
the nearest recorded ancestor. They are the most frequent of all, so they cost a dictionary entry and no more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables.config import var_child_runnable_config

from redecode.tracer.langgraph.pregel import Graph
from redecode.tracer.recorder import LiveSpan, Recorder, count_fault
from redecode.tracer.records import JsonObject, SpanKind

Method = TypeVar("Method", bound=Callable[..., None])


@dataclass(eq=False, slots=True)
class Chat:
    """A model call between its callbacks.

    Attributes:
        messages, params: as given, for when only the callbacks see the call.
        times: when each part of a stream came, UTC ns, likewise.
        claimed: whether the client's request was tied to it.
        live: a fork lets it go live, by whatever client.
        finish: the client seam's way to record what a stream had given when the model call ends first.
    """

    span: LiveSpan
    messages: list[Any]
    params: JsonObject = field(default_factory=dict)
    times: list[int] = field(default_factory=list)
    claimed: bool = False
    live: bool = False
    finish: Callable[[], None] | None = None
    run_id: UUID | None = None


@dataclass(eq=False, slots=True)
class Entry:
    """One LangChain run.

    Attributes:
        span: its own or, without one, the nearest above it; `None` where nothing is recorded.
        own: whether the span is its own.
        begun: name and start of a chain that leaves no span unless it turns out to be a graph.
        graph: if it is one.
        within: the graph whose task it is part of, and that `task`'s id.
        run: a run that was opened around this call because there was none.
        failed: the last call below it that failed.
    """

    span: LiveSpan | None
    own: bool = False
    begun: tuple[str, int] | None = None
    graph: Graph | None = None
    within: Graph | None = None
    task: str | None = None
    chat: Chat | None = None
    run: LiveSpan | None = None
    above: Entry | None = None
    failed: LiveSpan | None = None


def guarded(what: str) -> Callable[[Method], Method]:
    """Around a callback: what goes wrong in it is counted as a loss of the run, and LangChain never hears of it."""

    def wrap(method: Method) -> Method:
        @functools.wraps(method)
        def safe(self: Callbacks, *args: Any, **kwargs: Any) -> None:
            try:
                method(self, *args, **kwargs)
            except Exception as error:
                self.fault(what, error, kwargs.get("run_id"), kwargs.get("parent_run_id"))

        return cast(Method, safe)

    return wrap


class Callbacks(BaseCallbackHandler):
    """The runs LangChain has open. Runs inline: order and context are the data."""

    run_inline = True
    raise_error = False

    def __init__(self, recorder: Recorder, outer: Callable[[], LiveSpan | None]) -> None:
        self.recorder = recorder
        self._outer = outer
        self._entries: dict[UUID, Entry] = {}

    def parent(self) -> LiveSpan | None:
        """The span of the LangChain run this context is in."""
        config = var_child_runnable_config.get()
        manager = (config or {}).get("callbacks")
        entry = self._entries.get(getattr(manager, "parent_run_id", None))  # type: ignore[arg-type]
        return entry.span if entry is not None and entry.span is not None and not entry.span.ended else None

    def span_of(self, run_id: UUID) -> LiveSpan | None:
        """The span of a LangChain run that is going on; the nearest above it where it has none."""
        entry = self._entries.get(run_id)
        return entry.span if entry is not None else None

    def fault(self, what: str, error: Exception, run_id: UUID | None, parent_run_id: UUID | None) -> None:
        """Count it; what is below the run it happened in goes to the span above, or nowhere if there is none."""
        above = self._entries.get(parent_run_id) if parent_run_id is not None else None
        entry = self._entries.get(run_id) if run_id is not None else None
        span = (entry.span if entry is not None else None) or (above.span if above is not None else None)
        count_fault(f"recording {what}", self.recorder, error, span.run_id if span is not None else None)
        if entry is None and run_id is not None and what.startswith("the start"):
            self._entries[run_id] = Entry(span, above=above, within=above.within if above is not None else None)

    def _above(self, parent_run_id: UUID | None) -> Entry | None:
        return self._entries.get(parent_run_id) if parent_run_id is not None else None

    def _leaf(
        self,
        run_id: UUID,
        parent_run_id: UUID | None,
        kind: SpanKind,
        name: str,
        step: str,
        agent: str,
        attributes: JsonObject | None = None,
        *,
        again: bool = False,
        placed: bool = False,
    ) -> Entry | None:
        """Open a span below the LangChain run above; without one, in a run of its own.

        Args:
            agent: names that run.
            again: it repeats the last call of the run above, which failed.
            placed: as `Recorder.start`.

        Returns:
            `None` if nothing is recorded there.
        """
        above = self._above(parent_run_id)
        if above is not None and above.span is None:
            return None
        parent = above.span if above is not None else self._outer()
        run = None
        if parent is None:
            parent = run = self.recorder.start_run(agent)
            run.strands.enter_body()
        if again and above is not None and above.failed is not None and above.failed.call is not None:
            parent.strands.failed(above.failed.call, above.failed.span_id)
        span = self.recorder.start(kind, name, parent, step, attributes=attributes, placed=placed)
        entry = self._entries[run_id] = Entry(span, own=True, run=run, above=above)
        return entry

    def _end_leaf(self, run_id: UUID, attributes: JsonObject, error: BaseException | str | None = None) -> None:
        entry = self._entries.pop(run_id, None)
        if entry is None or not entry.own or entry.span is None:
            return
        if error is not None and entry.above is not None:
            entry.above.failed = entry.span
        self.recorder.end(entry.span, attributes=attributes, error=error)
        if entry.run is not None:
            self.recorder.end(entry.run, error=error)
