"""An engine profile with round numbers, for tests that simulate on one."""

from __future__ import annotations

from typing import Any

from redecode.replay.simulator.profile import EngineLimits, EngineProfile, Overheads, Range, Residual, Seconds

STEP_S, PROMPT_TOKEN_S, PAUSE_S, BEFORE_S, AFTER_S = 8e-3, 1e-3, 2e-3, 3e-3, 1e-3


def made_profile(model: str = "m", **other: Any) -> EngineProfile:
    """A step takes 8 ms and 1 ms for each prompt token in it, then 2 ms pass; a call is on its way 3 ms and 1 ms."""
    said: dict[str, Any] = {
        "model": model,
        "hardware": "a machine",
        "engine": {"engine": "vllm", "engine_version": "0.32.0", "weights_sha256": "ab" * 32},
        "made": "2026-11-21T20:00:00+00:00",
        "source": "sweep",
        "steps": 100,
        "left_out": {},
        "seconds": Seconds(
            step=STEP_S, prefill_token=PROMPT_TOKEN_S, prefill_pair=0, prefill_call=0, decode=0, context_token=0,
            gap=PAUSE_S, gap_row=0,
        ),
        "overheads": Overheads(before_s=BEFORE_S, after_s=AFTER_S, before=(1.0, 1.0)),
        "limits": EngineLimits(
            max_num_seqs=4, token_budget=512, kv_blocks=100, block_size=16, chunked_prefill=True, prefix_caching=True
        ),
        "range": Range(rows=4, prefill_tokens=100, prefill_pairs=10_000, context_tokens=10_000),
        "residuals": (Residual(kind="decode, 1 call", steps=100, measured_ms=8.0, bias=0.0, p50=0.01, p95=0.05),),
        "step_spread": (0.5, 1.0, 1.5),
        "prefill_spread": (0.5, 1.0, 1.5),
    }  # fmt: skip
    return EngineProfile(**{**said, **other})


def call_s(prompt: int, output: int) -> float:
    """What a call takes that is alone: all its steps and the pauses between them, and its way."""
    return BEFORE_S + prompt * PROMPT_TOKEN_S + output * STEP_S + (output - 1) * PAUSE_S + AFTER_S
