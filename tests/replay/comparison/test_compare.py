"""Comparing a decode with its replay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from redecode.replay.comparison.compare import compare_decodes, engine_differences, first_divergence
from redecode.tracer import Decode, Fidelity


def decode(ids: tuple[int, ...] | None, **more: Any) -> Decode:
    logprobs = tuple(-i / 10 for i in ids) if ids is not None else None
    plain: dict[str, Any] = {
        "run_id": "r", "span_id": "s", "step_key": "k", "model": "m", "fidelity": Fidelity.TOKENS, "sent_ns": 0,
        "first_chunk_ns": None, "done_ns": 10, "prompt_ids": (1,), "sampled_ids": ids, "logprobs": logprobs,
    }  # fmt: skip
    made = Decode(**{**plain, **more})
    return replace(made, digest=made.content_digest())


@pytest.mark.parametrize(
    ("recorded", "replayed", "index", "tokens"),
    [
        ((1, 2, 3), (1, 2, 3), None, None),
        ((1, 2, 3), (1, 9, 3), 1, (2, 9)),
        ((1, 2, 3), (1, 2), 2, (3, None)),
        ((1, 2), (1, 2, 3), 2, (None, 3)),
        ((1, 2), (), 0, (1, None)),
    ],
    ids=["equal", "another token", "shorter", "longer", "nothing"],
)
def test_first_divergence(
    recorded: tuple[int, ...], replayed: tuple[int, ...], index: int | None, tokens: tuple[int | None, ...] | None
) -> None:
    found = first_divergence(decode(recorded), decode(replayed))
    assert (found.index if found else None) == index
    assert ((found.recorded_token, found.replayed_token) if found else None) == tokens


def test_a_record_changed_after_recording_is_a_divergence() -> None:
    honest = decode((1, 2, 3))
    tampered = replace(honest, sampled_ids=(1, 2, 4))
    found = first_divergence(tampered, decode((1, 2, 4)))
    assert found is not None
    assert "digest" in str(found.error)
    assert not compare_decodes(tampered, decode((1, 2, 4))).tokens_equal


def test_the_logprob_gap_is_the_largest_over_the_common_tokens() -> None:
    assert compare_decodes(decode((1, 2)), decode((1, 2), logprobs=(-0.1, -0.5))).logprob_gap == pytest.approx(0.3)


def test_engine_differences_speak_only_of_what_both_know() -> None:
    assert engine_differences({"dtype": "bf16", "old": 1}, {"dtype": "fp8", "new": 2}) == {"dtype": ("bf16", "fp8")}
    assert engine_differences({"dtype": None, "boot_id": "a"}, {"dtype": "fp8", "boot_id": "b"}) == {}
    assert engine_differences(None, {"dtype": "fp8"}) == {}
