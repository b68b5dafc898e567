"""Fork: the user's own program runs, answered from a recording up to a step, and live from there on.

A call is before the fork point if it is not that step and does not depend on it. What it depends on are the edges that
the tracer records as the program runs, so a call that the recording never had is placed like any other: everything that
is not a descendant of the step stays recorded, the other branches of a fan-out too. A step that comes after it only
because LangGraph's barrier made it wait keeps its recorded answer as long as it asks what was recorded.

Live means: FM calls go to the engine, changed as the `Overrides` say. A tool runs only if it was named; else it answers
what the same call (tool and arguments) had answered, and a call that was never made is a `ReplayDivergence`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redecode.replay.comparison.changes import decode_differences, tool_differences
from redecode.replay.comparison.divergence import differences, same
from redecode.replay.errors import ReplayDivergence, ReplayError
from redecode.replay.program.answers import plain_json
from redecode.replay.program.fork_point import AFTER, BEFORE, BESIDE, ForkPoint
from redecode.replay.program.overrides import Overrides
from redecode.replay.program.player import LIVE, Changed, Playback, loaded, playing
from redecode.replay.program.sources import Source
from redecode.tracer import (
    ANSWERED_BY,
    CONVERSATION,
    OVERRIDDEN,
    REPLAY_OPTIONS,
    TOOL_ARGUMENTS,
    Dependency,
    FmRequest,
    Live,
    LiveSpan,
    Played,
    RecordedRun,
    Span,
    SpanEvent,
    SpanKind,
    ToolStep,
    instrument,
    plain,
    play,
)


class Fork(Playback):
    """Answers from recorded runs up to a step of the first of them (a `tracer.Player`).

    Args:
        runs: the run that is forked, and others that the program makes, which are played back.
        until: the step that is the first to be live: its step key, or enough of its end to tell it from others.
        live_tools: names of tools (and retrievers) that may run after it.
        pace, pin, changed: as of a `Playback`, before the fork point.

    Attributes:
        until: the whole step key.
        reached: whether the program has come to that step.

    Raises:
        ReplayError: there is no such step, or it is inside a tool that may not run.
        TooLittleRecorded: as a `Playback`.
    """

    def __init__(
        self,
        runs: Sequence[RecordedRun],
        until: str,
        overrides: Overrides | None = None,
        *,
        live_tools: Collection[str] = (),
        pace: float = 1.0,
        pin: Iterable[str] = (),
        changed: Changed = Changed.REFUSE,
    ) -> None:
        super().__init__(runs, pace=pace, pin=pin, changed=changed)
        self._forked = next(s for s in self._sources.all if s.run_id == runs[0].run.run_id)
        step = find_step(runs[0], until)
        self.until, self.reached = step.step_key, False
        self._overrides, self._live_tools = overrides or Overrides(), frozenset(live_tools)
        self._around = _tools_around(runs[0], step)
        for tool in self._around.values():
            if tool not in self._live_tools:
                raise ReplayError(
                    f"step {self.until} is inside tool {tool}, which runs only if it is named: --live-tool {tool}"
                )
        self._point = ForkPoint(self._is_until, self._continues)
        self._changed_context = False

    @property
    def options(self) -> dict[str, Any]:
        """What is recorded with the fork."""
        return {"until": self.until, **self._overrides.to_json(), "live_tools": sorted(self._live_tools)}

    @property
    def unused(self) -> str | None:
        """Why the fork did not become what was asked; `None` if it did."""
        return None if self.reached else f"the program ended without coming to {self.until}"

    def decode(self, span: LiveSpan, request: FmRequest) -> Played | Live:
        """The recorded answer, or none after the fork point."""
        return super().decode(span, request) if self._recorded(span, request) else self._live(span)

    def model(self, span: LiveSpan, request: FmRequest) -> Played | Live | None:
        """Likewise, of a LangChain model."""
        known = self._forked.decodes.get(span.step_key)
        if known is not None and known.base_url is not None:
            return None
        return super().model(span, request) if self._recorded(span, request) else self._live(span)

    def tool(self, span: LiveSpan, name: str, arguments: Any) -> Played | Live:
        """The recorded result, or after the fork point that of the same call, or none if the tool may run."""
        if span.step_key in self._around and self._is_forked(span):
            return self._runs(span)
        state = self._point.place(span)
        if state == BEFORE:
            return super().tool(span, name, arguments)
        source = self._sources.taken_by(span.root.run_id) or self._forked
        recorded = source.tools.get(span.step_key)
        if state == BESIDE and recorded is not None and not tool_differences(recorded, name, arguments):
            return self._tool_answer(source, span, recorded)
        self._point.depends(span)
        if name in self._live_tools:
            return self._runs(span)
        found = _same_call(source, span.step_key, name, arguments)
        if found is None:
            raise self._refused(source, span, f"call of tool {name} with these arguments", name, source.tools)
        return self._tool_answer(source, span, found)

    def retrieval(self, span: LiveSpan, query: str) -> Played | Live:
        """As `tool`."""
        if self._point.place(span) == BEFORE:
            return super().retrieval(span, query)
        source = self._sources.taken_by(span.root.run_id) or self._forked
        known = source.spans.get(span.step_key)
        if (
            known is not None
            and known.kind == SpanKind.RETRIEVAL
            and same(plain_json(known.attributes.get(TOOL_ARGUMENTS)), query)
        ):
            return super().retrieval(span, query)
        self._point.depends(span)
        name = span.name.removeprefix("retrieval ")
        if name in self._live_tools:
            return self._runs(span)
        raise self._refused(source, span, f"query of retriever {name}", name, ())

    def context(self, graph: LiveSpan, step_key: str, edges: list[Dependency], context: Any) -> Any:
        """The changed context, from the task with the fork point in it on.

        Raises:
            ReplayError: the context cannot be changed so.
        """
        if not self._overrides.context:
            return context
        here = self._is_forked(graph) and (self.until == step_key or self.until.startswith(f"{step_key}/"))
        if not here and max(self._point.place(graph), self._point.of_edges(edges)) < AFTER:
            return context
        changed = self._overrides.of_context(context)
        self._changed_context = True
        return changed

    def other(self, span: LiveSpan | None, what: str) -> None:
        """Anything else is live after the fork point.

        Raises:
            ReplayDivergence: before it.
        """
        if span is None or self._point.place(span) < AFTER:
            super().other(span, what)

    def ended(self, event: SpanEvent) -> None:
        """What follows it is placed by where it was."""
        self._point.ended(event)

    def _begin(self, source: Source, root: LiveSpan) -> None:
        super()._begin(source, root)
        if source is self._forked:
            self._mark(root)

    def _mark(self, root: LiveSpan) -> None:
        root.replays(self._forked.run_id, "fork")
        root.set({REPLAY_OPTIONS: json.dumps(self.options)})

    def _recorded(self, span: LiveSpan, request: FmRequest) -> bool:
        """Whether an FM call is answered from the recording."""
        state = self._point.place(span)
        if state == BESIDE:
            source = self._source(span, request)
            known = source.decodes.get(span.step_key)
            there = source.spans.get(span.step_key)
            if known is not None and not decode_differences(known, request, there.attributes if there else None):
                return True
            self._point.depends(span)  # what it waited for has changed what it asks
        return state == BEFORE

    def _live(self, span: LiveSpan) -> Live:
        self._runs(span)
        overrides = self._overrides
        if not (overrides.to_json().keys() - {"context"}):
            return Live()

        def change(body: dict[str, Any]) -> dict[str, Any]:
            changed = overrides.body(body, here=span.step_key == self.until)
            if found := differences(plain(body), plain(changed)):
                told = [{"path": d.path, "asked": _said(d.recorded), "sent": _said(d.asked)} for d in found]
                span.set({OVERRIDDEN: json.dumps(told)})
            return changed

        return Live(change=change, base_url=overrides.base_url)

    def _runs(self, span: LiveSpan) -> Live:
        if self._overrides.context and not self._changed_context:
            raise ReplayError(f"step {span.step_key} is in no LangGraph task whose context could be changed")
        span.set({ANSWERED_BY: LIVE})
        return Live()

    def _refused(
        self, source: Source, span: LiveSpan, what: str, name: str, known: Collection[str]
    ) -> ReplayDivergence:
        return self._unknown(source, span, what, known, (), way_out=f"to let it run: --live-tool {name}")

    def _is_forked(self, span: LiveSpan) -> bool:
        source = self._sources.taken_by(span.root.run_id)
        if source is None:  # the run begins here
            found = self._sources.find(span, None, self._begin)
            source = found if isinstance(found, Source) else None
        return source is self._forked

    def _is_until(self, span: LiveSpan) -> bool:
        """Whether a span is the fork point, which is then reached."""
        found = span.step_key == self.until and self._is_forked(span)
        self.reached = self.reached or found
        return found

    def _continues(self, root: LiveSpan) -> bool:
        """Whether a run goes on with the conversation that was forked, after the fork point: all of it is live."""
        thread = root.event.attributes.get(CONVERSATION)
        if not self.reached or thread is None or thread != self._forked.recorded.run.conversation_id:
            return False
        if self._sources.taken_by(root.run_id) is None:
            self._mark(root)
        return True


@contextmanager
def fork(
    run: str | RecordedRun,
    *others: str | RecordedRun,
    until: str,
    store: str | Path | None = None,
    into: str | Path | None = None,
    model: str | None = None,
    prompt: str | None = None,
    messages: Mapping[int, str] | None = None,
    temperature: float | None = None,
    sampling: Mapping[str, Any] | None = None,
    base_url: str | None = None,
    context: Mapping[str, Any] | None = None,
    live_tools: Collection[str] = (),
    pace: float = 1.0,
    pin: Iterable[str] = (),
    changed: Changed | str = Changed.REFUSE,
) -> Iterator[Fork]:
    """Answer this process's agents from a recorded run up to a step, and let them go live from there on.

    Args:
        run: the run to fork: its id (or enough of its beginning), or what `Store.load` gave.
        others: runs that the program makes besides, to be played back.
        until: the first step to be live; see `find_step`.
        store: the store or published dataset that has them; default as for `instrument`.
        into: the store the fork itself is recorded in; default `store`.
        model, prompt, messages, sampling, base_url, context: as in `Overrides`.
        temperature: one of the sampling parameters.
        live_tools: tools that may run from there on.
        pace, pin, changed: as in `Playback`.

    Raises:
        ReplayDivergence: at the end, if there was one that the program caught and went on from.
        ReplayError: there is no such step, or the program never came to it.
        UnknownRun, AmbiguousRun: the store has no such run, or several.
        TooLittleRecorded: as `Playback`.
    """
    source, runs = loaded((run, *others), store)
    warm = {} if temperature is None else {"temperature": temperature}
    overrides = Overrides(
        model=model,
        prompt=prompt,
        messages=messages or {},
        sampling={**warm, **(sampling or {})},
        base_url=base_url,
        context=context or {},
    )
    player = Fork(runs, until, overrides, live_tools=live_tools, pace=pace, pin=pin, changed=Changed(changed))
    with playing(player, into if into is not None else source):
        yield player
    if player.divergences:
        raise player.divergences[0]
    if player.unused is not None:
        raise ReplayError(player.unused)


def start_from_settings(
    *,
    store: str,
    source: str,
    runs: list[str],
    until: str,
    overrides: dict[str, Any],
    live_tools: Sequence[str] = (),
    pace: float,
    pin: Sequence[str] = (),
    changed: str = "refuse",
) -> None:
    """Begin a fork in a program started by `redecode replay --mode fork`.

    Args:
        store: where the fork is recorded.
        source: the store or published dataset that has the runs, the one to fork first.
        overrides: as `Overrides.to_json` gives them.
    """
    _, recorded = loaded(runs, source)
    player = Fork(
        recorded,
        until,
        Overrides.from_json(overrides),
        live_tools=live_tools,
        pace=pace,
        pin=pin,
        changed=Changed(changed),
    )
    instrument(store)
    play(player)


def find_step(recorded: RecordedRun, step: str) -> Span:
    """The step of a recorded run that is meant.

    Args:
        step: a step key, or enough of its end to tell it from others.

    Raises:
        ReplayError: there is none, or there are several.
    """
    keys = {s.step_key: s for s in recorded.spans}
    found = [key for key in keys if key == step] or [key for key in keys if key.endswith(f"/{step}")]
    run = recorded.run.run_id[:12]
    if not found:
        close = difflib.get_close_matches(step, keys, n=3, cutoff=0.0)
        raise ReplayError(f"run {run} has no step {step}; nearest: {', '.join(close)} (`redecode show {run}` has all)")
    if len(found) > 1:
        raise ReplayError(f"{step} could be {len(found)} steps of run {run}: {', '.join(sorted(found)[:5])}")
    return keys[found[0]]


def _tools_around(recorded: RecordedRun, step: Span) -> dict[str, str]:
    """Step key → tool of the tools that a step is inside of."""
    spans = {s.span_id: s for s in recorded.spans}
    names = {t.span_id: t.tool for t in recorded.tools}
    around, above = {}, spans.get(step.parent_span_id or "")
    while above is not None:
        if above.kind == SpanKind.TOOL:
            around[above.step_key] = names.get(above.span_id, above.name)
        above = spans.get(above.parent_span_id or "")
    return around


def _same_call(source: Source, step_key: str, name: str, arguments: Any) -> ToolStep | None:
    """The recorded call of that tool with those arguments: the one of this step, or one nobody asked for yet."""
    known = [t for t in source.tools.values() if t.tool == name and same(t.arguments, arguments)]
    return min(known, key=lambda t: (t.step_key != step_key, t.step_key in source.asked), default=None)


def _said(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | dict | list) else None
