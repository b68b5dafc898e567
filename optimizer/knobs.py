"""Knobs: which fields of a graph's context may vary, and how.

A field is a knob as it is if its values can be listed (`Literal`, `bool`, `Enum`) or are bounded on both sides
(`Annotated[float, Field(ge=0, le=1)]`). `Choice`, `Range` and `Fixed` beside the type say more, or otherwise:

    class Context(BaseModel):
        wording: Literal["brief", "plain"] = "plain"
        temperature: Annotated[float, Range(0, 1, step=0.1)] = 0.0
        rounds: Annotated[int, Range(1, 5, when={"architecture": ["debate"]})] = 2
        stream: Annotated[bool, Fixed()] = False

A value is kept as its label, which JSON can hold; `Space.decoded` gives the graph the values themselves.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from redecode.optimizer.errors import BadSpec

Label: TypeAlias = str | int | float | bool | None
Config: TypeAlias = dict[str, Label]
"""A candidate: a label for each knob."""
When: TypeAlias = Mapping[str, Sequence[Any]]
"""The knob matters only where each of these others has one of these values."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Not a knob."""


@dataclass(frozen=True, init=False, slots=True)
class Choice:
    """One of these values.

    Raises:
        BadSpec: there are fewer than one, or two of them cannot be told apart.
    """

    values: tuple[Any, ...]
    when: When

    def __init__(self, *values: Any, when: When | None = None) -> None:
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "when", dict(when or {}))
        labels = [label(v) for v in values]
        if not values or any(labels[i] == labels[j] for i in range(len(labels)) for j in range(i)):
            raise BadSpec(f"a choice wants values that differ, not {', '.join(map(repr, values)) or 'none'}")

    @property
    def labels(self) -> tuple[Label, ...]:
        """Of its values."""
        return tuple(label(v) for v in self.values)

    def __contains__(self, value: Label) -> bool:
        return any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in self.labels)

    def decoded(self, value: Label) -> Any:
        """The value of a label."""
        return next((v for v, known in zip(self.values, self.labels, strict=True) if known == value), value)

    def described(self) -> dict[str, Any]:
        """As JSON, for the hash of the space and for reports."""
        return {"choices": list(self.labels), **_when(self.when)}

    def __str__(self) -> str:
        return "{" + ", ".join(str(v) for v in self.labels) + "}"


@dataclass(frozen=True, slots=True)
class Range:
    """A number between two bounds, both included.

    Args:
        step: only low, low + step, …; of an integer 1.
        log: searched on a logarithmic scale.
        integer: `None`: as the field's type says.

    Raises:
        BadSpec: the bounds or the step make no sense.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False
    integer: bool | None = None
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise BadSpec(f"a range wants a low and a high bound, not {self.low:g} and {self.high:g}")
        if self.step is not None and not self.step > 0:
            raise BadSpec(f"a step is above 0, not {self.step:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise BadSpec("a logarithmic range begins above 0 and has no step")

    def __contains__(self, value: Label) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.integer and value != round(value):
            return False
        step = _step(self)
        # Of a billionth step a float is off by more than a little of a step.
        return step is None or math.isclose(value, nearest(self, value), rel_tol=1e-15, abs_tol=1e-6 * step)

    def decoded(self, value: Label) -> Any:
        """The value of a label."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        return round(value) if self.integer else float(value)

    def described(self) -> dict[str, Any]:
        """As JSON, for the hash of the space and for reports."""
        found = {"low": self.low, "high": self.high, "step": self.step, "log": self.log, "integer": bool(self.integer)}
        return {**found, **_when(self.when)}

    def __str__(self) -> str:
        step = "" if self.step is None else f", step {self.step:g}"
        # More than 0 is the next number to it, of which a person reads nothing.
        low, high = (0.0 if abs(end) < sys.float_info.min else end for end in (self.low, self.high))
        return f"{low:g} to {high:g}{step}{', log' if self.log else ''}"


Knob: TypeAlias = Choice | Range


def values_of(knob: Knob) -> Sequence[Label] | None:
    """Every value of a knob; `None` of a continuous one."""
    if isinstance(knob, Choice):
        return knob.labels
    count = count_of(knob)
    return None if count is None else [_nth(knob, i) for i in range(count)]


