"""The user's own program, with its FM calls and tools answered from recorded runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

from redecode.cli.common import say
from redecode.cli.record import end_like, run_program
from redecode.tracer import CHANGED, ERROR_CLASS, Store, environment

_DIVERGENCE = "redecode.replay.errors:ReplayDivergence"
_TOLD = 5  # of a kind


def play(path: Path, settings: dict[str, Any], command: list[str]) -> NoReturn:
    """Run a program with its FM calls and tools answered from recorded runs, and end as it ends."""
    env = environment(os.environ, settings, start="redecode.replay.player:start_from_settings")
    opened = Store(path)
    before = {r.run_id for r in opened.runs()}
    code = run_program(command, env)
    new = [opened.load(r.run_id) for r in opened.runs() if r.run_id not in before]
    diverged = [s for r in new for s in r.spans if s.attributes.get(ERROR_CLASS) == _DIVERGENCE]
    # An error goes up through every step around it: the one that is told is where it began.
    above = {s.parent_span_id for s in diverged}
    began = [s for s in diverged if s.span_id not in above]
    changed = [(s.step_key, how) for r in new for s in r.spans for how in s.attributes.get(CHANGED, ())]
    whole = sum(r.run.status == "ok" and r.run.source_run_id is not None for r in new)
    runs = len(settings["runs"])
    say(f"redecode: played back {whole} of {runs} recorded run{'s' * (runs != 1)}; no engine and no tool was called")
    for key, how in changed[:_TOLD]:
        say(f"redecode: answered as recorded although {key} asks something else: {how}")
    for span in began[:_TOLD]:
        say(f"redecode: {(span.error or '').removeprefix('ReplayDivergence: ')}")
    if more := max(0, len(changed) - _TOLD) + max(0, len(began) - _TOLD):
        say(f"redecode: and {more} more; `redecode runs --mode playback` lists the runs, `redecode show` tells all")
    for r in new:
        if r.run.error is not None and not any(s.run_id == r.run.run_id for s in began):
            say(f"redecode: run {r.run.run_id[:12]} of {r.run.agent}: {r.run.error}")
    end_like(1 if began and code == 0 else code)
