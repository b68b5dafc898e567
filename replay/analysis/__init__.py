"""Where the time of a run went, and what would change it: pure functions of recorded facts (docs/critical-path.md).

critical_path.py          `analyze`: path, floats, drag, budgets and blame of activities and edges
graph.py, passes.py, segments.py, budgets.py, model.py   its parts, and what it returns
activities.py, parts.py   a recorded run cut into activities
runs.py                   both, for a run in a store
"""

from redecode.replay.analysis.activities import RunActivities, activities_of
from redecode.replay.analysis.critical_path import analyze
from redecode.replay.analysis.errors import AnalysisError
from redecode.replay.analysis.model import (
    Activity,
    ActivityAnalysis,
    ActivityKind,
    Blame,
    PathSegment,
    RunAnalysis,
    TimeSplit,
)
from redecode.replay.analysis.runs import analyze_recorded, analyze_run

__all__ = [
    "Activity",
    "ActivityAnalysis",
    "ActivityKind",
    "AnalysisError",
    "Blame",
    "PathSegment",
    "RunActivities",
    "RunAnalysis",
    "TimeSplit",
    "activities_of",
    "analyze",
    "analyze_recorded",
    "analyze_run",
]
