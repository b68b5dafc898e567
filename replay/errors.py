"""What replay raises on purpose.

RedecodeError
└── ReplayError          the run cannot be replayed as asked; says why and what would work
    ├── TooLittleRecorded  the mode needs more than this recording holds
    ├── EngineUnfit        the engine cannot take what was recorded
    └── ReplayDivergence   a playback asked for something the recording does not have
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redecode.tracer import RedecodeError

if TYPE_CHECKING:
    from redecode.replay.comparison.divergence import FieldDifference


class ReplayError(RedecodeError):
    """The run cannot be replayed as asked."""


class TooLittleRecorded(ReplayError):
    """The mode needs more than this recording holds."""


class EngineUnfit(ReplayError):
    """The engine cannot take what was recorded: another vocabulary, too small a context."""


class ReplayDivergence(ReplayError):
    """A playback asked for something the recording does not have; nothing went live.

    Attributes:
        run_id: the recorded run.
        step_key: the step that asked.
        differences: the fields that differ, recorded and asked; empty if the recording has no such call at all.
        nearest: recorded steps that may be the one that was meant, the likeliest first.
        location: file, line and function of the user's code that asked.
    """

    def __init__(
        self,
        message: str,
        *,
        run_id: str = "",
        step_key: str = "",
        differences: tuple[FieldDifference, ...] = (),
        nearest: tuple[str, ...] = (),
        location: str | None = None,
    ) -> None:
        super().__init__(message)
        self.run_id, self.step_key, self.differences = run_id, step_key, differences
        self.nearest, self.location = nearest, location
