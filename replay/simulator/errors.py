"""What can be wrong with a simulation that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


class TooLong(SimulationError):
    """What was asked for lasts longer than virtual time does."""


@contextmanager
def virtual_time() -> Iterator[None]:
    """Where times go into columns of whole picoseconds, 64 bits each (`costs.LONGEST_S`).

    Raises:
        TooLong: one is beyond that.
    """
    try:
        yield
    except OverflowError as error:
        raise TooLong(
            "this goes beyond 106 days of virtual time, the most that can be simulated: leave out the runs that take "
            "so long, or make what they wait for shorter (--tool-speed, --step)"
        ) from error
