"""Runs alone on a cluster with nothing else to do: the least they can take, and on what way they take it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from redecode.optimizer.placement.beliefs import Beliefs
from redecode.optimizer.placement.estimates import Estimator
from redecode.optimizer.placement.simple import ShortestExpectedDelay
from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import PS
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.results import Simulated
from redecode.replay.simulator.workload import Shape, Workload

_APART_PS = 10_000 * PS
_AT_ONCE = 500  # runs so far apart, in one simulation: virtual time has an end


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of a way: a call, or the wait before it (or after the last)."""

    step: str
    seconds: float
    wait: bool = False


@dataclass(frozen=True, slots=True)
class Alone:
    """One run by itself.

    Attributes:
        way: the longest of its ways, from its beginning to its end.
    """

    name: str
    seconds: float
    way: tuple[Leg, ...]

    def words(self) -> str:
        """The way, its longest legs."""
        legs = sorted(self.way, key=lambda leg: -leg.seconds)[:3]
        keep = [leg for leg in self.way if leg in legs and leg.seconds > 0]
        return " → ".join(f"{'wait before ' if leg.wait else ''}{leg.step} {leg.seconds:.3g} s" for leg in keep)


def runs_alone(shapes: Sequence[Shape], engines: Sequence[Engine]) -> list[Alone]:
    """Each of these, one at a time, on these replicas: every call where it is done soonest."""
    estimator, out = Estimator(Beliefs(shapes, engines)), list[Alone]()
    for some in (shapes[start : start + _AT_ONCE] for start in range(0, len(shapes), _AT_ONCE)):
        begins = array("q", (place * _APART_PS for place in range(len(some))))
        workload = Workload(tuple(some), begins, array("l", range(len(some))))
        found = Simulation(workload, engines, router=ShortestExpectedDelay(estimator)).run()
        out += [
            Alone(shape.name, (found.run_ended[run] - begins[run]) / PS, way_of(found, run))
            for run, shape in enumerate(some)
        ]
    return out


def way_of(found: Simulated, run: int) -> tuple[Leg, ...]:
    """What a run that ended took its time for: back from its end, each time to what was waited for."""
    shape = found.workload.shapes[found.workload.which[run]]
    base, began = found.bases[run], found.workload.begins[run]
    last = max(shape.last, key=lambda p: found.done[base + p] + shape.last[p], default=None)
    if last is None or found.run_ended[run] - began <= shape.least:
        return (Leg("the agent's own code", (found.run_ended[run] - began) / PS, wait=True),)
    legs = [Leg("the end", shape.last[last] / PS, wait=True)]
    before: list[list[tuple[int, int]]] = [[] for _ in shape.calls]
    for earlier, edges in enumerate(shape.after):
        for later, gap in edges:
            before[later].append((earlier, gap))
    place: int | None = last
    while place is not None:
        sent, done = found.sent[base + place], found.done[base + place]
        step = shape.calls[place].step
        legs.append(Leg(step, (done - sent) / PS))
        ready = [(found.done[base + e] + gap, e, gap) for e, gap in before[place]]
        latest = max(ready, default=None)
        if latest is None or latest[0] < sent:
            legs.append(Leg(step, (sent - began) / PS, wait=True))
            place = None
        else:
            legs.append(Leg(step, latest[2] / PS, wait=True))
            place = latest[1]
    return tuple(reversed(legs))
