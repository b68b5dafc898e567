"""Kinds of replicas there may be: measured engines, what they cost, how many there are; what each of them serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redecode.optimizer.placement.beliefs import Beliefs, works_of
from redecode.optimizer.placement.errors import PlacementError
from redecode.optimizer.placement.estimates import Estimator
from redecode.optimizer.placement.mix import Bucket, MixPlan, cheapest_mix
from redecode.optimizer.placement.work import Speed
from redecode.replay.simulator.costs import PS
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.rows import Extremes
from redecode.replay.simulator.workload import Shape

_PARTS = 3
"""Buckets of the runs of one agent: those with the least work, with more, with the most."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of replica.

    Attributes:
        name: how the user knows it: its hardware.
        usd_per_hour: of one replica.
        most: there are no more.
        outside: in what respects a simulation went where nothing was measured (`EngineProfile.outside`).
    """

    name: str
    engine: Engine
    usd_per_hour: float
    most: int
    outside: Callable[[Extremes], list[str]] | None = None


@dataclass(frozen=True, slots=True)
class Sized:
    """Runs of one agent and of about one size."""

    name: str
    shapes: tuple[Shape, ...]
    share: float


def sized(shapes: Sequence[Shape]) -> list[Sized]:
    """Runs in buckets: by agent, then by how much work they are."""
    out = []
    for agent in sorted({s.name for s in shapes}):
        runs = sorted((s for s in shapes if s.name == agent), key=_tokens)
        parts = min(_PARTS, len(runs))
        for part in range(parts):
            some = tuple(runs[len(runs) * part // parts : len(runs) * (part + 1) // parts])
            what = ("short", "middling", "long")[part] if parts == _PARTS else str(part + 1)
            out.append(Sized(f"{what} runs of {agent or 'the agent'}", some, len(some) / len(shapes)))
    return out


def first_mix(
    shapes: Sequence[Shape], kinds: Sequence[Kind], per_s: float, slo_s: dict[str, float], late: float
) -> MixPlan:
    """The cheapest replicas of one model for these runs, by what each kind can do at the pace that the SLO bears.

    A kind serves a bucket at the share of its work at which at most `late` more of its runs are late than on it alone,
    and at none if most are late even then.

    Raises:
        PlacementError: there is no such mix.
    """
    engines = [k.engine for k in kinds]
    buckets = []
    model = engines[0].model
    for bucket in sized(shapes):
        rates = []
        for kind in kinds:
            estimator = Estimator(Beliefs(bucket.shapes, [kind.engine]))
            known = estimator.model(kind.engine)
            work = sum(
                estimator.unit_s(call.model, w)
                for shape in bucket.shapes
                for call, w in zip(shape.calls, works_of(shape, kind.engine.limits.block_size), strict=True)
                if call.model in (model, "") or not model
            ) / len(bucket.shapes)
            if not work:
                continue
            share = _bearable(bucket.shapes, kind.engine, slo_s[bucket.shapes[0].name], late)
            rates.append(share * known.relative() / work)
        if rates:
            buckets.append(Bucket(bucket.name, per_s * bucket.share, tuple(rates)))
    return cheapest_mix(buckets, [k.usd_per_hour for k in kinds], [k.most for k in kinds])


def _bearable(shapes: Sequence[Shape], engine: Engine, slo_s: float, late: float) -> float:
    """The largest share of an engine's work with which these runs are in time, but for `late` of them; 0: none is."""
    model = Estimator(Beliefs(shapes, [engine])).model(engine)

    def in_time(share: float) -> float:
        flat = model.speed(1)
        speed = Speed(
            flat.call_s, flat.sent_token_s, flat.prompt_token_s, flat.pair_s, model.pace_s(1) / max(1e-3, 1.0 - share)
        )
        return sum(longest_s(shape, speed, engine.limits.block_size) <= slo_s for shape in shapes) / len(shapes)

    best = in_time(0.0)
    if best < 0.5:
        return 0.0
    low, high = 0.02, 0.92
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if in_time(middle) >= best - late else (low, middle)
    return low


def longest_s(shape: Shape, speed: Speed, block_size: int = 16) -> float:
    """How long a run takes when all its calls have this speed."""
    works = works_of(shape, block_size)
    ready = [0] * len(shape.calls)
    for place, gap in shape.first:
        ready[place] = gap
    left = list(shape.waits)
    for place, _ in shape.first:
        left[place] -= 1
    todo = [place for place, count in enumerate(left) if not count]
    end = shape.least
    while todo:
        place = todo.pop()
        done = ready[place] + round(speed.time_s(works[place]) * PS)
        end = max(end, done + shape.last.get(place, 0))
        for after, gap in shape.after[place]:
            ready[after] = max(ready[after], done + gap)
            left[after] -= 1
            if not left[after]:
                todo.append(after)
    return end / PS


def check_models(shapes: Sequence[Shape], kinds: Sequence[Kind]) -> None:
    """Refuse runs that call an FM for which there is no kind of replica.

    Raises:
        PlacementError: names it.
    """
    served = {k.engine.model for k in kinds}
    missing = sorted({c.model for s in shapes for c in s.calls} - served)
    if missing and "" not in served:
        raise PlacementError(
            f"no engine profile of {', '.join(missing)}; `redecode profile` measures one (there are profiles of "
            f"{', '.join(sorted(served)) or 'nothing'})"
        )


def _tokens(shape: Shape) -> int:
    return sum(c.output_tokens for c in shape.calls)
