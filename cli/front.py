"""`redecode front`: one address before several engines, which sends each FM call where a policy says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from redecode.cli.common import JsonOption, StoreOption, errors_in_one_line, fail
from redecode.optimizer.placement.cluster.names import Policy
from redecode.replay.simulator.load import RunSlo


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: redecode front --replica http://127.0.0.1:8001 --replica http://127.0.0.1:8002 --slo 2s"
    )(front)


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
    from redecode.cli import front_run as run  # aiohttp, policies, recorded runs: not for every command

    with errors_in_one_line():
        given = [run.Given.parse(text) for text in replica]
        slo_s = None if slo is None else RunSlo.parse(slo).threshold_s
        cluster = run.Asked(given, policy, slo_s, store, api_key)
        if not on_ray:
            run.before_servers(cluster, host, port, admin_key, decisions, as_json=as_json)
            return
        if api_key or admin_key or decisions:
            fail("--api-key, --admin-key and --decisions are not for --ray")
        run.on_ray(cluster, host, port or 8000, as_json=as_json)
