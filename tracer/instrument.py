"""`instrument()`: start recording this process's agents.

Also `run()` and `step()`, for programs that call FMs outside LangGraph and want a run around them.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redecode.tracer import conventions as c
from redecode.tracer.errors import RedecodeError
from redecode.tracer.export.send import Target
from redecode.tracer.fm import other_clients
from redecode.tracer.fm.client import ClientSeam
from redecode.tracer.fm.engine_probe import Engines
from redecode.tracer.import_hooks import AfterImport
from redecode.tracer.player import Player
from redecode.tracer.privacy.redaction import asked_privacy
from redecode.tracer.privacy.rules import Rule
from redecode.tracer.recorder import LiveSpan, Recorder, never_raise
from redecode.tracer.records import JsonObject, SpanKind
from redecode.tracer.strands import tasks, threads

if TYPE_CHECKING:
    from redecode.tracer.export.forward import Forwarder

_log = logging.getLogger("redecode")
# Whichever of these is imported last completes what the callbacks need; which one that is depends on the program.
_LANGCHAIN = (
    "langchain_core.callbacks.manager",
    "langchain_core.runnables.config",
    "langchain_core.runnables.base",
    "langchain_core.language_models.chat_models",
    "langchain_core.tools.base",
)
_by_hand: ContextVar[LiveSpan | None] = ContextVar("redecode_by_hand", default=None)


def default_store() -> Path:
    """`$REDECODE_STORE`, else `.redecode` in the current directory."""
    return Path(os.environ.get("REDECODE_STORE") or ".redecode")


class Recording:
    """Recording of this process, from `instrument()` until `stop()`."""

    def __init__(self, recorder: Recorder, forwarder: Forwarder | None = None) -> None:
        self.recorder, self.forwarder = recorder, forwarder
        if forwarder is not None:
            recorder.listeners.append(forwarder)
        self.player: Player | None = None
        self.engines = Engines(recorder.journal, recorder.clock)
        self.client = ClientSeam(recorder, self.engines, self)
        self._handler: Any = None
        self._imports = AfterImport()
        self._undo: list[Callable[[], None]] = []

    def start(self) -> None:
        """Install every seam whose library is, or will be, imported."""
        self._undo += [threads.install(), tasks.install()]
        seams = [("uvloop", self._uvloop), ("openai._base_client", self._openai)]
        seams += [(module, self._langchain) for module in _LANGCHAIN]
        seams += [(module, partial(self._http, module)) for module in other_clients.MODULES]
        for module, seam in (*seams, ("langgraph.pregel._runner", self._pregel)):
            with never_raise(f"instrumenting {module}", self.recorder):
                self._imports.call(module, seam)
        atexit.register(self.stop)

    def play(self, player: Player | None) -> None:
        """Answer FM calls and tools from `player` (`None`: from engine and world again)."""
        listeners = self.recorder.listeners
        if self.player is not None:
            listeners.remove(self.player.ended)
        if player is not None:
            listeners.append(player.ended)
        self.player = self.client.player = player

    def stop(self) -> None:
        """Remove every seam, fetch what is outstanding and flush to disk. Safe to call twice."""
        atexit.unregister(self.stop)
        last = [self.forwarder.close] if self.forwarder is not None else []
        for end in (self._imports.remove, *reversed(self._undo), self.engines.drain, self.recorder.close, *last):
            with never_raise("ending the recording", self.recorder):
                end()
        self._undo.clear()

    def flush(self) -> None:
        """Fetch outstanding step clocks and fsync."""
        self.engines.drain()
        self.recorder.journal.sync()

    def _openai(self) -> None:
        try:
            self.client.install()
        except AttributeError as error:
            _log.warning(
                "redecode: this version of `openai` cannot be recorded (%s); FM calls of other clients are", error
            )
            return
        self._undo.append(self.client.remove)

    def _langchain(self) -> None:
        # Imported here: LangChain is the host's, and `redecode.tracer` works without it.
        partly = sys.modules.get("redecode.tracer.langgraph.agents")
        if self._handler is not None or (partly is not None and not hasattr(partly, "RunHandler")):
            return  # already done, or our own import of LangChain brought us here: that call finishes it
        try:
            from redecode.tracer.langgraph import agents as langgraph
            from redecode.tracer.langgraph import tokens
        except ImportError:
            return  # LangChain's modules import each other; in the middle of that we wait for the next of them

        self._handler = langgraph.RunHandler(self.recorder, _by_hand.get)
        langgraph.install(self._handler)
        self._undo += [langgraph.remove, tokens.install(self._handler)]
        self._imports.call("langchain_core.tools.base", self._tools)
        self._imports.call("langchain_core.language_models.chat_models", self._models)

    def _tools(self) -> None:
        from redecode.tracer.langgraph import tool_seam

        self._undo.append(tool_seam.install(lambda: self.player, self._handler))

    def _models(self) -> None:
        from redecode.tracer.langgraph import model_seam

        self._undo.append(model_seam.install(lambda: self.player, self._handler))

    def _pregel(self) -> None:
        self._langchain()
        if self._handler is None:
            return
        from redecode.tracer.langgraph import context_seam
        from redecode.tracer.langgraph.pregel import PregelSeam

        seam = PregelSeam(self._handler)
        seam.install()
        self._undo += [seam.remove, context_seam.install(lambda: self.player, self._handler)]

    def _http(self, module: str) -> None:
        watching = lambda: self.player is not None  # noqa: E731 - as short as what it says
        self._undo.append(other_clients.install(module, watching, self.client.goes_out))

    def _uvloop(self) -> None:
        self._undo.append(tasks.install(sys.modules["uvloop"].Loop))

    # fm.client.Placing
    def open_decode(self, body: JsonObject) -> LiveSpan | None:
        """The decode a chat model's callbacks have opened for the request about to be sent."""
        return self._handler.open_decode(body) if self._handler is not None else None

    def parent(self) -> LiveSpan | None:
        """What the request is made from: LangChain's current run, else a run or step opened by hand."""
        found = self._handler.parent() if self._handler is not None else None
        return found if found is not None else _by_hand.get()

    def goes_live(self) -> bool:
        """Whether a model of LangChain's that is being called here may be live."""
        return self._handler is not None and self._handler.goes_live()

    def claim(self, finish: Callable[[], None]) -> None:
        """Passed on to the callbacks."""
        if self._handler is not None:
            self._handler.claim(finish)


