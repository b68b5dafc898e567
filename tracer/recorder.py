"""The recorder: OpenTelemetry spans in, journal records out, as they happen.

Spans are real OpenTelemetry spans of a provider of our own (the host's provider, exporters and sampling stay
untouched). Our span processor writes a record when a span starts and another when it ends; there is no
queue in between, so nothing is dropped in a burst and a killed process shows what it was doing.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Status, StatusCode

from redecode.tracer import conventions as c
from redecode.tracer.clock import Clock, boot_id
from redecode.tracer.records import EdgeKind, JsonObject, Provenance, Run, Span, SpanKind, ToolStep
from redecode.tracer.spool import JournalWriter, unique_name
from redecode.tracer.strands import Frontier, Strand, Strands

_log = logging.getLogger("redecode")
RECORD_FORMAT = 1

Dependency = tuple[str, EdgeKind, Provenance]
"""A span id that something depends on, how, and how that is known."""


@dataclass(eq=False, slots=True, kw_only=True)
class LiveSpan:
    """A span that is open in this process.

    Attributes:
        strands: who works below it.
        tool_order: tool call id → its place among the calls of the message that asked for it.
        run_input: of a run, its input as plain data.
    """

    otel: otel.Span
    run_id: str
    span_id: str
    parent: LiveSpan | None
    kind: SpanKind
    name: str
    step_key: str
    strand: Strand | None = None
    strands: Strands = field(default_factory=Strands)
    seen: dict[str, int] = field(default_factory=dict)
    tool_order: dict[str, int] = field(default_factory=dict)
    ended: bool = False
    run_input: Any = None

    @property
    def root(self) -> LiveSpan:
        """The run's own span."""
        span = self
        while span.parent is not None:
            span = span.parent
        return span

    def replays(self, run_id: str, mode: str) -> None:
        """Say that this run plays back a recorded one."""
        self.otel.set_attributes({c.SOURCE_RUN: run_id, c.REPLAY_MODE: mode})


class _SpoolProcessor(SpanProcessor):
    """Writes each span to the journal when it starts and when it ends."""

    def __init__(self, journal: JournalWriter) -> None:
        self._journal = journal

    def on_start(self, span: otel.Span, parent_context: Context | None = None) -> None:
        if isinstance(span, ReadableSpan):
            self._journal.write({"t": "start", **_common(span)})

    def on_end(self, span: ReadableSpan) -> None:
        status = "error" if span.status.status_code is StatusCode.ERROR else "ok"
        self._journal.write(
            {"t": "end", **_common(span), "end_ns": span.end_time, "status": status, "error": span.status.description}
        )


def _common(span: ReadableSpan) -> JsonObject:
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    return {
        "run": otel.format_trace_id(context.trace_id),
        "span": otel.format_span_id(context.span_id),
        "parent": otel.format_span_id(parent.span_id) if parent is not None else None,
        "name": span.name,
        "start_ns": span.start_time,
        "attributes": dict(span.attributes or {}),
    }


