"""The agent seam: LangChain callbacks for runs, nodes, tools and chat models; Pregel for who wrote what.

Callbacks name the channel that triggered a node, not its writer; `PregelLoop.after_tick`, run once per
superstep in sync and async graphs alike, has each task with its writes. It is private: where it is missing
the edges come from superstep numbers alone and say so (provenance `superstep`).

Chains that are neither a graph nor a node (prompt templates, sequences) leave no span; what they call hangs
below the nearest recorded ancestor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import register_configure_hook

from redecode.tracer import conventions as c
from redecode.tracer.recorder import Dependency, LiveSpan, Recorder, never_raise
from redecode.tracer.records import EdgeKind, Fidelity, JsonObject, Provenance, SpanKind

_open_chat: ContextVar[_Chat | None] = ContextVar("redecode_chat", default=None)
TASK_IDS = "langgraph_checkpoint_ns"


@dataclass(eq=False, slots=True)
class _Chat:
    """A chat model call between its callbacks; `claimed` once the client's request was tied to it."""

    span: LiveSpan
    claimed: bool = False
    finish: Callable[[], None] | None = None


@dataclass(eq=False, slots=True)
class _Graph:
    """One running graph: its supersteps so far.

    Attributes:
        step: the superstep whose nodes are in `nodes`.
        before: span ids of the superstep before.
        writers: channel → spans that wrote it and whose write has not yet triggered a node.
    """

    span: LiveSpan
    step: int = -1
    nodes: dict[str, str] = field(default_factory=dict)  # task id → span id of its last attempt
    before: list[str] = field(default_factory=list)
    writers: dict[str, list[str]] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class _Entry:
    """One LangChain run: the span it has or, without one of its own, the nearest above it."""

    span: LiveSpan | None
    own: bool = False
    pending: Callable[[], LiveSpan] | None = None  # makes the span if it turns out to be a graph
    graph: _Graph | None = None
    chat: _Chat | None = None
    task: str | None = None
    parent: _Entry | None = None


