"""Placement as knobs of a study at load: how many replicas, which of them gets a call, on which measured engine.

They are part of a candidate, and nothing of its graph's: `placement.replicas`, `placement.routing`,
`placement.profile`. Candidates that differ in them alone run once. Replicas cost whether they are used or not, so the
cost of a run is then its share of their time: replicas / rate of runs, in seconds of a replica, or what these cost.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from redecode.optimizer.errors import BadSpec
from redecode.optimizer.knobs import Choice, Knob, Range, values_of
from redecode.optimizer.spec import Spec
from redecode.replay.simulator.fleet import Routing

PLACEMENT = "placement."
REPLICAS, ROUTING, PROFILE = (PLACEMENT + name for name in ("replicas", "routing", "profile"))
KNOWN = (REPLICAS, ROUTING, PROFILE)
DEFAULT_REPLICAS = 1
_MOST_REPLICAS = 10_000


def asked_for(
    load: str | None,
    *,
    replicas: int | None,
    profiles: Sequence[str],
    replica_usd_h: float | Mapping[str, float] | None,
    incumbent: Mapping[str, Any],
    knobs: Sequence[tuple[str, Knob | None]] = (),
) -> dict[str, Any]:
    """What the settings of a study keep of the load that it simulates; nothing if it simulates none.

    Args:
        replicas: in use; `None`: nobody has said.
        incumbent: the configuration in use, whose placement, if it has one, comes before `replicas`.
        knobs: that are asked for: what is in use is one of their values.

    Raises:
        BadSpec: it is none of them.
    """
    if load is None:
        return {}
    in_use = {name: value for name, value in incumbent.items() if is_placement(name)}
    said = in_use.get(REPLICAS, replicas)
    searched = next((checked(name, knob) for name, knob in knobs if name == REPLICAS), None)
    if searched is not None:
        said = _default_in(searched) if said is None else _taken(REPLICAS, searched, said)
    found = {
        "load": load,
        "replicas": DEFAULT_REPLICAS if said is None else said,
        "profiles": list(profiles),
        "replica_usd_h": replica_usd_h,
    }
    return {"at_load": {**found, **({"in_use": in_use} if in_use else {})}}


def replica_price(said: Sequence[str]) -> float | dict[str, float] | None:
    """USD of a replica's hour, as the command line says it: one for all, or one for each profile.

    Args:
        said: `1.2`, or `PROFILE=1.2` of each.

    Raises:
        BadSpec: it is none of these.
    """
    found: dict[str, float] = {}
    for text in said:
        name, _, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            found[name] = math.nan
        if not 0 <= found[name] < math.inf:
            raise BadSpec(f"--replica-price {text}: want USD an hour, as in 1.2, or PROFILE=1.2 of each profile")
    if not found or ("" in found and len(said) == 1):
        return found.get("")
    if "" in found or len(found) < len(said):
        raise BadSpec(f"--replica-price {' '.join(said)}: want one for all, or one for each profile")
    return found


def is_placement(name: str) -> bool:
    """Whether a knob is none of the graph's."""
    return name.startswith(PLACEMENT)


def without_placement(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a candidate's graph sees of it."""
    return {name: value for name, value in config.items() if not is_placement(name)}


def placement_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rest: `replicas`, `routing`, `profile`, as far as it has them."""
    return {name.removeprefix(PLACEMENT): value for name, value in config.items() if is_placement(name)}


def with_placement(
    spec: Spec, knobs: Sequence[tuple[str, Knob | None]], at_load: Mapping[str, Any] | None
) -> tuple[Spec, list[tuple[str, Knob | None]]]:
    """A spec that has the placement knobs among these, and the other knobs.

    Args:
        at_load: the load that a study simulates, and the placement in use; `None`: it simulates none.

    Raises:
        BadSpec: a knob that there is not, or values that are none; or nothing is simulated.
    """
    found: dict[str, Knob] = {}
    now: dict[str, Any] = {}
    for name, knob in knobs:
        if not is_placement(name):
            continue
        if at_load is None:
            raise BadSpec(f"knob {name}: placement is simulated, at a load: say --load RATE")
        found[name] = checked(name, knob)
        now[name] = _in_use(name, found[name], at_load)
    rest = [(name, knob) for name, knob in knobs if not is_placement(name)]
    if not found:
        return spec, rest
    if rest:  # once a knob is named nothing else is searched, but for the placement
        rest += [(name, None) for name in found]
    update = {"knobs": {**spec.knobs, **found}, "incumbent": {**now, **spec.incumbent}}
    return spec.model_copy(update=update), rest


def checked(name: str, knob: Knob | None) -> Knob:
    """A placement knob with the values that it may have.

    Raises:
        BadSpec: there is no such knob, or it has no such values.
    """
    if name == ROUTING:
        known = [r.value for r in Routing]
        knob = knob or Choice(*known)
        if not isinstance(knob, Choice) or any(v not in known for v in knob.labels):
            raise BadSpec(f"knob {name} takes {', '.join(known)}")
        return knob
    if name == REPLICAS:
        knob = dataclasses.replace(knob, integer=True) if isinstance(knob, Range) else knob or Range(1, 4, integer=True)
        if isinstance(knob, Range):
            parts = [p for p in (knob.low, knob.high, knob.step) if p is not None]
            fits = all(p == round(p) for p in parts) and knob.low >= 1 and knob.high <= _MOST_REPLICAS
        else:
            fits = all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= _MOST_REPLICAS for v in knob.values)
        if not fits:
            raise BadSpec(f"knob {name} takes whole numbers from 1 to {_MOST_REPLICAS}, as in {name}=1..4")
        return knob
    if name == PROFILE:
        if not isinstance(knob, Choice):
            raise BadSpec(f"knob {name} wants the profiles to choose from, as in {name}=KEY,OTHER")
        return knob
    raise BadSpec(f"knob {name}: there are {REPLICAS}, {ROUTING} and {PROFILE}")


def _in_use(name: str, knob: Knob, at_load: Mapping[str, Any]) -> Any:
    """The incumbent's value: what the study is told of the placement in use, else the first that is allowed.

    Raises:
        BadSpec: the knob does not take what was said.
    """
    if name == REPLICAS:
        given = at_load.get("replicas")
        # A night's file may have the default written out, which is none that somebody has chosen.
        return _default_in(knob) if given in (None, DEFAULT_REPLICAS) else _taken(name, knob, given)
    if name == PROFILE:
        # Whether another spelling is the same one, or of another FM, only the store knows (`simulated.AtLoad.check`).
        given = next((p for p in at_load.get("profiles") or () if p in knob), None)
    else:
        given = Routing.LEAST.value
    return given if given is not None and given in knob else (values_of(knob) or (None,))[0]


def _default_in(knob: Knob) -> Any:
    """How many replicas are in use where nobody has said."""
    return DEFAULT_REPLICAS if DEFAULT_REPLICAS in knob else (values_of(knob) or (None,))[0]


def _taken(name: str, knob: Knob, said: Any) -> Any:
    if said not in knob:
        raise BadSpec(
            f"knob {name} takes {knob}, not {said!r}, which is said to be in use; widen it (as a knob {name}=...)"
        )
    return said
