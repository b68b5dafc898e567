"""Playback: the user's own program runs, its FM calls and tools answered from a recording.

A run of the program is matched to the recorded run of the same agent with the same input; a call inside it to the
recorded call with the same step key, never by arrival order or prompt (equal prompts of a fan-out have different
answers). A call that the recording does not have, or that asks something else than was recorded, raises
`ReplayDivergence`: nothing ever goes to an engine, no tool ever runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from redecode.replay.comparison.changes import decode_differences, tool_differences, what_changed
from redecode.replay.comparison.divergence import FieldDifference, differences, diverged, nearest, same
from redecode.replay.errors import ReplayDivergence
from redecode.replay.program.answers import answer, model_answer, plain_json, recorded_error, tool_answer
from redecode.replay.program.pinned import Pinned
from redecode.replay.program.sources import Source, Sources
from redecode.tracer import (
    ANSWERED_BY,
    CHANGED,
    LANGCHAIN_ANSWER,
    SOURCE_SPAN,
    TOOL_ARGUMENTS,
    TOOL_RESULT,
    Decode,
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
    current_step,
    default_store,
    instrument,
    open_store,
    plain,
    play,
    uninstrument,
)

RECORDING, LIVE = "recording", "live"
"""What `ANSWERED_BY` says."""


class Changed(StrEnum):
    """What to do with a call that the recording has, but that now asks something else."""

    REFUSE = "refuse"
    ANSWER = "answer"


class Playback:
    """Answers from recorded runs (a `tracer.Player`).

    Args:
        runs: the recorded runs; each is played back at most once at a time, oldest first among equals.
        pace: 1.0 answers as slowly as recorded, 0.0 at once, 0.5 twice as fast.
        pin: what stays as it was in the recorded run: of "clock", "random", "uuid", or "all".
        changed: what a call gets that asks something else than was recorded at its step.

    Attributes:
        divergences: every `ReplayDivergence` that was raised, also those that the program caught.
        changes: with `Changed.ANSWER`, what was different in the calls that were answered nevertheless, by step key.

    Raises:
        TooLittleRecorded: something was kept out of one of the recordings on purpose.
        ReplayError: there is no such pin.
    """

    def __init__(
        self,
        runs: Sequence[RecordedRun],
        *,
        pace: float = 1.0,
        pin: Iterable[str] = (),
        changed: Changed = Changed.REFUSE,
    ) -> None:
        self._pace, self._changed = pace, changed
        self._pinned = Pinned(pin, current_step)
        self.divergences: list[ReplayDivergence] = []
        self.changes: dict[str, tuple[FieldDifference, ...]] = {}
        self._sources = Sources(runs)
        if self._sources.all and self._pinned.pins:  # what the program does before its first run is pinned too
            first = self._sources.all[0].recorded.run
            self._pinned.start(first.run_id, first.started_ns)

    def decode(self, span: LiveSpan, request: FmRequest) -> Played | Live:
        """The recorded answer to the FM call of this step."""
        source = self._source(span, request)
        recorded = self._recorded_decode(source, span, request)
        if recorded.base_url is None and LANGCHAIN_ANSWER in source.spans[span.step_key].attributes:
            what = "LangChain's own cache or another client had answered this FM call when it was recorded"
            raise self.unmade(span, what)
        there, wait = self._answering(source, span), (recorded.e2e_ns or 0) / 1e9 * self._pace
        self._pinned.reach(recorded.done_ns)
        chunks = self._chunks_s(recorded)
        patience = partial(self._patience, span)
        return answer(recorded, request.path, there, wait_s=wait, chunks_s=chunks, patience=patience)

    def model(self, span: LiveSpan, request: FmRequest) -> Played | Live | None:
        """The recorded answer to the call of a LangChain model, unless its OpenAI client had been recorded."""
        source = self._source(span, request)
        recorded = source.decodes.get(span.step_key)
        if recorded is not None and recorded.base_url is not None:
            return None
        recorded = self._recorded_decode(source, span, request)
        there, wait = self._answering(source, span), (recorded.e2e_ns or 0) / 1e9 * self._pace
        self._pinned.reach(recorded.done_ns)
        played = model_answer(
            recorded, there, wait_s=wait, chunks_s=self._chunks_s(recorded), patience=partial(self._patience, span)
        )
        if played is None:
            raise self.unmade(span, "what this model answered was not recorded")
        return played

    def tool(self, span: LiveSpan, name: str, arguments: Any) -> Played | Live:
        """The recorded result of the tool call of this step."""
        source = self._source(span)
        recorded = source.tools.get(span.step_key)
        if recorded is None:
            equal = (k for k, t in source.tools.items() if t.tool == name and same(t.arguments, arguments))
            raise self._unknown(source, span, f"call of tool {name}", source.tools, equal)
        if found := tool_differences(recorded, name, arguments):
            self._differs(source, span, f"tool {name} has other arguments than were recorded", found)
        return self._tool_answer(source, span, recorded)

    def retrieval(self, span: LiveSpan, query: str) -> Played | Live:
        """The recorded documents of the retrieval of this step."""
        source = self._source(span)
        recorded = source.spans.get(span.step_key)
        if recorded is None or recorded.kind != SpanKind.RETRIEVAL:
            known = [key for key, s in source.spans.items() if s.kind == SpanKind.RETRIEVAL]
            raise self._unknown(source, span, "retrieval", known, ())
        asked = plain_json(recorded.attributes.get(TOOL_ARGUMENTS))
        if found := differences({"query": asked}, {"query": query}):
            self._differs(source, span, "the retriever is asked something else than was recorded", found)
        there, wait = self._answering(source, span), (recorded.duration_ns or 0) / 1e9 * self._pace
        self._pinned.reach(recorded.end_ns)
        if recorded.error is not None:
            return Played(error=recorded_error(there, recorded.error), wait_s=wait)
        if TOOL_RESULT not in recorded.attributes:
            raise self.unmade(span, "the documents of this retrieval were not recorded")
        return Played(plain_json(recorded.attributes[TOOL_RESULT]), wait_s=wait)

    def context(self, graph: LiveSpan, step_key: str, edges: list[Dependency], context: Any) -> Any:
        """The context of a task of that graph: its own."""
        return context

    def ended(self, event: SpanEvent) -> None:
        """A span has ended: nothing that matters here."""

    def other(self, span: LiveSpan | None, what: str) -> None:
        """Nothing else is recorded, so nothing else is answered.

        Raises:
            ReplayDivergence: always.
        """
        raise self.unmade(span, f"{what} is not recorded, so it has no answer")

    def unmade(self, span: LiveSpan | None, what: str) -> ReplayDivergence:
        """What to raise where there is no answer to be had, for that reason."""
        source = self._sources.taken_by(span.root.run_id) if span is not None else None
        key = span.step_key if span is not None else "outside any step"
        return self._raised(diverged(what, run_id=source.run_id if source is not None else "", step_key=key))

    def unasked(self) -> list[tuple[str, str]]:
        """(run id, step key) of recorded calls of played runs that nobody asked for."""
        taken = [s for s in self._sources.all if s.taken_by is not None]
        return [(s.run_id, key) for s in taken for key in s.unasked()]

    @property
    def played(self) -> int:
        """Recorded runs that have been played back."""
        return sum(s.taken_by is not None for s in self._sources.all)

    def close(self) -> None:
        """Let clock, random numbers and uuids go."""
        self._pinned.stop()

    def _source(self, span: LiveSpan, request: FmRequest | None = None) -> Source:
        found = self._sources.find(span, request, self._begin)
        if isinstance(found, ReplayDivergence):
            raise self._raised(found)
        return found

    def _begin(self, source: Source, root: LiveSpan) -> None:
        """A run of the program begins to be answered."""
        root.replays(source.run_id, "playback")
        if self._pinned.pins:
            self._pinned.start(source.run_id, source.recorded.run.started_ns)

    def _recorded_decode(self, source: Source, span: LiveSpan, request: FmRequest) -> Decode:
        """The decode of this step, if it asks what this request does."""
        recorded, messages = source.decodes.get(span.step_key), plain(request.messages)
        if recorded is None:
            equal = (
                key for key, d in source.decodes.items() if d.model == request.model and same(d.messages, messages)
            )
            raise self._unknown(source, span, f"FM call {request.model}", source.decodes, equal)
        if found := decode_differences(recorded, request, source.spans[span.step_key].attributes):
            self._differs(source, span, what_changed(recorded, found), found)
        return recorded

    def _answering(self, source: Source, span: LiveSpan) -> Span:
        """The recorded span of this step, which answers now."""
        source.asked.add(span.step_key)
        there = source.spans[span.step_key]
        span.set({ANSWERED_BY: RECORDING, SOURCE_SPAN: there.span_id})
        return there

    def _tool_answer(self, source: Source, span: LiveSpan, recorded: ToolStep) -> Played:
        then = next(s for s in source.recorded.spans if s.span_id == recorded.span_id)
        source.asked.add(recorded.step_key)
        span.set({ANSWERED_BY: RECORDING, SOURCE_SPAN: then.span_id})
        self._pinned.reach(then.end_ns)
        return tool_answer(recorded, then, wait_s=(then.duration_ns or 0) / 1e9 * self._pace)

    def _chunks_s(self, recorded: Decode) -> tuple[float, ...]:
        return tuple(t / 1e9 * self._pace for t in recorded.chunk_times_ns or ()) if recorded.stream else ()

    def _patience(self, span: LiveSpan) -> ReplayDivergence:
        return self.unmade(span, "the recorded caller gave this call up here, and this one goes on waiting")

    def _differs(self, source: Source, span: LiveSpan, what: str, found: list[FieldDifference]) -> None:
        if self._changed is Changed.ANSWER:
            self.changes[span.step_key] = tuple(found)
            span.set({CHANGED: [str(difference) for difference in found]})
            return
        raise self._raised(
            diverged(
                what,
                run_id=source.run_id,
                step_key=span.step_key,
                differences=found,
                way_out="to go on with the recorded answer: --changed answer",
            )
        )

    def _unknown(
        self, source: Source, span: LiveSpan, what: str, known: Collection[str], equal: Iterable[str], way_out: str = ""
    ) -> ReplayDivergence:
        why = source.why_missing(span.step_key)
        return self._raised(
            diverged(
                f"this {what} is not in the recording{f': {why}' if why else ''}",
                run_id=source.run_id,
                step_key=span.step_key,
                nearest=nearest(span.step_key, known, equal=equal),
                way_out=way_out,
            )
        )

    def _raised(self, divergence: ReplayDivergence) -> ReplayDivergence:
        self.divergences.append(divergence)
        return divergence


@contextmanager
def playback(
    *runs: str | RecordedRun,
    store: str | Path | None = None,
    into: str | Path | None = None,
    pace: float = 1.0,
    pin: Iterable[str] = (),
    changed: Changed | str = Changed.REFUSE,
) -> Iterator[Playback]:
    """Answer this process's agents from recorded runs, for a test or a debugger.

    Args:
        runs: what to answer from: run ids (or enough of their beginnings), or runs that `Store.load` gave.
        store: the store or published dataset that has them; default as for `instrument`.
        into: the store the playback itself is recorded in; default `store`.
        pace, pin, changed: as in `Playback`.

    Raises:
        ReplayDivergence: at the end, if there was one that the program caught and went on from.
        UnknownRun, AmbiguousRun: the store has no such run, or several.
        TooLittleRecorded, ReplayError: as `Playback`.
    """
    source, recorded = loaded(runs, store)
    player = Playback(recorded, pace=pace, pin=pin, changed=Changed(changed))
    with playing(player, into if into is not None else source):
        yield player
    if player.divergences:
        raise player.divergences[0]


def loaded(runs: Sequence[str | RecordedRun], store: str | Path | None) -> tuple[str, list[RecordedRun]]:
    """The store that was meant, and the runs, read from it where only their ids are given."""
    source = str(store) if store is not None else str(default_store())
    opened = open_store(source) if any(isinstance(run, str) for run in runs) else None
    return source, [opened.load(run) if opened is not None and isinstance(run, str) else run for run in runs]  # type: ignore[misc]


@contextmanager
def playing(player: Playback, into: str | Path) -> Iterator[None]:
    """Record this process into a store, with a player answering."""
    try:
        instrument(into)
        play(player)
        yield
    finally:
        player.close()
        play(None)
        uninstrument()


def start_from_settings(
    *, store: str, source: str, runs: list[str], pace: float, pin: Sequence[str] = (), changed: str = "refuse"
) -> None:
    """Begin a playback in a program started by `redecode replay --mode playback`.

    Args:
        store: where the playback is recorded.
        source: the store or published dataset that has the runs.
    """
    opened = open_store(source)
    recorded = [opened.load(run_id) for run_id in runs]
    instrument(store)
    play(Playback(recorded, pace=pace, pin=pin, changed=Changed(changed)))
