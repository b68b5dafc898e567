"""The names of the policies: what a command line must know before it loads them."""

from __future__ import annotations

from enum import StrEnum


class Policy(StrEnum):
    """Which replica gets a call."""

    TURNS = "turns"  # one after the other
    LEAST = "least"  # the one with the fewest calls under way
    POW2 = "pow2"  # as Ray Serve: the better of two at random
    PREFIX = "prefix"  # where most of its prompt was sent before
    SOONEST = "soonest"  # where it is expected to be done first
    DEADLINE = "deadline"  # where its run is most likely to be in time; may be refused

    @property
    def needs_times(self) -> bool:
        """It must know what steps of an engine take."""
        return self in (Policy.SOONEST, Policy.DEADLINE)
