"""How a batch of runs is replayed: what is recorded with each replay, so that it can be told, compared and resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from redecode.replay.closed_loop.alterations import Alterations
from redecode.replay.closed_loop.arrivals import Arrivals, BadArrivals, given_offsets, poisson_offsets, recorded_offsets
from redecode.replay.closed_loop.scaling import Scaling
from redecode.tracer import RecordedRun


class ReplayMode(StrEnum):
    """How a replay on an engine, or on a model of one, treats FM calls."""

    FORCE = "force"
    RESAMPLE = "resample"
    SIMULATE = "simulate"  # on an engine model, in no time


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """What can be chosen about a replay on an engine.

    Attributes:
        speed: recorded and given arrivals are so many times closer together, 0 is all at once; inside a run nothing
            is scaled.
        rate_per_s, seed: of Poisson arrivals.
        arrivals_file: of given arrivals.
        scaling: of recorded waits.
        altered: FM calls that are shorter, or not made; by force, and simulated.
        cold: empty the engine's prefix cache first, where it can be.
        as_streamed: a call is streamed if the recorded one was; otherwise none is, which spares the engine what
            streaming costs it, too.
    """

    arrivals: Arrivals = Arrivals.RECORDED
    speed: float = 1.0
    rate_per_s: float | None = None
    seed: int = 0
    arrivals_file: Path | None = None
    scaling: Scaling = field(default_factory=Scaling)
    altered: Alterations = field(default_factory=Alterations)
    cold: bool = True
    as_streamed: bool = True

    def __post_init__(self) -> None:
        poisson, given = self.arrivals is Arrivals.POISSON, self.arrivals is Arrivals.GIVEN
        if poisson != (self.rate_per_s is not None):
            raise BadArrivals("--arrivals poisson goes with --rate RUNS_PER_SECOND, and --rate with nothing else")
        if given != (self.arrivals_file is not None):
            raise BadArrivals("--arrivals given goes with --arrivals-file FILE, and --arrivals-file with nothing else")
        if poisson and self.speed != 1.0:
            raise BadArrivals("Poisson arrivals come at --rate; --speed is of recorded and given ones")

    def offsets_s(self, runs: Sequence[RecordedRun]) -> list[float]:
        """When each run begins, seconds after the first.

        Raises:
            BadArrivals: as the options say, there are none.
        """
        if self.rate_per_s is not None:
            return poisson_offsets(len(runs), self.rate_per_s, self.seed)
        if self.arrivals_file is not None:
            return given_offsets(self.arrivals_file, len(runs), self.speed)
        return recorded_offsets([r.run.started_ns for r in runs], self.speed)

    def to_json(self) -> dict[str, Any]:
        """As plain data; `from_json` reads it."""
        return {
            "arrivals": self.arrivals.value,
            "speed": self.speed,
            "rate": self.rate_per_s,
            "seed": self.seed if self.arrivals is Arrivals.POISSON else None,
            "arrivals_file": None if self.arrivals_file is None else str(self.arrivals_file),
            "tool_speed": self.scaling.tool_speed,
            "steps": dict(self.scaling.steps),
            "cold": self.cold,
            "as_streamed": self.as_streamed,
            **({"shorter": dict(self.altered.shorter)} if self.altered.shorter else {}),
            **({"cached": sorted(self.altered.cached)} if self.altered.cached else {}),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ReplayOptions:
        """Inverse of `to_json`."""
        file = data.get("arrivals_file")
        return cls(
            arrivals=Arrivals(data["arrivals"]),
            speed=data["speed"],
            rate_per_s=data["rate"],
            seed=data["seed"] or 0,
            arrivals_file=None if file is None else Path(file),
            scaling=Scaling(data["tool_speed"], data["steps"]),
            altered=Alterations(data.get("shorter", {}), frozenset(data.get("cached", ()))),
            cold=data["cold"],
            as_streamed=data["as_streamed"],
        )
