"""The command line and environment of the server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from redecode.replay.engine.errors import ModelNotFound
from redecode.replay.engine.launch import (
    Device,
    EngineOptions,
    build_argv,
    build_env,
    check_model,
    default_context,
    default_kv_bytes,
)

SMALL = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 128, "max_position_embeddings": 768}


def make_model(folder: Path, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SMALL | config))
    return folder


def value(argv: list[str], flag: str) -> str:
    assert argv.count(flag) == 1
    return argv[argv.index(flag) + 1]


def test_the_cpu_flags_that_replay_needs(tmp_path: Path) -> None:
    argv = build_argv(make_model(tmp_path / "tiny"), 8123, EngineOptions(), Device.CPU)
    assert argv[1:3] == ["-m", "vllm.entrypoints.launchers.api_server.entry"]
    expected = {
        "--model": str(tmp_path / "tiny"),
        "--served-model-name": "tiny",
        "--host": "127.0.0.1",
        "--port": "8123",
        "--max-model-len": "768",
        "--max-num-seqs": "16",
        "--generation-config": "vllm",
        "--logits-processors": "redecode.replay.engine.plugin:ForceTokens",
        "--middleware": "redecode.replay.engine.middleware.RedecodeMiddleware",
        "--distributed-executor-backend": "uni",
        "--kv-cache-memory-bytes": str(64 * 2**20),
        "--max-num-batched-tokens": "4096",
        "--tool-call-parser": "hermes",
    }
    assert {flag: value(argv, flag) for flag in expected} == expected
    for flag in (
        "--enforce-eager",
        "--no-enable-chunked-prefill",
        "--enable-per-request-metrics",
        "--enable-prompt-tokens-details",
        "--enable-auto-tool-choice",
    ):
        assert flag in argv


def test_a_prefill_is_never_cut_on_a_cpu(tmp_path: Path) -> None:
    argv = build_argv(make_model(tmp_path / "m"), 1, EngineOptions(max_model_len=10_000), Device.CPU)
    assert int(value(argv, "--max-num-batched-tokens")) >= 10_000


def test_a_gpu_gets_trace_replay_and_no_eager_mode(tmp_path: Path) -> None:
    argv = build_argv(make_model(tmp_path / "m"), 1, EngineOptions(), Device.CUDA)
    assert {"--enable-trace-replay", "--enable-scale-out", "--gpu-memory-utilization"} <= set(argv)
    assert not {"--enforce-eager", "--distributed-executor-backend", "--no-enable-chunked-prefill"} & set(argv)
    plain = build_argv(tmp_path / "m", 1, EngineOptions(trace_replay=False), Device.CUDA)
    assert set(argv) - set(plain) == {"--enable-trace-replay", "--enable-scale-out"}
    with_kv = build_argv(tmp_path / "m", 1, EngineOptions(kv_cache_bytes=2**30), Device.CUDA)
    assert value(with_kv, "--kv-cache-memory-bytes") == str(2**30)
    assert "--gpu-memory-utilization" not in with_kv


def test_what_is_chosen_wins(tmp_path: Path) -> None:
    options = EngineOptions(
        served_name="fm", max_num_seqs=3, kv_cache_bytes=5, dtype="float32", extra_args=("--seed", "7")
    )
    argv = build_argv(make_model(tmp_path / "m"), 1, options, Device.CPU)
    assert value(argv, "--served-model-name") == "fm"
    assert value(argv, "--max-num-seqs") == "3"
    assert value(argv, "--kv-cache-memory-bytes") == "5"
    assert value(argv, "--dtype") == "float32"
    assert argv[-2:] == ["--seed", "7"]


def test_the_environment_is_the_callers_and_ours_on_top(tmp_path: Path) -> None:
    env = build_env({"HOME": "/h", "OMP_NUM_THREADS": "8"}, tmp_path / "s", Device.CPU)
    assert env["HOME"] == "/h"
    assert env["OMP_NUM_THREADS"] == "1"
    assert env["TORCHDYNAMO_DISABLE"] == "1"
    assert env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert env["HF_HUB_OFFLINE"] == env["VLLM_NO_USAGE_STATS"] == "1"
    assert env["PYTHONSAFEPATH"] == "1"
    assert env["REDECODE_STEP_LOG"] == str(tmp_path / "s")
    gpu = build_env({"OMP_NUM_THREADS": "8"}, tmp_path / "s", Device.CUDA)
    assert gpu["OMP_NUM_THREADS"] == "8"
    assert "TORCHDYNAMO_DISABLE" not in gpu


@pytest.mark.parametrize(("given", "kept"), [("", None), ("2", "2")], ids=["empty crashes vLLM", "set"])
def test_an_empty_kv_space_is_taken_out(tmp_path: Path, given: str, kept: str | None) -> None:
    env = build_env({"VLLM_CPU_KVCACHE_SPACE": given}, tmp_path / "s", Device.CPU)
    assert env.get("VLLM_CPU_KVCACHE_SPACE") == kept


@pytest.mark.parametrize(
    ("config", "tokens"),
    [({}, 768), ({"max_position_embeddings": 131072}, 8192), ({"max_position_embeddings": None}, 2048)],
    ids=["the model's", "capped", "unknown"],
)
def test_the_context_fits_the_model(tmp_path: Path, config: dict[str, object], tokens: int) -> None:
    assert default_context(make_model(tmp_path / "m", **config)) == tokens


@pytest.mark.parametrize(
    ("config", "max_model_len", "kv_bytes"),
    [
        ({}, 768, 64 * 2**20),  # 2 x 4 layers x 4 heads x 32 x 2 bytes = 2 KiB a token: 24 MiB would do
        ({"num_hidden_layers": 32}, 4096, 16 * 2**10 * 4096 * 16),
        ({"num_hidden_layers": 32, "dtype": "float32"}, 4096, 2 * 16 * 2**10 * 4096 * 16),
        ({"num_hidden_layers": 32, "num_key_value_heads": 1}, 8192, 4 * 2**10 * 8192 * 16),
        ({"num_hidden_layers": 4000}, 8192, 4 * 2**30),
        ({"num_hidden_layers": None}, 768, 4 * 2**30),
    ],
    ids=["at least", "full batch", "float32", "grouped heads", "at most", "unknown shape"],
)
def test_the_kv_cache_holds_a_full_batch(
    tmp_path: Path, config: dict[str, object], max_model_len: int, kv_bytes: int
) -> None:
    assert default_kv_bytes(make_model(tmp_path / "m", **config), max_model_len, 16) == kv_bytes


def test_a_model_must_be_a_folder_with_a_config(tmp_path: Path) -> None:
    assert check_model(make_model(tmp_path / "m")) == tmp_path / "m"
    with pytest.raises(ModelNotFound, match="bundled models, usable by name: a, b"):
        check_model(tmp_path / "x", bundled=("a", "b"))
    (tmp_path / "m" / "config.json").write_text("{")
    with pytest.raises(ModelNotFound, match="no JSON"):
        default_context(tmp_path / "m")
