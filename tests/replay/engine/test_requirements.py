"""What an engine lacks for a replay is known before anything is sent to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redecode.replay.engine.errors import EngineLacksFlags
from redecode.replay.engine.processes import boot_id
from redecode.replay.engine.protocol import EngineInfo
from redecode.replay.engine.requirements import check_engine, start_command

URL = "http://there:8000"


def info(**fields: Any) -> EngineInfo:
    whole = {
        "protocol": 1, "engine": "vllm", "force": True, "step_clock": True, "model": "/m/tiny", "device": "cpu",
        "served_model_name": "tiny", "chunked_prefill": False, "generation_config": "vllm", "per_request_metrics": True,
        "prompt_tokens_details": True, "monotonic_ns": 0, "time_ns": 0,
    }  # fmt: skip
    return EngineInfo.model_validate(whole | fields)


def test_one_with_all_flags_lacks_nothing() -> None:
    assert check_engine(URL, info(), force=True, seeded=True) == ()


def test_one_that_does_not_say_is_given_the_benefit_of_the_doubt() -> None:
    unknown = dict.fromkeys(("generation_config", "per_request_metrics", "prompt_tokens_details", "chunked_prefill"))
    assert check_engine(URL, info(**unknown), force=True, seeded=True) == ()


@pytest.mark.parametrize(
    ("fields", "need", "flag"),
    [
        ({"force": False}, {"force": True}, "--logits-processors redecode"),
        ({"generation_config": "auto"}, {"force": True}, "--generation-config vllm"),
        ({"chunked_prefill": True}, {"seeded": True}, "--no-enable-chunked-prefill"),
    ],
    ids=["no plug-in", "stop tokens", "chunked prefill"],
)
def test_what_a_mode_cannot_do_without_is_refused(fields: dict[str, Any], need: dict[str, bool], flag: str) -> None:
    no_need = {"force": False, "seeded": False}
    assert check_engine(URL, info(**fields), **no_need) == ()
    with pytest.raises(EngineLacksFlags) as raised:
        check_engine(URL, info(**fields), **(no_need | need))
    assert flag in str(raised.value)
    assert URL in str(raised.value)


def test_vllm_s_own_trace_replay_will_do() -> None:
    assert check_engine(URL, info(force=False, trace_replay=True), force=True, seeded=False) == ()


def test_seeds_with_chunks_are_no_danger_on_a_gpu() -> None:
    assert check_engine(URL, info(chunked_prefill=True, device="cuda"), force=False, seeded=True) == ()


def test_what_is_only_missed_is_told() -> None:
    poor = info(step_clock=False, per_request_metrics=False, prompt_tokens_details=False)
    told = check_engine(URL, poor, force=True, seeded=False)
    assert [("clock" in told[0]), ("--enable-per-request-metrics" in told[1]), ("prefix cache" in told[2])] == [
        True
    ] * 3


def test_the_command_starts_the_same_model_here(tmp_path: Path) -> None:
    folder = tmp_path / "a model"
    folder.mkdir()
    here = {"model_path": str(folder), "boot_id": boot_id(), "max_model_len": 512, "dtype": "bfloat16"}
    assert start_command(info(**here)) == (
        f"redecode engine start --model '{folder}' --name tiny --max-model-len 512 --dtype bfloat16"
    )
    assert start_command(info(**here, served_model_name="a model")) == (
        f"redecode engine start --model '{folder}' --max-model-len 512 --dtype bfloat16"
    )
    assert start_command(info(**(here | {"boot_id": "another machine"}))) is None
    assert start_command(info(**(here | {"model_path": str(tmp_path / "gone")}))) is None
