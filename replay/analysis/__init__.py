"""Where the time of a run went, and what would change it: pure functions of recorded facts (docs/critical-path.md).

critical_path.py          `analyze`: path, floats, drag, budgets and blame of activities and edges
graph.py, passes.py, segments.py, budgets.py, model.py   its parts, and what it returns
activities.py, parts.py   a recorded run cut into activities
runs.py                   both, for a run in a store
profiles.py               how long steps take, over many runs
aggregate.py              many runs together
changes.py, what_if.py    the graph gone through again with something changed
slo.py                    SLOs, their attainment over time
advice.py, models.py      what to change, with the evidence
conversations.py          runs that a person interrupted, put together
"""

from redecode.replay.analysis.activities import RunActivities, activities_of
from redecode.replay.analysis.advice import Advice, advise
from redecode.replay.analysis.aggregate import Aggregate, Aggregator, StepSummary, aggregate, aggregate_stored
from redecode.replay.analysis.changes import CacheHit, Change, FewerTokens, OffBarrier, Remove, Scale, Shorten
from redecode.replay.analysis.conversations import joined, resumed
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
from redecode.replay.analysis.models import smaller_models
from redecode.replay.analysis.profiles import Profiles, Quantiles, profiles_of, stored_profiles
from redecode.replay.analysis.runs import analyze_recorded, analyze_run
from redecode.replay.analysis.slo import Attainment, Measured, Slo, attainment, load_slos, measured, over_time
from redecode.replay.analysis.what_if import WhatIf, what_if

__all__ = [
    "Activity",
    "ActivityAnalysis",
    "ActivityKind",
    "Advice",
    "Aggregate",
    "Aggregator",
    "AnalysisError",
    "Attainment",
    "Blame",
    "CacheHit",
    "Change",
    "FewerTokens",
    "Measured",
    "OffBarrier",
    "PathSegment",
    "Profiles",
    "Quantiles",
    "Remove",
    "RunActivities",
    "RunAnalysis",
    "Scale",
    "Shorten",
    "Slo",
    "StepSummary",
    "TimeSplit",
    "WhatIf",
    "activities_of",
    "advise",
    "aggregate",
    "aggregate_stored",
    "analyze",
    "analyze_recorded",
    "analyze_run",
    "attainment",
    "joined",
    "load_slos",
    "measured",
    "over_time",
    "profiles_of",
    "resumed",
    "smaller_models",
    "stored_profiles",
    "what_if",
]
