"""The recorder: what happens in, journal records out, as it happens.

Ids, times and names are OpenTelemetry's (a run is a trace), so spans leave as OTLP and those of others come in; the
host's own provider, exporters and sampling stay untouched. A record is written when a span starts and another when
it ends; there is no queue in between, so nothing is dropped in a burst and a killed process shows what it was doing.
Rejected: spans of the OpenTelemetry SDK, which cost two to three times as much before anything is written.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from redecode.tracer import conventions as c
from redecode.tracer.clock import Clock
from redecode.tracer.events import SpanEvent, process_event
from redecode.tracer.privacy.keys import Keyring
from redecode.tracer.privacy.redaction import Privacy, asked_privacy
from redecode.tracer.records import EdgeKind, JsonObject, Provenance, Run, Span, SpanKind, ToolStep
from redecode.tracer.spool import JournalWriter, unique_name
from redecode.tracer.strands.strands import Call, Strands, run_here

_log = logging.getLogger("redecode")

Dependency = tuple[str, EdgeKind, Provenance]
"""A span id that something depends on, how, and how that is known."""


_begun_for: ContextVar[tuple[str | None, JsonObject]] = ContextVar("redecode_begun_for", default=(None, {}))


@contextmanager
def begun_for(mode: str, labels: JsonObject) -> Iterator[None]:
    """Runs that begin in this context are of this mode and have these labels: they are not the agent's own."""
    before = _begun_for.set((mode, labels))
    try:
        yield
    finally:
        _begun_for.reset(before)


@dataclass(eq=False, slots=True, kw_only=True)
class LiveSpan:
    """A span that is open in this process.

    Attributes:
        event: what will be written of it at its end.
        call: what it is to the strand that called it; `None` if a framework scheduled it.
        strands: who works below it.
        tool_order: tool call id → its place among the calls of the message that asked for it.
        run_input: of a run, its input as plain data.
        memories: of a run, those of graphs within that have begun in it.
    """

    event: SpanEvent
    parent: LiveSpan | None
    kind: SpanKind
    run_id: str
    span_id: str
    name: str
    step_key: str
    start_ns: int
    call: Call | None = None
    strands: Strands = field(default_factory=Strands)
    seen: dict[str, int] = field(default_factory=dict)
    tool_order: dict[str, int] = field(default_factory=dict)
    ended: bool = False
    run_input: Any = None
    memories: set[tuple[str, str]] = field(default_factory=set)

    @property
    def root(self) -> LiveSpan:
        """The run's own span."""
        span = self
        while span.parent is not None:
            span = span.parent
        return span

    def set(self, attributes: JsonObject) -> None:
        """Add attributes; `None` leaves one out. What is set after the end is not recorded."""
        self.event.attributes.update(_clean(attributes))

    def flows(self) -> None:
        """A part of its output has reached its caller, who may go on with that before it ends."""
        if self.call is not None:
            self.call.flowing = True

    def label(self, labels: JsonObject) -> None:
        """Give a run that is open further labels, or others of the same name."""
        self.set({c.LABELS: c.to_json({**(c.from_json(self.event.attributes.get(c.LABELS)) or {}), **labels})})

    def replays(self, run_id: str, mode: str) -> None:
        """Say that this run plays back a recorded one."""
        self.set({c.SOURCE_RUN: run_id, c.REPLAY_MODE: mode})


