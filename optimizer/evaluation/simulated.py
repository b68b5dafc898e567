"""The rung between memo and engine: what a candidate's runs would take at a load, on replicas of measured engines.

The runs themselves, their calls, lengths and answers, are those of the evaluation; only their times are simulated: runs
drawn from them begin as a Poisson process, on a fleet of engine profiles. Each case gets one latency: the quantile of
its simulated runs that belongs to it, the same for every candidate, so that together they are spread as runs at load
are, and no candidate has better luck than another.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from redecode.optimizer.errors import BadSpec, OptimizerError
from redecode.optimizer.evaluation.placing import PROFILE, REPLICAS, ROUTING
from redecode.optimizer.knobs import Choice, Config, Space, values_of
from redecode.optimizer.objectives import Outcome
from redecode.replay import ReplayMode, ReplayOptions
from redecode.replay.closed_loop.engine_replay import choose
from redecode.replay.closed_loop.plan import Plan
from redecode.replay.closed_loop.simulated import lay_out, models_of
from redecode.replay.errors import TooLittleRecorded
from redecode.replay.simulator import catalogue
from redecode.replay.simulator.errors import CallDoesNotFit, NoProfile
from redecode.replay.simulator.fleet import Fleet, Routing
from redecode.replay.simulator.load import poisson_workload, rate_of
from redecode.replay.simulator.profile import EngineProfile
from redecode.replay.simulator.results import quantile
from redecode.tracer import Decode, Store

_EACH = 20
"""Simulated runs for each case, on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A placement: so many replicas of each profile, and who gets a call.

    Attributes:
        profiles: of the study; none named: of each FM its own.
        chosen: in the place of the one that its FM would have.
    """

    replicas: int
    routing: Routing
    profiles: Sequence[str]
    chosen: str | None = None


@dataclass(slots=True, kw_only=True)
class AtLoad:
    """Simulates outcomes at a load (a `ladder.Simulates`).

    Args:
        store: that has the runs, and the engine profiles (`redecode profile`) if `profiles` names none.
        rate_per_s: of runs.
        replicas: of each profile.
        profiles: keys or files; by default the one of each FM.
        in_use: placement of every candidate whose own knobs say nothing of it, before what is said here.
        replica_usd_h: of all profiles, or by profile.

    Raises:
        SimulationError: a profile that is named is not there.
    """

    store: Path
    rate_per_s: float
    replicas: int = 1
    profiles: Sequence[str] = ()
    routing: Routing = Routing.LEAST
    seed: int = 0
    in_use: Config = field(default_factory=dict)
    replica_usd_h: float | Mapping[str, float] | None = None
    _fleets: dict[tuple[frozenset[str], Placed], Fleet] = field(default_factory=dict)
    _usd_h: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.profiles:
            catalogue.named(self.store, name)
        if isinstance(self.replica_usd_h, Mapping):
            self._usd_h = {catalogue.named(self.store, n).key: usd for n, usd in self.replica_usd_h.items()}

    @property
    def fidelity(self) -> str:
        """How a study on such times is called."""
        return f"simulated-{self.rate_per_s:g}rps-x{self.replicas}"

    def __call__(self, outcomes: Sequence[Outcome], config: Config | None = None) -> list[Outcome]:
        """The outcomes with `simulated_s`; runs that failed have none.

        Args:
            config: the candidate, whose placement knobs come before what the study says.

        Raises:
            BadSpec: it cannot be simulated, and another candidate may be: a call was recorded without its lengths or
                is too long for the engine, or its FM has no profile beside the one that the candidate chose.
            SimulationError: an FM has no profile.
        """
        placed = self._placed(config or {})
        try:
            return self._simulated(outcomes, placed)
        except NoProfile as error:
            if placed.chosen is None:
                raise
            raise BadSpec(str(error)) from error  # another candidate has another profile
        except TooLittleRecorded as error:
            why, _, _ = str(error).partition(";")
            raise BadSpec(f"{why}; the engine has to tell them (`usage`)") from error
        except CallDoesNotFit as error:
            raise BadSpec(str(error)) from error

    def _simulated(self, outcomes: Sequence[Outcome], placed: Placed) -> list[Outcome]:
        """As the call, on this placement."""
        models = {m for o in outcomes if o.error is None for m in o.usage}
        engines = _of(models, self._profiles(models, placed))
        share_s = placed.replicas / self.rate_per_s
        taken = max(1, len(engines)) * share_s
        usd = None if self.replica_usd_h is None else self._usd_an_hour(engines) * share_s / 3600
        outcomes = [replace(o, provisioned_s=taken, provisioned_usd=usd) for o in outcomes]
        ids = [o.run_id for o in outcomes if o.error is None and o.run_id is not None and o.simulated_s is None]
        loaded = {r.run.run_id: r for r in Store(self.store).load_many(ids)} if ids else {}
        # A run without an FM call to simulate, say since a rule or a cache answered, takes at any load what it took.
        calling = [loaded[i] for i in ids if not all(map(_waited_through, loaded[i].decodes))]
        plans = choose(calling, ReplayMode.SIMULATE).plans if calling else {}
        times = self.latencies(plans, placed, len(plans) / len(ids)) if plans else {}
        return [_timed(o, times.get(o.run_id)) if o.run_id in loaded else o for o in outcomes]

    def _placed(self, config: Config) -> Placed:
        config = {**self.in_use, **config}
        profile = config.get(PROFILE)
        return Placed(
            replicas=int(config.get(REPLICAS) or self.replicas),
            routing=Routing(str(config.get(ROUTING) or self.routing)),
            profiles=tuple(self.profiles),
            chosen=None if profile is None else str(profile),
        )

    def _usd_an_hour(self, engines: Sequence[EngineProfile]) -> float:
        """Of a replica of each; where no FM is called there is one, the cheapest."""
        if engines:
            return sum(map(self._price, engines))
        return min(self._usd_h.values()) if isinstance(self.replica_usd_h, Mapping) else self.replica_usd_h or 0.0

    def _price(self, engine: EngineProfile) -> float:
        """USD of an hour of a replica."""
        if not isinstance(self.replica_usd_h, Mapping):
            return self.replica_usd_h or 0.0
        if engine.key not in self._usd_h:
            raise BadSpec(f"profile {engine.key} ({engine.model} on {engine.hardware}) has no replica price")
        return self._usd_h[engine.key]

    def check(self, space: Space, runs: Sequence[str] = ()) -> None:
        """Refuse, before anything is run, what is not measured.

        Args:
            runs: of the cases: the FMs that these call are those of candidates, too.

        Raises:
            BadSpec: the knob of profiles, or the configuration in use, names one that is not there, or the knob lacks
                the one in use.
            NoProfile: there is none at all, or there are several of an FM and nobody says which.
        """
        wanted = values_of(space.knobs[PROFILE]) or () if PROFILE in space.knobs else [self.in_use.get(PROFILE)]
        for name in [str(w) for w in wanted if w is not None]:
            try:
                self._price(catalogue.named(self.store, name))
            except NoProfile as error:
                raise BadSpec(f"{PROFILE}: {error}") from error
        if not self.profiles:
            catalogue.some(self.store)
            self._check_one_of_each(space, runs, {catalogue.named(self.store, str(w)).model for w in wanted if w})
        if PROFILE in space.knobs and PROFILE not in self.in_use:
            self._check_in_use(space)

    def _check_one_of_each(self, space: Space, runs: Sequence[str], chosen: Collection[str]) -> None:
        """No FM that is called, or is a value of a knob, has two profiles, but for those whose profile is chosen."""
        kept = Counter(profile.model for profile in catalogue.profiles_in(self.store))
        if not (several := {model for model, count in kept.items() if count > 1} - {*chosen}):
            return
        called = {call.model for call in Store(self.store).call_times(list(runs))}
        values = {v for knob in space.knobs.values() if isinstance(knob, Choice) for v in knob.labels}
        for model in sorted(several & {*called, *values, *map(str, space.base.values())}):
            catalogue.profile_for(self.store, model)

    def _check_in_use(self, space: Space) -> None:
        """A profile that is said is in use, unless it is of an FM whose hardware is not searched."""
        choices = {str(w): catalogue.named(self.store, str(w)) for w in values_of(space.knobs[PROFILE]) or ()}
        now = choices.get(str(space.base.get(PROFILE)))
        for name in self.profiles:
            said = catalogue.named(self.store, name)
            if said.model not in {c.model for c in choices.values()} or (now is not None and now.key == said.key):
                continue
            known = next((choice for choice, profile in choices.items() if profile.key == said.key), None)
            if known is None:
                way_out = f"widen it (as a knob {PROFILE}={name},...)"
            else:
                way_out = "say one of each FM" if known == name else f"say {known}, as the knob does"
            raise BadSpec(
                f"knob {PROFILE} takes {space.knobs[PROFILE]}, not {name!r}, which is said to be the profile of "
                f"{said.model} in use; {way_out}"
            )

    def latencies(
        self, plans: Mapping[str, Plan], placed: Placed | None = None, share: float = 1.0
    ) -> dict[str, list[float]]:
        """Run id → its simulated latencies, s, ascending; every run at least once.

        Args:
            share: of all runs that begin; the others call no FM.
        """
        fleet = self._fleet(plans, placed or self._placed({}))
        contents = fleet.contents()
        ids = list(plans)
        shapes = [lay_out(plans[i], ReplayOptions(), contents).shape for i in ids]
        found: dict[str, list[float]] = {i: [] for i in ids}
        for attempt in range(100):
            rng = random.Random(f"{self.seed}/{attempt}")
            workload = poisson_workload(shapes, _EACH * len(shapes), self.rate_per_s * share, rng)
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
            profiles = self._profiles(models, placed)
            Fleet(profiles).check(models, "; say one of each FM by --profile")
            # Without those that nobody calls: noise is drawn by the number of a replica.
            self._fleets[models, placed] = Fleet(_of(models, profiles), placed.replicas, routing=placed.routing)
        return self._fleets[models, placed]

    def _profiles(self, models: Collection[str], placed: Placed) -> tuple[EngineProfile, ...]:
        """The engines of a placement: those that are named, whoever calls them, else those of these FMs."""
        chosen = None if placed.chosen is None else catalogue.named(self.store, placed.chosen)
        named = catalogue.all_named(self.store, placed.profiles)
        if named and chosen is not None:
            named = [p for p in named if p.model != chosen.model]
        elif not placed.profiles:
            others = sorted(m for m in models if chosen is None or m != chosen.model)
            named = [catalogue.profile_for(self.store, m, set()) for m in others]
        return (*(() if chosen is None else (chosen,)), *named)


def at_load(store: Path, settings: Mapping[str, Any]) -> AtLoad | None:
    """The simulation that a study's settings ask for (`placing.asked_for`), if they do.

    Raises:
        SimulationError: a load that is none, or a profile that is not there.
    """
    asked = settings.get("at_load")
    if asked is None:
        return None
    return AtLoad(
        store=store,
        rate_per_s=rate_of(asked["load"]),
        replicas=asked["replicas"],
        profiles=asked["profiles"],
        in_use=asked.get("in_use", {}),
        replica_usd_h=asked.get("replica_usd_h"),
    )


def measured_on(store: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a study's latencies are of, for its settings: another engine, or another profile, is another study.

    Args:
        settings: with the load that it simulates, if it does.

    Raises:
        SimulationError: a profile that is named is not there.
    """
    found: dict[str, Any] = {"engine": os.environ.get("OPENAI_BASE_URL")}
    if (asked := settings.get("at_load")) is not None:
        named = catalogue.all_named(store, asked["profiles"]) or catalogue.profiles_in(store)
        texts = {p.key: p.model_dump_json().encode() for p in named}
        found["profiles"] = {key: blake2b(text, digest_size=6).hexdigest() for key, text in sorted(texts.items())}
    return found


def _of(models: Collection[str], profiles: Sequence[EngineProfile]) -> tuple[EngineProfile, ...]:
    """Those that one of these FMs is called on: others serve other candidates."""
    return tuple(p for p in profiles if p.model in models)


def _waited_through(decode: Decode) -> bool:
    """Whether a call is none to simulate (as `plan.plan` has it): it failed, or made no token."""
    if decode.sampled_ids is not None:
        return not decode.sampled_ids
    return decode.error is not None or decode.output_tokens == 0


def _timed(outcome: Outcome, times: Sequence[float] | None) -> Outcome:
    """With the time of its case; of a run that was not simulated what it took."""
    taken = outcome.latency_s if times is None else quantile(times, share_of(outcome.case))
    return replace(outcome, simulated_s=taken)


def share_of(case: str) -> float:
    """The quantile that belongs to a case, evenly spread over cases."""
    return (int.from_bytes(blake2b(case.encode(), digest_size=4).digest()) + 0.5) / 2**32
