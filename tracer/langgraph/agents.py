"""The agent seam: LangChain's callbacks for runs, graphs and nodes; models and tools are in the modules beside it.

A node's span is opened and closed by its callbacks; what it depended on is what `pregel` has seen of its graph.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from langchain_core.tracers.context import register_configure_hook

from redecode.tracer import conventions as c
from redecode.tracer.langgraph.callbacks import Entry, guarded
from redecode.tracer.langgraph.models import ModelCallbacks
from redecode.tracer.langgraph.pregel import Graph
from redecode.tracer.langgraph.task_names import caller_path, is_scheduled, task_id, task_step
from redecode.tracer.langgraph.tools import ToolCallbacks
from redecode.tracer.recorder import never_raise
from redecode.tracer.records import JsonObject, SpanKind


class RunHandler(ModelCallbacks, ToolCallbacks):
    """Turns LangChain's callbacks into spans and edges."""

    def graph(self, run_id: UUID) -> Graph | None:
        """The graph that this run turned out to be."""
        entry = self._entries.get(run_id)
        return self._as_graph(entry) if entry is not None and entry.span is not None else None

    def _as_graph(self, entry: Entry) -> Graph:
        if entry.graph is None:
            assert entry.span is not None
            if entry.begun is not None:
                name, start_ns = entry.begun
                entry.span = self.recorder.start(
                    SpanKind.GRAPH, f"invoke_workflow {name}", entry.span, f"graph:{name}", start_ns=start_ns
                )
                entry.own, entry.begun = True, None
            entry.graph = Graph(entry.span)
        return entry.graph

    @guarded("the start of a step")
    def on_chain_start(
        self,
        serialized: JsonObject | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: JsonObject | None = None,
        **kwargs: Any,
    ) -> None:
        """A chain begins: a run if nothing is above it, a node if LangGraph scheduled it, else nothing yet."""
        name = kwargs.get("name") or (serialized or {}).get("name") or "chain"
        above = self._entries.get(parent_run_id) if parent_run_id is not None else None
        if above is None:
            self._entries[run_id] = self._start_root(name, inputs, metadata or {})
        elif above.span is None:
            self._entries[run_id] = Entry(None, above=above)  # its run could not be recorded
        elif metadata is not None and is_scheduled(tags):
            self._entries[run_id] = self._start_node(name, above, metadata)
        elif above.within is not None and metadata is not None and (task := _called(name, above, metadata)):
            self._entries[run_id] = self._start_called(name, task, above, metadata)
        elif kwargs.get("run_type") == "parser":
            span = self.recorder.start(SpanKind.PARSE, name, above.span, f"parse:{name}")
            self._entries[run_id] = Entry(span, own=True, above=above, within=above.within, task=above.task)
        else:
            begun = (name, self.recorder.clock.now_ns())
            self._entries[run_id] = Entry(above.span, begun=begun, within=above.within, task=above.task, above=above)

    def _start_root(self, name: str, inputs: Any, metadata: JsonObject) -> Entry:
        outer = self._outer()
        if outer is not None:
            return Entry(outer, begun=(name, self.recorder.clock.now_ns()))
        attributes = {c.RUN_INPUT: c.to_json(inputs), c.CONVERSATION: metadata.get("thread_id")}
        span = self.recorder.start_run(name, attributes=attributes)
        if isinstance(labels := metadata.get(c.GIVEN_LABELS), dict):
            span.label(labels)
        span.strands.enter_body()
        return Entry(span, own=True)

    def _start_node(self, name: str, above: Entry, metadata: JsonObject) -> Entry:
        graph, step, task = self._as_graph(above), int(metadata.get("langgraph_step", 0)), task_id(metadata)
        graph.enter_step(step)
        attributes = {
            c.NODE: name,
            c.SUPERSTEP: step,
            c.TRIGGERS: c.to_json([str(trigger) for trigger in metadata.get("langgraph_triggers", ())]),
        }
        key = task_step(name, step, metadata.get("langgraph_path", ()))
        edges = graph.edges(task)
        span = self.recorder.start(SpanKind.NODE, name, graph.span, key, attributes=attributes, edges=edges)
        graph.tasks[task] = span
        span.strands.enter_body()
        return Entry(span, own=True, within=graph, task=task, above=above)

    def _start_called(self, name: str, task: str, above: Entry, metadata: JsonObject) -> Entry:
        """A task of the functional API, which is called from its caller's body and not scheduled in a superstep."""
        graph, parent = above.within, above.span
        assert graph is not None and parent is not None
        step = int(metadata.get("langgraph_step", 0))
        failed = graph.called.get(task)
        if failed is not None and failed.call is not None:
            parent.strands.failed(failed.call, failed.span_id)
        attributes = {c.NODE: name, c.SUPERSTEP: step}
        key = task_step(name, step, metadata["langgraph_path"])
        span = self.recorder.start(SpanKind.NODE, name, parent, key, attributes=attributes, placed=True)
        graph.called[task] = span
        span.strands.enter_body(parent.strands)
        return Entry(span, own=True, within=graph, task=task, above=above)

    @guarded("the end of a step")
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain has ended."""
        entry = self._entries.pop(run_id, None)
        if entry is not None and entry.own:
            self._end(entry, outputs, None)

    @guarded("the failure of a step")
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain has failed, or was left by an interrupt or a command to the graph above."""
        entry = self._entries.pop(run_id, None)
        if entry is None:
            return
        if entry.own:
            self._end(entry, None, error)

    def _end(self, entry: Entry, outputs: Any, error: BaseException | str | None) -> None:
        span, graph = entry.span, entry.graph
        assert span is not None
        attributes: JsonObject = {}
        if error is not None:
            if any(kind.__name__ == "GraphBubbleUp" for kind in type(error).__mro__):
                attributes[c.LEFT_BY] = type(error).__name__
                if entry.within is not None and type(error).__name__ != "ParentCommand":
                    entry.within.interrupted = True
                error = None
            elif isinstance(error, GeneratorExit):
                error = c.CUT_SHORT
        returns = None
        with never_raise("the end of a step", self.recorder, span.run_id):  # the span ends whatever is known of its end
            if span.parent is None:
                attributes[c.RUN_OUTPUT] = c.to_json(outputs)
            if graph is not None:
                attributes[c.INTERRUPTED] = graph.interruption()
                returns = graph.returns()
        self.recorder.end(span, attributes=attributes, error=error, returns=returns)


def _called(name: str, above: Entry, metadata: JsonObject) -> str | None:
    """The id of the functional API task that begins; `None` if it is something else, of a task that has begun."""
    if metadata.get("langgraph_node") != name or caller_path(metadata.get("langgraph_path", ())) is None:
        return None
    task = task_id(metadata)
    return task if task != above.task else None


class _Door:
    """What LangChain's hook reads: the handler of this process, in every thread and context alike.

    A context variable would be empty in a thread started without a copy of the context, and LangChain
    calls `.get()` and nothing else.
    """

    def __init__(self) -> None:
        self.handler: RunHandler | None = None

    def get(self) -> RunHandler | None:
        """The handler, or `None` while nothing is recorded."""
        return self.handler


_door = _Door()
_hooked: list[bool] = []


def install(handler: RunHandler) -> None:
    """Hand the handler to every LangChain callback manager made from now on."""
    _door.handler = handler
    if not _hooked:
        register_configure_hook(_door, inheritable=True)  # type: ignore[arg-type]
        _hooked.append(True)


def remove() -> None:
    """Hand out no handler any more."""
    _door.handler = None
