"""`redecode front`: one address before several engines, which sends each FM call where a policy says."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import aiohttp
import orjson
import typer

from redecode.cli.common import (
    JsonOption,
    StoreOption,
    errors_in_one_line,
    fail,
    print_json,
    progress,
    say,
    store_path,
    store_to_read,
)
from redecode.cli.replay_engine import Selection, load_selected
from redecode.optimizer.placement.cluster.errors import BadReplica
from redecode.optimizer.placement.cluster.http_cluster import HttpCluster
from redecode.optimizer.placement.cluster.http_engine import Found, find, root_of
from redecode.optimizer.placement.cluster.http_front import front as front_app
from redecode.optimizer.placement.cluster.http_front import listen
from redecode.optimizer.placement.cluster.placing import Choice
from redecode.optimizer.placement.cluster.policies import Policy, make_router
from redecode.optimizer.placement.cluster.ray_cluster import RayCluster
from redecode.optimizer.placement.cluster.ray_spec import RayReplica
from redecode.optimizer.placement.cluster.shown import plain
from redecode.replay import ReplayMode, ReplayOptions
from redecode.replay.engine_replay import choose
from redecode.replay.simulated import lay_out
from redecode.replay.simulator.catalogue import named, profile_for
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.errors import NoProfile
from redecode.replay.simulator.load import RunSlo
from redecode.replay.simulator.workload import Contents, Shape
from redecode.tracer.errors import StoreError

_LAST = 100


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: redecode front --replica http://127.0.0.1:8001 --replica http://127.0.0.1:8002 --slo 2s"
    )(front)


@dataclass(frozen=True, slots=True)
class _Named:
    """A replica as the command line names it: URL, or URL=PROFILE."""

    url: str
    profile: str | None


def front(
    *,
    replica: Annotated[
        list[str],
        typer.Option(
            help="A vLLM that is up, by its URL; with =PROFILE (key, FM or file) to say how fast it is. Repeatable.",
            metavar="URL[=PROFILE]",
        ),
    ],
    policy: Annotated[Policy, typer.Option(help="Which replica gets a call.")] = Policy.LEAST,
    slo: Annotated[
        str | None, typer.Option(help="Within which time runs are to end that do not say themselves: 2s.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 9000,
    on_ray: Annotated[bool, typer.Option("--ray", help="On Ray Serve, a Serve replica for each engine.")] = False,
    decisions: Annotated[
        Path | None, typer.Option(help="Write each decision to this file, a line of JSON each.", metavar="FILE")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            help="Key of the engines; without, callers' keys are passed on. Others on this machine can see arguments: "
            "better set the variable.",
            envvar="REDECODE_FRONT_ENGINE_KEY",
            show_envvar=True,
        ),
    ] = None,
    admin_key: Annotated[
        str | None,
        typer.Option(
            help="Who has it may add and take away replicas at /redecode/replicas.",
            envvar="REDECODE_FRONT_ADMIN_KEY",
            show_envvar=True,
        ),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Listen at one OpenAI-compatible address before several engines, until Ctrl-C.

    A call's run, step and deadline are known from the tracer of a recorded agent, or from the headers
    x-redecode-run, -step, -agent, -slo (seconds) and -deadline (Unix seconds). What was decided, and why:
    GET /redecode/decisions; how the replicas are: GET /redecode/replicas.
    """
    with errors_in_one_line():
        asked = [_Named(url, profile or None) for url, _, profile in (text.partition("=") for text in replica)]
        slo_s = None if slo is None else RunSlo.parse(slo).threshold_s
        found = asyncio.run(_find([one.url for one in asked], api_key))
        for one in found:
            if not one.vllm:
                fail(f"{one.url} does not say that it is a vLLM: this front passes on what only vLLM understands")
        engines = _engines(found, asked, store, policy)
        if policy is Policy.DEADLINE and slo_s is None:
            say("no --slo: only calls that bring a deadline have one")
        router, why = make_router(policy, engines, _shapes(store, engines) if policy.needs_times else ())
        told = {
            "policy": policy.value,
            "slo_s": slo_s,
            "replicas": [_told(f, e) for f, e in zip(found, engines, strict=True)],
        }
        with _lines(decisions) as log:
            if on_ray:
                if api_key or admin_key or decisions:
                    fail("--api-key, --admin-key and --decisions are not for --ray")
                spec = [RayReplica(engine=e, endpoint=f.url) for f, e in zip(found, engines, strict=True)]
                cluster = RayCluster(spec, router, why=why, slo_s=slo_s, host=host, port=port or 8000, cpus=0.1)
                _on_ray(cluster, told, as_json=as_json)
                return
            http = HttpCluster(router, slo_s=slo_s, api_key=api_key, why=why, on_choice=None if log is None else log)
            asyncio.run(_listen(http, found, engines, host, port, admin_key, told, as_json=as_json))