_active: list[Recording] = []


def active() -> Recording | None:
    """The recording of this process, if `instrument()` was called."""
    return _active[-1] if _active else None


def instrument(
    store: str | os.PathLike[str] | None = None,
    *,
    agent: str | None = None,
    agent_version: str | None = None,
    slo_s: float | None = None,
    labels: JsonObject | None = None,
    content: bool | None = None,
    redact: Rule | bool | Iterable[Rule] | None = None,
    forward: str | None = None,
    forward_headers: Mapping[str, str] | None = None,
) -> Recording:
    """Record every LangGraph run and OpenAI-client FM call of this process from now on.

    Call it once, before or after importing LangGraph; a second call (or one under `redecode record`) changes nothing.
    A store that cannot be made or written is one line in the log, and what is lost for that reason is counted: the
    program goes on as it would have.

    Args:
        store: the store directory, made if missing; default `$REDECODE_STORE`, else `.redecode`.
        agent: name recorded with every run; default each graph's own name.
        agent_version: default the commit of the current directory's git checkout.
        slo_s: the latency each run should meet, in seconds.
        labels: recorded with every run.
        content: whether what was said is recorded, or its structure, lengths and times alone; default
            `$REDECODE_CONTENT` (`on` or `off`), else on.
        redact: what to take out before anything is written: `True` or "patterns" for every built-in pattern, names of
            some, "module:function", a function (name of the attribute, text) → text, (name, regex, replacement), or a
            list of these; default `$REDECODE_REDACT`, else nothing. See docs/privacy.md.
        forward: an OTLP/HTTP backend that also gets every span once it is written (content too, unless that is off);
            "env" means `$OTEL_EXPORTER_OTLP_ENDPOINT` and its headers. See docs/export.md.
        forward_headers: sent to it with every request.

    Returns:
        The recording; `stop()` ends it, and the end of the process does too.

    Raises:
        RedecodeError: there is no such redaction, or `forward` is no URL.
    """
    path = _absolute(Path(store) if store is not None else default_store())
    current = active()
    if current is not None:
        if store is not None and current.recorder.store != path:
            _log.warning("redecode: already recording into %s, not into %s", current.recorder.store, path)
        if content is False or redact:
            _log.warning("redecode: already recording under the privacy of the first instrument(), not of this one")
        return current
    privacy = asked_privacy(content=content, redact=redact)
    target = Target.parse(forward, forward_headers) if forward is not None else None
    recorder = Recorder(
        path, agent=agent, agent_version=agent_version, slo_s=slo_s, labels=labels, privacy=privacy, patient=True
    )
    recording = Recording(recorder, _forwarder(recorder, target) if target is not None else None)
    recording.start()
    _active.append(recording)
    return recording


