"""The user's own program, with its FM calls and tools answered from recorded runs, or live from some step on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import orjson

from redecode.cli.common import fail, say
from redecode.cli.record import end_like, run_program
from redecode.replay import Overrides
from redecode.tracer import ANSWERED_BY, CHANGED, ERROR_CLASS, RecordedRun, Store, environment

_DIVERGENCE = "redecode.replay.errors:ReplayDivergence"
_TOLD = 5  # of a kind
_KNOB = "context."


def fork_overrides(
    *,
    model: str | None,
    prompt: str | None,
    message: Iterable[str],
    temperature: float | None,
    settings: Iterable[str],
    base_url: str | None,
) -> Overrides:
    """What a fork changes, from the command line.

    Args:
        prompt: a text, or @FILE.
        message: PLACE=TEXT or PLACE=@FILE.
        settings: KEY=VALUE, of a sampling parameter, or with `context.` before it of the LangGraph context.
    """
    messages = {}
    for given in message:
        place, equals, text = given.partition("=")
        if not equals or not place.lstrip("-").isdecimal():
            fail(f"--message {given}: want PLACE=TEXT, as in --message 0='You are brief.'; -1 is the last message")
        messages[int(place)] = _text(text)
    values = dict(_setting(given) for given in settings)
    sampling = {k: v for k, v in values.items() if not k.startswith(_KNOB)}
    if temperature is not None:
        sampling["temperature"] = temperature
    return Overrides(
        model=model,
        prompt=None if prompt is None else _text(prompt),
        messages=messages,
        sampling=sampling,
        base_url=base_url,
        context={k.removeprefix(_KNOB): v for k, v in values.items() if k.startswith(_KNOB)},
    )


def _text(given: str) -> str:
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{given[1:]} cannot be read: {getattr(error, 'strerror', None) or error}")


def _setting(given: str) -> tuple[str, Any]:
    key, equals, text = given.partition("=")
    if not equals or not key or key == _KNOB:
        fail(f"--set {given}: want KEY=VALUE, as in --set max_tokens=50 or --set context.wording=brief")
    try:
        return key, orjson.loads(text)
    except orjson.JSONDecodeError:
        return key, text


def play(path: Path, settings: dict[str, Any], command: list[str]) -> NoReturn:
    """Run a program with its FM calls and tools answered from recorded runs, and end as it ends.

    Args:
        settings: of `start_from_settings` in `replay.program.player` or, with an `until`, in `replay.program.forking`.
    """
    until = settings.get("until")
    start = f"redecode.replay.program.{'player' if until is None else 'forking'}:start_from_settings"
    env = environment(os.environ, settings, start=start)
    opened = Store(path)
    before = {r.run_id for r in opened.runs()}
    code = run_program(command, env)
    new = [opened.load(r.run_id) for r in opened.runs() if r.run_id not in before]
    diverged = [s for r in new for s in r.spans if s.attributes.get(ERROR_CLASS) == _DIVERGENCE]
    # An error goes up through every step around it: the one that is told is where it began.
    above = {s.parent_span_id for s in diverged}
    began = [s for s in diverged if s.span_id not in above]
    changed = [(s.step_key, how) for r in new for s in r.spans for how in s.attributes.get(CHANGED, ())]
    missed = _say_what_came(new, settings)
    for key, how in changed[:_TOLD]:
        say(f"redecode: answered as recorded although {key} asks something else: {how}")
    for span in began[:_TOLD]:
        say(f"redecode: {(span.error or '').removeprefix('ReplayDivergence: ')}")
    if more := max(0, len(changed) - _TOLD) + max(0, len(began) - _TOLD):
        say(f"redecode: and {more} more; `redecode runs --mode playback` lists the runs, `redecode show` tells all")
    for r in new:
        if r.run.error is not None and not any(s.run_id == r.run.run_id for s in began):
            say(f"redecode: run {r.run.run_id[:12]} of {r.run.agent}: {r.run.error}")
    end_like(1 if (began or missed) and code == 0 else code)


def _say_what_came(new: list[RecordedRun], settings: dict[str, Any]) -> bool:
    """Tell what was played back and what was live; whether a fork never came to its step."""
    runs, until = settings["runs"], settings.get("until")
    whole = sum(r.run.status == "ok" and r.run.source_run_id is not None for r in new)
    if until is None:
        counted = f"{whole} of {len(runs)} recorded run{'s' * (len(runs) != 1)}"
        say(f"redecode: played back {counted}; no engine and no tool was called")
        return False
    forked = [r for r in new if r.run.replay_mode == "fork"]
    for r in forked:
        by = [s.attributes[ANSWERED_BY] for s in r.spans if ANSWERED_BY in s.attributes]
        say(
            f"redecode: forked {runs[0][:12]} at {until} into {r.run.run_id[:12]}: {by.count('recording')} calls from "
            f"the recording, {by.count('live')} live; `redecode show {r.run.run_id[:12]}` says which"
        )
    if any(s.step_key == until for r in forked for s in r.spans):
        return False
    say(f"redecode: the program ended without coming to {until}")
    return True
