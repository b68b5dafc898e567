"""LangGraph's loop: who wrote what a task reads, what was answered from the node cache, when a graph begins.

Callbacks name the channel that triggered a node, not its writer, and say nothing of a node that did not run because
its result was cached. `PregelLoop` knows: once per superstep, in sync and async graphs alike, it has every task with
its path, triggers and writes. It is private: what is not there is not used (`install` says what), and the edges then
come from superstep numbers alone (provenance `superstep`).

State that a task only may read (its node's input has the key) gives edges of provenance `declared`. Reads are not
observed: the state a node gets is the user's own dict, dataclass or pydantic model, and stays that.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from redecode.tracer import conventions as c
from redecode.tracer.langgraph.besides import besides, memory_of
from redecode.tracer.langgraph.task_names import PUSH, SENDS, caller_path, failed_path, task_step
from redecode.tracer.recorder import Dependency, LiveSpan, Recorder, count_fault, never_raise
from redecode.tracer.records import EdgeKind, Provenance, SpanKind
from redecode.tracer.strands.strands import hand_over
from redecode.tracer.strands.tasks import awaited
from redecode.tracer.strands.threads import collecting

_log = logging.getLogger("redecode")
_stepping = threading.Lock()


def _after_fork() -> None:
    global _stepping
    _stepping = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)


@dataclass(eq=False, slots=True)
class Graph:
    """One running graph: its supersteps so far.

    Attributes:
        loop: LangGraph's own state of it; `None` where that cannot be seen.
        step: the superstep whose tasks are in `tasks`.
        tasks: task id → span of its last attempt.
        before: spans of the superstep before.
        called: as `tasks`, of the functional API, whose tasks are called from others.
        triggers: channel → spans that wrote it and whose write has not yet triggered a task.
        sends: id of a pending `Send` → the span that sent it.
        sources: state channel → spans that its value comes from, as far as no other of them had read it before.
        interrupted: whether one of its tasks has interrupted it.
    """

    span: LiveSpan
    loop: Any = None
    step: int = -1
    tasks: dict[str, LiveSpan] = field(default_factory=dict)
    before: list[LiveSpan] = field(default_factory=list)
    called: dict[str, LiveSpan] = field(default_factory=dict)
    triggers: dict[str, list[str]] = field(default_factory=dict)
    sends: dict[int, str] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)
    interrupted: bool = False

    def enter_step(self, step: int) -> None:
        """A task of this superstep begins, or the superstep itself does."""
        if step != self.step:
            with _stepping:  # where only the tasks tell, several begin at once
                if step != self.step:
                    self.before, self.tasks, self.step = list(self.tasks.values()), {}, step

    def edges(self, task_id: str) -> list[Dependency]:
        """What a scheduled task that begins now depends on."""
        if (failed := self.tasks.get(task_id)) is not None:
            return [(failed.span_id, EdgeKind.RETRY, Provenance.RECORDED)]
        task = self.loop.tasks.get(task_id) if self.loop is not None else None
        if task is not None and (path := failed_path(task.path)) is not None:
            failed = next((s for t in self.loop.tasks.values() if t.path == path and (s := self.tasks.get(t.id))), None)
            return [((failed or self.span).span_id, EdgeKind.DATA if failed else EdgeKind.CALL, Provenance.RECORDED)]
        writers = dict.fromkeys(self._writers(task)) if task is not None else {}
        edges: list[Dependency] = [(src, EdgeKind.DATA, Provenance.RECORDED) for src in writers]
        edges += [(span.span_id, EdgeKind.BARRIER, Provenance.SUPERSTEP) for span in self.before]
        if not edges:
            edges.append((self.span.span_id, EdgeKind.CALL, Provenance.RECORDED))
        if task is not None:
            read = dict.fromkeys(src for channel in self._reads(task) for src in self.sources.get(channel, ()))
            edges += [(src, EdgeKind.DATA, Provenance.DECLARED) for src in read if src not in writers]
        return edges

    def _writers(self, task: Any) -> Iterable[str]:
        """The spans that triggered a task."""
        channels = self.loop.channels
        if task.path[0] == PUSH:
            writer = self.sends.get(id(channels[SENDS].get()[task.path[1]]))
            return (writer,) if writer is not None else ()
        return (
            src
            for channel in task.triggers
            if channel in self.triggers and channels[channel].is_available()
            for src in self.triggers[channel]
        )

    def _reads(self, task: Any) -> Iterable[str]:
        """The state channels that are part of a task's input; a `Send` brings its own instead."""
        if task.path[0] == PUSH:
            return ()
        channels = self.loop.nodes[task.name].channels
        return (channels,) if isinstance(channels, str) else channels

    def wrote(self) -> None:
        """A superstep has ended and its writes are about to be applied."""
        loop = self.loop
        for task in loop.tasks.values():
            for channel in task.triggers:
                if channel in self.triggers and loop.channels[channel].is_available():
                    self.triggers.pop(channel, None)
        self.sends.clear()
        written: dict[str, list[str]] = {}
        read: set[str] = set()
        for task in loop.tasks.values():
            span = self.tasks.get(task.id)
            for channel, value in task.writes:
                if channel == SENDS:
                    if span is not None:
                        self.sends[id(value)] = span.span_id
                elif channel in loop.channels:
                    writers = written.setdefault(channel, [])
                    if span is not None and span.span_id not in writers:
                        writers.append(span.span_id)
            if span is not None:
                read.update(set(self._reads(task)).intersection(channel for channel, _ in task.writes))
        for channel, writers in written.items():
            if channel in loop.trigger_to_nodes:
                self.triggers.setdefault(channel, []).extend(writers)
            # What a value was made of is older writes too, unless it was overwritten or a writer had read them.
            whole = channel in read or isinstance(loop.specs[channel], _overwritten())
            self.sources[channel] = writers if whole else [*self.sources.get(channel, ()), *writers]

    def returns(self) -> list[Dependency] | None:
        """What the end of the graph waits for; `None` if it is not known to have run anything."""
        last = [span for span in self.tasks.values() if span.ended] or [span for span in self.before if span.ended]
        kind = EdgeKind.JOIN if len(last) > 1 else EdgeKind.RETURN
        return [(span.span_id, kind, Provenance.RECORDED) for span in last] or None

    def interruption(self) -> str | None:
        """Where the graph stopped to be resumed later, if it did."""
        status = getattr(self.loop, "status", "")
        return {"interrupt_before": "before", "interrupt_after": "after"}.get(
            status, "inside" if self.interrupted else None
        )


