"""An engine like that of a recorded run: the settings it gets, and what is told to differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redecode.replay.engine.errors import EngineUnknown, ModelNotFound
from redecode.replay.engine.fingerprint import weights_sha256
from redecode.replay.engine.launch import Device, build_argv, build_env
from redecode.replay.engine.recorded import Likeness, like_recorded


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def described(model: Path, /, **fields: Any) -> dict[str, Any]:
    base = {
        "engine": "vllm", "engine_version": "1.0", "served_model_name": "served", "model": str(model),
        "model_path": str(model), "weights_sha256": weights_sha256(model), "dtype": "float32", "max_model_len": 640,
        "max_num_seqs": 5, "device": "cpu", "threads": 3, "prefix_caching": False, "scheduling_policy": "priority",
        "kv_cache_dtype": "fp8", "engine_seed": 7, "quantization": None, "tensor_parallel_size": 2,
    }  # fmt: skip
    return base | fields


def like(info: dict[str, Any] | None, device: Device = Device.CPU, **given: Any) -> Likeness:
    return like_recorded(info, run_id="r" * 32, device=device, vllm_version="1.0", **given)


def test_the_settings_come_back_as_flags_of_vllm(model: Path) -> None:
    found = like(described(model))
    assert found.model == model
    assert found.differs == ()
    argv = build_argv(found.model, 1, found.options, Device.CPU)
    line = " ".join(argv)
    for words in (
        "--served-model-name served", "--max-model-len 640", "--max-num-seqs 5", "--dtype float32",
        "--no-enable-prefix-caching", "--scheduling-policy priority", "--kv-cache-dtype fp8", "--seed 7",
    ):  # fmt: skip
        assert words in line
    for word in ("--quantization", "--tensor-parallel-size"):  # not set, and of no use on a CPU
        assert word not in line
    assert build_env({}, model, Device.CPU, found.options.env)["OMP_NUM_THREADS"] == "3"


def test_defaults_are_not_repeated(model: Path) -> None:
    usual = {"prefix_caching": True, "scheduling_policy": "fcfs", "kv_cache_dtype": "auto", "engine_seed": 0}
    assert like(described(model, **usual)).options.extra_args == ()


def test_a_gpu_gets_what_only_a_gpu_takes(model: Path) -> None:
    info = described(
        model,
        device="cuda",
        enforce_eager=True,
        chunked_prefill=False,
        max_num_batched_tokens=999,
        batch_invariant=True,
    )
    found = like(info, Device.CUDA)
    line = " ".join(found.options.extra_args)
    for words in (
        "--tensor-parallel-size 2",
        "--enforce-eager",
        "--no-enable-chunked-prefill",
        "--max-num-batched-tokens 999",
    ):
        assert words in line
    assert found.options.env == {"VLLM_BATCH_INVARIANT": "1"}


def test_what_cannot_be_the_same_is_told(model: Path) -> None:
    info = described(
        model, device="cuda", device_name="H100", engine_version="0.9", weights_sha256="f" * 64, chunked_prefill=True
    )
    differs = " | ".join(like(info).differs)
    for words in ("ran on H100", "vLLM 0.9, here is 1.0", "weights in", "into chunks"):
        assert words in differs
    assert len(like(info).differs) == 4


def test_a_model_is_looked_for_by_name_where_it_is_no_more(model: Path) -> None:
    gone = described(model, model_path="/nowhere/tiny", model="/nowhere/tiny", served_model_name="agent")
    assert like(gone, bundled={"tiny": model}).model == model
    assert like(gone, model=model).model == model
    with pytest.raises(ModelNotFound, match=r"/nowhere/tiny.*--model"):
        like(gone)


@pytest.mark.parametrize("info", [None, {}, {"engine": "sglang"}])
def test_an_engine_that_did_not_say_what_it_was_cannot_be_started(info: dict[str, Any] | None) -> None:
    with pytest.raises(EngineUnknown, match=r"--model FOLDER"):
        like(info)
