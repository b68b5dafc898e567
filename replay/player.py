"""Playback: the user's own program runs, its FM calls and tools answered from a recording.

A run of the program is matched to the recorded run of the same agent with the same input; a call inside it to the
recorded call with the same step key, never by arrival order or prompt (equal prompts of a fan-out have different
answers). A call that the recording does not have, or that asks something else than was recorded, raises
`ReplayDivergence`: nothing ever goes to an engine, no tool ever runs.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from redecode.replay.answers import answer, recorded_error
from redecode.replay.divergence import FieldDifference, differences, diverged, nearest, same
from redecode.replay.errors import ReplayDivergence, TooLittleRecorded
from redecode.replay.pinned import Pinned
from redecode.replay.withheld import first_withheld
from redecode.tracer import (
    CHANGED,
    Decode,
    FmRequest,
    LiveSpan,
    Played,
    RecordedRun,
    Span,
    ToolStep,
    current_step,
    default_store,
    instrument,
    open_store,
    plain,
    play,
    uninstrument,
)

# Asked of the engine by the tracer, not by the program: no change if they are not asked now.
_TRACERS_OWN = frozenset({"logprobs", "return_token_ids", "stream_options", "enable_response_messages"})


class Changed(StrEnum):
    """What to do with a call that the recording has, but that now asks something else."""

    REFUSE = "refuse"
    ANSWER = "answer"


@dataclass(slots=True)
class _Source:
    """One recorded run and what of it has been asked for."""

    recorded: RecordedRun
    decodes: dict[str, Decode]
    tools: dict[str, ToolStep]
    spans: dict[str, Span]
    asked: set[str] = field(default_factory=set)
    taken_by: str | None = None


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
        self._lock = threading.Lock()
        self._pinned = Pinned(pin, current_step)
        self.divergences: list[ReplayDivergence] = []
        self.changes: dict[str, tuple[FieldDifference, ...]] = {}
        for recorded in runs:
            if (why := first_withheld(recorded)) is not None:
                raise TooLittleRecorded(f"run {recorded.run.run_id[:12]} cannot be played back: {why}")
        ordered = sorted(runs, key=lambda r: r.run.started_ns)
        self._sources = [
            _Source(
                recorded=r,
                decodes={d.step_key: d for d in r.decodes},
                tools={t.step_key: t for t in r.tools},
                spans={s.step_key: s for s in r.spans},
            )
            for r in ordered
        ]
        if self._sources and self._pinned.pins:  # what the program does before its first run is pinned too
            first = self._sources[0].recorded.run
            self._pinned.start(first.run_id, first.started_ns)

    def decode(self, span: LiveSpan, request: FmRequest) -> Played:
        """The recorded answer to the FM call of this step."""
        source = self._source(span)
        recorded, messages = source.decodes.get(span.step_key), plain(request.messages)
        if recorded is None:
            equal = (
                key for key, d in source.decodes.items() if d.model == request.model and same(d.messages, messages)
            )
            raise self._unknown(source, span, f"FM call {request.model}", source.decodes, equal)
        now = {"model": request.model, "messages": messages, "tools": plain(request.tools)}
        then = {"model": recorded.model, "messages": recorded.messages, "tools": recorded.tool_definitions}
        found = differences(then, now) + _sampling_differences(recorded, plain(request.sampling))
        if found:
            self._differs(source, span, "the FM call asks something else than was recorded", found)
        source.asked.add(span.step_key)
        wait = (recorded.e2e_ns or 0) / 1e9 * self._pace
        self._pinned.reach(recorded.done_ns)
        there = source.spans[span.step_key]
        chunks = tuple(t / 1e9 * self._pace for t in recorded.chunk_times_ns or ()) if recorded.stream else ()

        def patience() -> ReplayDivergence:
            what = "the recorded caller gave this call up here, and this one goes on waiting"
            return self._raised(diverged(what, run_id=source.recorded.run.run_id, step_key=span.step_key))

        return answer(recorded, request.path, there, wait_s=wait, chunks_s=chunks, patience=patience)

    def tool(self, span: LiveSpan, name: str, arguments: Any) -> Played:
        """The recorded result of the tool call of this step."""
        source = self._source(span)
        recorded = source.tools.get(span.step_key)
        given = plain(arguments)
        if recorded is None:
            equal = (k for k, t in source.tools.items() if t.tool == name and _same_arguments(t.arguments, given))
            raise self._unknown(source, span, f"call of tool {name}", source.tools, equal)
        then = source.spans[span.step_key]
        if isinstance(recorded.arguments, dict) and isinstance(given, dict):
            # What LangGraph puts in itself (state, runtime) is not among the recorded arguments.
            now = {k: given[k] for k in recorded.arguments if k in given}
            if found := differences({"arguments": {k: recorded.arguments[k] for k in now}}, {"arguments": now}):
                self._differs(source, span, f"tool {name} has other arguments than were recorded", found)
        source.asked.add(span.step_key)
        wait = (then.duration_ns or 0) / 1e9 * self._pace
        self._pinned.reach(then.end_ns)
        if recorded.error is not None:
            return Played(None, error=recorded_error(then, recorded.error), wait_s=wait)
        return Played(recorded.result, wait_s=wait)

    def other(self, span: LiveSpan | None, what: str) -> None:
        """Nothing else is recorded, so nothing else is answered.

        Raises:
            ReplayDivergence: always.
        """
        run_id = next((s.recorded.run.run_id for s in self._sources if span and s.taken_by == span.root.run_id), "")
        key = span.step_key if span is not None else "outside any step"
        raise self._raised(diverged(f"{what} is not recorded, so it has no answer", run_id=run_id, step_key=key))

    def unasked(self) -> list[tuple[str, str]]:
        """(run id, step key) of recorded calls of played runs that nobody asked for."""
        return [
            (s.recorded.run.run_id, key)
            for s in self._sources
            if s.taken_by is not None
            for key in sorted({*s.decodes, *s.tools} - s.asked)
        ]

    @property
    def played(self) -> int:
        """Recorded runs that have been played back."""
        return sum(s.taken_by is not None for s in self._sources)

    def close(self) -> None:
        """Let clock, random numbers and uuids go."""
        self._pinned.stop()

    def _source(self, span: LiveSpan) -> _Source:
        root = span.root
        with self._lock:
            for source in self._sources:
                if source.taken_by == root.run_id:
                    return source
            wanted = plain(root.run_input)
            agent = root.name.removeprefix("invoke_agent ")
            of_agent = [s for s in self._sources if s.recorded.run.agent == agent]
            free = [s for s in of_agent if s.taken_by is None]
            for source in free:
                run = source.recorded.run
                if same(run.input, wanted):
                    source.taken_by = root.run_id
                    root.replays(run.run_id, "playback")
                    if self._pinned.pins:
                        self._pinned.start(run.run_id, run.started_ns)
                    return source
        if not of_agent:
            agents = sorted({s.recorded.run.agent for s in self._sources})
            what = f"no run of agent {agent} is being played back, only of {', '.join(agents) or 'none'}"
            raise self._raised(diverged(what, run_id="", step_key=span.step_key))
        if not free:
            what = f"the program runs agent {agent} more often than the {len(of_agent)} recorded runs being played back"
            raise self._raised(diverged(what, run_id="", step_key=span.step_key))
        closest = min(free, key=lambda s: len(differences({"input": s.recorded.run.input}, {"input": wanted})))
        run = closest.recorded.run
        raise self._raised(
            diverged(
                f"no recorded run of agent {agent} has this run's input",
                run_id=run.run_id,
                step_key=span.step_key,
                differences=differences({"input": run.input}, {"input": wanted}),
            )
        )

    def _differs(self, source: _Source, span: LiveSpan, what: str, found: list[FieldDifference]) -> None:
        if self._changed is Changed.ANSWER:
            self.changes[span.step_key] = tuple(found)
            span.set({CHANGED: [str(difference) for difference in found]})
            return
        raise self._raised(
            diverged(
                what,
                run_id=source.recorded.run.run_id,
                step_key=span.step_key,
                differences=found,
                way_out="to go on with the recorded answer: --changed answer",
            )
        )

    def _unknown(
        self, source: _Source, span: LiveSpan, what: str, known: Collection[str], equal: Iterable[str]
    ) -> ReplayDivergence:
        return self._raised(
            diverged(
                f"this {what} is not in the recording",
                run_id=source.recorded.run.run_id,
                step_key=span.step_key,
                nearest=nearest(span.step_key, known, equal=equal),
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
    source = str(store) if store is not None else str(default_store())
    if any(isinstance(run, str) for run in runs):
        opened = open_store(source)
        runs = tuple(opened.load(run) if isinstance(run, str) else run for run in runs)
    player = Playback([r for r in runs if isinstance(r, RecordedRun)], pace=pace, pin=pin, changed=Changed(changed))
    try:
        instrument(into if into is not None else source)
        play(player)
        yield player
    finally:
        player.close()
        play(None)
        uninstrument()
    if player.divergences:
        raise player.divergences[0]


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


def _sampling_differences(recorded: Decode, now: Mapping[str, Any]) -> list[FieldDifference]:
    then = {k: v for k, v in recorded.sampling.items() if k in now or k not in _TRACERS_OWN}
    if recorded.seed_source == "tracer":
        then.pop("seed", None)
    if recorded.base_url is None:  # another tracer's account: what it does not say is unknown
        now = {k: v for k, v in now.items() if k in then}
    return differences(then, now)


def _same_arguments(then: Any, now: Any) -> bool:
    if isinstance(then, dict) and isinstance(now, dict):
        return all(key in now and same(value, now[key]) for key, value in then.items())
    return same(then, now)
