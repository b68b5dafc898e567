"""What replay raises on purpose.

RedecodeError
└── ReplayError          the run cannot be replayed as asked; says why and what would work
    ├── TooLittleRecorded  the mode needs more than this recording holds
    └── ReplayDivergence   a playback asked for something the recording does not have
"""

from __future__ import annotations

from redecode.tracer import RedecodeError


class ReplayError(RedecodeError):
    """The run cannot be replayed as asked."""


class TooLittleRecorded(ReplayError):
    """The mode needs more than this recording holds."""


class ReplayDivergence(ReplayError):
    """A playback asked for something the recording does not have."""