def count_of(knob: Knob) -> int | None:
    """How many values a knob has, without listing them: a seed has billions. `None` of a continuous one."""
    if isinstance(knob, Choice):
        return len(knob.values)
    step = _step(knob)
    if step is None:
        return None
    if all(isinstance(part, int) for part in (knob.low, knob.high, step)):
        return int((knob.high - knob.low) // step) + 1  # floats would not count exactly above 2**53
    steps = (knob.high - knob.low) / step
    return math.floor(steps + max(1e-9, 4e-16 * steps)) + 1  # 1 / 1e-9 is a little less than 10**9


def nearest(knob: Range, value: float) -> float:
    """Of the values of a knob with steps the one next to a number, of two alike the lower; without listing them."""
    count, step = count_of(knob), _step(knob)
    assert count is not None and step is not None, "a continuous range has no steps"
    place = min(count - 1, max(0, round((value - knob.low) / step)))
    beside = [_nth(knob, i) for i in range(max(0, place - 1), min(count, place + 2))]  # values themselves are rounded
    return min(beside, key=lambda v: abs(v - value))


def _step(knob: Range) -> float | None:
    return knob.step or (1 if knob.integer else None)


def _nth(knob: Range, place: int) -> float:
    value = round(knob.low + place * (_step(knob) or 0), 12)
    return round(value) if knob.integer else value


def label(value: Any) -> Label:
    """What a value is called in a study: itself if JSON has it, of an Enum its value, else its text."""
    plain = value.value if isinstance(value, enum.Enum) else value
    return plain if plain is None or isinstance(plain, str | int | float | bool) else str(plain)


def as_json(value: Any) -> Any:
    """A value as a study, a file or another process has it: lists and mappings of labels, else its label."""
    if isinstance(value, Mapping):
        return {str(name): as_json(inner) for name, inner in value.items()}
    return [as_json(inner) for inner in value] if isinstance(value, list | tuple) else label(value)


def known_as(value: Any, said: Any) -> bool:
    """Whether a value is the one that is said, by its label or as JSON has it."""
    return any(
        known == said and isinstance(known, bool) == isinstance(said, bool) for known in (as_json(value), label(value))
    )


def _when(when: When) -> dict[str, Any]:
    return {"when": {k: [label(v) for v in values] for k, values in sorted(when.items())}} if when else {}


@dataclass(frozen=True, slots=True)
class Space:
    """The knobs that are searched, in an order in which each comes after those it depends on.

    Attributes:
        base: what every candidate has besides; a knob that does not matter has its value from here.
    """

    knobs: Mapping[str, Knob]
    base: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "knobs", _ordered(self.knobs))

    @property
    def digest(self) -> str:
        """Changes with any knob, its values or conditions; not with the order they are written in."""
        text = json.dumps({name: knob.described() for name, knob in self.knobs.items()}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

    def active(self, name: str, config: Mapping[str, Any]) -> bool:
        """Whether a knob matters, given the others."""
        for other, values in self.knobs[name].when.items():
            if other in self.knobs and not self.active(other, config):
                return False
            if label(config.get(other, self.base.get(other))) not in [label(v) for v in values]:
                return False
        return True

    def canonical(self, config: Mapping[str, Any]) -> Config:
        """The knobs of a configuration that matter, as labels: equal for candidates that do the same.

        Raises:
            BadSpec: a value is not one that its knob has.
        """
        out: Config = {}
        for name, knob in self.knobs.items():
            if not self.active(name, {**config, **out}):
                continue
            if name not in config:
                raise BadSpec(f"knob {name} has no value; it takes {knob}")
            value = label(config[name])
            if value not in knob:
                raise BadSpec(f"knob {name} takes {knob}, not {value!r}; widen it (as a knob {name}=...), or fix it")
            out[name] = value
        return out

    def fits(self, config: Mapping[str, Any]) -> bool:
        """Whether a candidate of another study is one of this space."""
        try:
            self.canonical(config)
        except BadSpec:
            return False
        return True

    def decoded(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """All values that a candidate gives its graph: the base, and its knobs."""
        found = {n: k.decoded(config[n]) for n, k in self.knobs.items() if n in config and self.active(n, config)}
        return {**self.base, **found}

    def size(self) -> float:
        """How many values there are in all, conditions aside; infinite with a continuous knob."""
        counts = [count_of(knob) for knob in self.knobs.values()]
        known = [count for count in counts if count is not None]
        return math.prod(known) if len(known) == len(counts) else math.inf

    def candidates(self) -> Iterator[Config]:
        """Every candidate of a finite space, once."""
        yield from self._from(list(self.knobs), {})

    def _from(self, left: Sequence[str], config: Config) -> Iterator[Config]:
        if not left:
            yield dict(config)
            return
        name, rest = left[0], left[1:]
        if not self.active(name, config):
            yield from self._from(rest, config)
            return
        for value in values_of(self.knobs[name]) or ():
            yield from self._from(rest, {**config, name: value})

    def changes_from(self, described: Mapping[str, Any]) -> list[str]:
        """What is otherwise than in another space, one phrase for each knob."""
        now = {name: knob.described() for name, knob in self.knobs.items()}
        out = [f"{name} is new" for name in now if name not in described]
        out += [f"{name} is gone" for name in described if name not in now]
        for name in sorted(now.keys() & described.keys()):
            then = described[name]
            if now[name] == then:
                continue
            if "choices" in now[name] and "choices" in then:
                gained = [str(v) for v in now[name]["choices"] if v not in then["choices"]]
                lost = [str(v) for v in then["choices"] if v not in now[name]["choices"]]
                told = [f"{word} {', '.join(v)}" for word, v in (("gained", gained), ("lost", lost)) if v]
                out.append(f"{name} {' and '.join(told) or 'has other conditions or another order'}")
            else:
                out.append(f"{name} has other bounds")
        return out


def _ordered(knobs: Mapping[str, Knob]) -> dict[str, Knob]:
    """After what they depend on, else by name, so that the order of a class does not matter.

    Raises:
        BadSpec: two depend on each other.
    """
    out: dict[str, Knob] = {}
    left = dict(sorted(knobs.items()))
    while left:
        ready = [name for name, knob in left.items() if not any(other in left for other in knob.when)]
        if not ready:
            raise BadSpec(f"knobs {', '.join(left)} depend on each other in a circle")
        for name in ready:
            out[name] = left.pop(name)
    return out


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Names in which two candidates differ."""
    missing = object()
    return [name for name in dict.fromkeys([*a, *b]) if a.get(name, missing) != b.get(name, missing)]
