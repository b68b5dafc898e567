"""What can be wrong with a simulation that was asked for."""

from __future__ import annotations

from redecode.replay.errors import ReplayError


class SimulationError(ReplayError):
    """A simulation cannot be done as asked; says why, and what to change."""


class CallDoesNotFit(SimulationError):
    """A call is longer than the engine it went to takes."""


class BadRoute(SimulationError):
    """A router named a replica that cannot serve the call."""


class TooFewSteps(SimulationError):
    """There are not enough recorded steps, or they are too much alike, to fit an engine model."""


class OutsideTheFit(SimulationError):
    """A prediction was asked for where nothing was measured."""


class NoProfile(SimulationError):
    """There is no engine profile of this name, or for this FM; says how one is made."""
