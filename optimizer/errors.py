"""What the optimizer raises on purpose.

RedecodeError
└── OptimizerError      tuning cannot go on as asked; says why and what would work
    ├── BadSpec         what is to be tuned, or a knob of it, is not understood
    ├── NoRuns          no recorded run is left to evaluate candidates on
    ├── Stopped         something outside must be mended first; nothing is lost, the study can be resumed
    │   ├── EngineGone  the engine does not answer any more
    │   └── ScorerFailed  the scorer raised
    └── BadStudy        there is no such study, or it cannot be gone on with
"""

from __future__ import annotations

from redecode.tracer import RedecodeError


class OptimizerError(RedecodeError):
    """Tuning cannot go on as asked."""


class BadSpec(OptimizerError):
    """What is to be tuned, or a knob of it, is not understood."""


class NoRuns(OptimizerError):
    """No recorded run is left to evaluate candidates on."""


class BadStudy(OptimizerError):
    """There is no such study, or it cannot be gone on with."""


class Stopped(OptimizerError):
    """Something outside must be mended first; what was evaluated is kept."""


class EngineGone(Stopped):
    """The engine does not answer any more."""


class ScorerFailed(Stopped):
    """The scorer raised."""