class RunHandler(BaseCallbackHandler):
    """Turns LangChain's callbacks into spans and edges. Runs inline: order and context are the data."""

    run_inline = True
    raise_error = False

    def __init__(self, recorder: Recorder, outer: Callable[[], LiveSpan | None]) -> None:
        self.recorder: Recorder | None = recorder
        self._outer = outer
        self._entries: dict[UUID, _Entry] = {}
        self._writes: dict[str, list[str]] = {}  # task id → channels it wrote

    # -- where a call belongs (openai_client.Placing, by way of instrument) --

    def open_decode(self) -> LiveSpan | None:
        """The chat model span opened in this context whose request is about to be sent."""
        chat = _open_chat.get()
        if chat is None or chat.claimed or chat.span.ended:
            return None
        chat.claimed = True
        return chat.span

    def parent(self) -> LiveSpan | None:
        """The span of the LangChain run this context is in."""
        config = var_child_runnable_config.get()
        manager = (config or {}).get("callbacks")
        entry = self._entries.get(getattr(manager, "parent_run_id", None))  # type: ignore[arg-type]
        return entry.span if entry is not None and entry.span is not None and not entry.span.ended else None

    # -- chains: runs, graphs, nodes --

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
        with never_raise("recording the start of a step", self.recorder):
            recorder, metadata = self.recorder, metadata or {}
            if recorder is None:
                return
            name = kwargs.get("name") or (serialized or {}).get("name") or "chain"
            above = self._entries.get(parent_run_id) if parent_run_id is not None else None
            outer = self._outer() if above is None or above.span is None else None
            if outer is not None:
                span = recorder.start(SpanKind.GRAPH, f"invoke_workflow {name}", outer, f"graph:{name}")
                span.strands.enter_body()
                self._entries[run_id] = _Entry(span, own=True, graph=_Graph(span))
            elif above is None or above.span is None:
                attributes = {c.RUN_INPUT: c.to_json(inputs), c.CONVERSATION: metadata.get("thread_id")}
                span = recorder.start_run(name, attributes=attributes)
                span.strands.enter_body()
                self._entries[run_id] = _Entry(span, own=True, graph=_Graph(span))
            elif any(tag.startswith("graph:step:") for tag in tags or ()):
                self._entries[run_id] = self._start_node(recorder, name, above, metadata)
            elif (task := _called_task(name, metadata)) is not None and task != above.task:
                step = f"{name}@{metadata.get('langgraph_step', 0)}[{_path(metadata['langgraph_path'])}]"
                span = recorder.start(SpanKind.NODE, name, above.span, step)
                span.strands.enter_body()
                self._entries[run_id] = _Entry(span, own=True, task=task, parent=above)
            elif kwargs.get("run_type") == "parser":
                span = recorder.start(SpanKind.PARSE, name, above.span, f"parse:{name}")
                self._entries[run_id] = _Entry(span, own=True, parent=above)
            else:
                start_ns, parent = recorder.clock.now_ns(), above.span
                begin = functools.partial(
                    recorder.start,
                    SpanKind.GRAPH,
                    f"invoke_workflow {name}",
                    parent,
                    f"graph:{name}",
                    start_ns=start_ns,
                )
                self._entries[run_id] = _Entry(parent, pending=begin, parent=above)

    def _start_node(self, recorder: Recorder, name: str, above: _Entry, metadata: JsonObject) -> _Entry:
        if above.graph is None:  # the chain above turns out to be a subgraph
            assert above.pending is not None
            above.span, above.own = above.pending(), True
            above.graph = _Graph(above.span)
        graph, step = above.graph, int(metadata.get("langgraph_step", 0))
        task = _task_id(metadata)
        triggers = [str(t) for t in metadata.get("langgraph_triggers", ())]
        if step != graph.step:
            self._next_superstep(graph, step)
        edges = self._node_edges(graph, task, triggers)
        path = _path(metadata.get("langgraph_path", ()))
        attributes = {"langgraph.node": name, "langgraph.step": step, "langgraph.triggers": c.to_json(triggers)}
        span = recorder.start(
            SpanKind.NODE, name, graph.span, f"{name}@{step}[{path}]", attributes=attributes, edges=edges
        )
        span.strands.enter_body()
        graph.nodes[task] = span.span_id
        return _Entry(span, own=True, task=task, parent=above)

    def _next_superstep(self, graph: _Graph, step: int) -> None:
        for task, span_id in graph.nodes.items():
            for channel in self._writes.pop(task, ()):
                graph.writers.setdefault(channel, []).append(span_id)
        graph.before, graph.nodes, graph.step = list(graph.nodes.values()), {}, step

    def _node_edges(self, graph: _Graph, task: str, triggers: list[str]) -> list[Dependency]:
        if (failed := graph.nodes.get(task)) is not None:
            return [(failed, EdgeKind.RETRY, Provenance.RECORDED)]
        edges = []
        for channel in triggers:
            key = "__pregel_tasks" if channel == "__pregel_push" else channel
            edges += [(src, EdgeKind.DATA, Provenance.RECORDED) for src in dict.fromkeys(graph.writers.get(key, ()))]
        edges += [(src, EdgeKind.BARRIER, Provenance.SUPERSTEP) for src in graph.before]
        return edges

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain has ended."""
        with never_raise("recording the end of a step", self.recorder):
            self._end_chain(run_id, outputs, None)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain has failed, or was left by an interrupt or a command to the graph above."""
        with never_raise("recording the failure of a step", self.recorder):
            bubble = any(k.__name__ == "GraphBubbleUp" for k in type(error).__mro__)
            self._end_chain(run_id, None, None if bubble else error, left_by=type(error).__name__ if bubble else None)

    def _end_chain(self, run_id: UUID, outputs: Any, error: BaseException | None, left_by: str | None = None) -> None:
        entry = self._entries.pop(run_id, None)
        if entry is None or not entry.own or entry.span is None or self.recorder is None:
            return
        attributes: JsonObject = {"redecode.left_by": left_by}
        if entry.span.parent is None:
            attributes[c.RUN_OUTPUT] = c.to_json(outputs)
        returns = None
        if entry.graph is not None and entry.graph.nodes:
            kind = EdgeKind.JOIN if len(entry.graph.nodes) > 1 else EdgeKind.RETURN
            returns = [(span_id, kind, Provenance.RECORDED) for span_id in entry.graph.nodes.values()]
            for task in entry.graph.nodes:
                self._writes.pop(task, None)
        self.recorder.end(entry.span, attributes=attributes, error=error, returns=returns)

    # -- chat models: a decode --

    def on_chat_model_start(
        self,
        serialized: JsonObject,
        messages: list[list[Any]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: JsonObject | None = None,
        **kwargs: Any,
    ) -> None:
        """A chat model is called: its decode begins, to be filled in by the client seam, or from the text."""
        with never_raise("recording the start of an FM call", self.recorder):
            if self.recorder is None:
                return
            params = kwargs.get("invocation_params") or {}
            model = str(params.get("model") or params.get("model_name") or (metadata or {}).get("ls_model_name"))
            entry = self._leaf(run_id, parent_run_id, SpanKind.DECODE, f"chat {model}", "chat", model)
            content = [m.model_dump() for m in messages[0]]
            entry.chat = _Chat(entry.span)  # type: ignore[arg-type]
            _open_chat.set(entry.chat)
            if entry.span is not None:
                entry.span.set({c.INPUT_MESSAGES: c.to_json(content)})

    def on_llm_start(
        self,
        serialized: JsonObject,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A text completion model is called."""
        with never_raise("recording the start of an FM call", self.recorder):
            if self.recorder is None:
                return
            params = kwargs.get("invocation_params") or {}
            model = str(params.get("model") or params.get("model_name"))
            entry = self._leaf(run_id, parent_run_id, SpanKind.DECODE, f"text_completion {model}", "chat", model)
            entry.chat = _Chat(entry.span)  # type: ignore[arg-type]
            _open_chat.set(entry.chat)

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """The chat model has answered."""
        with never_raise("recording the end of an FM call", self.recorder):
            entry = self._entries.pop(run_id, None)
            if entry is None or entry.span is None or entry.chat is None or self.recorder is None:
                return
            attributes = {} if entry.chat.claimed else _text_decode(self.recorder, entry.span, response)
            self.recorder.end(entry.span, attributes=attributes)
            self._end_own_run(entry, None)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """The chat model has failed, or its stream was given up."""
        with never_raise("recording the failure of an FM call", self.recorder):
            entry = self._entries.pop(run_id, None)
            if entry is None or entry.span is None or self.recorder is None:
                return
            if entry.chat is not None and entry.chat.finish is not None:
                entry.chat.finish()
            self.recorder.end(entry.span, error=error)
            self._end_own_run(entry, error)

    def claim(self, finish: Callable[[], None]) -> None:
        """The client seam's way to record what a stream had given when the model call ends first."""
        chat = _open_chat.get()
        if chat is not None:
            chat.finish = finish

    # -- tools and retrievers --

    def on_tool_start(
        self,
        serialized: JsonObject,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: JsonObject | None = None,
        inputs: JsonObject | None = None,
        **kwargs: Any,
    ) -> None:
        """A tool is called."""
        with never_raise("recording the start of a tool", self.recorder):
            if self.recorder is None:
                return
            name = kwargs.get("name") or (serialized or {}).get("name") or "tool"
            call_id = kwargs.get("tool_call_id")
            attributes = {
                c.OPERATION: "execute_tool",
                c.TOOL_NAME: name,
                c.TOOL_CALL_ID: call_id,
                c.TOOL_ARGUMENTS: c.to_json(_plain_arguments(inputs) if inputs is not None else input_str),
                c.SIDE_EFFECT: (metadata or {}).get("side_effect"),
            }
            above = self._entries.get(parent_run_id) if parent_run_id is not None else None
            place = above.span.root.tool_order.pop(call_id, None) if above and above.span and call_id else None
            step = f"tool:{name}" if place is None else f"tool:{place}:{name}"
            entry = self._leaf(run_id, parent_run_id, SpanKind.TOOL, f"execute_tool {name}", step, name, attributes)
            if entry.span is not None:
                entry.span.strands.enter_body()

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool has returned."""
        with never_raise("recording the end of a tool", self.recorder):
            result = getattr(output, "content", output)
            failed = getattr(output, "status", None) == "error"
            self._end_leaf(run_id, {c.TOOL_RESULT: c.to_json(result)}, str(result) if failed else None)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool has raised."""
        with never_raise("recording the failure of a tool", self.recorder):
            self._end_leaf(run_id, {}, error)

    def on_retriever_start(
        self, serialized: JsonObject, query: str, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """A retriever is asked."""
        with never_raise("recording the start of a retrieval", self.recorder):
            name = kwargs.get("name") or (serialized or {}).get("name") or "retriever"
            attributes = {c.TOOL_ARGUMENTS: c.to_json(query)}
            self._leaf(
                run_id, parent_run_id, SpanKind.RETRIEVAL, f"retrieval {name}", f"retrieval:{name}", name, attributes
            )

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever has answered."""
        with never_raise("recording the end of a retrieval", self.recorder):
            self._end_leaf(run_id, {c.TOOL_RESULT: c.to_json(documents)}, None)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever has failed."""
        with never_raise("recording the failure of a retrieval", self.recorder):
            self._end_leaf(run_id, {}, error)

    def _leaf(
        self,
        run_id: UUID,
        parent_run_id: UUID | None,
        kind: SpanKind,
        name: str,
        step: str,
        agent: str,
        attributes: JsonObject | None = None,
    ) -> _Entry:
        """Open a span below the LangChain run above; without one, in a run of its own."""
        recorder = self.recorder
        assert recorder is not None
        above = self._entries.get(parent_run_id) if parent_run_id is not None else None
        parent = above.span if above is not None else None
        own_run = None
        if parent is None:
            parent = self._outer()
        if parent is None:
            own_run = parent = recorder.start_run(agent)
        span = recorder.start(kind, name, parent, step, attributes=attributes)
        entry = _Entry(span, own=True, parent=_Entry(own_run, own=True) if own_run is not None else above)
        self._entries[run_id] = entry
        return entry

    def _end_leaf(self, run_id: UUID, attributes: JsonObject, error: BaseException | str | None) -> None:
        entry = self._entries.pop(run_id, None)
        if entry is None or entry.span is None or self.recorder is None:
            return
        self.recorder.end(entry.span, attributes=attributes, error=error)
        self._end_own_run(entry, error)

    def _end_own_run(self, entry: _Entry, error: BaseException | str | None) -> None:
        """End the run that `_leaf` opened for a call made outside any."""
        above = entry.parent
        if above is not None and above.own and above.graph is None and above.pending is None and above.task is None:
            span = above.span
            if span is not None and span.kind is SpanKind.RUN and self.recorder is not None:
                self.recorder.end(span, error=error)

    # -- Pregel --

    def wrote(self, tasks: Any) -> None:
        """A superstep has ended: remember which channels each of its tasks wrote."""
        with never_raise("reading a superstep's writes", self.recorder):
            for task in tasks:
                self._writes[task.id] = [channel for channel, _ in task.writes]


def _task_id(metadata: JsonObject) -> str:
    return str(metadata.get(TASK_IDS, "")).rsplit("|", 1)[-1].rsplit(":", 1)[-1]


def _called_task(name: str, metadata: JsonObject) -> str | None:
    """The id of a functional API task, which is called from its parent's body and not scheduled in a superstep."""
    path = metadata.get("langgraph_path", ())
    called = len(path) == 4 and path[3] is True and metadata.get("langgraph_node") == name
    return _task_id(metadata) if called else None


def _plain_arguments(inputs: JsonObject) -> JsonObject:
    """Tool arguments without what LangGraph injects (state, runtime, store)."""
    return {k: v for k, v in inputs.items() if k not in {"runtime", "state", "store", "config"}}


def _path(path: Any) -> str:
    """A `langgraph_path` as text: `pull:ask`, `push:1`; the same on every run."""
    parts = []
    for part in path:
        if isinstance(part, tuple | list):
            parts.append(f"({_path(part)})")
        elif not isinstance(part, bool):
            parts.append(str(part).removeprefix("__pregel_"))
    return ":".join(parts)


def _text_decode(recorder: Recorder, span: LiveSpan, response: Any) -> JsonObject:
    """A decode known from callbacks alone: fidelity `text`."""
    generation = response.generations[0][0] if response.generations and response.generations[0] else None
    message = getattr(generation, "message", None)
    usage = getattr(message, "usage_metadata", None) or {}
    output = message.model_dump() if message is not None else {"content": getattr(generation, "text", None)}
    return {
        c.FIDELITY: Fidelity.TEXT.value,
        c.REQUEST_MODEL: span.name.split(" ", 1)[-1],
        c.OUTPUT_MESSAGES: c.to_json([output]),
        c.INPUT_TOKENS: usage.get("input_tokens"),
        c.OUTPUT_TOKENS: usage.get("output_tokens"),
        c.SENT_NS: span.start_ns,
        c.DONE_NS: recorder.clock.now_ns(),
    }


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


def install_pregel(handler: RunHandler) -> Callable[[], None]:
    """Wrap `PregelLoop.after_tick`; returns what puts it back. Without it data edges are not recorded."""
    from langgraph.pregel._loop import PregelLoop  # only where the host has it

    original = PregelLoop.after_tick

    @functools.wraps(original)
    def after_tick(self: Any) -> Any:
        handler.wrote(self.tasks.values())
        return original(self)

    PregelLoop.after_tick = after_tick  # type: ignore[method-assign]

    def restore() -> None:
        PregelLoop.after_tick = original  # type: ignore[method-assign]

    return restore
