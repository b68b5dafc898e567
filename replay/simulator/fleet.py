"""Replicas of measured engines, and who of them serves a call: what simulations of recorded runs are run on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import reduce

from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.errors import BadRoute, NoProfile
from redecode.replay.simulator.profile import EngineProfile
from redecode.replay.simulator.results import Simulated
from redecode.replay.simulator.rows import Extremes
from redecode.replay.simulator.views import CallView, ReplicaView, Router
from redecode.replay.simulator.workload import Contents, Shape, Workload

OTHER_FM = "; --other-fm simulates them on that all the same: as many tokens, the times of the other FM"


class Routing(StrEnum):
    """Which of the replicas of its FM gets a call."""

    LEAST = "least"  # the one with the fewest calls under way
    TURNS = "turns"  # one after the other
    PREFIX = "prefix"  # the one whose prefix cache has most of its prompt; of equals the least busy


class FleetRouter(Router):
    """Sends each call to a replica that serves its FM."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing
        self._turns: dict[str, int] = {}

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> int:
        """As `Router.route`."""
        fit = [r for r in replicas if call.model in (r.engine.model, "") or not r.engine.model]
        if not fit:
            raise BadRoute(f"no replica serves {call.model}")
        if self._routing is Routing.TURNS:
            turn = self._turns.get(call.model, 0)
            self._turns[call.model] = turn + 1
            return fit[turn % len(fit)].number
        if self._routing is Routing.PREFIX:
            return min(fit, key=lambda r: (-r.cached_blocks(call.hashes), r.outstanding, r.number)).number
        return min(fit, key=lambda r: (r.outstanding, r.number)).number


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas of engines as they were measured.

    Attributes:
        replicas: of each profile.
        any_model: they serve calls of every FM: how long would these have taken on that one?
    """

    profiles: tuple[EngineProfile, ...]
    replicas: int = 1
    any_model: bool = False
    routing: Routing = Routing.LEAST

    def engines(self) -> list[Engine]:
        """Of every replica, in the order of the profiles."""
        engines = [p.to_engine() for p in self.profiles]
        if self.any_model:
            engines = [replace(e, model="") for e in engines]
        return [e for e in engines for _ in range(self.replicas)]

    def check(self, models: Iterable[str], way_out: str = OTHER_FM) -> None:
        """Refuse FMs that nobody here serves.

        Args:
            way_out: what else could be done, in words.

        Raises:
            NoProfile: names them, and what there is.
        """
        served = {p.model for p in self.profiles}
        missing = sorted(set(models) - served)
        if missing and not self.any_model:
            raise NoProfile(
                f"these runs call {', '.join(missing)}, and the profile is of {', '.join(sorted(served))}{way_out}"
            )

    def contents(self) -> dict[str, Contents]:
        """Names of KV blocks for each FM (`workload.shape_of`), to be shared by all runs; "" is any FM."""
        by_size: dict[int, Contents] = {}
        found = {p.model: by_size.setdefault(p.limits.block_size, Contents(p.limits.block_size)) for p in self.profiles}
        return {**found, "": next(iter(found.values()))}

    def simulate(
        self,
        workload: Workload,
        *,
        seed: int = 0,
        noise: bool = True,
        on_run: Callable[[int, int], None] | None = None,
    ) -> Simulated:
        """Run a workload on it. `on_run` is called now and then with (runs ended, runs in all)."""
        engines = self.engines()
        router = FleetRouter(self.routing) if len(engines) > 1 else None
        return Simulation(workload, engines, router=router, seed=seed, noise=noise).run(on_run)

    def alone_ps(self, shape: Shape) -> int:
        """What a run takes with nothing beside it, on one replica of each profile; without noise."""
        found = replace(self, replicas=1).simulate(Workload.of([shape], [0]), noise=False)
        return found.run_ended[0]

    def outside(self, *found: Simulated) -> list[str]:
        """In what respects simulations went where nothing was measured, one sentence for each."""
        said = []
        for place, p in enumerate(self.profiles):
            own = slice(place * self.replicas, (place + 1) * self.replicas)
            most = reduce(Extremes.join, (e for f in found for e in f.extremes[own]), Extremes())
            said += [f"{p.model} on {p.hardware}: {words}" for words in p.outside(most)]
        return said

    def unmeasured(self) -> list[str]:
        """What a simulation takes as nothing since no profile has it."""
        return [
            f"{p.model} on {p.hardware}: the way to the engine and back was not measured, and is taken as 0"
            for p in self.profiles
            if not p.overheads.known
        ]
