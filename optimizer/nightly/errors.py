"""What a night raises on purpose.

OptimizerError
├── BadNight      the configuration or the job's folder is not as it must be; says what to mend
├── Busy          another process runs a night of this job; names it
├── Halted        the kill switch is set; the night goes on at the next start without it
└── CapReached    a budget is used up; what is left of the night costs nothing
"""

from __future__ import annotations

from redecode.optimizer.errors import OptimizerError


class BadNight(OptimizerError):
    """The configuration or the job's folder is not as it must be."""


class Busy(OptimizerError):
    """Another process runs a night of this job."""


class Halted(OptimizerError):
    """The kill switch is set; nothing is lost, and the night goes on at the next start without it."""


class CapReached(OptimizerError):
    """A budget is used up."""
