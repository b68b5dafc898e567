"""`redecode place --deploy`: the replicas of a plan on Ray Serve, with our router, until Ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from redecode.agents import BUNDLED_MODELS, model_dir
from redecode.cli.common import fail
from redecode.cli.front_run import find_all, serve_until_interrupted, shown
from redecode.optimizer.placement.cluster.http_engine import Found, root_of
from redecode.optimizer.placement.cluster.names import Policy
from redecode.optimizer.placement.cluster.policies import make_router
from redecode.optimizer.placement.cluster.ray_cluster import RayCluster
from redecode.optimizer.placement.cluster.ray_spec import RayReplica
from redecode.replay.engine.launch import Device, check_vllm, find_device
from redecode.replay.simulator.engine import Engine

if TYPE_CHECKING:
    from redecode.optimizer.placement.kinds import Kind
    from redecode.optimizer.placement.plan import Plan
    from redecode.replay.simulator.load import RunSlo
    from redecode.replay.simulator.workload import Shape


@dataclass(frozen=True, slots=True)
class Deployment:
    """How a plan is to be started.

    Attributes:
        engines: URLs of vLLMs that are up, one for each replica; without, each replica starts a vLLM of its own.
        paced: replicas compute nothing, and take the times of their profiles.
    """

    engines: Sequence[str]
    paced: bool
    port: int


def deploy(
    plan: Plan,
    kinds: Sequence[Kind],
    shapes: Sequence[Shape],
    slos: Mapping[str, RunSlo],
    how: Deployment,
    told: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Start it, and listen until Ctrl-C.

    Args:
        told: what is printed of it beside where it listens.
    """
    engines = [engine for row in plan.replicas for engine in [_engine(kinds, row[0], row[1])] * row[2]]
    replicas = replicas_of(engines, how)
    gpu = find_device() is Device.CUDA and not how.engines and not how.paced
    router, why = make_router(Policy.DEADLINE, [r.engine for r in replicas], shapes)
    overall = slos.get("")
    cluster = RayCluster(
        replicas,
        router,
        why=why,
        slo_s=overall.threshold_s if overall is not None else None,
        slo_by_agent={agent: slo.threshold_s for agent, slo in slos.items() if agent},
        port=how.port,
        cpus=1.0 if not how.engines and not how.paced else 0.1,
        gpus=1.0 if gpu else 0.0,
    )
    listed = [shown(r.endpoint, r.engine) for r in replicas]
    serve_until_interrupted(cluster, {**told, "policy": Policy.DEADLINE.value, "replicas": listed}, as_json=as_json)


def _engine(kinds: Sequence[Kind], model: str, name: str) -> Engine:
    return next(k.engine for k in kinds if (k.engine.model, k.name) == (model, name))


def replicas_of(
    engines: Sequence[Engine],
    how: Deployment,
    find: Callable[[Sequence[str], str | None], Coroutine[Any, Any, list[Found]]] = find_all,
) -> list[RayReplica]:
    """What each of these engines of a plan is to be; exit 2 if that cannot be had."""
    if how.paced:
        return [RayReplica(engine=engine) for engine in engines]
    if how.engines:
        return _of_servers(engines, asyncio.run(find([root_of(url) for url in how.engines], None)))
    check_vllm()
    unknown = sorted({engine.model for engine in engines} - set(BUNDLED_MODELS))
    if unknown:
        fail(f"no weights of {unknown[0]} are at hand: start its vLLMs, and name them with --deploy-engine")
    # The order of calls in an engine is half of what the policy does.
    ordered = [replace(engine, limits=replace(engine.limits, by_priority=True)) for engine in engines]
    return [RayReplica(engine=engine, model=model_dir(engine.model)) for engine in ordered]


def _of_servers(engines: Sequence[Engine], found: Sequence[Found]) -> list[RayReplica]:
    """A server for each, by model."""
    left, out = list(found), []
    for engine in engines:
        fit = next((one for one in left if engine.model in one.names), None)
        if fit is None:
            wanted = sum(e.model == engine.model for e in engines)
            there = sum(engine.model in one.names for one in found)
            fail(f"the plan has {wanted} replicas of {engine.model}; of the engines named {there} serve it")
        left.remove(fit)
        out.append(RayReplica(engine=fit.engine(engine), endpoint=fit.url))
    return out
