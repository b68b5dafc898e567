"""What goes to the processes of a cluster on Ray Serve: policies and kinds of replicas, as one text.

Serve takes JSON as arguments of routers and autoscaling policies, so objects go pickled (Ray's cloudpickle, which also
takes classes of the program itself). Policy and log go together, or the policy would write into another log.
"""

from __future__ import annotations

import base64
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redecode.optimizer.placement.cluster.errors import ClusterError
from redecode.optimizer.placement.cluster.placing import LastDecision, Placing
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import CallView, Provisioner, Router

RANK = "redecode_rank"
"""In a replica's metadata."""

_placings: dict[str, Placing] = {}


def show_placing(name: str, placing: Placing) -> None:
    """Let this process's front show it. Here, and not in `ray_router`, of which Serve makes a copy with its globals."""
    _placings[name] = placing


def shown_placing(name: str) -> Placing | None:
    """The placing of an application, if its router is in this process."""
    return _placings.get(name)


class RayMissing(ClusterError):
    """Ray is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "Ray Serve is not installed: `pip install 'redecode[ray]'`, or use a front before plain servers"
        )


def load_ray() -> tuple[Any, Any]:
    """`ray` and `ray.serve`, imported without the warnings of its own parts, and not telling anybody that it is used.

    Raises:
        RayMissing: there is none.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
            from ray import serve
    except ImportError as error:
        raise RayMissing from error
    return ray, serve


@dataclass(frozen=True, slots=True, kw_only=True)
class RayReplica:
    """One replica of a cluster: the n-th to start (Serve's rank n) is the n-th of these.

    Exactly one of: `endpoint`, a server that is there; `model`, a folder a vLLM is started with, on the replica's own
    accelerator; neither, and it is paced: it computes nothing and takes the engine's times.

    Attributes:
        engine: what policies know of it.
        vllm_args: further arguments of vLLM, as they are.
    """

    engine: Engine
    endpoint: str | None = None
    model: Path | None = None
    vllm_args: tuple[str, ...] = ()


@dataclass(slots=True)
class RayCall:
    """What a replica is sent.

    Attributes:
        priority: the router's; set on the way.
        path, body, headers: as the caller sent them.
        stream: the caller wants a stream.
        own_priority: the caller gave one.
    """

    view: CallView
    path: str
    body: bytes
    headers: dict[str, str]
    stream: bool
    priority: int = 0
    own_priority: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RaySpec:
    """What all processes of a cluster are told.

    Attributes:
        name: of the application; one cluster in a process.
        router: `None` leaves it to Ray Serve (power of two choices).
        most: replicas there may be.
        began_ns: when the cluster began, Unix ns: its policies count from then on.
        seed: of paced replicas' step times; `None` for the mean.
    """

    name: str
    replicas: tuple[RayReplica, ...]
    router: Router | None
    why: LastDecision | None
    provisioner: Provisioner | None
    began_ns: int
    slo_s: float | None
    slo_by_agent: Mapping[str, float] = field(default_factory=dict)
    seed: int | None = None
    most: int = 1

    @property
    def first(self) -> int:
        """Replicas at the beginning."""
        return min(len(self.replicas), self.most)

    def engine(self, rank: int) -> Engine:
        """Of the replica of this rank; beyond the last kind they begin anew."""
        return self.replicas[rank % len(self.replicas)].engine

    def serving(self, model: str) -> Engine | None:
        """Any engine of a model."""
        return next((r.engine for r in self.replicas if r.engine.model == model), None)


def pack(spec: RaySpec) -> str:
    """As text."""
    ray, _ = load_ray()
    return base64.b64encode(ray.cloudpickle.dumps(spec)).decode()


def unpack(text: str) -> RaySpec:
    """What was packed."""
    ray, _ = load_ray()
    spec: Any = ray.cloudpickle.loads(base64.b64decode(text))
    assert isinstance(spec, RaySpec)
    return spec
