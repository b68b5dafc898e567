"""Replay: reproduce a recorded run, and see what it waited for.

closed_loop/   its FM calls alone, on an engine (`replay_on_engine`: `force`, `resample`) or on its model (`simulate`)
program/       your own program again, answered from the recording (`playback`), or up to a step (`fork`)
comparison/    recorded against replayed
analysis/      where its time went (`analyze`): critical path, floats, what-if; what_if/ measures or simulates that
engine/        vLLM, with forced tokens and a step clock
simulator/     the engine model and the simulator
run_graph.py   what waited for what (`build_run_graph`); pacing.py being on time; prices.py; withheld.py; errors.py

The names are looked up when asked for: vLLM loads our plug-in through this package, and must not pay for
(or fail on) the imports of the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redecode.replay.analysis import (
        Activity,
        ActivityAnalysis,
        ActivityKind,
        RunAnalysis,
        activities_of,
        analyze,
        analyze_run,
    )
    from redecode.replay.closed_loop.engine_replay import replay_on_engine
    from redecode.replay.closed_loop.options import ReplayMode, ReplayOptions
    from redecode.replay.comparison.compare import DecodeComparison, ReplayReport, TokenDivergence
    from redecode.replay.comparison.lanes import RunComparison, StepLanes, compare_runs
    from redecode.replay.errors import ReplayDivergence, ReplayError, TooLittleRecorded
    from redecode.replay.program.forking import Fork, fork
    from redecode.replay.program.overrides import Overrides
    from redecode.replay.program.player import Changed, Playback, playback
    from redecode.replay.run_graph import RunGraph, build_run_graph

_MODULES = {
    "Activity": "analysis",
    "ActivityAnalysis": "analysis",
    "ActivityKind": "analysis",
    "RunAnalysis": "analysis",
    "activities_of": "analysis",
    "analyze": "analysis",
    "analyze_run": "analysis",
    "RunComparison": "comparison.lanes",
    "StepLanes": "comparison.lanes",
    "compare_runs": "comparison.lanes",
    "Changed": "program.player",
    "DecodeComparison": "comparison.compare",
    "ReplayDivergence": "errors",
    "ReplayError": "errors",
    "ReplayMode": "closed_loop.options",
    "Fork": "program.forking",
    "Overrides": "program.overrides",
    "Playback": "program.player",
    "ReplayOptions": "closed_loop.options",
    "ReplayReport": "comparison.compare",
    "RunGraph": "run_graph",
    "TokenDivergence": "comparison.compare",
    "TooLittleRecorded": "errors",
    "build_run_graph": "run_graph",
    "fork": "program.forking",
    "playback": "program.player",
    "replay_on_engine": "closed_loop.engine_replay",
}

__all__ = [
    "Activity",
    "ActivityAnalysis",
    "ActivityKind",
    "Changed",
    "DecodeComparison",
    "Fork",
    "Overrides",
    "Playback",
    "ReplayDivergence",
    "ReplayError",
    "ReplayMode",
    "ReplayOptions",
    "ReplayReport",
    "RunAnalysis",
    "RunComparison",
    "RunGraph",
    "StepLanes",
    "TokenDivergence",
    "TooLittleRecorded",
    "activities_of",
    "analyze",
    "analyze_run",
    "build_run_graph",
    "compare_runs",
    "fork",
    "playback",
    "replay_on_engine",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
