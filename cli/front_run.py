"""What `redecode front` and `redecode place --deploy` do: find engines, make a policy, listen until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import orjson
import typer

from redecode.cli.choosing import choose_selected
from redecode.cli.common import fail, print_json, progress, say, store_path, store_to_read
from redecode.cli.replay_engine import Selection
from redecode.optimizer.placement.cluster.errors import BadReplica
from redecode.optimizer.placement.cluster.http_cluster import HttpCluster
from redecode.optimizer.placement.cluster.http_engine import Found, find, root_of
from redecode.optimizer.placement.cluster.http_front import front, listen
from redecode.optimizer.placement.cluster.names import Policy
from redecode.optimizer.placement.cluster.placing import Choice, LastDecision
from redecode.optimizer.placement.cluster.policies import make_router
from redecode.optimizer.placement.cluster.ray_cluster import RayCluster
from redecode.optimizer.placement.cluster.ray_spec import RayReplica
from redecode.optimizer.placement.cluster.shown import plain
from redecode.replay import ReplayMode, ReplayOptions, TooLittleRecorded
from redecode.replay.closed_loop.simulated import lay_out
from redecode.replay.simulator.catalogue import named, profile_for
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.errors import NoProfile
from redecode.replay.simulator.views import Router
from redecode.replay.simulator.workload import Contents, Shape
from redecode.tracer.errors import StoreError

_LAST = 100


@dataclass(frozen=True, slots=True)
class Given:
    """A replica as the command line names it: URL, or URL=PROFILE."""

    url: str
    profile: str | None

    @classmethod
    def parse(cls, text: str) -> Given:
        """Of one option."""
        url, _, profile = text.partition("=")
        return cls(root_of(url), profile or None)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be served."""

    replicas: Sequence[Given]
    policy: Policy
    slo_s: float | None
    store: str | None
    api_key: str | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """What was found of it."""

    found: Sequence[Found]
    engines: Sequence[Engine]
    router: Router
    why: LastDecision

    def told(self, asked: Asked) -> dict[str, Any]:
        """For the screen."""
        replicas = [shown(f.url, e) for f, e in zip(self.found, self.engines, strict=True)]
        return {"policy": asked.policy.value, "slo_s": asked.slo_s, "replicas": replicas}


def before_servers(
    asked: Asked, host: str, port: int, admin_key: str | None, decisions: Path | None, *, as_json: bool
) -> None:
    """A front, until Ctrl-C."""
    ready = _ready(asked)
    with _lines(decisions) as log:
        cluster = HttpCluster(ready.router, slo_s=asked.slo_s, api_key=asked.api_key, why=ready.why, on_choice=log)
        asyncio.run(_listen(cluster, ready, asked, host, port, admin_key, as_json=as_json))


def on_ray(asked: Asked, host: str, port: int, *, as_json: bool) -> None:
    """A cluster on Ray Serve, until Ctrl-C."""
    ready = _ready(asked)
    replicas = [RayReplica(engine=e, endpoint=f.url) for f, e in zip(ready.found, ready.engines, strict=True)]
    cluster = RayCluster(replicas, ready.router, why=ready.why, slo_s=asked.slo_s, host=host, port=port, cpus=0.1)
    serve_until_interrupted(cluster, ready.told(asked), as_json=as_json)


def serve_until_interrupted(cluster: RayCluster, told: dict[str, Any], *, as_json: bool) -> None:
    """Start it, say where it is, and leave nothing of it."""
    _on_signals(signal.default_int_handler)
    try:
        with progress("starting Ray Serve"):
            cluster.start()
        _on_signals(signal.default_int_handler)  # Ray has set its own, which end at once
        tell(cluster.url, told, as_json=as_json)
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        _on_signals(signal.SIG_IGN)  # a second Ctrl-C would leave processes behind
        cluster.stop()