class Recorder:
    """Records the runs of this process into a store's spool.

    Args:
        store: the store directory; only its `spool/` is written here.
        agent: name of the agent; by default each run's own name.
        agent_version: by default the commit the program's directory is at, if it is a git checkout.
        slo_s: the latency each run should meet, in seconds; recorded with every run.
        labels: recorded with every run.
        privacy: what may be written; by default what the environment says (docs/privacy.md).
        patient: go on without a store that cannot be made or written, as `JournalWriter`.

    Raises:
        StoreUnwritable: the directory cannot be made or written.
        RedecodeError: the environment asks for a redaction that there is not.
    """

    def __init__(
        self,
        store: Path,
        *,
        agent: str | None = None,
        agent_version: str | None = None,
        slo_s: float | None = None,
        labels: JsonObject | None = None,
        privacy: Privacy | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        patient: bool = False,
    ) -> None:
        self.clock = clock or Clock.start()
        self.rng = rng or random.Random(int.from_bytes(os.urandom(8)))
        self.agent, self.slo_s, self.labels = agent, slo_s, dict(labels or {})
        self.agent_version = agent_version or git_commit()
        self.store = store
        self.privacy = privacy if privacy is not None else asked_privacy()
        self.keys = Keyring()
        self.journal = JournalWriter(store / "spool", unique_name(self.clock.wall_ns), self._preamble, patient=patient)
        self.listeners: list[Callable[[SpanEvent], None]] = []
        # Of this lock and all like it: a stream that is dropped ends in the garbage collector, wherever that runs.
        self._lock = threading.RLock()
        os.register_at_fork(before=self.journal.before_fork, after_in_child=self._after_fork)
        _open.append(self)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self.rng.seed(int.from_bytes(os.urandom(8)))  # the parent goes on with the ids this one would have made
        self.journal.after_fork()

    def _preamble(self) -> JsonObject:
        return process_event(self.clock, self.keys.arguments(sys.argv if self.privacy is None else sys.argv[:1]))

    def start(
        self,
        kind: SpanKind,
        name: str,
        parent: LiveSpan | None,
        step: str,
        *,
        start_ns: int | None = None,
        attributes: JsonObject | None = None,
        edges: list[Dependency] | None = None,
        step_key: str | None = None,
        placed: bool = False,
    ) -> LiveSpan:
        """Open a span below `parent` (`None`: a run of its own).

        Args:
            step: this operation's part of the step key; made unique among its siblings by a count.
            edges: what it depends on, when the caller knows (nodes); by default the strand it runs in tells.
            step_key: the whole key, when the caller knows (a replay repeats the recorded ones).
            placed: `step` says its place among its siblings, whatever thread or task it runs in.
        """
        call: Call | None = None
        if parent is not None and edges is None:
            call = parent.strands.enter()
            step = step if placed or not call.label else f"{call.label}/{step}"
        step_key = step_key or self._step_key(parent, step)
        with self._lock:
            span_id = f"{self.rng.getrandbits(64) or 1:016x}"
            run_id = parent.run_id if parent is not None else f"{self.rng.getrandbits(128) or 1:032x}"
        if call is not None:
            call.span_id = span_id
        begin = start_ns or self.clock.now_ns()
        event = SpanEvent(
            run=run_id,
            span=span_id,
            parent=parent.span_id if parent is not None else None,
            kind=kind.value,
            name=name,
            step_key=step_key,
            start_ns=begin,
            attributes=_clean(attributes) if attributes else {},
        )
        if parent is not None:
            known = edges or []
            if call is not None:
                known = [(src, how, Provenance.RECORDED) for src, how in call.before]
            if not known:
                known = [(parent.span_id, EdgeKind.CALL, Provenance.RECORDED)]
            event.edges = [(src, edge_kind.value, provenance.value) for src, edge_kind, provenance in known]
        self._write(event)
        return LiveSpan(
            event=event,
            parent=parent,
            kind=kind,
            run_id=run_id,
            span_id=span_id,
            name=name,
            step_key=step_key,
            start_ns=begin,
            call=call,
            strands=Strands(run_id),
        )

    def end(
        self,
        live: LiveSpan,
        *,
        attributes: JsonObject | None = None,
        error: BaseException | str | None = None,
        end_ns: int | None = None,
        returns: list[Dependency] | None = None,
    ) -> None:
        """Close a span; a second call is ignored.

        Args:
            returns: what this end waited for, when the caller knows (graphs); by default the strands below tell.
        """
        with self._lock:
            if live.ended:
                return
            live.ended = True
        if returns is None:
            returns = [(src, kind, Provenance.RECORDED) for src, kind in live.strands.rest()]
        event = live.event
        event.edges += [(src, kind.value, provenance.value) for src, kind, provenance in returns]
        if attributes:
            live.set(attributes)
        event.status = "ok"
        if error is not None:
            text = error if isinstance(error, str) else _said(error)
            text = self.keys.text(text[:2000])
            event.status, event.error = "error", text
            event.attributes[c.ERROR_TYPE] = text.split(":", 1)[0]
            if isinstance(error, BaseException):  # so that a playback can raise the same
                event.attributes[c.ERROR_CLASS] = f"{type(error).__module__}:{type(error).__qualname__}"
        event.end_ns = end_ns or self.clock.now_ns()
        written = self._write(event)
        if live.parent is not None and live.call is not None:
            live.parent.strands.leave(live.call, live.span_id)
        if written is not None:
            for listen in self.listeners:
                listen(written)

    def _write(self, event: SpanEvent) -> SpanEvent | None:
        """Write what may be written of a span; returns that, `None` if it failed."""
        try:
            if self.privacy is not None:
                event = self.privacy.span(event, partial(self.journal.lose, event.run))
            self.journal.append(event.payload(), event.run)
        except Exception as error:  # what a caller's object does when it is turned into text is not ours
            self.lose(event.run, f"a {event.kind} could not be written down", error)
            return None
        return event

    def lose(self, run_id: str | None, what: str, error: Exception) -> None:
        """Count an event that could not be recorded, and say why: in an error's own words only where content may be."""
        why = f"{what}: {type(error).__name__}"
        if self.privacy is None:
            with suppress(Exception):
                why = self.keys.text(f"{what}: {error!r}")
        self.journal.lose(run_id, why)

    def edge(self, run_id: str, src: str, dst: str, kind: EdgeKind, provenance: Provenance) -> None:
        """Record a dependency."""
        self.journal.write(
            {"t": "edge", "run": run_id, "src": src, "dst": dst, "kind": kind.value, "provenance": provenance.value}
        )

    def start_run(self, name: str, *, start_ns: int | None = None, attributes: JsonObject | None = None) -> LiveSpan:
        """Open a run: a span without a parent, in a trace of its own."""
        agent = self.agent or name
        given = {c.AGENT_NAME: agent, c.AGENT_VERSION: self.agent_version, c.SLO: self.slo_s, **(attributes or {})}
        mode, labels = _begun_for.get()
        if mode is not None:
            given[c.REPLAY_MODE] = mode
        if self.labels or labels:
            given[c.LABELS] = c.to_json({**self.labels, **labels})
        live = self.start(SpanKind.RUN, f"invoke_agent {agent}", None, "run", start_ns=start_ns, attributes=given)
        live.run_input = c.from_json(given.get(c.RUN_INPUT))
        return live

    def start_replay(self, source: Run, *, mode: str, start_ns: int, labels: JsonObject | None = None) -> LiveSpan:
        """Open a run that replays another one; it has the other's labels, and these."""
        attributes = {
            c.AGENT_NAME: source.agent,
            c.AGENT_VERSION: source.agent_version,
            c.SOURCE_RUN: source.run_id,
            c.REPLAY_MODE: mode,
            c.SLO: source.slo_s,
            c.RUN_INPUT: c.to_json(source.input),
            c.RUN_OUTPUT: c.to_json(source.output),
        }
        if given := {**source.labels, **(labels or {})}:
            attributes[c.LABELS] = c.to_json(given)
        return self.start(
            SpanKind.RUN, f"invoke_agent {source.agent}", None, "run", start_ns=start_ns, attributes=attributes
        )

    @staticmethod
    def mirrored(span: Span, tool: ToolStep | None = None) -> JsonObject:
        """Attributes for the replay's copy of a recorded span (and of the tool step it was)."""
        attributes = {**span.attributes, c.SOURCE_SPAN: span.span_id}
        if tool is not None:
            attributes |= {
                c.TOOL_NAME: tool.tool,
                c.TOOL_CALL_ID: tool.call_id,
                c.TOOL_ARGUMENTS: c.to_json(tool.arguments),
                c.TOOL_RESULT: c.to_json(tool.result),
                c.SIDE_EFFECT: tool.side_effect,
            }
        return attributes

    def _step_key(self, parent: LiveSpan | None, step: str) -> str:
        if parent is None:
            return step
        with self._lock:
            n = parent.seen.get(step, 0)
            parent.seen[step] = n + 1
        return f"{parent.step_key}/{step}" + (f"#{n}" if n else "")

    def close(self) -> None:
        """Flush to disk and release the journal."""
        if self in _open:
            _open.remove(self)
        self.journal.close()


