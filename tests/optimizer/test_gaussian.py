"""Noise taken out of what a study measured: nearer to the truth, and never anything new where too little is known."""

from __future__ import annotations

import math
import random

import pytest

from redecode.optimizer.knobs import Choice, Config, Range, Space
from redecode.optimizer.study.gaussian import LEAST, smoothed
from redecode.optimizer.study.search import begins_with

SPACE = Space(
    {
        "kind": Choice("a", "b", "c"),
        "on": Choice(True, False),
        "size": Range(1, 100, log=True),
        "heat": Range(0.0, 1.0, when={"on": [True]}),
    }
)


def drawn(rng: random.Random) -> Config:
    on = rng.random() < 0.5
    config: Config = {"kind": rng.choice("abc"), "on": on, "size": math.exp(rng.uniform(0, math.log(100)))}
    return {**config, "heat": rng.random()} if on else config


def truth(config: Config) -> float:
    size = math.log(float(config["size"] or 1))
    return {"a": 0.0, "b": 0.5, "c": 1.5}[str(config["kind"])] + (size - 2) ** 2 / 4 + float(config.get("heat") or 0)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_of_the_noise_is_less_than_half(seed: int) -> None:
    rng = random.Random(seed)
    configs = [drawn(rng) for _ in range(120)]
    measured = [truth(c) + rng.gauss(0, 0.5) for c in configs]
    found = smoothed(SPACE, configs, measured)

    def off(values: list[float]) -> float:
        return math.sqrt(sum((v - truth(c)) ** 2 for v, c in zip(values, configs, strict=True)) / len(configs))

    assert off(found) < 0.5 * off(measured)


def test_without_noise_the_measurements_stay() -> None:
    rng = random.Random(0)
    configs = [drawn(rng) for _ in range(60)]
    exact = [truth(c) for c in configs]
    assert max(abs(a - b) for a, b in zip(smoothed(SPACE, configs, exact), exact, strict=True)) < 0.2


def test_too_few_equal_or_unheard_of_values_are_left_as_they_are() -> None:
    rng = random.Random(0)
    configs = [drawn(rng) for _ in range(LEAST)]
    values = [rng.random() for _ in configs]
    assert smoothed(SPACE, configs[:-1], values[:-1]) == values[:-1]
    assert smoothed(SPACE, configs, [0.25] * LEAST) == [0.25] * LEAST
    assert smoothed(SPACE, configs, [*values[:-1], math.inf])[-1] == math.inf
    assert smoothed(Space({}), configs, values) == values
    assert len(smoothed(SPACE, [{**configs[0], "kind": "gone"}, *configs[1:]], values)) == LEAST


def test_a_later_study_does_not_begin_with_the_lucky_one() -> None:
    """Of twenty measurements of the same candidate's neighbours one is far too good; a better kind is not."""
    rng = random.Random(1)
    sizes = [10 * 1.02**n for n in range(20)]
    configs: list[Config] = [{"kind": kind, "on": False, "size": s} for kind in ("a", "b") for s in sizes]
    errors = [0.3 + rng.gauss(0, 0.03) for _ in sizes] + [0.2 + rng.gauss(0, 0.03) for _ in sizes]
    errors[7] = 0.12  # of the worse kind
    values = [(e, 1.0, 1.0) for e in errors]
    (first,) = begins_with(SPACE, configs, values, range(len(configs)), 1)
    assert min(range(len(errors)), key=errors.__getitem__) == 7
    assert configs[first]["kind"] == "b"
    assert begins_with(SPACE, configs, values, [3, 5], 4) in ([3], [5])  # they differ in one thing, so one is enough
    assert begins_with(SPACE, configs, values, [], 4) == []
