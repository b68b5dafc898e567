"""What prompting and fine-tuning cost at a volume, where they break even, and what that depends on.

A fine-tuned model is asked without the part of the prompt that is always the same. Of what is left out, as many tokens
as the engine's cache had are taken at the cached price: a constant prompt that is cached is cheap already, and leaving
it out saves little. Quality is taken as equal: `redecode tune` with the tuned model as a knob's value tells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redecode.optimizer.worth.volume import CACHED, CALLS, INPUT, OPTIONS, OUTPUT, Volume, VolumeError, Ways
from redecode.replay.prices import Price

RESAMPLES = 2000
_NEVER = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What is not in the record.

    Attributes:
        prices: of the models that are prompted now, USD per million tokens.
        tuned: of the fine-tuned one; `None`: as the model that it replaces.
        train_cost: USD, each time; `retrain_days`: how long it lasts (`None`: as long as the horizon).
        hosting: USD a day for keeping a model of one's own.
        keep_tokens: of the constant part that every prompt still needs (chat template, a short instruction).
        removed: share of the rest of it that fine-tuning makes unnecessary.
        output_factor: length of its answers, over those of now.
        input_price_factor, output_price_factor: of its prices, whosever they are.
        volume_factor: calls to come over calls recorded.
        horizon_days: over which it has to pay.
    """

    prices: Mapping[str, Price]
    train_cost: float
    tuned: Price | None = None
    retrain_days: float | None = None
    hosting: float = 0.0
    keep_tokens: float = 20.0
    removed: float = 1.0
    output_factor: float = 1.0
    input_price_factor: float = 1.0
    output_price_factor: float = 1.0
    volume_factor: float = 1.0
    horizon_days: float = 180.0

    @property
    def trainings(self) -> float:
        """Within the horizon."""
        return 1.0 if self.retrain_days is None else max(1.0, self.horizon_days / self.retrain_days)


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """One assumption, others as they are.

    Attributes:
        value: as assumed, in words; `low`, `high`: net at half of it and at twice (USD).
        flips: the value at which the choice is the other one, in words; `None`: none does.
    """

    name: str
    value: str
    low: float
    high: float
    flips: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWorth:
    """One step on a mean day."""

    name: str
    model: str
    calls: float
    input_tokens: float
    output_tokens: float
    cached_tokens: float
    constant_tokens: float
    removed_tokens: float
    source: str
    prompt_usd: float
    tuned_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """The answer.

    Attributes:
        choice: "fine-tune", "prompt", or "cannot tell".
        volume_said: calls a day were said, and not counted; intervals are then over conversations, else over days.
        net: what fine-tuning saves over the horizon, training and hosting paid, USD.
        break_even_days: until the first training is paid back; infinite: never, or not as long as it lasts.
        break_even_calls: a day, from which on it pays within the horizon.
    """

    choice: str
    days: int
    assumptions: Assumptions
    steps: tuple[StepWorth, ...]
    calls_per_day: Interval
    volume_said: bool
    prompt_per_day: Interval
    tuned_per_day: Interval
    net: Interval
    break_even_days: Interval
    break_even_calls: Interval
    sensitivity: tuple[Sensitivity, ...]
    notes: tuple[str, ...] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        """As data; what is infinite is null."""
        assumptions = {**asdict(replace(self.assumptions, prices={}, tuned=None))}
        assumptions["prices"] = {m: p.model_dump() for m, p in self.assumptions.prices.items()}
        assumptions["tuned"] = None if self.assumptions.tuned is None else self.assumptions.tuned.model_dump()
        whole = asdict(replace(self, assumptions=replace(self.assumptions, prices={}, tuned=None)))
        finite: dict[str, Any] = _finite({**whole, "assumptions": assumptions})
        return finite


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, slots=True)
class _Costs:
    """USD a day, by step, without training and hosting."""

    prompt: NDArray[np.float64]
    tuned: NDArray[np.float64]
    removed: NDArray[np.float64]

    @property
    def saving(self) -> float:
        return float((self.prompt - self.tuned).sum())


