"""What-if on an engine model: the run simulated as it was recorded and with the changes, alone or many at a load.

Between the algebraic tier, where FM calls keep their recorded times, and the measured one, which needs an engine: here
an FM call takes what the engine model says for its tokens beside whatever runs at the time, so that shorter calls,
changed overlap and load count. The prediction is the gain; how far the model is from the recording is said beside it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from redecode.replay.analysis.changes import Change
from redecode.replay.closed_loop.engine_replay import choose
from redecode.replay.closed_loop.options import ReplayMode, ReplayOptions
from redecode.replay.closed_loop.plan import Plan
from redecode.replay.closed_loop.simulated import doubts, lay_out, workload_of
from redecode.replay.simulator.fleet import Fleet
from redecode.replay.simulator.load import poisson_workload
from redecode.replay.simulator.results import Quantiles, Simulated
from redecode.replay.what_if.measured import options_of
from redecode.tracer import RecordedRun

TIER = "simulated (engine model)"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedWhatIf:
    """What the engine model says.

    Attributes:
        profiles: keys of the engine profiles.
        recorded_ns: the run's duration as it was recorded.
        unchanged, changed: E2E latency of the run simulated as it was and as it would be, seconds: one run of mean step
            times, or `runs` copies of it with drawn ones, arriving as a Poisson process.
        load_per_s: of the latter; `None`: alone.
        doubts: why it may be wrong.
    """

    changes: tuple[str, ...]
    profiles: tuple[str, ...]
    recorded_ns: int
    unchanged: Quantiles
    changed: Quantiles
    load_per_s: float | None
    runs: int
    doubts: tuple[str, ...]

    @property
    def gain_s(self) -> float:
        """Unchanged − changed, at the median."""
        return (self.unchanged.p50 or 0.0) - (self.changed.p50 or 0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"tier": TIER, **asdict(self), "gain_s": self.gain_s}


def plan_of(recorded: RecordedRun) -> Plan:
    """The run as it can be simulated.

    Raises:
        TooLittleRecorded: it cannot.
    """
    return choose([recorded], ReplayMode.SIMULATE).plans[recorded.run.run_id]


def simulate_what_if(
    recorded: RecordedRun,
    changes: Sequence[Change],
    fleet: Fleet,
    *,
    load_per_s: float | None = None,
    runs: int = 200,
    seed: int = 0,
) -> SimulatedWhatIf:
    """Simulate a run as it was and with these changes.

    Args:
        load_per_s: copies of it that begin a second; what they have in common is not found in the prefix cache, but
            what is common to calls of one copy is. Without: one, alone.
        runs, seed: of the copies, and of what is drawn for them: the same for both.

    Raises:
        NotMeasurable: a change that no replay makes, and no simulation.
        SimulationError: the fleet does not serve its FMs.
    """
    plan = plan_of(recorded)
    found: list[Simulated] = []
    for options in (ReplayOptions(), options_of(changes, recorded, ReplayMode.SIMULATE)):
        laid = lay_out(plan, options, fleet.contents())
        if load_per_s is None:
            done = fleet.simulate(workload_of([laid], [0.0]), noise=False)
        else:
            workload = poisson_workload([laid.shape], runs, load_per_s, random.Random(seed))
            done = fleet.simulate(workload, seed=seed)
        found.append(done)
    run = recorded.run
    return SimulatedWhatIf(
        changes=tuple(map(str, changes)),
        profiles=tuple(p.key for p in fleet.profiles),
        recorded_ns=(run.ended_ns or run.started_ns) - run.started_ns,
        unchanged=Quantiles.of(found[0].run_s()),
        changed=Quantiles.of(found[1].run_s()),
        load_per_s=load_per_s,
        runs=1 if load_per_s is None else runs,
        doubts=tuple(doubts(fleet, *found)),
    )
