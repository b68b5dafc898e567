"""Engine profiles as the Engine page draws them: what was fitted, and how well it meets what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redecode.dashboards.words import DASH, duration, visible
from redecode.replay.simulator.profile import EngineProfile


def listed(profiles: Sequence[EngineProfile]) -> dict[str, list[Any]]:
    """A row for each profile."""
    return {
        "profile": [p.key for p in profiles],
        "FM": [visible(p.model) for p in profiles],
        "hardware": [visible(p.hardware) for p in profiles],
        "engine": [visible(f"{p.engine.get('engine', '?')} {p.engine.get('engine_version', '?')}") for p in profiles],
        "from": [p.source for p in profiles],
        "made": [p.made[:10] for p in profiles],
        "steps": [p.steps for p in profiles],
        "R²": [DASH if p.r2 is None else f"{p.r2:.3f}" for p in profiles],
        "cold start": [DASH if p.cold_start_s is None else duration(p.cold_start_s * 1e9) for p in profiles],
        "memory MiB": [None if p.memory_bytes is None else round(p.memory_bytes / 2**20) for p in profiles],
        "KV tokens": [p.kv_tokens for p in profiles],
    }


def residuals(profile: EngineProfile) -> dict[str, list[Any]]:
    """A row for each kind of step: errors are predicted over measured, minus 1."""
    rows = profile.residuals
    return {
        "steps of": [r.kind for r in rows],
        "count": [r.steps for r in rows],
        "mean": [duration(r.measured_ms * 1e6) for r in rows],
        "bias": [f"{r.bias:+.1%}" for r in rows],
        "|error| p50": [f"{r.p50:.1%}" for r in rows],
        "p95": [f"{r.p95:.1%}" for r in rows],
    }


def points(profile: EngineProfile) -> dict[str, list[Any]]:
    """Measured and predicted time of some steps, ms, with their error; by kind."""
    shown = [s for s in profile.sample if s.measured_ms > 0 and s.predicted_ms > 0]
    return {
        "kind": [s.kind for s in shown],
        "measured": [s.measured_ms for s in shown],
        "predicted": [s.predicted_ms for s in shown],
        "error": [s.predicted_ms / s.measured_ms - 1 for s in shown],
    }


def parts(profile: EngineProfile) -> dict[str, list[Any]]:
    """What a step is made of, by the fit."""
    s = profile.seconds
    names = (
        ("a step", s.step), ("a prompt token", s.prefill_token), ("a pair of a prompt's tokens", s.prefill_pair),
        ("a prompt", s.prefill_call), ("a call that decodes", s.decode), ("a token of context", s.context_token),
        ("the pause after it", s.gap), ("the pause, a call", s.gap_row),
    )  # fmt: skip
    known = [(name, value) for name, value in names if value]
    return {"takes": [name for name, _ in known], "µs": [round(value * 1e6, 4) for _, value in known]}


def words(profile: EngineProfile) -> str:
    """What else is to be known before it is used."""
    r = profile.range
    measured = (
        f"{visible(profile.model)} on {visible(profile.hardware)}: measured with up to {r.rows} calls, "
        f"{r.prefill_tokens} prompt tokens and {r.context_tokens} tokens of context in a step; a simulation says when "
        "it goes beyond."
    )
    left = ", ".join(f"{count} steps were left out: {visible(why)}" for why, count in profile.left_out.items())
    way = "" if profile.overheads.known else " The way to the engine and back was not measured."
    return measured + (f" {left.capitalize()}." if left else "") + way
