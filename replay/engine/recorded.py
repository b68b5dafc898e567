"""An engine like the one a run was recorded on: what to start, and what will be different all the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redecode.replay.engine.errors import EngineUnknown, ModelNotFound
from redecode.replay.engine.fingerprint import weights_sha256
from redecode.replay.engine.launch import Device, EngineOptions

#: Settings that are flags of vLLM's: field of the engine's description, flag.
_FLAGS = {"kv_cache_dtype": "--kv-cache-dtype", "quantization": "--quantization", "engine_seed": "--seed"}
_CUDA_FLAGS = {"tensor_parallel_size": "--tensor-parallel-size", "pipeline_parallel_size": "--pipeline-parallel-size"}
_DEFAULTS = {"kv_cache_dtype": "auto", "engine_seed": 0, "tensor_parallel_size": 1, "pipeline_parallel_size": 1}


@dataclass(frozen=True, slots=True)
class Likeness:
    """The engine to start.

    Attributes:
        differs: what will not be as it was, one line each.
    """

    model: Path
    options: EngineOptions
    differs: tuple[str, ...]


def like_recorded(
    info: Mapping[str, Any] | None,
    *,
    run_id: str,
    device: Device,
    vllm_version: str | None,
    model: Path | None = None,
    bundled: Mapping[str, Path] | None = None,
) -> Likeness:
    """What to start for an engine that described itself so (`fingerprint.describe_engine`).

    Args:
        info: `None`: it did not describe itself.
        device: what there is here.
        vllm_version: what is installed here.
        model: the model's folder here; by default where it was, or the bundled model of its name.
        bundled: model folders that are at hand by name.

    Raises:
        EngineUnknown: the engine did not say what it was, or is no vLLM.
        ModelNotFound: its model is not here.
    """
    if not info or info.get("engine") != "vllm":
        raise EngineUnknown(run_id)
    served = str(info.get("served_model_name") or info.get("model"))
    folder = model or _find_model(info, served, bundled or {})
    extra = _flags(info, device)
    options = EngineOptions(
        served_name=served,
        max_model_len=info.get("max_model_len"),
        max_num_seqs=info.get("max_num_seqs") or EngineOptions().max_num_seqs,
        dtype=info.get("dtype"),
        trace_replay=bool(info.get("trace_replay", True)),
        extra_args=tuple(extra),
        env=_env(info, device),
    )
    return Likeness(folder, options, tuple(_differences(info, folder, device, vllm_version)))


def _find_model(info: Mapping[str, Any], served: str, bundled: Mapping[str, Path]) -> Path:
    then = info.get("model_path")
    if then and (Path(then) / "config.json").is_file():
        return Path(then)
    for name in (served, Path(str(then or "")).name, Path(str(info.get("model"))).name):
        if name in bundled:
            return bundled[name]
    raise ModelNotFound(
        Path(str(then or info.get("model"))), "the run's model is not here; say where it is with --model"
    )


def _flags(info: Mapping[str, Any], device: Device) -> Sequence[str]:
    args: list[str] = []
    for name, flag in (_FLAGS | (_CUDA_FLAGS if device is Device.CUDA else {})).items():
        value = info.get(name)
        if value is not None and value != _DEFAULTS.get(name):
            args += [flag, str(value)]
    if info.get("prefix_caching") is False:
        args.append("--no-enable-prefix-caching")
    if info.get("scheduling_policy") not in (None, "fcfs"):
        args += ["--scheduling-policy", str(info["scheduling_policy"])]
    if device is Device.CUDA:
        if info.get("enforce_eager"):
            args.append("--enforce-eager")
        if info.get("chunked_prefill") is False:
            args.append("--no-enable-chunked-prefill")
        if info.get("max_num_batched_tokens"):
            args += ["--max-num-batched-tokens", str(info["max_num_batched_tokens"])]
    return args


def _env(info: Mapping[str, Any], device: Device) -> dict[str, str]:
    env = {}
    if device is Device.CPU and info.get("device") == "cpu" and info.get("threads"):
        env["OMP_NUM_THREADS"] = str(info["threads"])
    if device is Device.CUDA and info.get("batch_invariant"):
        env["VLLM_BATCH_INVARIANT"] = "1"
    return env


def _differences(info: Mapping[str, Any], folder: Path, device: Device, vllm_version: str | None) -> Sequence[str]:
    then, found = info.get("device"), []
    if then not in (None, device.value):
        found.append(f"it ran on {info.get('device_name') or then}, this one on {device.value}: other times, and sums")
    if info.get("engine_version") not in (None, vllm_version):
        found.append(f"it was vLLM {info['engine_version']}, here is {vllm_version or 'none'}")
    digest = info.get("weights_sha256")
    if digest is not None and digest != weights_sha256(folder):
        found.append(f"the weights in {folder} are not those it had (SHA-256 {digest[:12]}…)")
    if device is Device.CPU and info.get("chunked_prefill"):
        found.append("it cut long prefills into chunks; on a CPU that kills the engine where a call has a seed")
    return found
