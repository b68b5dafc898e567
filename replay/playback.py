"""Playback: the user's own program runs, its FM calls and tools answered from a recording.

A run of the program is matched to the recorded run of the same agent with the same input; a call inside it
to the recorded call with the same step key, never by arrival order or prompt (equal prompts of a fan-out
have different answers). A call that the recording does not have, or that asks something else than was
recorded, raises `ReplayDivergence`: nothing ever goes to an engine, no tool ever runs.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from redecode.replay.errors import ReplayDivergence, TooLittleRecorded
from redecode.replay.withheld import first_withheld
from redecode.tracer import (
    ERROR_CLASS,
    RESPONSE_ID,
    USAGE,
    Decode,
    LiveSpan,
    Played,
    RecordedRun,
    Span,
    ToolStep,
    instrument,
    open_store,
    play,
    uninstrument,
)


class RecordedError(Exception):
    """Stands for a recorded exception whose class cannot be made again here."""


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

    Raises:
        TooLittleRecorded: something was kept out of one of the recordings on purpose.
    """

    def __init__(self, runs: Sequence[RecordedRun], *, pace: float = 1.0) -> None:
        self._pace = pace
        self._lock = threading.Lock()
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

    def decode(self, span: LiveSpan, path: str, body: dict[str, Any]) -> Played:
        """The recorded answer to the FM call of this step."""
        source = self._source(span)
        recorded = source.decodes.get(span.step_key)
        if recorded is None:
            raise self._unknown(source, span, "FM call", source.decodes)
        different = _differences(
            {"model": recorded.model, "messages": recorded.messages, "tools": recorded.tool_definitions},
            {"model": body.get("model"), "messages": body.get("messages", body.get("prompt")),
             "tools": body.get("tools") or None},
        )  # fmt: skip
        if different:
            raise ReplayDivergence(f"{self._place(source, span)} asks something else than was recorded: {different}")
        source.asked.add(span.step_key)
        wait = (recorded.e2e_ns or 0) / 1e9 * self._pace
        if recorded.output is None or recorded.error is not None:
            return Played(None, error=_error(source.spans.get(span.step_key), recorded.error), wait_s=wait)
        extras = source.spans[span.step_key].attributes
        return Played(_response_body(recorded, path, extras), wait_s=wait)

    def tool(self, span: LiveSpan, name: str, arguments: Any) -> Played:
        """The recorded result of the tool call of this step."""
        source = self._source(span)
        recorded = source.tools.get(span.step_key)
        if recorded is None:
            raise self._unknown(source, span, f"tool {name}", source.tools)
        then = source.spans[span.step_key]
        if isinstance(recorded.arguments, dict) and isinstance(arguments, dict):
            now = {k: arguments[k] for k in recorded.arguments if k in arguments}
            if different := _differences({k: recorded.arguments[k] for k in now}, _plain(now)):
                raise ReplayDivergence(f"{self._place(source, span)} has other arguments: {different}")
        source.asked.add(span.step_key)
        wait = (then.duration_ns or 0) / 1e9 * self._pace
        if recorded.error is not None:
            return Played(None, error=_error(then, recorded.error), wait_s=wait)
        return Played(recorded.result, wait_s=wait)

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

    def _source(self, span: LiveSpan) -> _Source:
        root = span.root
        with self._lock:
            for source in self._sources:
                if source.taken_by == root.run_id:
                    return source
            wanted = _canonical(root.run_input)
            agent = root.name.removeprefix("invoke_agent ")
            for source in self._sources:
                run = source.recorded.run
                if source.taken_by is None and run.agent == agent and _canonical(run.input) == wanted:
                    source.taken_by = root.run_id
                    root.replays(run.run_id, "playback")
                    return source
            same = sum(s.recorded.run.agent == agent for s in self._sources)
        raise ReplayDivergence(
            f"no recorded run of agent {agent} has this run's input ({same} of its runs are recorded, each played "
            f"once): {wanted[:300]}"
        )

    @staticmethod
    def _place(source: _Source, span: LiveSpan) -> str:
        return f"step {span.step_key} of run {source.recorded.run.run_id[:12]}"

    def _unknown(self, source: _Source, span: LiveSpan, what: str, known: dict[str, Any]) -> ReplayDivergence:
        near = sorted(known, key=lambda k: -_common_prefix(k, span.step_key))[:3]
        return ReplayDivergence(
            f"{what} at {self._place(source, span)} is not in the recording; nearest recorded: "
            + (", ".join(near) or "none")
        )


@contextmanager
def play_runs(runs: Sequence[RecordedRun], *, store: Path, pace: float = 1.0) -> Iterator[Playback]:
    """Answer this process's agents from recorded runs, for a test or a debugger.

    Args:
        runs: what to answer from (`Store.load`).
        store: where the playback itself is recorded.
        pace: as in `Playback`.
    """
    player = Playback(runs, pace=pace)
    instrument(store)
    play(player)
    try:
        yield player
    finally:
        play(None)
        uninstrument()


def start_from_settings(*, store: str, source: str, runs: list[str], pace: float) -> None:
    """Begin a playback in a program started by `redecode replay --mode playback`.

    Args:
        store: where the playback is recorded.
        source: the store or published dataset that has the runs.
    """
    opened = open_store(source)
    recorded = [opened.load(run_id) for run_id in runs]
    instrument(store)
    play(Playback(recorded, pace=pace))


def _response_body(decode: Decode, path: str, extras: dict[str, Any]) -> dict[str, Any]:
    choices = []
    for index, message in enumerate(decode.output):
        finish = message.get("finish_reason")
        plain = {k: v for k, v in message.items() if k != "finish_reason"}
        if path.endswith("/chat/completions"):
            choices.append({"index": index, "message": plain, "finish_reason": finish})
        else:
            choices.append({"index": index, "text": plain.get("content") or "", "finish_reason": finish})
    return {
        "id": extras.get(RESPONSE_ID) or f"playback-{decode.span_id}",
        "object": "chat.completion" if path.endswith("/chat/completions") else "text_completion",
        "created": decode.sent_ns // 1_000_000_000,
        "model": decode.model,
        "choices": choices,
        "usage": orjson.loads(extras[USAGE]) if USAGE in extras else None,
        "system_fingerprint": decode.fingerprint,
    }


def _error(span: Span | None, text: str | None) -> BaseException:
    """The recorded exception again, of its own class where that class is there and takes one text."""
    name = str((span.attributes if span is not None else {}).get(ERROR_CLASS, ":"))
    module, _, qualname = name.partition(":")
    message = (text or "").partition(": ")[2] or (text or "failed when recorded")
    found = getattr(sys.modules.get(module), qualname, None)
    if isinstance(found, type) and issubclass(found, Exception):
        try:
            return found(message)
        except TypeError:
            pass  # it wants more than a message
    return RecordedError(text or "failed when recorded")


def _plain(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value, default=str))


def _canonical(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS, default=str).decode()


def _differences(then: dict[str, Any], now: dict[str, Any]) -> str:
    """Only the fields that differ, each with the recorded and the asked value around the first difference."""
    parts = []
    for key, old in then.items():
        a, b = _canonical(old), _canonical(now.get(key))
        if a != b:
            at = max(0, _common_prefix(a, b) - 20)
            parts.append(f"{key}: recorded …{a[at : at + 120]}…, asked …{b[at : at + 120]}…")
    return "; ".join(parts)


def _common_prefix(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
