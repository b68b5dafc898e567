"""`nightly.toml`: what a night does. A key that is not known is an error that names the known ones."""

from __future__ import annotations

import difflib
import hashlib
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from redecode.optimizer.errors import BadSpec
from redecode.optimizer.evaluation.placing import checked, is_placement
from redecode.optimizer.nightly.errors import BadNight
from redecode.optimizer.promotion.decide import Margins
from redecode.optimizer.schema import parse_knob
from redecode.replay.prices import Price
from redecode.replay.simulator.errors import SimulationError
from redecode.replay.simulator.load import rate_of

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
SINCE_LAST = "since-last"
_LONGEST_D = 100_000
"""Days: nanoseconds have 64 bits, and timers of the system hardly more."""
_WHOLE = 2**63
"""What is kept as JSON has 64 bits."""


def seconds_of(text: Any) -> Any:
    """Seconds of "90s", "15m", "6h", "7d" or "2w"; a number is seconds already.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(text, str):
        return text
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f'want a time like "90s", "15m", "6h" or "7d", not "{text}"')
    return float(found[1]) * _UNITS_S[found[2]]


def _not_too_long(seconds: float) -> float:
    if seconds > _LONGEST_D * _UNITS_S["d"]:
        raise ValueError(f"want at most {_LONGEST_D}d")
    return seconds


def _named(value: Any) -> Any:
    if value == "":
        raise ValueError("is empty; want a path, or leave the key out")
    return value


def _replica_price(value: Any) -> Any:
    for usd in value.values() if isinstance(value, Mapping) and value else [value]:
        if isinstance(usd, bool) or not isinstance(usd, int | float) or not 0 <= usd < math.inf:
            raise ValueError("want USD an hour, as in 1.2, or by profile, as in { KEY = 1.2 }")
    return value


AtPath = Annotated[Path, BeforeValidator(_named)]
Seconds = Annotated[float, BeforeValidator(seconds_of), Field(gt=0, allow_inf_nan=False), AfterValidator(_not_too_long)]


class _Section(BaseModel):
    # What is infinite would be null in the files of a night, which then seems to have begun with another configuration.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool(cls, value: Any, info: ValidationInfo) -> Any:
        """A number is none of true and false, which Python would take for 1 and 0."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"does not take {str(value).lower()}")
        return value


class BudgetSection(_Section):
    """What a night may spend; each is kept to within a block: eight runs, in the decision of each lane."""

    time: Seconds = 6 * 3600.0
    fm_calls: int | None = Field(default=None, gt=0, lt=_WHOLE)
    cost: float | None = Field(default=None, gt=0)


class GoalsSection(_Section):
    """As the options of `redecode tune`; what is not said is the spec's."""

    slo: float | None = Field(default=None, gt=0)
    percentile: float | None = Field(default=None, ge=50, le=99.9)
    max_error: float | None = Field(default=None, ge=0, le=1)
    margin_error: float = Field(default=0.05, ge=0)
    margin_cost: float = Field(default=1.05, ge=1)
    margin_latency: float = Field(default=1.05, ge=1)

    @property
    def margins(self) -> Margins:
        """How much worse a candidate may be."""
        return Margins(error=self.margin_error, cost=self.margin_cost, latency=self.margin_latency)