def _on_signals(handler: Any) -> None:
    """Of Ctrl-C (a shell's background jobs begin without it) and of being asked to end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _ready(asked: Asked) -> Ready:
    found = asyncio.run(find_all([one.url for one in asked.replicas], asked.api_key))
    for one in found:
        if not one.vllm:
            fail(f"{one.url} does not say that it is a vLLM: this front passes on what only vLLM understands")
    engines = _engines(found, asked)
    router, why = make_router(asked.policy, engines, _shapes(asked, engines) if asked.policy.needs_times else ())
    if asked.policy is Policy.DEADLINE and asked.slo_s is None:
        say("no --slo: only calls that bring a deadline have one")
    return Ready(found, engines, router, why)


async def find_all(urls: Sequence[str], api_key: str | None) -> list[Found]:
    """What stands behind each of these."""
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        return [await find(session, url) for url in urls]


def _engines(found: Sequence[Found], asked: Asked) -> list[Engine]:
    engines = []
    for one, given in zip(found, asked.replicas, strict=True):
        profile = None
        if given.profile is not None:
            profile = named(store_path(asked.store), given.profile)
        elif asked.policy.needs_times:
            try:
                profile = profile_for(store_path(asked.store), one.names[0])
            except NoProfile as error:
                raise BadReplica(f"--policy {asked.policy} must know how fast {one.url} is: {error}") from error
        engines.append(one.engine(None if profile is None else profile.to_engine()))
    return engines


def _shapes(asked: Asked, engines: Sequence[Engine]) -> list[Shape]:
    """Of the last recorded runs; none, with a word about it, where nothing is recorded."""
    guessed = "what a call may take is guessed from the limit it sets itself"
    try:
        source = store_to_read(asked.store)
        some = any(r.decodes and r.source_run_id is None and r.status != "open" for r in source.runs())
    except StoreError:
        some = False
    if not some:
        say(f"no recorded runs: {guessed}")
        return []
    with progress("reading recorded runs"):
        try:
            plans = choose_selected(source, Selection([], _LAST, None, None), ReplayMode.SIMULATE).plans
        except TooLittleRecorded as error:
            say(f"{error}: {guessed}")
            return []
        contents = Contents(engines[0].limits.block_size)
        naming = {engine.model: contents for engine in engines} | {"": contents}
        return [lay_out(plan, ReplayOptions(), naming).shape for plan in plans.values()]


def shown(url: str | None, engine: Engine) -> dict[str, Any]:
    """A replica, for the screen."""
    hardware, ordered = engine.hardware or None, engine.limits.by_priority
    return {"url": url, "model": engine.model, "hardware": hardware, "by_priority": ordered}


def tell(url: str, told: dict[str, Any], *, as_json: bool) -> None:
    """Where it listens."""
    if as_json:
        print_json({"url": url, **told})
        return
    typer.echo(f"listening at {url}/v1 (Ctrl-C ends it); policy {told['policy']}")
    for number, one in enumerate(told["replicas"]):
        order = ", orders calls by priority" if one["by_priority"] else ""
        where = f" at {one['url']}" if one["url"] else ""
        typer.echo(f"  replica {number}: {one['model']}{where}{order}")


@contextlib.contextmanager
def _lines(path: Path | None) -> Iterator[Any]:
    if path is None:
        yield None
        return
    file: TextIO
    with path.open("a", encoding="utf-8") as file:

        def note(choice: Choice) -> None:
            file.write(orjson.dumps(plain(choice), option=orjson.OPT_NON_STR_KEYS).decode() + "\n")
            file.flush()

        yield note


async def _listen(
    cluster: HttpCluster, ready: Ready, asked: Asked, host: str, port: int, admin_key: str | None, *, as_json: bool
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with cluster:
        for one, engine in zip(ready.found, ready.engines, strict=True):
            await cluster.add(one.url, engine)
        runner = await listen(front(cluster, admin_key=admin_key), host, port)
        try:
            tell(f"http://{host}:{runner.addresses[0][1]}", ready.told(asked), as_json=as_json)
            await stop.wait()
        finally:
            await runner.cleanup()
