"""A provisioner that starts and stops servers of an HTTP cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from aiohttp import web

from redecode.optimizer.placement.cluster.http_front import listen
from redecode.optimizer.placement.cluster.http_scaling import scale
from redecode.optimizer.placement.cluster.paced_answers import paced_server
from redecode.optimizer.placement.simple import LeastOutstanding
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import Add, Command, Remove, ReplicaView, State, Swap
from tests.optimizer.placement.cluster.conftest import Live, a_port, an_engine
from tests.optimizer.placement.cluster.test_http_calls import ASK
from tests.optimizer.placement.cluster.test_http_replicas import until

Make = Callable[..., Awaitable[Live]]


class Paced:
    """Starts paced servers; `slowly` waits to be let go."""

    def __init__(self) -> None:
        self.may_start = asyncio.Event()
        self.stopped: list[str] = []
        self._runners: dict[str, web.AppRunner] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, engine: Engine) -> str:
        if engine.model == "none":
            raise OSError("no machine is left")
        port = a_port()
        url = f"http://127.0.0.1:{port}"

        async def begin() -> None:
            await self.may_start.wait()
            self._runners[url] = await listen(paced_server(engine), "127.0.0.1", port)

        self._tasks.append(asyncio.ensure_future(begin()))
        return url

    async def stop(self, url: str) -> None:
        self.stopped.append(url)
        await self._runners.pop(url).cleanup()

    async def close(self) -> None:
        for runner in self._runners.values():
            await runner.cleanup()


class AsTold:
    """Does what it was told next, once."""

    every_s = 0.01

    def __init__(self) -> None:
        self.next: Sequence[Command] = ()
        self.saw: list[tuple[int, State]] = []

    def plan(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[Command]:
        self.saw = [(r.number, r.state) for r in replicas]
        commands, self.next = self.next, ()
        return commands


async def test_servers_are_started_and_stopped_when_their_calls_are_over(live: Make, caplog: Any) -> None:
    at, launcher, told = await live(LeastOutstanding()), Paced(), AsTold()
    scaling = asyncio.ensure_future(scale(at.cluster, told, launcher))
    try:
        told.next = (Add(an_engine(model="none")), Add(an_engine()))
        await until(lambda: told.saw == [(0, State.STARTING)])
        assert "no machine is left" in caplog.text
        call = asyncio.ensure_future(at.post({**ASK, "max_tokens": 30}))
        await until(lambda: at.cluster.placing.replicas[0].outstanding == 1)
        launcher.may_start.set()
        await until(lambda: told.saw == [(0, State.READY)])

        told.next = (Remove(0), Remove(0), Remove(99))
        await until(lambda: told.saw in ([(0, State.DRAINING)], []))
        assert (await call)[0] == 200
        await until(lambda: len(launcher.stopped) == 1)
        assert not at.cluster.placing.replicas

        told.next = (Add(an_engine()),)
        await until(lambda: told.saw == [(1, State.READY)])
        told.next = (Swap(1, an_engine(model="other")),)
        await until(lambda: told.saw == [(2, State.READY)])
        assert (await at.post({**ASK, "model": "other", "max_tokens": 1}))[0] == 200
        await until(lambda: len(launcher.stopped) == 2)
    finally:
        scaling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await scaling
        await launcher.close()
