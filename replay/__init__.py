"""Replay: reproduce a recorded run, and see what it waited for.

`run_graph` and `critical_path` are pure functions of a recorded run; `replay_on_engine` repeats its FM calls
on a real engine, closed loop over the recorded edges (`force`, `resample`); `engine/` runs that engine.
"""

from redecode.replay.compare import DecodeComparison, ReplayReport, TokenDivergence
from redecode.replay.critical_path import Segment, critical_path, critical_spans
from redecode.replay.engine_replay import ReplayMode, replay_on_engine
from redecode.replay.errors import ReplayDivergence, ReplayError, TooLittleRecorded
from redecode.replay.run_graph import RunGraph, run_graph

__all__ = [
    "DecodeComparison",
    "ReplayDivergence",
    "ReplayError",
    "ReplayMode",
    "ReplayReport",
    "RunGraph",
    "Segment",
    "TokenDivergence",
    "TooLittleRecorded",
    "critical_path",
    "critical_spans",
    "replay_on_engine",
    "run_graph",
]
