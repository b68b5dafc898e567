"""What vLLM says of itself in `/metrics` that a router may want."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+\S+)?$")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine said of itself last.

    Attributes:
        kv_used: share of its KV blocks that running calls hold, 0 to 1.
    """

    running: int
    waiting: int
    kv_used: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """Of one vLLM; of several engines behind one server (data parallel) the sum, and the mean of their KV."""

    load: Load
    block_size: int | None = None
    kv_blocks: int | None = None
    prefix_caching: bool | None = None


def read_metrics(text: str) -> Metrics | None:
    """Read Prometheus text; `None` if it is not a vLLM's."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    config: dict[str, str] = {}
    for line in text.splitlines():
        if not line.startswith("vllm:"):
            continue
        match = _SAMPLE.match(line)
        if match is None:
            continue
        name, labels, value = match.groups()
        if name == "vllm:cache_config_info":
            config = dict(_LABEL.findall(labels or ""))
        elif name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
            sums[name] = sums.get(name, 0.0) + float(value)
            counts[name] = counts.get(name, 0) + 1
    if "vllm:num_requests_running" not in sums:
        return None
    used = "vllm:kv_cache_usage_perc"
    load = Load(
        running=int(sums["vllm:num_requests_running"]),
        waiting=int(sums.get("vllm:num_requests_waiting", 0)),
        kv_used=sums.get(used, 0.0) / counts.get(used, 1),
    )
    caching = config.get("enable_prefix_caching")
    return Metrics(
        load=load,
        block_size=_number(config.get("block_size")),
        # One block is vLLM's own: it stands for what is outside of a window.
        kv_blocks=None if (blocks := _number(config.get("num_gpu_blocks"))) is None else blocks - 1,
        prefix_caching=None if caching is None else caching == "True",
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