@functools.cache
def _overwritten() -> tuple[type, ...]:
    """Channels whose new value has nothing of the old one."""
    from langgraph import channels

    return (
        channels.LastValue,
        channels.LastValueAfterFinish,
        channels.AnyValue,
        channels.EphemeralValue,
        channels.UntrackedValue,
    )


class Graphs(Protocol):
    """Knows the graph of a LangChain run."""

    recorder: Recorder

    def graph(self, run_id: UUID) -> Graph | None:
        """The graph that this run turned out to be; `None` if it is not recorded."""
        ...


class PregelSeam:
    """Listens to LangGraph's loops. A version that has other insides is let go of, once, with a warning."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._undo: list[Callable[[], None]] = []
        self._working = True

    def install(self) -> None:
        """Wrap what is there; says in the log what is missing."""
        missing = []
        for module, owner, name, wrap in (
            ("langgraph.pregel._loop", "PregelLoop", "_first", self._first),
            ("langgraph.pregel._loop", "PregelLoop", "tick", self._tick),
            ("langgraph.pregel._loop", "PregelLoop", "after_tick", self._after_tick),
            ("langgraph.pregel._loop", "SyncPregelLoop", "match_cached_writes", self._match),
            ("langgraph.pregel._loop", "AsyncPregelLoop", "amatch_cached_writes", self._match_async),
            ("langgraph.pregel._runner", None, "_call", self._call),
            ("langgraph.pregel._runner", None, "_acall", self._call),
        ):
            try:
                holder = importlib.import_module(module)
                holder = getattr(holder, owner) if owner else holder
                original = vars(holder)[name]
            except (ImportError, AttributeError, KeyError):
                missing.append(f"{owner or module}.{name}")
                continue
            setattr(holder, name, functools.wraps(original)(wrap(original)))
            self._undo.append(functools.partial(setattr, holder, name, original))
        if missing:
            _log.warning(
                "redecode: this version of LangGraph lacks %s; edges and cache hits that come from there are missing",
                ", ".join(missing),
            )

    def remove(self) -> None:
        """Put everything back as it was."""
        while self._undo:
            self._undo.pop()()

    def _watch(self, what: str, see: Callable[[Any], None], loop: Any) -> None:
        if not self._working:
            return
        try:
            see(loop)
        except Exception as error:
            # One of these is there at every superstep: what failed once because LangGraph changed will fail always.
            self._working = not isinstance(error, AttributeError | KeyError | TypeError)
            count_fault(what, self._graphs.recorder, error)

    def _graph(self, loop: Any, *, first: bool = False) -> Graph | None:
        if loop.manager is None:
            return None
        graph = self._graphs.graph(loop.manager.run_id)
        if graph is not None and graph.loop is not loop:
            if graph.loop is None and graph.span.parent is None:
                with never_raise("what a graph is given besides its input", self._graphs.recorder, graph.span.run_id):
                    if told := besides(loop, first=first):
                        graph.span.set({c.RUN_BESIDES: c.to_json(told)})
            elif graph.loop is None and first:
                self._remembers(graph.span.root, loop)
            graph.loop = loop
            graph.span.strands.scheduled = True
        return graph

    @staticmethod
    def _remembers(run: LiveSpan, loop: Any) -> None:
        """A graph within a run begins: the run says of one that remembers earlier ones of its conversation that it
        does, since its own state says nothing of that.
        """
        memory = memory_of(loop)
        if memory is None or memory[0] != run.event.attributes.get(c.CONVERSATION):
            return
        if loop.step > 0 and memory not in run.memories:
            told = c.from_json(run.event.attributes.get(c.RUN_BESIDES)) or {}
            run.set({c.RUN_BESIDES: c.to_json({**told, "remembering": True})})
        run.memories.add(memory)

    def _first(self, original: Any) -> Any:
        def see(loop: Any) -> None:
            self._graph(loop, first=True)

        def first(loop: Any, *args: Any, **kwargs: Any) -> Any:
            self._watch("reading what a graph knew before", see, loop)
            return original(loop, *args, **kwargs)

        return first

    def _tick(self, original: Any) -> Any:
        def see(loop: Any) -> None:
            graph = self._graph(loop)
            if graph is not None:
                graph.enter_step(loop.step)

        def tick(loop: Any) -> Any:
            more = original(loop)
            if more:
                self._watch("reading a superstep's tasks", see, loop)
            return more

        return tick

    def _after_tick(self, original: Any) -> Any:
        def see(loop: Any) -> None:
            graph = self._graph(loop)
            if graph is not None:
                graph.wrote()

        def after_tick(loop: Any) -> Any:
            self._watch("reading a superstep's writes", see, loop)
            return original(loop)

        return after_tick

    def _match(self, original: Any) -> Any:
        def match_cached_writes(loop: Any) -> Any:
            if loop.cache is None:
                return original(loop)
            begun = time.monotonic_ns()
            matched = original(loop)
            self._watch("reading cache hits", lambda loop: self._hits(loop, matched, begun), loop)
            return matched

        return match_cached_writes

    def _match_async(self, original: Any) -> Any:
        async def amatch_cached_writes(loop: Any) -> Any:
            if loop.cache is None:
                return await original(loop)
            begun = time.monotonic_ns()
            matched = await original(loop)
            self._watch("reading cache hits", lambda loop: self._hits(loop, matched, begun), loop)
            return matched

        return amatch_cached_writes

    def _hits(self, loop: Any, matched: Iterable[Any], begun: int) -> None:
        """Tasks answered from the node cache: the step that each would have been, without its body."""
        graph = self._graph(loop)
        if graph is None:
            return
        graph.enter_step(loop.step)
        recorder = self._graphs.recorder
        begun_ns = recorder.clock.utc_ns(begun)
        for task in matched:
            if task.id in graph.tasks or task.id in graph.called:
                continue  # it is running: another one with the same input has ended meanwhile
            step, attributes = task_step(task.name, loop.step, task.path), {c.NODE: task.name, c.SUPERSTEP: loop.step}
            if (path := caller_path(task.path)) is None:
                edges = graph.edges(task.id)
                span = graph.tasks[task.id] = recorder.start(
                    SpanKind.CACHE, task.name, graph.span, step, start_ns=begun_ns, attributes=attributes, edges=edges
                )
            else:
                caller = next(t for t in loop.tasks.values() if t.path == path)
                parent = graph.called.get(caller.id) or graph.tasks[caller.id]
                span = graph.called[task.id] = recorder.start(
                    SpanKind.CACHE, task.name, parent, step, start_ns=begun_ns, attributes=attributes, placed=True
                )
            recorder.end(span)

    def _call(self, original: Any) -> Any:
        """A task of the functional API is called: a strand of its own, waited for when its future is asked."""

        def call(*args: Any, **kwargs: Any) -> Any:
            work = None
            with never_raise("following a task", self._graphs.recorder):
                work = hand_over("task", passing=True)
            if work is None:
                return original(*args, **kwargs)
            future = work.start(lambda: original(*args, **kwargs))
            with never_raise("following a task", self._graphs.recorder):
                if isinstance(future, Future):
                    future.result = collecting(future.result, work, future.done)  # type: ignore[method-assign]
                elif future is not None:
                    work.awaited(awaited(future, own=1))  # LangGraph itself is called at its end
            return future

        return call