class Recorder:
    """Records the runs of this process into a store's spool.

    Args:
        store: the store directory; only its `spool/` is written here.
        agent: name of the agent; by default each run's own name.
        agent_version: by default the commit the program's directory is at, if it is a git checkout.
        slo_s: the latency each run should meet, in seconds; recorded with every run.
        labels: recorded with every run.

    Raises:
        StoreUnwritable: the directory cannot be made or written.
    """

    def __init__(
        self,
        store: Path,
        *,
        agent: str | None = None,
        agent_version: str | None = None,
        slo_s: float | None = None,
        labels: JsonObject | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.clock = clock or Clock.start()
        self.rng = rng or random.Random(int.from_bytes(os.urandom(8)))
        self.agent, self.slo_s, self.labels = agent, slo_s, dict(labels or {})
        self.agent_version = agent_version or git_commit(Path.cwd())
        self.store = store
        self.journal = JournalWriter(store / "spool", unique_name(self.clock.wall_ns), self._preamble)
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource({"service.name": "redecode"}),
            # The environment's OTEL_*_LIMIT would cut what we record without a word.
            span_limits=SpanLimits(max_span_attributes=SpanLimits.UNSET, max_span_attribute_length=SpanLimits.UNSET),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(_SpoolProcessor(self.journal))
        self._tracer = self._provider.get_tracer("redecode")
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self.journal.after_fork)

    def _preamble(self) -> JsonObject:
        return {
            "t": "process",
            "format": RECORD_FORMAT,
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "argv": sys.argv,
            "python": sys.version.split()[0],
            "boot_id": boot_id(),
            "wall_ns": self.clock.wall_ns,
            "monotonic_ns": self.clock.monotonic_ns,
        }

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
    ) -> LiveSpan:
        """Open a span below `parent` (`None`: a run of its own).

        Args:
            step: this operation's part of the step key; made unique among its siblings by a count.
            edges: what it depends on, when the caller knows (nodes); by default the strand it runs in tells.
            step_key: the whole key, when the caller knows (a replay repeats the recorded ones).
        """
        strand: Strand | None = None
        before: Frontier = []
        if parent is not None and edges is None:
            strand, before = parent.strands.enter()
            step = f"{strand.label}/{step}" if strand.label else step
        step_key = step_key or self._step_key(parent, step)
        given = {c.KIND: kind.value, c.STEP_KEY: step_key, **_clean(attributes or {})}
        context = Context() if parent is None else otel.set_span_in_context(parent.otel, Context())
        span = self._tracer.start_span(
            name, context=context, attributes=given, start_time=start_ns or self.clock.now_ns()
        )
        ids = span.get_span_context()
        live = LiveSpan(
            otel=span,
            run_id=otel.format_trace_id(ids.trace_id),
            span_id=otel.format_span_id(ids.span_id),
            parent=parent,
            kind=kind,
            name=name,
            step_key=step_key,
            strand=strand,
        )
        if parent is not None:
            known = edges if edges is not None else [(src, k, Provenance.RECORDED) for src, k in before]
            if not known:
                known = [(parent.span_id, EdgeKind.CALL, Provenance.RECORDED)]
            for src, edge_kind, provenance in known:
                self.edge(live.run_id, src, live.span_id, edge_kind, provenance)
        return live

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
        for src, kind, provenance in returns:
            self.edge(live.run_id, src, live.span_id, kind, provenance)
        live.otel.set_attributes(_clean(attributes or {}))
        if error is not None:
            text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
            live.otel.set_attribute(c.ERROR_TYPE, text.split(":", 1)[0])
            if isinstance(error, BaseException):  # so that a playback can raise the same
                live.otel.set_attribute(c.ERROR_CLASS, f"{type(error).__module__}:{type(error).__qualname__}")
            live.otel.set_status(Status(StatusCode.ERROR, text[:2000]))
        live.otel.end(end_ns or self.clock.now_ns())
        if live.parent is not None and live.strand is not None:
            live.parent.strands.leave(live.strand, live.span_id)

    def edge(self, run_id: str, src: str, dst: str, kind: EdgeKind, provenance: Provenance) -> None:
        """Record a dependency."""
        self.journal.write(
            {"t": "edge", "run": run_id, "src": src, "dst": dst, "kind": kind.value, "provenance": provenance.value}
        )

    def start_run(self, name: str, *, start_ns: int | None = None, attributes: JsonObject | None = None) -> LiveSpan:
        """Open a run: a span without a parent, in a trace of its own."""
        agent = self.agent or name
        given = {c.AGENT_NAME: agent, c.AGENT_VERSION: self.agent_version, c.SLO: self.slo_s, **(attributes or {})}
        if self.labels:
            given[c.LABELS] = c.to_json(self.labels)
        live = self.start(SpanKind.RUN, f"invoke_agent {agent}", None, "run", start_ns=start_ns, attributes=given)
        live.run_input = c.from_json(given.get(c.RUN_INPUT))
        return live

    def start_replay(self, source: Run, *, mode: str, start_ns: int) -> LiveSpan:
        """Open a run that replays another one."""
        attributes = {
            c.AGENT_NAME: source.agent,
            c.AGENT_VERSION: source.agent_version,
            c.SOURCE_RUN: source.run_id,
            c.REPLAY_MODE: mode,
            c.SLO: source.slo_s,
            c.RUN_INPUT: c.to_json(source.input),
            c.RUN_OUTPUT: c.to_json(source.output),
        }
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
        self.journal.close()


def _clean(attributes: JsonObject) -> JsonObject:
    return {k: v for k, v in attributes.items() if v is not None}


@contextmanager
def never_raise(what: str) -> Iterator[None]:
    """Around everything that runs inside the host's calls: a fault of ours is logged, never raised."""
    try:
        yield
    except Exception:
        _log.warning("redecode: %s failed; this run's recording is incomplete", what, exc_info=True)


def git_commit(directory: Path) -> str | None:
    """The commit a checkout is at, read from its files; `None` outside one."""
    for folder in (directory, *directory.parents):
        head = folder / ".git" / "HEAD"
        if not head.is_file():
            continue
        try:
            text = head.read_text().strip()
            if not text.startswith("ref: "):
                return text[:12]
            ref = folder / ".git" / text[5:]
            return ref.read_text().strip()[:12] if ref.is_file() else None
        except OSError:
            return None
    return None