def _costs(volume: Volume, day: NDArray[np.float64], a: Assumptions) -> _Costs:
    day = day * a.volume_factor
    calls = np.maximum(day[:, CALLS], 1e-12)
    constant = np.array([s.constant for s in volume.steps])
    removed = np.clip((constant - a.keep_tokens) * a.removed, 0.0, day[:, INPUT] / calls)
    gone = removed * day[:, CALLS]
    gone_cached = np.minimum(day[:, CACHED], gone)
    prompt, tuned = np.zeros(len(calls)), np.zeros(len(calls))
    for i, step in enumerate(volume.steps):
        now = a.prices[step.model]
        then = _tuned_price(now, a)
        prompt[i] = _usd(now, day[i, INPUT], day[i, CACHED], day[i, OUTPUT])
        cached = day[i, CACHED] - gone_cached[i]
        tuned[i] = _usd(then, day[i, INPUT] - gone[i], cached, day[i, OUTPUT] * a.output_factor)
    return _Costs(prompt, tuned, removed)


def _tuned_price(now: Price, a: Assumptions) -> Price:
    """Of the model that is fine-tuned in place of one."""
    price, of_input = a.tuned or now, a.input_price_factor
    return Price(
        input=price.input * of_input,
        output=price.output * a.output_price_factor,
        cached=None if price.cached is None else price.cached * of_input,
    )


def _usd(price: Price, tokens: float, cached: float, output: float) -> float:
    cheap = price.input if price.cached is None else price.cached
    return ((tokens - cached) * price.input + cached * cheap + output * price.output) / 1e6


def _net(saving: float, a: Assumptions) -> float:
    return a.horizon_days * (saving - a.hosting) - a.trainings * a.train_cost


def worth(volume: Volume, a: Assumptions, *, seed: int = 0, resamples: int = RESAMPLES, ways: Ways = OPTIONS) -> Worth:
    """Which way is cheaper.

    Raises:
        VolumeError: a model has no price.
    """
    if missing := sorted({s.model for s in volume.steps} - set(a.prices)):
        raise VolumeError(f"model {missing[0]} has no price; {ways.price.format(model=missing[0])}")
    day = volume.a_day()
    costs = _costs(volume, day, a)
    rng = np.random.default_rng(seed)
    drawn = [volume.drawn(rng.integers(0, volume.draws_of, volume.draws_of)) for _ in range(resamples)]
    each = [_costs(volume, d, a) for d in drawn]
    calls = float(day[:, CALLS].sum()) * a.volume_factor

    def interval(estimate: float, values: list[float]) -> Interval:
        ordered = sorted(values)
        return Interval(estimate, ordered[int(0.025 * resamples)], ordered[min(resamples - 1, int(0.975 * resamples))])

    net = interval(_net(costs.saving, a), [_net(c.saving, a) for c in each])
    choice = "fine-tune" if net.low > 0 else "prompt" if net.high < 0 else "cannot tell"
    volumes = [float(d[:, CALLS].sum()) * a.volume_factor for d in drawn]
    steps = tuple(
        StepWorth(
            name=s.name, model=s.model, calls=float(day[i, CALLS]) * a.volume_factor,
            input_tokens=_each(day, i, INPUT), output_tokens=_each(day, i, OUTPUT), cached_tokens=_each(day, i, CACHED),
            constant_tokens=s.constant, removed_tokens=float(costs.removed[i]), source=s.source,
            prompt_usd=float(costs.prompt[i]), tuned_usd=float(costs.tuned[i]),
        )
        for i, s in enumerate(volume.steps)
    )  # fmt: skip
    return Worth(
        choice=choice,
        days=volume.days,
        assumptions=a,
        steps=tuple(sorted(steps, key=lambda s: -s.prompt_usd)),
        calls_per_day=interval(calls, volumes),
        volume_said=volume.calls_per_day is not None,
        prompt_per_day=interval(float(costs.prompt.sum()), [float(c.prompt.sum()) for c in each]),
        tuned_per_day=interval(float(costs.tuned.sum()) + a.hosting, [float(c.tuned.sum()) + a.hosting for c in each]),
        net=net,
        break_even_days=interval(_paid_back(costs.saving, a), [_paid_back(c.saving, a) for c in each]),
        break_even_calls=interval(
            _least_calls(costs.saving, calls, a),
            [_least_calls(c.saving, v, a) for c, v in zip(each, volumes, strict=True)],
        ),
        sensitivity=tuple(_sensitivities(volume, day, a, calls)),
        notes=volume.notes,
    )


def _each(day: NDArray[np.float64], step: int, what: int) -> float:
    return float(day[step, what] / max(day[step, CALLS], 1e-12))


def _paid_back(saving: float, a: Assumptions) -> float:
    """Days until one training is paid; never, if the next one is due before."""
    left = saving - a.hosting
    days = a.train_cost / left if left > 0 else _NEVER
    return days if a.retrain_days is None or days <= a.retrain_days else _NEVER


