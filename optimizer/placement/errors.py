"""What can be wrong with a placement that was asked for."""

from __future__ import annotations

from redecode.replay.simulator.errors import SimulationError


class PlacementError(SimulationError):
    """A placement cannot be found as asked; says why, and what to change."""


class NoReplica(PlacementError):
    """A call has no replica that can run it."""
