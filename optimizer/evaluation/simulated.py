"""The rung between memo and engine: what a candidate's runs would take at a load, on replicas of measured engines.

The runs themselves, their calls, lengths and answers, are those of the evaluation; only their times are simulated: runs
drawn from them begin as a Poisson process, on a fleet of engine profiles. Each case gets one latency: the quantile of
its simulated runs that belongs to it, the same for every candidate, so that together they are spread as runs at load
are, and no candidate has better luck than another.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

from redecode.optimizer.errors import OptimizerError
from redecode.optimizer.evaluation.placing import PROFILE, REPLICAS, ROUTING
from redecode.optimizer.knobs import Config
from redecode.optimizer.objectives import Outcome
from redecode.replay import ReplayMode, ReplayOptions
from redecode.replay.engine_replay import choose
from redecode.replay.plan import Plan
from redecode.replay.simulated import lay_out, models_of
from redecode.replay.simulator import catalogue
from redecode.replay.simulator.fleet import Fleet, Routing
from redecode.replay.simulator.load import poisson_workload
from redecode.replay.simulator.results import quantile
from redecode.tracer import Store

_EACH = 20
"""Simulated runs for each case, on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A placement: so many replicas of each profile (none named: of each FM's own), and who gets a call."""

    replicas: int
    routing: Routing
    profiles: Sequence[str]


@dataclass(slots=True, kw_only=True)
class AtLoad:
    """Simulates outcomes at a load (a `ladder.Simulates`).

    Args:
        store: that has the runs, and the engine profiles (`redecode profile`) if `profiles` names none.
        rate_per_s: of runs.
        replicas: of each profile.
        profiles: keys or files; by default the one of each FM.

    Raises:
        SimulationError: a profile that is named is not there.
    """

    store: Path
    rate_per_s: float
    replicas: int = 1
    profiles: Sequence[str] = ()
    routing: Routing = Routing.LEAST
    seed: int = 0
    _fleets: dict[tuple[frozenset[str], Placed], Fleet] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.profiles:
            catalogue.named(self.store, name)

    @property
    def fidelity(self) -> str:
        """How a study on such times is called."""
        return f"simulated-{self.rate_per_s:g}rps-x{self.replicas}"

    def __call__(self, outcomes: Sequence[Outcome], config: Config | None = None) -> list[Outcome]:
        """The outcomes with `simulated_s`; runs that failed have none.

        Args:
            config: the candidate, whose placement knobs come before what the study says.

        Raises:
            OptimizerError: a run was not recorded well enough to be simulated.
            SimulationError: an FM has no profile.
        """
        placed = self._placed(config or {})
        share_s = placed.replicas / self.rate_per_s
        outcomes = [replace(o, provisioned_s=share_s) for o in outcomes]
        # A run that called no FM, say since a cache answered, takes at any load what it took.
        outcomes = [o if o.usage or o.error is not None or not o.cached else _as_it_was(o) for o in outcomes]
        ids = [o.run_id for o in outcomes if o.error is None and o.run_id is not None and o.simulated_s is None]
        if not ids:
            return list(outcomes)
        store = Store(self.store)
        loaded = {r.run.run_id: r for r in store.load_many(ids)}
        chosen = choose([loaded[i] for i in ids], ReplayMode.SIMULATE, leave_out=True)
        if chosen.left_out:
            run_id, why = next(iter(chosen.left_out.items()))
            raise OptimizerError(f"run {run_id[:12]} of a candidate cannot be simulated: {why}")
        times = self.latencies(chosen.plans, placed)
        return [
            o if o.run_id not in times else replace(o, simulated_s=quantile(times[o.run_id], share_of(o.case)))
            for o in outcomes
        ]

    def _placed(self, config: Config) -> Placed:
        profile = config.get(PROFILE)
        return Placed(
            replicas=int(config.get(REPLICAS) or self.replicas),
            routing=Routing(str(config.get(ROUTING) or self.routing)),
            profiles=tuple(self.profiles) if profile is None else (str(profile),),
        )

    def latencies(self, plans: Mapping[str, Plan], placed: Placed | None = None) -> dict[str, list[float]]:
        """Run id → its simulated latencies, s, ascending; every run at least once."""
        fleet = self._fleet(plans, placed or self._placed({}))
        contents = fleet.contents()
        ids = list(plans)
        shapes = [lay_out(plans[i], ReplayOptions(), contents).shape for i in ids]
        found: dict[str, list[float]] = {i: [] for i in ids}
        for attempt in range(100):
            rng = random.Random(f"{self.seed}/{attempt}")
            workload = poisson_workload(shapes, _EACH * len(shapes), self.rate_per_s, rng)
            done = fleet.simulate(workload, seed=self.seed + attempt, noise=True)
            for run, which in enumerate(workload.which):
                if done.run_ended[run] >= 0:
                    found[ids[which]].append((done.run_ended[run] - workload.begins[run]) / 1e12)
            if all(found.values()):
                return {i: sorted(v) for i, v in found.items()}
        raise OptimizerError("some simulated runs never end: their calls do not fit the engine of the profile")

    def _fleet(self, plans: Mapping[str, Plan], placed: Placed) -> Fleet:
        models = frozenset(models_of(plans.values()))
        if (models, placed) not in self._fleets:
            named = tuple(catalogue.named(self.store, name) for name in placed.profiles)
            profiles = named or tuple(catalogue.profile_for(self.store, m, set()) for m in sorted(models))
            fleet = Fleet(profiles, placed.replicas, routing=placed.routing)
            fleet.check(models)
            self._fleets[models, placed] = fleet
        return self._fleets[models, placed]


def _as_it_was(outcome: Outcome) -> Outcome:
    return replace(outcome, simulated_s=outcome.latency_s)


def share_of(case: str) -> float:
    """The quantile that belongs to a case, evenly spread over cases."""
    return (int.from_bytes(blake2b(case.encode(), digest_size=4).digest()) + 0.5) / 2**32
