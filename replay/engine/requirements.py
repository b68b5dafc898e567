"""What a replay needs of an engine, looked up in what the engine says of itself before anything is sent to it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from redecode.replay.engine.errors import EngineLacksFlags
from redecode.replay.engine.fingerprint import FORCE_PROCESSOR
from redecode.replay.engine.processes import boot_id
from redecode.replay.engine.protocol import EngineInfo


@dataclass(frozen=True, slots=True)
class Lack:
    """Something the engine does not have.

    Attributes:
        what: in words, and what follows from it.
        flags: those that vLLM would have to be started with.
    """

    what: str
    flags: str


_METRICS = Lack("no queue, prefill and decode times of its own", "--enable-per-request-metrics")
_CACHED = Lack("no count of the prompt tokens found in the prefix cache", "--enable-prompt-tokens-details")
_CLOCK = Lack(
    "no step clock (our plug-in, one replica, model runner V1): token times are the client's",
    f"--logits-processors {FORCE_PROCESSOR}",
)
_FORCE = Lack("it cannot force tokens", f"--logits-processors {FORCE_PROCESSOR}")
_STOPS = Lack(
    "it puts the stop tokens of generation_config.json into every call, which would end forced tokens early",
    "--generation-config vllm",
)
_CHUNKS = Lack(
    "it cuts long prefills into chunks, which on a CPU kills the engine where a call has a seed",
    "--no-enable-chunked-prefill --max-num-batched-tokens at least the model's context",
)


def check_engine(base_url: str, info: EngineInfo, *, force: bool, seeded: bool) -> tuple[str, ...]:
    """See that an engine has what a replay needs; returns what it will do without, one line each.

    Args:
        force: recorded tokens are to be forced.
        seeded: calls are sent with a seed.

    Raises:
        EngineLacksFlags: it would not do; says which flags are missing, and the command that starts one with them.
    """
    needed = []
    if force and not (info.force or info.trace_replay):
        needed.append(_FORCE)
    if force and _said(info, "generation_config") not in (None, "vllm"):
        needed.append(_STOPS)
    if seeded and info.device == "cpu" and info.chunked_prefill:
        needed.append(_CHUNKS)
    if needed:
        raise EngineLacksFlags(
            base_url, [lack.what for lack in needed], [lack.flags for lack in needed], start_command(info)
        )
    wanted = (
        (_CLOCK, not info.step_clock),
        (_METRICS, _said(info, "per_request_metrics") is False),
        (_CACHED, _said(info, "prompt_tokens_details") is False),
    )
    return tuple(f"{lack.what} (start vLLM with {lack.flags})" for lack, missing in wanted if missing)


def start_command(info: EngineInfo) -> str | None:
    """The command that starts such an engine with all that replay needs; `None` if its model is on another machine."""
    if info.boot_id is None or info.boot_id != boot_id() or not info.model_path or not Path(info.model_path).is_dir():
        return None
    command = ["redecode", "engine", "start", "--model", info.model_path]
    if info.served_model_name != Path(info.model_path).name:
        command += ["--name", info.served_model_name]
    if info.max_model_len is not None:
        command += ["--max-model-len", str(info.max_model_len)]
    if info.dtype is not None:
        command += ["--dtype", info.dtype]
    return shlex.join(command)


def _said(info: EngineInfo, name: str) -> object:
    return (info.model_extra or {}).get(name)
