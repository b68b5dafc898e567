"""What verbs that simulate share: the engine models of their FMs, and how these are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from redecode.replay.closed_loop.plan import Plan
from redecode.replay.closed_loop.simulated import models_of
from redecode.replay.simulator import catalogue
from redecode.replay.simulator.errors import SimulationError
from redecode.replay.simulator.fit import info_of, key_of_engine
from redecode.replay.simulator.fleet import OTHER_FM, Fleet, Routing
from redecode.tracer import ReadableStore

ProfileOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Simulate on this engine profile (its key, or a file; `redecode profile` lists them); repeatable. By "
        "default that of each FM.",
        metavar="PROFILE",
    ),
]
ReplicasOption = Annotated[int, typer.Option(help="Simulated replicas of each profile.", min=1)]
OtherFmOption = Annotated[
    bool, typer.Option("--other-fm", help="Simulate FM calls on the profile of another FM: as many tokens, its times.")
]
NoNoiseOption = Annotated[
    bool, typer.Option("--no-noise", help="Every simulated step takes its mean time, not one drawn from the measured.")
]
RoutingOption = Annotated[
    Routing,
    typer.Option(
        help="Which simulated replica gets a call: the one with the least under way, in turns, or the one that has "
        "most of its prompt in its prefix cache."
    ),
]


def fleet_of(
    path: Path,
    source: ReadableStore,
    plans: Iterable[Plan],
    names: Sequence[str] | None,
    *,
    replicas: int = 1,
    other_fm: bool | None = None,
    routing: Routing = Routing.LEAST,
) -> Fleet:
    """Replicas for these runs.

    Args:
        path: the store that the profiles are in.
        source: what says on which engines the runs were recorded.
        names: of profiles; by default that of each FM, of the engine it was recorded on if there are several.
        other_fm: `--other-fm`; `None` for a verb that has no such option.

    Raises:
        SimulationError: there is none, or not for every FM.
    """
    plans = list(plans)
    if names:
        profiles = catalogue.all_named(path, names)
    else:
        profiles = [
            catalogue.profile_for(path, model, _recorded_on(source, plans, model)) for model in sorted(models_of(plans))
        ]
    fleet = Fleet(tuple(profiles), replicas, bool(other_fm), routing)
    fleet.check(models_of(plans), "" if other_fm is None else OTHER_FM)
    return fleet


def _recorded_on(source: ReadableStore, plans: Sequence[Plan], model: str) -> set[str | None]:
    """The keys of the engines these calls were made by, as far as they said what they are."""
    ids = {d.engine_id for p in plans for d in p.decodes.values() if d.model == model and d.engine_id}
    keys = set()
    for engine_id in ids:
        try:
            keys.add(key_of_engine(info_of(source.engine(engine_id) or {})))
        except SimulationError:
            continue
    return keys