class TuneSection(_Section):
    """As the options of `redecode tune`."""

    knobs: tuple[str, ...] = ()
    fix: Mapping[str, str | int | float | bool] = Field(default_factory=dict)
    incumbent: AtPath | None = None
    expected: AtPath | None = None
    trials: int | None = Field(default=None, gt=0, lt=_WHOLE)
    cases: int = Field(default=40, gt=0, lt=_WHOLE)
    held_out: float = Field(default=1 / 3, gt=0, le=0.9)
    finalists: int = Field(default=3, ge=1, le=5)
    seed: int = 0
    sampler: Literal["gp", "tpe", "tpe-default", "tpe-multivariate", "nsga2", "random"] = "gp"
    workers: int = Field(default=1, ge=0, le=1000)
    concurrency: int = Field(default=4, ge=1, le=10_000)
    run_timeout: Seconds = 120.0
    memo: bool = True
    live_tools: tuple[str, ...] = ()
    load: str | None = None
    replicas: int = Field(default=1, ge=1, le=10_000)
    replica_price: Annotated[float | Mapping[str, float] | None, BeforeValidator(_replica_price)] = None
    profiles: tuple[str, ...] = ()

    @field_validator("fix", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        for name, fixed in value.items() if isinstance(value, Mapping) else ():
            if not isinstance(fixed, str | int | float | bool):
                raise ValueError(f"{name}: want text in quotes, a number, true or false")
            if isinstance(fixed, int) and not -_WHOLE <= fixed < _WHOLE:
                raise ValueError(f"{name}: an integer has at most 64 bits; say it as text, in quotes")
            if isinstance(fixed, float) and not math.isfinite(fixed):
                raise ValueError(f"{name}: want a finite number, not {fixed:g}")
        return value

    @field_validator("seed")
    @classmethod
    def _a_seed(cls, value: int) -> int:
        if not 0 <= value < 2**32:  # as numpy takes it
            raise ValueError(f"want a number from 0 to {2**32 - 1}, not {value}")
        return value

    @field_validator("load")
    @classmethod
    def _a_rate(cls, value: str | None) -> str | None:
        try:
            _ = None if value is None else rate_of(value)
        except SimulationError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("knobs")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            for name, knob in map(parse_knob, value):
                if is_placement(name):
                    checked(name, knob)
        except BadSpec as error:
            raise ValueError(str(error).replace("--knob", "knob")) from error
        return value

    @model_validator(mode="after")
    def _at_a_load(self) -> TuneSection:
        placed = [name for name, _ in map(parse_knob, self.knobs) if is_placement(name)]
        if placed and self.load is None:
            raise ValueError(f'knob {placed[0]}: placement is simulated, at a load: say load = "2rps", or what it is')
        if self.replica_price is not None and not placed:
            raise ValueError(
                'replica_price is the cost of placement knobs: say load, and knobs = ["placement.replicas"]'
            )
        if self.load is None and (self.replicas != 1 or self.profiles):  # their defaults may be written out
            name = "profiles" if self.profiles else "replicas"
            raise ValueError(f'{name}: of a load that is simulated; say load = "2rps", or what it is, too')
        return self


class ProfileSection(_Section):
    """Whether the engine model is made anew: from the store's runs, from the live engine, or not."""

    source: Literal["store", "engine", "none"] = "store"
    runs: int = Field(default=500, gt=0, lt=_WHOLE)
    seconds: Seconds = 45.0


class DriftSection(_Section):
    """What counts as another mix of runs.

    Attributes:
        reference: the time before the night's runs that they are compared with.
        least: runs (conversations) that each side must have.
        matters: the least difference worth telling: of shares; of distribution functions, and of deciles as a part of
            the larger of both.
        alpha: of any false alarm among all features.
        action: "hold": nothing is promoted in a night whose mix has changed.
    """

    reference: Seconds = 7 * 86400.0
    least: int = Field(default=20, ge=5, lt=_WHOLE)
    matters: float = Field(default=0.1, gt=0, lt=1)
    alpha: float = Field(default=0.01, gt=0, le=0.2)
    action: Literal["tell", "hold"] = "tell"


class TrendsSection(_Section):
    """Change points over nights; `otava` is the program, or "off"; `magnitude` the least change worth telling."""

    otava: str = "otava"
    magnitude: float = Field(default=0.05, ge=0)


class WorthSection(_Section):
    """Whether fine-tuning would pay, as the options of `redecode worth`."""

    train_cost: float = Field(ge=0, allow_inf_nan=False)
    tuned_price: Price | None = None
    agent: str | None = None
    node: str | None = None
    hosting: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    retrain: Seconds | None = None
    keep_tokens: int = Field(default=20, ge=0, le=10**9)
    horizon: Seconds = 180 * 86400.0
    look_back: Seconds = 28 * 86400.0
    calls_per_day: float | None = Field(default=None, gt=0, le=1e12)


class NightlyConfig(_Section):
    """All of it.

    Attributes:
        spec: what is tuned, as `redecode tune` takes it; a file's path is seen from the configuration's folder.
        name: of the job, and of its folder STORE/nightly/NAME; by default what the spec's module is called.
        store: seen from the configuration's folder; `--store` and $REDECODE_STORE come before it.
        runs: "last-24h", "since-last" (since the runs of the last night that ended), "last-200" or "all".
        engine: URL that $OPENAI_BASE_URL has for the agent; by default as it is, or the engine started in the store.
        resume_within: an unfinished night that began longer ago is given up, and another one begun.
        kill_switch: a file; nothing is begun while it is there, and what goes on ends. By default the job's `stop`.
    """

    spec: str
    name: str = ""
    store: AtPath | None = None
    runs: str = "last-24h"
    engine: str | None = None
    kill_switch: AtPath | None = None
    resume_within: Seconds = 20 * 3600.0
    budget: BudgetSection = BudgetSection()
    goals: GoalsSection = GoalsSection()
    prices: Mapping[str, Price] = Field(default_factory=dict)
    tune: TuneSection = TuneSection()
    profile: ProfileSection = ProfileSection()
    drift: DriftSection = DriftSection()
    trends: TrendsSection = TrendsSection()
    worth: WorthSection | None = None

    @field_validator("runs")
    @classmethod
    def _understood(cls, value: str) -> str:
        if value in (SINCE_LAST, "all"):
            return value
        found = re.fullmatch(r"last-(\d+)([smhdw]?)", value, re.ASCII)
        if found is None:
            raise ValueError(f'want "last-24h", "since-last", "last-200" or "all", not "{value}"')
        if not found[1].strip("0"):
            raise ValueError(f'"{value}" is of no run; want "last-24h", "since-last", "last-200" or "all"')
        if found[2]:
            _not_too_long(seconds_of(f"{found[1]}{found[2]}"))
        elif int(found[1]) >= _WHOLE:
            raise ValueError('"all" are as many as there are')
        return value

    @field_validator("engine")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        if value is not None and re.match(r"https?://[^/]", value) is None:
            raise ValueError(f'want a URL like "http://127.0.0.1:8000/v1", not "{value}"')
        return value

    @model_validator(mode="after")
    def _called(self) -> NightlyConfig:
        where, colon, thing = self.spec.rpartition(":")
        if not (colon and where and thing) or (":" in where and not where.endswith(".py")):
            raise ValueError(f'spec: want "module:name" or "file.py:name", not "{self.spec}"')
        name = self.name or (Path(where).stem if where.endswith(".py") else where.rpartition(".")[2])
        if _NAME.fullmatch(name) is None:
            which = f'not "{name}"' if self.name else f'which the spec\'s "{name}" is not; say one'
            raise ValueError(f'name: want letters, digits, "-", "_" and ".", {which}')
        object.__setattr__(self, "name", name)
        return self

    def identity(self) -> dict[str, Any]:
        """What must not change while a night is under way: all but budgets, the kill switch and where the store is."""
        return self.model_dump(mode="json", exclude={"budget", "kill_switch", "resume_within", "store", "engine"})

    @property
    def digest(self) -> str:
        """Of `identity`."""
        return hashlib.blake2b(repr(self.identity()).encode(), digest_size=6).hexdigest()


def load_config(path: Path) -> NightlyConfig:
    """Read one; paths in it are made absolute, seen from its folder.

    Raises:
        BadNight: it cannot be read; names the key and what would do.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadNight(f"{path} cannot be read: {error.strerror}; docs/nightly.md shows one") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadNight(f"{path} is no TOML: {error}") from error
    try:
        config = NightlyConfig.model_validate(data)
    except ValidationError as error:
        # A key that is mistyped is also one that is missing; the first says more.
        first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
        raise BadNight(f"{path}: {_said(first)}") from error
    return _absolute(config, path.absolute().parent)


_WANTED = {
    "tuple_type": 'want a list: ["...", "..."]',
    "path_type": "want a path, in quotes",
    "string_type": "want text, in quotes",
    "mapping_type": "want a table: { name = value }",
    "dict_type": "want a table: { name = value }",
    "model_type": "want a table: { name = value }",
}
"""What pydantic calls by the names of Python's types."""


def _said(first: Any) -> str:
    """An error of pydantic's as a place in the file and what to do."""
    place = [part for part in first["loc"] if isinstance(part, str)]  # the place in a list is told by what is there
    if first["type"] == "extra_forbidden":
        known = _keys(place[:-1])
        near = difflib.get_close_matches(place[-1], known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(known)}"
        return f"{_where(place[:-1])}there is no key {place[-1]}; {hint}"
    if first["type"] == "missing":
        return f"{_where(place[:-1])}{place[-1]} is missing"
    text = _WANTED.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    if len(place) == 1 and isinstance(first["input"], Mapping):  # of a section as a whole
        return f"{_where(place)}{text}"
    return f"{_where(place[:-1])}{place[-1]}: {text}" if place else text


def _where(place: Sequence[str]) -> str:
    return f"[{'.'.join(place)}] " if place else ""


def _keys(place: Sequence[str]) -> list[str]:
    """Of the section at a place."""
    model: type[BaseModel] = NightlyConfig
    for part in place:
        field = model.model_fields.get(part)
        annotation = Price if field is None else field.annotation
        inner = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        model = inner[0] if inner else Price
    return list(model.model_fields)


def _absolute(config: NightlyConfig, folder: Path) -> NightlyConfig:
    def seen(path: Path | None) -> Path | None:
        return None if path is None else folder / path.expanduser()

    where, _, thing = config.spec.rpartition(":")
    spec = f"{folder / where}:{thing}" if where.endswith(".py") else config.spec
    tune = config.tune.model_copy(
        update={"incumbent": seen(config.tune.incumbent), "expected": seen(config.tune.expected)}
    )
    program = config.trends.otava  # a name is looked for where programs are
    trends = config.trends.model_copy(update={"otava": str(seen(Path(program))) if "/" in program else program})
    own = {"spec": spec, "store": seen(config.store), "kill_switch": seen(config.kill_switch)}
    return config.model_copy(update={**own, "tune": tune, "trends": trends})
