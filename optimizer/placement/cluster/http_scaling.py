"""Replicas of an HTTP cluster that come and go as our provisioner says, started by somebody who can."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from redecode.optimizer.placement.cluster.http_cluster import HttpCluster
from redecode.optimizer.placement.cluster.live import LiveReplica
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import Add, Provisioner, Remove, State

_log = logging.getLogger("redecode")


class Launcher(Protocol):
    """Starts and stops servers."""

    async def start(self, engine: Engine) -> str:
        """Begin to start one; the URL where it will be. The cluster finds out when it is up."""

    async def stop(self, url: str) -> None:
        """Stop one; it has no calls."""


async def scale(cluster: HttpCluster, provisioner: Provisioner, launcher: Launcher) -> None:
    """Ask the provisioner every so often, and do as it says, until cancelled.

    Only replicas that it had started are stopped with a server; others are only taken out. A swap is a new replica
    first, and then one less.
    """
    started: set[str] = set()
    leaving: set[asyncio.Task[None]] = set()

    async def begin(engine: Engine) -> None:
        url = await launcher.start(engine)
        started.add(url.rstrip("/").removesuffix("/v1"))
        cluster.expect(url, engine)

    async def end(replica: LiveReplica) -> None:
        await cluster.drained(replica)
        if replica.name in started:
            started.discard(replica.name)
            await launcher.stop(replica.name)

    def ended(task: asyncio.Task[None]) -> None:
        leaving.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("redecode: a replica could not be stopped: %s", task.exception())

    try:
        while True:
            views = {r.number: r for r in cluster.placing.replicas if r.state is not State.STOPPED}
            for command in provisioner.plan(list(views.values()), cluster.time.now_s()):
                try:
                    if not isinstance(command, Remove):
                        await begin(command.engine)
                except Exception as error:  # a launcher may be anybody's; the next plan asks again
                    _log.error("redecode: a replica could not be started: %s", error)
                    continue
                if not isinstance(command, Add):
                    replica = views.get(command.replica)
                    if replica is not None and replica.state is not State.DRAINING:
                        cluster.placing.drain(replica)  # at once: the next plan must see it
                        task = asyncio.get_running_loop().create_task(end(replica))
                        leaving.add(task)
                        task.add_done_callback(ended)
            await asyncio.sleep(provisioner.every_s)
    finally:
        for task in leaving:
            task.cancel()