_open: list[Recorder] = []


def _said(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # an exception of the host's may do anything when it is looked at
        return type(error).__name__


def _clean(attributes: JsonObject) -> JsonObject:
    return {k: v for k, v in attributes.items() if v is not None}


@contextmanager
def never_raise(what: str, recorder: Recorder | None = None, run: str | None = None) -> Iterator[None]:
    """Around everything that runs inside the host's calls: a fault of ours is counted, never raised."""
    try:
        yield
    except Exception as error:
        count_fault(what, recorder, error, run)


def count_fault(what: str, recorder: Recorder | None, error: Exception, run: str | None = None) -> None:
    """Count a fault of ours, as a loss of that run; for places too hot for `never_raise`.

    The first is a line in the log (the journal's), and each is there in full for who asks for debug messages.

    Args:
        recorder: `None`: every one that is open.
        run: by default the one that is going on here.
    """
    with suppress(Exception):
        _log.debug("redecode: %s failed", what, exc_info=error)
        for counting in [recorder] if recorder is not None else list(_open):
            counting.lose(run or run_here(), f"{what} failed", error)


def git_commit(directory: Path | None = None) -> str | None:
    """The commit a checkout is at, read from its files; `None` outside one.

    Args:
        directory: by default the current one.
    """
    try:
        return _git_commit(directory or Path.cwd())
    except OSError:  # the current directory may even be gone
        return None


def _git_commit(directory: Path) -> str | None:
    for folder in (directory, *directory.parents):
        head = folder / ".git" / "HEAD"
        if not head.is_file():
            continue
        text = head.read_text().strip()
        if not text.startswith("ref: "):
            return text[:12]
        ref = folder / ".git" / text[5:]
        return ref.read_text().strip()[:12] if ref.is_file() else None
    return None