def _absolute(path: Path) -> Path:
    try:
        return path.absolute()
    except OSError:  # the current directory is gone
        return path


def _forwarder(recorder: Recorder, target: Target) -> Forwarder:
    from redecode.tracer.export.forward import Forwarder  # who does not forward need not import OTLP

    service = os.environ.get("OTEL_SERVICE_NAME") or recorder.agent or "redecode"
    return Forwarder(target, recorder.store, service=service)


def uninstrument() -> None:
    """Stop recording; what was recorded is on disk when this returns."""
    while _active:
        _active.pop().stop()


def play(player: Player | None) -> None:
    """Answer this process's FM calls and tools from a recording (`None`: from engine and world again).

    Raises:
        RedecodeError: `instrument()` has not been called.
    """
    current = active()
    if current is None:
        raise RedecodeError("nothing is instrumented; call redecode.tracer.instrument() first")
    current.play(player)


def current_step() -> str | None:
    """The step key of the code that is running here; `None` outside any recorded step."""
    recording = active()
    span = recording.parent() if recording is not None else None
    return span.step_key if span is not None else None


@contextmanager
def run(name: str, *, attributes: JsonObject | None = None) -> Iterator[None]:
    """Everything inside is one run called `name`; without `instrument()` it does nothing."""
    recording, span = active(), None
    if recording is not None:
        with never_raise("the start of a run", recording.recorder):
            span = recording.recorder.start_run(name, attributes=attributes)
    with _within(recording, span):
        yield


@contextmanager
def step(name: str, *, cached: bool = False) -> Iterator[None]:
    """Everything inside is one step of the run around it; `cached`: it stands for one, with an answer from a cache."""
    recording, span = active(), None
    if recording is not None:
        with never_raise("the start of a step", recording.recorder):
            parent = recording.parent()
            if parent is not None:
                attributes = {c.OPERATION: "step"}
                kind = SpanKind.CACHE if cached else SpanKind.NODE
                span = recording.recorder.start(kind, name, parent, name, attributes=attributes)
    with _within(recording, span):
        yield


@contextmanager
def _within(recording: Recording | None, span: LiveSpan | None) -> Iterator[None]:
    if recording is None or span is None:
        yield
        return
    token = _by_hand.set(span)
    failed: BaseException | None = None
    try:
        with never_raise("the start of a step", recording.recorder, span.run_id):
            span.strands.enter_body(span.parent.strands if span.parent is not None else None)
        yield
    except BaseException as error:
        failed = error
        raise
    finally:
        _by_hand.reset(token)
        with never_raise("the end of a step", recording.recorder, span.run_id):
            recording.recorder.end(span, error=failed)