async def _find(urls: Sequence[str], api_key: str | None) -> list[Found]:
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        return [await find(session, root_of(url)) for url in urls]


def _engines(found: Sequence[Found], asked: Sequence[_Named], store: str | None, policy: Policy) -> list[Engine]:
    engines = []
    for one, given in zip(found, asked, strict=True):
        profile = None
        if given.profile is not None:
            profile = named(store_path(store), given.profile)
        elif policy.needs_times:
            try:
                profile = profile_for(store_path(store), one.names[0])
            except NoProfile as error:
                raise BadReplica(f"--policy {policy} must know how fast {one.url} is: {error}") from error
        engines.append(one.engine(None if profile is None else profile.to_engine()))
    return engines


def _shapes(store: str | None, engines: Sequence[Engine]) -> list[Shape]:
    """Of the last recorded runs; none, with a word about it, where nothing is recorded."""
    try:
        source = store_to_read(store)
        some = any(run.decodes for run in source.runs())
    except StoreError:
        some = False
    if not some:
        say("no recorded runs: what a call may take is guessed from the limit it sets itself")
        return []
    with progress("reading recorded runs"):
        recorded = load_selected(source, Selection([], _LAST, None, None))
        plans = choose(recorded, ReplayMode.SIMULATE, leave_out=True).plans
        contents = Contents(engines[0].limits.block_size)
        return [lay_out(plan, ReplayOptions(), contents).shape for plan in plans.values()]


def _told(found: Found, engine: Engine) -> dict[str, Any]:
    return {
        "url": found.url,
        "model": engine.model,
        "hardware": engine.hardware or None,
        "by_priority": engine.limits.by_priority,
        "metrics": found.metrics is not None,
    }


def _tell(url: str, told: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json({"url": url, **told})
        return
    typer.echo(f"listening at {url}/v1 (Ctrl-C ends it); policy {told['policy']}")
    for number, one in enumerate(told["replicas"]):
        order = ", orders calls by priority" if one["by_priority"] else ""
        typer.echo(f"  replica {number}: {one['model']} at {one['url']}{order}")


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
    cluster: HttpCluster, found: Sequence[Found], engines: Sequence[Engine], host: str, port: int,
    admin_key: str | None, told: dict[str, Any], *, as_json: bool,
) -> None:  # fmt: skip
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with cluster:
        for one, engine in zip(found, engines, strict=True):
            await cluster.add(one.url, engine)
        runner = await listen(front_app(cluster, admin_key=admin_key), host, port)
        try:
            _tell(f"http://{host}:{runner.addresses[0][1]}", told, as_json=as_json)
            await stop.wait()
        finally:
            await runner.cleanup()


def _on_ray(cluster: RayCluster, told: dict[str, Any], *, as_json: bool) -> None:
    with progress("starting Ray Serve"):
        cluster.__enter__()
    try:
        _tell(cluster.url, told, as_json=as_json)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        cluster.stop()