def number(value: float) -> str:
    """As it is told: few are not none."""
    if not math.isfinite(value):
        return "∞"
    return f"{value:.0f}" if 10 <= value < 1e12 else f"{value:.2g}"


def _least_calls(saving: float, calls: float, a: Assumptions) -> float:
    """Calls a day from which on it pays within the horizon."""
    if saving <= 0 or calls <= 0:
        return _NEVER
    return (a.trainings * a.train_cost / a.horizon_days + a.hosting) * calls / saving


def _sensitivities(volume: Volume, day: NDArray[np.float64], a: Assumptions, calls: float) -> list[Sensitivity]:
    """Each assumption at half and twice, and where the choice turns: net is linear in all of them but the share."""
    of_input, of_output = (_mean_price(volume, day, a, what) for what in (INPUT, OUTPUT))
    several = a.tuned is None and len({s.model for s in volume.steps}) > 1
    unit = "USD per million, mean of the models" if several else "USD per million"
    known: list[tuple[str, float, Callable[[float], str], Any]] = [
        ("calls a day", calls, number, lambda f: replace(a, volume_factor=a.volume_factor * f)),
        ("cost of a training (USD)", a.train_cost, "{:.4g}".format, lambda f: replace(a, train_cost=a.train_cost * f)),
        ("trainings in the horizon", a.trainings, "{:.3g}".format, None),
        ("hosting a day (USD)", a.hosting, "{:.4g}".format, lambda f: replace(a, hosting=a.hosting * f)),
        ("share of the constant part left out", a.removed, "{:.0%}".format,
         lambda f: replace(a, removed=a.removed * f)),
        ("length of answers, over now", a.output_factor, "{:.3g}".format,
         lambda f: replace(a, output_factor=a.output_factor * f)),
        (f"tuned price, input ({unit})", of_input, "{:.4g}".format,
         lambda f: replace(a, input_price_factor=a.input_price_factor * f)),
        (f"tuned price, output ({unit})", of_output, "{:.4g}".format,
         lambda f: replace(a, output_price_factor=a.output_price_factor * f)),
    ]  # fmt: skip
    saving = _costs(volume, day, a).saving
    here = _net(saving, a)
    out = []
    for name, value, shape, change in known:

        def at(factor: float, change: Any = change) -> float:
            if change is None:  # more trainings cost more of the same
                return _net(saving, a) - a.trainings * a.train_cost * (factor - 1)
            other = change(factor)
            return _net(_costs(volume, day, other).saving, other)

        half, twice = at(0.5), at(1.0 if name.startswith("share") else 2.0)
        turns = _share(volume, day, a, shape) if name.startswith("share") else _turns(at, value, shape)
        if name.startswith("hosting") and value == 0 and here > 0:
            turns = f"above {shape(here / a.horizon_days)}"
        out.append(Sensitivity(name=name, value=shape(value), low=half, high=twice, flips=turns))
    return out


def _share(volume: Volume, day: NDArray[np.float64], a: Assumptions, shape: Callable[[float], str]) -> str | None:
    """The share at which net is 0: it grows with the share, slower while what falls away was cached."""

    def net(share: float) -> float:
        return _net(_costs(volume, day, replace(a, removed=share)).saving, a)

    low, high = 0.0, 1.0
    if not net(low) <= 0.0 < net(high):
        return None
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if net(middle) <= 0.0 else (low, middle)
    return f"{'below' if net(a.removed) > 0 else 'above'} {shape(high)}"


def _turns(at: Any, value: float, shape: Callable[[float], str]) -> str | None:
    """The value at which net is 0."""
    here, half = at(1.0), at(0.5)
    slope = (here - half) / 0.5
    if slope == 0 or value == 0:
        return None
    factor = 1.0 - here / slope
    if factor < 0:
        return None
    side = "below" if slope * here > 0 else "above"
    return f"{side} {shape(value * factor)}"


def _mean_price(volume: Volume, day: NDArray[np.float64], a: Assumptions, what: int) -> float:
    """Of input or output of the tuned models, over what is used; only told, each is reckoned with its own."""
    prices = [_tuned_price(a.prices[s.model], a) for s in volume.steps]
    each = [p.input if what == INPUT else p.output for p in prices]
    if len(set(each)) == 1:
        return each[0]
    total = float(day[:, what].sum())
    return float(day[:, what] @ np.array(each)) / total if total else 0.0
