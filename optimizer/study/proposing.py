"""What to evaluate next: the candidate that may add most to what the front covers.

Each objective and each constraint is a Gaussian process over the knobs (`gaussian.Process`). Of many candidates, drawn
at random and next to the present front, the one is chosen whose optimistic values (mean minus a standard deviation)
add most hypervolume, weighted by the chance that it keeps the constraints: the S-metric selection of Ponweiser et al.,
"Multiobjective Optimization on a Limited Budget of Evaluations Using Model-Assisted S-Metric Selection", PPSN 2008,
with the constraints of Gardner et al., "Bayesian Optimization with Inequality Constraints", ICML 2014. It thinks for
some tenths of a second, which is little where an evaluation is runs of an agent.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from redecode.optimizer.knobs import Choice, Config, Knob, Space, nearest
from redecode.optimizer.study.gaussian import Process, distances, one_thread
from redecode.optimizer.study.hypervolume import front

LEAST = 6
"""Trials below which there is no model."""
MOST = 800
"""Trials that are looked at, the last ones: time grows with the cube."""
_DRAWN, _NEAR, _POINTS = 400, 400, 3000
_BOLD = 1.0
_LIKELY = 0.3
"""A candidate that keeps the constraints with this chance counts for how far the front may reach."""
CHEAPER = 10.0
"""A gain is weighed against what it costs to find out (Snoek et al., "Practical Bayesian Optimization", NIPS 2012)."""
_CLIPPED = 2.0
"""By how much a constraint is exceeded counts up to this: what is hopeless is hopeless."""


def propose(
    space: Space,
    configs: Sequence[Config],
    values: Sequence[Sequence[float]],
    violations: Sequence[Sequence[float]],
    pending: Sequence[Config],
    rng: random.Random,
    free: Sequence[Config] = (),
) -> Config | None:
    """A candidate that was not evaluated and is not under way; `None` if none was found, or too few trials are known.

    Args:
        values: of each candidate; all are to be small. Of what is to be compared by ratios give logarithms.
        violations: of each candidate and constraint; at or below 0 it is kept.
        free: candidates that take next to nothing to evaluate, which are worth it for a `CHEAPER`th of what others are.

    Candidates with a value that is not finite tell a model nothing, and are only not proposed again.
    """
    told = [i for i, v in enumerate(values) if all(map(math.isfinite, (*v, *violations[i])))][-MOST:]
    if len(told) < LEAST or not space.knobs:
        return None
    gone = [c for i, c in enumerate(configs) if i not in set(told)]
    with one_thread():
        return _proposed(
            space, [configs[i] for i in told], [values[i] for i in told], [violations[i] for i in told],
            pending, gone, rng, free,
        )  # fmt: skip


def _proposed(
    space: Space, configs: Sequence[Config], values: Sequence[Sequence[float]], violations: Sequence[Sequence[float]],
    pending: Sequence[Config], gone: Sequence[Config], rng: random.Random, free: Sequence[Config],
) -> Config | None:  # fmt: skip
    """Args: gone: candidates that are known and not in the models."""
    apart = distances(space, configs, configs)
    models = [Process(space, apart, column) for column in zip(*values, strict=True)]
    limits = [
        Process(space, apart, np.clip(column, -1.0, _CLIPPED).tolist()) for column in zip(*violations, strict=True)
    ]
    means = np.stack([m.at(apart)[0] for m in models])
    kept = np.ones(len(configs), bool)
    for limit in limits:
        kept &= limit.at(apart)[0] <= 0.0
    here = means.T[kept]
    best = [tuple(map(float, here[i])) for i in front([tuple(p) for p in here.tolist()])]
    at = [configs[i] for i in np.flatnonzero(kept)]
    pool, first_free = _pool(space, [*configs, *pending, *gone], at or list(configs), rng, free)
    if not pool:
        return None
    away = distances(space, configs, pool)
    chance = np.ones(len(pool))
    for limit in limits:
        mean, sd = limit.at(away)
        chance *= 0.5 * (1.0 + np.asarray([math.erf(x) for x in (-mean / sd / math.sqrt(2.0))]))
    if not best:
        return pool[int(np.argmax(chance))]
    guesses = [m.at(away) for m in models]
    hopes = np.stack([mean - _BOLD * sd for mean, sd in guesses], axis=1)
    waiting = distances(space, configs, pending) if pending else None
    taken = [] if waiting is None else np.stack([m.at(waiting)[0] for m in models], axis=1).tolist()
    likely = hopes[chance >= min(_LIKELY, chance.max())]
    gains = _gains(hopes, [*best, *taken], np.concatenate([here, likely]), rng) * chance
    if gains.max() <= 0.0:  # nothing is hoped for: learn
        gains = chance * np.prod([sd for _, sd in guesses], axis=0)
    gains[first_free:] *= CHEAPER
    return pool[int(np.argmax(gains))]


def _gains(hopes: Any, best: Sequence[Sequence[float]], here: Any, rng: random.Random) -> Any:
    """Of each hope the volume that it adds to what the best cover, by random points of the box that `here` spans."""
    low, high = here.min(axis=0), here.max(axis=0)
    high = high + 0.1 * np.maximum(high - low, 1e-9)
    points = np.random.default_rng(rng.getrandbits(64)).uniform(low, high, (_POINTS, len(low)))
    free = np.ones(_POINTS, bool)
    for p in best:
        free &= ~(points >= np.asarray(p)).all(axis=1)
    points = points[free]
    covered = np.ones((len(hopes), len(points)), bool)
    for k in range(points.shape[1]):
        covered &= points[None, :, k] >= hopes[:, None, k]
    return covered.sum(axis=1).astype(float)


def _pool(
    space: Space, known: Sequence[Config], best: Sequence[Config], rng: random.Random, free: Sequence[Config]
) -> tuple[list[Config], int]:
    """New candidates, each once: at random, next to the best, and from this place on those that are free."""
    seen = {_key(c) for c in known}
    at_no_cost = {key: c for c in free if (key := _key(c)) not in seen}
    seen |= at_no_cost.keys()
    out: list[Config] = []
    for n in range(_DRAWN + _NEAR):
        config = drawn(space, rng, None if n < _DRAWN else rng.choice(best))
        if (key := _key(config)) not in seen:
            seen.add(key)
            out.append(config)
    return [*out, *at_no_cost.values()], len(out)


def _key(config: Config) -> str:
    return repr(sorted(config.items()))


def drawn(space: Space, rng: random.Random, near: Config | None = None) -> Config:
    """A random candidate; near another one: with one knob or two changed, numbers a little."""
    config: Config = {}
    changed = set(space.knobs) if near is None else set(rng.sample(sorted(near), min(len(near), rng.randint(1, 2))))
    for name, knob in space.knobs.items():
        if space.active(name, config):
            there = near.get(name) if near is not None and name in near else None
            keep = near is not None and name in near and name not in changed
            config[name] = there if keep else _value(knob, rng, there if isinstance(there, int | float) else None)
    return config


def _value(knob: Knob, rng: random.Random, near: float | None) -> Any:
    if isinstance(knob, Choice):
        return rng.choice(knob.labels)
    low, high = (math.log(knob.low), math.log(knob.high)) if knob.log else (knob.low, knob.high)
    at = None if near is None or isinstance(near, bool) else (math.log(near) if knob.log else near)
    x = rng.uniform(low, high) if at is None else min(high, max(low, rng.gauss(at, 0.15 * (high - low))))
    value = math.exp(x) if knob.log else x
    if knob.step or (knob.integer and not knob.log):
        return nearest(knob, value)
    value = min(knob.high, max(knob.low, value))
    return round(value) if knob.integer else value
