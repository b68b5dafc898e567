"""What the analysis raises on purpose; docs/critical-path.md has the table of bad input.

ReplayError
└── AnalysisError        these activities and edges cannot be analysed
    ├── NoActivities
    ├── DuplicateActivity
    ├── UnknownActivity  an edge, a profile or a change names what is not there
    ├── BackwardsActivity  it ends before it starts
    ├── CyclicEdges
    ├── BadDeadline      the deadline is before the run began
    ├── BadChange        a what-if that means nothing for this run
    └── BadSlo           an SLO file that cannot be read
"""

from __future__ import annotations

from redecode.replay.errors import ReplayError


class AnalysisError(ReplayError):
    """These activities and edges cannot be analysed."""


class NoActivities(AnalysisError):
    """There is nothing to analyse."""


class DuplicateActivity(AnalysisError):
    """Two activities have the same id."""


class UnknownActivity(AnalysisError):
    """An edge, a profile or a change names an activity that is not there."""


class BackwardsActivity(AnalysisError):
    """An activity ends before it starts."""


class CyclicEdges(AnalysisError):
    """The edges form a cycle: nothing in it could have begun."""


class BadChange(AnalysisError):
    """A what-if that means nothing for this run, or that too little is known for; says why."""


class BadSlo(AnalysisError):
    """An SLO file that cannot be read, or says something that is no SLO."""


class BadDeadline(AnalysisError):
    """The deadline is no point in time after the run began."""
