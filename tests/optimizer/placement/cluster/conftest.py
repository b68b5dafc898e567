"""Clusters of servers in the test's own event loop."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from redecode.optimizer.placement.cluster.http_cluster import HttpCluster
from redecode.optimizer.placement.cluster.http_front import front, listen
from redecode.optimizer.placement.cluster.ray_spec import RayMissing, load_ray
from redecode.replay.simulator.costs import StepCosts, to_ps
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.rows import Limits
from redecode.replay.simulator.views import Router

POLL_S = 0.02


def an_engine(
    step_s: float = 0.001, *, model: str = "m", seqs: int = 4, by_priority: bool = False, **more: Any
) -> Engine:
    limits = Limits(max_num_seqs=seqs, token_budget=512, kv_blocks=256, by_priority=by_priority)
    return Engine(costs=StepCosts(step=to_ps(step_s)), limits=limits, model=model, **more)


class Live:
    """A front, its cluster, and a client of it."""

    def __init__(self, cluster: HttpCluster, client: aiohttp.ClientSession, url: str) -> None:
        self.cluster, self.client, self.url = cluster, client, url

    async def post(self, body: dict[str, Any], path: str = "/v1/chat/completions", **headers: str) -> tuple[int, Any]:
        async with self.client.post(self.url + path, json=body, headers=named(headers)) as response:
            return response.status, await response.json()

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.client.get(self.url + path) as response:
            kind = response.headers.get("content-type", "")
            return response.status, await response.json() if "json" in kind else await response.text()


def named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def port_of(runner: web.AppRunner) -> int:
    return int(runner.addresses[0][1])


@pytest.fixture(scope="session")
def ray_installed() -> None:
    """Where Ray is not installed its tests are left out; never in CI."""
    try:
        load_ray()
    except RayMissing:
        if os.environ.get("CI"):
            pytest.fail("CI must test against a real Ray Serve, and none is installed")
        pytest.skip("Ray Serve is not installed here")


def a_port() -> int:
    """One nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def unused_port() -> int:
    return a_port()


@pytest.fixture(scope="module")
def unused_port_of_module() -> int:
    return a_port()


@pytest.fixture
async def serve_app() -> AsyncIterator[Callable[[web.Application], Awaitable[str]]]:
    """Serve an application; its URL."""
    runners: list[web.AppRunner] = []

    async def make(app: web.Application) -> str:
        runner = await listen(app, "127.0.0.1", 0)
        runners.append(runner)
        return f"http://127.0.0.1:{port_of(runner)}"

    yield make
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def live(serve_app: Callable[[web.Application], Awaitable[str]]) -> AsyncIterator[Callable[..., Awaitable[Live]]]:
    """A front before these URLs."""
    open_: list[Any] = []

    async def make(router: Router, *urls: str, admin_key: str | None = None, **options: Any) -> Live:
        cluster = HttpCluster(router, poll_s=POLL_S, **options)
        await cluster.__aenter__()
        client = aiohttp.ClientSession()
        open_.extend([client, cluster])
        for url in urls:
            await cluster.add(url)
        return Live(cluster, client, await serve_app(front(cluster, admin_key=admin_key)))

    yield make
    for thing in open_:
        await thing.__aexit__(None, None, None)
