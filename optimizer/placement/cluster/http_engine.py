"""What stands behind a URL: its models, whether it is a vLLM, and what it can take at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from redecode.optimizer.placement.cluster.errors import BadReplica
from redecode.optimizer.placement.cluster.prometheus import Metrics, read_metrics
from redecode.replay.simulator.costs import StepCosts
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.rows import Limits

_MAX_NUM_SEQS, _TOKEN_BUDGET, _KV_BLOCKS, _BLOCK_SIZE = 256, 8192, 1 << 16, 16
"""Taken of an engine that does not say: vLLM's own defaults, and KV blocks enough for none to be missed."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a server at a URL says of itself.

    Attributes:
        models: as `/v1/models` has them.
        vllm: it says that it is one.
        info: of our plug-in; empty without.
        metrics: `None` if it has none that we can read.
    """

    url: str
    models: tuple[dict[str, Any], ...]
    vllm: bool
    info: dict[str, Any]
    metrics: Metrics | None

    @property
    def names(self) -> tuple[str, ...]:
        """Of its models, adapters left out: they share the engine of the first."""
        return tuple(str(m["id"]) for m in self.models if not m.get("parent"))

    def engine(self, profile: Engine | None = None) -> Engine:
        """As policies see it: the profile's times, if there is one, within the limits this server really has.

        Raises:
            BadReplica: it is not the profile's model.
        """
        info, metrics = self.info, self.metrics
        known = profile.limits if profile is not None else None
        limits = Limits(
            max_num_seqs=info.get("max_num_seqs") or (known.max_num_seqs if known else _MAX_NUM_SEQS),
            token_budget=info.get("max_num_batched_tokens") or (known.token_budget if known else _TOKEN_BUDGET),
            kv_blocks=(metrics and metrics.kv_blocks) or (known.kv_blocks if known else _KV_BLOCKS),
            block_size=(metrics and metrics.block_size) or (known.block_size if known else _BLOCK_SIZE),
            max_model_len=info.get("max_model_len") or self._longest(),
            chunked_prefill=_first(info.get("chunked_prefill"), known and known.chunked_prefill, other=True),
            prefix_caching=_first(metrics and metrics.prefix_caching, known and known.prefix_caching, other=True),
            by_priority=_first(self._by_priority(), known and known.by_priority, other=False),
        )
        model = self.names[0]
        if profile is None:
            return Engine(costs=StepCosts(), limits=limits, model=model)
        if profile.model and profile.model not in self.names:
            raise BadReplica(
                f"{self.url} serves {', '.join(self.names)}, and the profile given for it is of {profile.model}"
            )
        return replace(profile, limits=limits, model=model)

    def _longest(self) -> int | None:
        found = self.models[0].get("max_model_len")
        return found if isinstance(found, int) else None

    def _by_priority(self) -> bool | None:
        policy = self.info.get("scheduling_policy")
        return None if policy is None else policy == "priority"


def _first(*values: Any, other: bool) -> bool:
    return bool(next((v for v in values if v is not None), other))


def root_of(url: str) -> str:
    """The URL of a server without its `/v1`.

    Raises:
        BadReplica: that is none.
    """
    root = url.rstrip("/").removesuffix("/v1")
    try:
        parts = urlsplit(root)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise BadReplica(f"{url!r} is no http:// or https:// URL of a replica")
    return root


async def find(session: aiohttp.ClientSession, url: str, *, timeout_s: float = 10.0) -> Found:
    """Ask a server what it is.

    Raises:
        BadReplica: nothing answers there, or it is no server of models.
    """
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    status, body = await _get(session, f"{url}/v1/models", timeout)
    if status in (401, 403):
        raise BadReplica(f"{url} answers {status} to /v1/models: give the key it wants")
    models = _models(body) if status == 200 else ()
    if not models:
        raise BadReplica(f"{url} serves no model: /v1/models answers {status} {body[:80].decode(errors='replace')}")
    status, body = await _get(session, f"{url}/redecode/info", timeout)
    info = _object(body) if status == 200 else {}
    status, body = await _get(session, f"{url}/metrics", timeout)
    metrics = read_metrics(body.decode(errors="replace")) if status == 200 else None
    vllm = info.get("engine") == "vllm" or any(m.get("owned_by") == "vllm" for m in models)
    return Found(url, models, vllm, info, metrics)


async def _get(session: aiohttp.ClientSession, url: str, timeout: aiohttp.ClientTimeout) -> tuple[int, bytes]:
    try:
        async with session.get(url, timeout=timeout) as response:
            return response.status, await response.read()
    except TimeoutError as error:
        raise BadReplica(f"nothing answers at {url} within {timeout.total} s; is the engine up?") from error
    except (aiohttp.ClientError, OSError) as error:
        raise BadReplica(f"nothing answers at {url} ({error or type(error).__name__}); is the engine up?") from error


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _models(body: bytes) -> tuple[dict[str, Any], ...]:
    data = _object(body).get("data")
    listed = data if isinstance(data, list) else []
    return tuple(m for m in listed if isinstance(m, dict) and m.get("id"))
