"""An engine profile: what was measured of one FM on one engine and hardware, as a file.

It knows where it was measured: a prediction outside of that is made, and said to be a guess (`outside`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from redecode.replay.simulator.costs import StepCosts, to_ps
from redecode.replay.simulator.engine import Engine, Spread
from redecode.replay.simulator.errors import OutsideTheFit, SimulationError
from redecode.replay.simulator.rows import Extremes, Limits

VERSION = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_Time = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class Seconds(_Frozen):
    """`StepCosts` in seconds, for the mean step."""

    step: _Time
    prefill_token: _Time
    prefill_pair: _Time
    prefill_call: _Time
    decode: _Time
    context_token: _Time
    gap: _Time
    gap_row: _Time

    @model_validator(mode="after")
    def _takes_time(self) -> Seconds:
        if not self.step + self.decode + self.context_token + self.gap + self.gap_row > 0:
            raise ValueError("a step that takes no time")
        return self

    def costs(self) -> StepCosts:
        """In whole picoseconds."""
        return StepCosts(**{name: to_ps(value) for name, value in self.model_dump().items()})


class Overheads(_Frozen):
    """What passes outside of steps, seconds, of calls that found the engine idle.

    Attributes:
        before_s: sent → the first step begins (HTTP, tokenizer, the engine's queue), and `before_token_s` per token of
            its prompt.
        after_s: last token → the caller has the answer (the median).
        before: measured over predicted, by quantiles.
    """

    before_s: _Finite = 0.0
    before_token_s: _Finite = 0.0
    after_s: _Finite = 0.0
    before: tuple[float, ...] = ()

    @property
    def known(self) -> bool:
        """Whether they were measured."""
        return bool(self.before)


class Range(_Frozen):
    """The most of each that a measured step had."""

    rows: int
    prefill_tokens: int
    prefill_pairs: int
    context_tokens: int


class Residual(_Frozen):
    """How well steps of one kind are met; errors are predicted over measured, minus 1.

    Attributes:
        bias: of all of them together.
        p50, p95: of the absolute error of a single step.
    """

    kind: str
    steps: int
    measured_ms: float
    bias: float
    p50: float
    p95: float


class Sampled(_Frozen):
    """One of the steps that were fitted, for a picture of how well they are met."""

    kind: str
    measured_ms: float
    predicted_ms: float


class EngineLimits(_Frozen):
    """`Limits` as a file has them."""

    max_num_seqs: int = Field(gt=0)
    token_budget: int = Field(gt=0)
    kv_blocks: int = Field(gt=0)
    block_size: int = Field(gt=0)
    max_model_len: int | None = None
    chunked_prefill: bool
    prefix_caching: bool
    by_priority: bool = False

    def limits(self) -> Limits:
        """For the simulator."""
        return Limits(**self.model_dump())


class EngineProfile(_Frozen):
    """One FM on one engine and hardware.

    Attributes:
        engine: what the engine said of itself, as far as it matters for speed.
        made: when, ISO 8601, UTC.
        source: "sweep" (steps with a beginning and an end), or "store" (from token to token: the pause is in the step).
        steps: how many were fitted; `left_out`: how many could not be, by reason.
        step_spread, prefill_spread: measured over predicted time of steps without and with prefill, by quantiles.
        lasting, lasts_s: the share of that spread which stays, and for how long (`lasting.py`).
        r2: the share of the variance of steps' times that the model explains; `None` of an old profile.
        sample: some of the steps.
        cold_start_s: from starting a replica until it takes calls; `None` if it was not measured.
        memory_bytes: of the engine's processes, KV cache included; `None` if it was not measured.
    """

    version: int = VERSION
    model: str
    hardware: str
    engine: Mapping[str, Any]
    made: str
    source: str
    steps: int
    left_out: Mapping[str, int]
    seconds: Seconds
    overheads: Overheads
    limits: EngineLimits
    range: Range
    residuals: tuple[Residual, ...]
    step_spread: tuple[float, ...]
    prefill_spread: tuple[float, ...]
    lasting: float = 0.0
    lasts_s: float = 0.0
    r2: float | None = None
    sample: tuple[Sampled, ...] = ()
    cold_start_s: _Time | None = None
    memory_bytes: int | None = None

    @property
    def key(self) -> str:
        """Names the FM, engine and hardware: equal for two measurements of one, other for any other engine."""
        return key_of(self.model, self.hardware, self.engine, self.limits)

    @property
    def kv_tokens(self) -> int:
        """Tokens whose KV the engine can hold."""
        return self.limits.kv_blocks * self.limits.block_size

    def to_engine(self, *, cost_per_s: float = 1.0) -> Engine:
        """For the simulator. Without a measured cold start, one takes no time."""
        o = self.overheads
        return Engine(
            costs=self.seconds.costs(),
            limits=self.limits.limits(),
            model=self.model,
            hardware=self.hardware,
            before_ps=to_ps(o.before_s),
            before_token_ps=to_ps(o.before_token_s),
            after_ps=to_ps(o.after_s),
            cold_start_ps=to_ps(self.cold_start_s or 0.0),
            steps=Spread(self.step_spread) if self.step_spread else None,
            prefills=Spread(self.prefill_spread) if self.prefill_spread else None,
            lasting=self.lasting,
            lasts_ps=to_ps(self.lasts_s),
            before=Spread(o.before) if o.before else None,
            cost_per_s=cost_per_s,
        )

    def outside(self, extremes: Extremes) -> list[str]:
        """In what respects a simulation went where nothing was measured, one sentence each."""
        measured = self.range
        asked = (
            ("calls in a step", extremes.rows, measured.rows),
            ("prompt tokens in a step", extremes.prefill_tokens, measured.prefill_tokens),
            ("pairs of a step's prompts", extremes.prefill_pairs, measured.prefill_pairs),
            ("tokens of context in a step", extremes.context_tokens, measured.context_tokens),
        )
        return [f"up to {most} {what}, measured up to {known}" for what, most, known in asked if most > known]

    def step_s(
        self, *, prefill_tokens: int = 0, pairs: int = 0, prefill_calls: int = 0, decodes: int = 0,
        context_tokens: int = 0,
    ) -> float:  # fmt: skip
        """Mean time of one step, its pause included.

        Raises:
            OutsideTheFit: no step like it was measured.
        """
        rows = prefill_calls + decodes
        if beyond := self.outside(Extremes(rows, prefill_tokens, pairs, context_tokens)):
            raise OutsideTheFit(f"the profile of {self.model} on {self.hardware} does not reach there: {beyond[0]}")
        s = self.seconds
        prompts = s.prefill_token * prefill_tokens + s.prefill_pair * pairs + s.prefill_call * prefill_calls
        return s.step + prompts + s.decode * decodes + s.context_token * context_tokens + s.gap + s.gap_row * rows

    def save(self, path: Path) -> None:
        """Write it, as JSON, in one piece."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        fresh.replace(path)

    @classmethod
    def load(cls, path: Path) -> EngineProfile:
        """Read one.

        Raises:
            SimulationError: there is none, or it is of another version.
        """
        try:
            profile = cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise SimulationError(f"no engine profile at {path}: {error.strerror or error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = f"{'.'.join(map(str, first['loc']))} " if first["loc"] else ""
            raise SimulationError(f"{path} is no engine profile: {where}{first['msg']}") from error
        if profile.version != VERSION:
            raise SimulationError(
                f"{path} is an engine profile of version {profile.version}, not {VERSION}; make it anew"
            )
        return profile


def key_of(model: str, hardware: str, engine: Mapping[str, Any], limits: EngineLimits) -> str:
    """12 hex digits of what an engine is. Its version of the profile's form, dates and measurements are not in it."""
    said = {"model": model, "hardware": hardware, "engine": dict(engine), "limits": limits.model_dump()}
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=6).hexdigest()
