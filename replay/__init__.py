"""Replay: reproduce a recorded run, and see what it waited for.

`analyze` says where the time of a run went (the rest of that is in `analysis/`), `build_run_graph` what waited for
what: pure functions of a recorded run. `replay_on_engine` repeats its FM calls on a real engine, closed loop over the
recorded edges (`force`, `resample`); `engine/` runs that engine.

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
    from redecode.replay.compare import DecodeComparison, ReplayReport, TokenDivergence
    from redecode.replay.engine_replay import replay_on_engine
    from redecode.replay.errors import ReplayDivergence, ReplayError, TooLittleRecorded
    from redecode.replay.forking import Fork, fork
    from redecode.replay.lanes import RunComparison, StepLanes, compare_runs
    from redecode.replay.options import ReplayMode, ReplayOptions
    from redecode.replay.overrides import Overrides
    from redecode.replay.player import Changed, Playback, playback
    from redecode.replay.run_graph import RunGraph, build_run_graph

_MODULES = {
    "Activity": "analysis",
    "ActivityAnalysis": "analysis",
    "ActivityKind": "analysis",
    "RunAnalysis": "analysis",
    "activities_of": "analysis",
    "analyze": "analysis",
    "analyze_run": "analysis",
    "RunComparison": "lanes",
    "StepLanes": "lanes",
    "compare_runs": "lanes",
    "Changed": "player",
    "DecodeComparison": "compare",
    "ReplayDivergence": "errors",
    "ReplayError": "errors",
    "ReplayMode": "options",
    "Fork": "forking",
    "Overrides": "overrides",
    "Playback": "player",
    "ReplayOptions": "options",
    "ReplayReport": "compare",
    "RunGraph": "run_graph",
    "TokenDivergence": "compare",
    "TooLittleRecorded": "errors",
    "build_run_graph": "run_graph",
    "fork": "forking",
    "playback": "player",
    "replay_on_engine": "engine_replay",
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
