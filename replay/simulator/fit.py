"""From measured steps to an engine profile."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from redecode.replay.engine import EngineInfo
from redecode.replay.simulator import least_squares
from redecode.replay.simulator.engine import Spread
from redecode.replay.simulator.errors import SimulationError, TooFewSteps
from redecode.replay.simulator.lasting import lasting
from redecode.replay.simulator.observed import Observed, ObservedStep, Passage
from redecode.replay.simulator.profile import (
    EngineLimits,
    EngineProfile,
    Overheads,
    Range,
    Residual,
    Sampled,
    Seconds,
    key_of,
)
from redecode.replay.simulator.results import quantile

FEWEST = 50
_MOST = 6_000
_PARTS = 100
_CLIPPED = 0.01
_SHOWN = 60  # of a kind
_BLOCK = 16
_OF_PREFILL = (1, 2, 3)  # of the columns
_SAID = (
    "engine", "engine_version", "system_fingerprint", "weights_sha256", "dtype", "quantization", "kv_cache_dtype",
    "device", "device_name", "processor", "threads", "batch_invariant", "runner", "enforce_eager",
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size",
)  # fmt: skip


def fit_profile(
    observed: Observed,
    info: EngineInfo,
    *,
    source: str,
    now_ns: int,
    passages: Sequence[Passage] = (),
    cold_start_s: float | None = None,
    memory_bytes: int | None = None,
    kv_blocks: int | None = None,
    block_size: int | None = None,
) -> EngineProfile:
    """Fit the steps of one engine.

    Args:
        source: "sweep" or "store".
        now_ns: UTC.
        kv_blocks, block_size: if the engine did not say them.

    Raises:
        TooFewSteps: there are less than 50, or all did the same.
        SimulationError: a limit of the engine is unknown.
    """
    steps = observed.steps
    if len(steps) < FEWEST:
        why = ", ".join(f"{count}: {reason}" for reason, count in observed.left_out.items())
        raise TooFewSteps(
            f"{len(steps)} steps are too few to fit an engine model, {FEWEST} are needed"
            + (f" (left out, {why})" if why else "")
        )
    if not any(s.decodes for s in steps) or not any(s.prefill_calls for s in steps):
        raise TooFewSteps("the steps are all prefill or all decode; an engine model needs both")
    chosen = _sample(steps)
    factors = least_squares.fit([_columns(s) for s in chosen], [s.work_s for s in chosen])
    pauses = [s for s in _sample([s for s in steps if s.pause_s]) if s.pause_s]
    gaps = least_squares.fit([(1.0, float(s.rows)) for s in pauses], [s.pause_s or 0.0 for s in pauses]) or [0.0, 0.0]
    factors = _to_the_mean(steps, factors)
    if pauses:
        scale = _mean_ratio([s.pause_s or 0.0 for s in pauses], [gaps[0] + gaps[1] * s.rows for s in pauses])
        gaps = [g * scale for g in gaps]
    ordered = sorted(steps, key=lambda s: s.at_s)
    stays = lasting([s.at_s for s in ordered], [s.work_s / _dot(factors, s) for s in ordered])
    return EngineProfile(
        model=info.served_model_name,
        hardware=hardware_of(info),
        engine=_said(info),
        made=datetime.fromtimestamp(now_ns // 10**9, UTC).isoformat(),
        source=source,
        steps=len(steps),
        left_out=observed.left_out,
        seconds=Seconds(**dict(zip(Seconds.model_fields, (*factors, *gaps), strict=True))),
        overheads=_overheads(passages),
        limits=_limits(info, kv_blocks, block_size),
        range=Range(
            rows=max(s.rows for s in steps),
            prefill_tokens=max(s.prefill_tokens for s in steps),
            prefill_pairs=max(s.pairs for s in steps),
            context_tokens=max(s.context_tokens for s in steps),
        ),
        residuals=tuple(_residuals(steps, factors)),
        step_spread=_spread(_ratios([s for s in steps if not s.prefill_calls], factors)),
        prefill_spread=_spread(_ratios([s for s in steps if s.prefill_calls], factors)),
        lasting=stays[0],
        lasts_s=stays[1],
        r2=_explained(steps, factors),
        sample=tuple(_shown(steps, factors)),
        cold_start_s=cold_start_s,
        memory_bytes=memory_bytes,
    )


def key_of_engine(info: EngineInfo) -> str | None:
    """The key that a profile of this engine has; `None` if it does not say its limits."""
    try:
        return key_of(info.served_model_name, hardware_of(info), _said(info), _limits(info, None, None))
    except SimulationError:
        return None


def _said(info: EngineInfo) -> dict[str, Any]:
    return {name: value for name in _SAID if (value := getattr(info, name, None)) is not None}


def info_of(described: Mapping[str, Any]) -> EngineInfo:
    """An engine as a store describes it, for `fit_profile` with its recorded decodes.

    Raises:
        SimulationError: the description is of no vLLM with our plug-in.
    """
    known = {name: value for name, value in described.items() if value is not None}
    try:  # a path to the model may have been taken out
        return EngineInfo.model_validate(
            {"model": known.get("served_model_name"), **known, "monotonic_ns": 0, "time_ns": 0}
        )
    except ValidationError as error:
        raise SimulationError("these decodes were recorded on an engine without our plug-in; nothing to fit") from error


def hardware_of(info: EngineInfo) -> str:
    """What the engine runs on, in words."""
    said: Mapping[str, Any] = info.model_extra or {}
    name = said.get("device_name") or info.device or "unknown"
    if info.device == "cpu":
        name = said.get("processor") or name
    cards = (said.get("tensor_parallel_size") or 1) * (said.get("pipeline_parallel_size") or 1)
    threads = (
        f" {info.threads} thread{'s' if info.threads != 1 else ''}" if info.device == "cpu" and info.threads else ""
    )
    return f"{cards}x {name}" if cards > 1 else f"{name}{threads}"


def _limits(info: EngineInfo, kv_blocks: int | None, block_size: int | None) -> EngineLimits:
    said: Mapping[str, Any] = info.model_extra or {}
    size = block_size or said.get("block_size") or _BLOCK
    blocks = kv_blocks or said.get("kv_blocks")
    missing = [
        name
        for name, value in (
            ("max_num_seqs", info.max_num_seqs), ("max_num_batched_tokens", info.max_num_batched_tokens),
            ("kv_blocks", blocks),
        )
        if value is None
    ]  # fmt: skip
    if missing:
        raise SimulationError(
            f"the engine serving {info.served_model_name} does not say its {', '.join(missing)}"
            + ("; say it with --kv-blocks" if missing == ["kv_blocks"] else "")
        )
    return EngineLimits(
        max_num_seqs=info.max_num_seqs or 0,
        token_budget=info.max_num_batched_tokens or 0,
        kv_blocks=int(blocks or 0),
        block_size=int(size),
        max_model_len=info.max_model_len,
        chunked_prefill=bool(info.chunked_prefill),
        prefix_caching=bool(info.prefix_caching),
        by_priority=said.get("scheduling_policy") == "priority",
    )


def _columns(s: ObservedStep) -> tuple[float, ...]:
    return 1.0, s.prefill_tokens, s.pairs, s.prefill_calls, s.decodes, s.context_tokens


def _dot(factors: Sequence[float], step: ObservedStep) -> float:
    return sum(f * x for f, x in zip(factors, _columns(step), strict=True))


def _sample(steps: Sequence[ObservedStep]) -> Sequence[ObservedStep]:
    """All of them, or a fixed choice of so many that say enough; those with prefill are rare, and kept."""
    if len(steps) <= _MOST:
        return steps
    rng = random.Random(0)
    rare = [s for s in steps if s.prefill_calls]
    often = [s for s in steps if not s.prefill_calls]
    half = _MOST // 2
    kept = rare if len(rare) <= half else rng.sample(rare, half)
    return [*kept, *rng.sample(often, min(len(often), _MOST - len(kept)))]


def _to_the_mean(steps: Sequence[ObservedStep], factors: Sequence[float]) -> list[float]:
    """Scaled, so that the mean step is met, not the typical: first those that only decode, then what prefill adds."""
    plain = [s for s in steps if not s.prefill_calls]
    scale = _mean_ratio([s.work_s for s in plain], [_dot(factors, s) for s in plain])
    scaled = [f * (1.0 if place in _OF_PREFILL else scale) for place, f in enumerate(factors)]
    rest = [0.0 if place in _OF_PREFILL else f for place, f in enumerate(scaled)]
    prefills = [s for s in steps if s.prefill_calls]
    whole = _mean_ratio([s.work_s for s in prefills], [_dot(scaled, s) for s in prefills])
    without = math.fsum(_dot(rest, s) for s in prefills)
    added = math.fsum(_dot(scaled, s) for s in prefills) - without
    if added <= 0:
        return scaled
    more = max(0.0, (whole * (added + without) - without) / added)
    return [f * more if place in _OF_PREFILL else f for place, f in enumerate(scaled)]


def _mean_ratio(measured: Sequence[float], predicted: Sequence[float]) -> float:
    """Measured over predicted, all together; the strangest percent on either side counts as the next to it."""
    least, most = _bounds([m / p for m, p in zip(measured, predicted, strict=True)])
    bounded = [min(max(m, least * p), most * p) for m, p in zip(measured, predicted, strict=True)]
    return math.fsum(bounded) / math.fsum(predicted)


def _bounds(ratios: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(ratios)
    return quantile(ordered, _CLIPPED), quantile(ordered, 1.0 - _CLIPPED)


def _spread(ratios: Sequence[float]) -> tuple[float, ...]:
    """Measured over predicted by quantiles, mean 1, bounded as in `_mean_ratio`."""
    if not ratios:
        return ()
    least, most = _bounds(ratios)
    quantiles = Spread.of([min(max(r, least), most) for r in ratios], _PARTS)
    mean = quantiles.mean()
    return tuple(round(q / mean, 6) for q in quantiles.quantiles)


def _ratios(steps: Sequence[ObservedStep], factors: Sequence[float]) -> list[float]:
    return [s.work_s / predicted for s in steps if (predicted := _dot(factors, s)) > 0]


_KINDS: tuple[tuple[str, Callable[[ObservedStep], bool]], ...] = (
    ("decode, 1 call", lambda s: not s.prefill_calls and s.decodes == 1),
    ("decode, 2-4 calls", lambda s: not s.prefill_calls and 2 <= s.decodes <= 4),
    ("decode, 5-16 calls", lambda s: not s.prefill_calls and 5 <= s.decodes <= 16),
    ("decode, more", lambda s: not s.prefill_calls and s.decodes > 16),
    ("prefill, up to 64 tokens", lambda s: bool(s.prefill_calls) and not s.decodes and s.prefill_tokens <= 64),
    ("prefill, 65-512 tokens", lambda s: bool(s.prefill_calls) and not s.decodes and 64 < s.prefill_tokens <= 512),
    ("prefill, more", lambda s: bool(s.prefill_calls) and not s.decodes and s.prefill_tokens > 512),
    ("prefill and decode", lambda s: bool(s.prefill_calls and s.decodes)),
)


def _explained(steps: Sequence[ObservedStep], factors: Sequence[float]) -> float | None:
    mean = math.fsum(s.work_s for s in steps) / len(steps)
    total = math.fsum((s.work_s - mean) ** 2 for s in steps)
    return 1 - math.fsum((s.work_s - _dot(factors, s)) ** 2 for s in steps) / total if total else None


def _shown(steps: Sequence[ObservedStep], factors: Sequence[float]) -> Iterator[Sampled]:
    """Some of each kind, evenly over the time that was measured."""
    for kind, belongs in _KINDS:
        own = [s for s in steps if belongs(s)]
        for step in own[:: -(-len(own) // _SHOWN) or 1]:
            yield Sampled(
                kind=kind,
                measured_ms=round(step.work_s * 1e3, 4),
                predicted_ms=round(_dot(factors, step) * 1e3, 4),
            )


def _residuals(steps: Sequence[ObservedStep], factors: Sequence[float]) -> list[Residual]:
    table = []
    for kind, belongs in _KINDS:
        own = [(s.work_s, _dot(factors, s)) for s in steps if belongs(s)]
        if not own:
            continue
        errors = sorted(abs(p / m - 1) for m, p in own)
        measured = math.fsum(m for m, _ in own)
        table.append(
            Residual(
                kind=kind,
                steps=len(own),
                measured_ms=measured / len(own) * 1e3,
                bias=math.fsum(p for _, p in own) / measured - 1,
                p50=quantile(errors, 0.5),
                p95=quantile(errors, 0.95),
            )
        )
    return table


def _overheads(passages: Sequence[Passage]) -> Overheads:
    if not passages:
        return Overheads()
    base, token = least_squares.fit([(1.0, float(p.prompt_tokens)) for p in passages], [p.before_s for p in passages])
    ratios = [p.before_s / (base + token * p.prompt_tokens) for p in passages]
    scale = _mean_ratio([p.before_s for p in passages], [base + token * p.prompt_tokens for p in passages])
    return Overheads(
        before_s=base * scale,
        before_token_s=token * scale,
        after_s=quantile(sorted(p.after_s for p in passages), 0.5),
        before=_spread(ratios),
    )
