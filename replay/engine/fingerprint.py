"""What an engine says about itself: the facts that decide whether a recording can come out again.

Built inside the API server from what it holds anyway (`app.state.vllm_config`, its arguments, its
environment) plus digests of the model's files. vLLM's own `system_fingerprint` is part of it and
not enough: it ignores the weights' content, prefix caching, the seed, eager mode and threads.

None means unknown, never "no".
"""

from __future__ import annotations

import hashlib
import platform
import socket
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson

from redecode.replay.engine.step_log import STEP_LOG_ENV, keeps_clock

FORCE_PROCESSOR = "redecode.replay.engine.plugin:ForceTokens"


def describe_engine(state: Any, env: Mapping[str, str]) -> dict[str, Any]:
    """Collect the settings of the running engine; `state` is the API server's `app.state`."""
    config, args = state.vllm_config, state.args
    model, scheduler = config.model_config, config.scheduler_config
    parallel = config.parallel_config
    runner = _known(lambda: "v2" if config.use_v2_model_runner else "v1")
    force = FORCE_PROCESSOR in (model.logits_processors or ())
    return {
        "redecode": _own_version(),
        "engine": "vllm",
        "engine_version": _known(lambda: sys.modules["vllm"].__version__),
        "system_fingerprint": _known(lambda: state.openai_serving_completion.system_fingerprint),
        "force": force,
        "trace_replay": bool(_known(lambda: model.enable_trace_replay and args.enable_scale_out)),
        "step_clock": bool(force and runner == "v1" and env.get(STEP_LOG_ENV) and keeps_clock(parallel)),
        "model": model.model,
        "served_model_name": _known(lambda: (args.served_model_name or [args.model])[0]),
        "model_path": _model_folder(model.model),
        "dtype": _known(lambda: str(model.dtype).removeprefix("torch.")),
        "quantization": _known(lambda: model.quantization),
        "kv_cache_dtype": _known(lambda: config.cache_config.cache_dtype),
        "max_model_len": _known(lambda: model.max_model_len),
        "vocab_size": _known(lambda: model.get_vocab_size()),
        "max_num_seqs": _known(lambda: scheduler.max_num_seqs),
        "max_num_batched_tokens": _known(lambda: scheduler.max_num_batched_tokens),
        "chunked_prefill": _known(lambda: scheduler.enable_chunked_prefill),
        "scheduling_policy": _known(lambda: scheduler.policy),
        "prefix_caching": _known(lambda: config.cache_config.enable_prefix_caching),
        "block_size": _known(lambda: config.cache_config.block_size),
        # One block is vLLM's own: it stands for what is outside of a window.
        "kv_blocks": _known(lambda: config.cache_config.num_gpu_blocks - 1),
        "generation_config": _known(lambda: model.generation_config),
        "per_request_metrics": _known(lambda: bool(args.enable_per_request_metrics)),
        "prompt_tokens_details": _known(lambda: bool(args.enable_prompt_tokens_details)),
        "enforce_eager": _known(lambda: model.enforce_eager),
        "engine_seed": _known(lambda: model.seed),
        "batch_invariant": env.get("VLLM_BATCH_INVARIANT") == "1",
        "threads": _known(lambda: int(env["OMP_NUM_THREADS"])),
        "tensor_parallel_size": _known(lambda: parallel.tensor_parallel_size),
        "pipeline_parallel_size": _known(lambda: parallel.pipeline_parallel_size),
        "data_parallel_size": _known(lambda: parallel.data_parallel_size),
        "device": _known(lambda: config.device_config.device_type),
        "device_name": _known(lambda: sys.modules["vllm.platforms"].current_platform.get_device_name()),
        "processor": processor(),
        "runner": runner,
        "host": socket.gethostname(),
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The CPU's name, else its architecture: `device_name` is "cpu" on every one of them."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(filter(None, named), platform.machine() or None)


def digest_model(folder: Path | None, chat_template: str | None = None) -> dict[str, str | None]:
    """SHA-256 of weights, tokenizer and chat template; reads every byte of the weights.

    `chat_template` is the server's own `--chat-template`: a file, or the template itself.
    """
    none: dict[str, str | None] = dict.fromkeys(("weights_sha256", "tokenizer_sha256", "chat_template_sha256"), None)
    if folder is None:
        return none
    return {
        "weights_sha256": _known(lambda: weights_sha256(folder)),
        "tokenizer_sha256": _known(lambda: file_sha256(folder / "tokenizer.json")),
        "chat_template_sha256": _chat_template_sha256(folder, chat_template),
    }


def weights_sha256(folder: Path) -> str | None:
    """One weights file: its SHA-256. Several: that of what `sha256sum *.safetensors` prints."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    if len(files) == 1:
        return file_sha256(files[0])
    listing = "".join(f"{file_sha256(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _chat_template_sha256(folder: Path, given: str | None) -> str | None:
    if given is not None:
        path = Path(given)
        return file_sha256(path) if "\n" not in given and path.is_file() else _text_sha256(given)
    if (folder / "chat_template.jinja").is_file():
        return file_sha256(folder / "chat_template.jinja")
    template = _known(lambda: orjson.loads((folder / "tokenizer_config.json").read_bytes())["chat_template"])
    return _text_sha256(template) if isinstance(template, str) else None


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _model_folder(model: str) -> str | None:
    return str(Path(model).resolve()) if Path(model).is_dir() else None


def _own_version() -> str | None:
    try:
        return version("redecode")
    except PackageNotFoundError:
        return None


def _known(read: Callable[[], Any]) -> Any:
    """Read the value, or None where this vLLM does not have it (versions rename fields)."""
    try:
        return read()
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, OSError, NotImplementedError):
        return None
