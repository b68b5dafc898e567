"""Plans of `redecode place` as the Placement page draws them: those kept in a store, and what the router decided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from redecode.dashboards.tuned import CannotRead, stamp

FOLDER = "plans"
DECISIONS = ".decisions.jsonl"
MOST_DECISIONS = 2000


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Replicas(_Lenient):
    """So many of one FM on one kind of hardware."""

    model: str
    hardware: str
    replicas: int
    usd_per_hour: float


class Quantiles(_Lenient):
    """Of latency, s."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Class(_Lenient):
    """One agent's runs: which part is in time, with its interval (95 %)."""

    agent: str
    slo: str
    attained: float
    low: float
    high: float
    met: bool
    run: Quantiles = Field(default_factory=Quantiles)


class Breaks(_Lenient):
    """The load at which the plan misses its SLO; `per_s` is `None` if none was found."""

    per_s: float | None
    holds_per_s: float
    agent: str = ""
    step: str = ""
    more_s: float = 0.0


class AtLoad(_Lenient):
    """What is attained at a load."""

    per_s: float
    attained: float
    low: float
    high: float
    met: bool


class Leg(_Lenient):
    """A part of a run's way."""

    step: str
    seconds: float
    wait: bool = False


class Alone(_Lenient):
    """How long a run takes by itself, and on what way."""

    name: str
    seconds: float
    way: list[Leg] = Field(default_factory=list)


class Asked(_Lenient):
    """What was asked for; SLOs by agent, "" for all others."""

    slos: dict[str, str]
    per_s: float
    seeds: int = 0
    runs: int = 0


class Plan(_Lenient):
    """The answer; `reason` says why where it is no."""

    met: bool
    made_ns: int
    asked: Asked
    reason: str | None = None
    most_per_s: float | None = None
    replicas: list[Replicas] = Field(default_factory=list)
    usd_per_hour: float | None = None
    usd_per_good_run: float | None = None
    classes: list[Class] = Field(default_factory=list)
    utilisation: float | None = None
    refused: float = 0.0
    breaks: Breaks | None = None
    curve: list[AtLoad] = Field(default_factory=list)
    alone: list[Alone] = Field(default_factory=list)
    guesses: list[str] = Field(default_factory=list)
    drawn_from: list[str] = Field(default_factory=list)
    left_out: dict[str, Any] = Field(default_factory=dict)


class Estimate(_Lenient):
    """What a call was believed to take on one replica, s."""

    replica: int
    l_x: float
    l_q: float
    l_r: float
    l_est: float
    cached_tokens: int = 0
    calls: int = 0
    attains: float | None = None


class Decision(_Lenient):
    """Where a call went, and why."""

    now_s: float
    call: int
    run: int
    agent: str
    step: str
    model: str
    action: str
    replica: int | None
    reason: str
    belief: str = ""
    output_tokens: float = 0.0
    tail_s: float = 0.0
    deadline_slack_s: float | None = None
    candidates: list[Estimate] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Kept:
    """A plan that is kept; `plan` is `None` if it cannot be read: `why` says why."""

    name: str
    place: Path
    plan: Plan | None
    why: str | None = None

    @property
    def at_ns(self) -> int:
        """When it was made."""
        return 0 if self.plan is None else self.plan.made_ns


def any_in(store: Path) -> bool:
    """Whether a plan was ever kept in a store."""
    return any((store / FOLDER).glob("*.json"))


def plans_in(store: Path) -> list[Kept]:
    """All plans of a store, newest first; one that cannot be read is among them, and says why."""
    found = []
    for path in sorted((store / FOLDER).glob("*.json")):
        try:
            found.append(Kept(path.stem, path, read_plan(path)))
        except CannotRead as error:
            found.append(Kept(path.stem, path, None, str(error)))
    return sorted(found, key=lambda k: (k.at_ns, k.name), reverse=True)


def read_plan(path: Path) -> Plan:
    """A plan that `redecode place` wrote.

    Raises:
        CannotRead: it is none.
    """
    return _parsed(path, *stamp(path))


@lru_cache(maxsize=64)
def _parsed(path: Path, _changed_ns: int, _size: int) -> Plan:
    try:
        return Plan.model_validate(orjson.loads(path.read_bytes()))
    except OSError as error:
        raise CannotRead(f"{path} cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise CannotRead(f"{path} is no JSON: {error}") from error
    except ValidationError as error:
        raise CannotRead(f"{path} is no plan of redecode place: {_first(error)}") from error


def decisions_of(kept: Kept) -> list[Decision]:
    """What the router decided in one simulation of a plan, in order; empty if nothing was kept.

    Raises:
        CannotRead: a line of them is none.
    """
    path = kept.place.with_name(f"{kept.name}{DECISIONS}")
    return list(_decisions(path)) if path.is_file() else []


def _decisions(path: Path) -> Iterator[Decision]:
    with path.open("rb") as file:
        for number, line in enumerate(islice(file, MOST_DECISIONS), 1):
            try:
                yield Decision.model_validate(orjson.loads(line))
            except (orjson.JSONDecodeError, ValidationError) as error:
                why = _first(error) if isinstance(error, ValidationError) else str(error)
                raise CannotRead(f"line {number} of {path} is no decision: {why}") from error


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
