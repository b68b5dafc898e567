"""`redecode simulate`: recorded runs at a load they never had, on engine models; nothing is run, nothing recorded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from redecode.cli.choosing import as_waits, choose_selected, left_out_lines
from redecode.cli.common import (
    JsonOption,
    StoreOption,
    errors_in_one_line,
    fail,
    print_json,
    progress,
    seconds,
    store_path,
    store_to_read,
)
from redecode.cli.engine_models import NoNoiseOption, OtherFmOption, ProfileOption, RoutingOption, fleet_of
from redecode.cli.replay_engine import Selection
from redecode.cli.screen import clean, screen
from redecode.replay import ReplayMode, ReplayOptions
from redecode.replay.closed_loop.engine_replay import Chosen
from redecode.replay.closed_loop.scaling import Scaling, parse_steps
from redecode.replay.closed_loop.simulated import doubts, lay_out
from redecode.replay.simulator.fleet import Fleet, Routing
from redecode.replay.simulator.load import LoadReport, RunSlo, poisson_workload, rate_of, report_of
from redecode.replay.simulator.results import Quantiles
from redecode.tracer import Dataset

_DEFAULT_LAST = 100


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: redecode simulate --load 10rps --replicas 4 --slo 2s@p95")(simulate)


def simulate(
    run: Annotated[
        list[str] | None,
        typer.Argument(help="Run ids to draw from; by default the last recorded runs.", metavar="[RUN]..."),
    ] = None,
    *,
    load: Annotated[str, typer.Option(help="Runs that begin, as a Poisson process: 10rps, 30/m.", metavar="RATE")],
    replicas: Annotated[int, typer.Option(help="Replicas of each profile.", min=1)] = 1,
    runs: Annotated[int, typer.Option(help="Runs to simulate, drawn from the recorded ones.", min=1)] = 1000,
    slo: Annotated[
        str | None, typer.Option(help="What to attain: 2s@p95 is 95 of 100 runs within 2 s.", metavar="SLO")
    ] = None,
    last: Annotated[int | None, typer.Option(help="Draw from the last N recorded runs (100).", min=1)] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Draw from what was recorded within this time: 90s, 15m, 24h, 7d.", metavar="TIME"),
    ] = None,
    agent: Annotated[str | None, typer.Option(help="Only runs of this agent.")] = None,
    profile: ProfileOption = None,
    routing: RoutingOption = Routing.LEAST,
    tool_speed: Annotated[
        float, typer.Option(help="Every tool is so many times as fast as recorded; 0 is at once.", min=0)
    ] = 1.0,
    step: Annotated[
        list[str] | None,
        typer.Option(help="Scale what was waited at one step: STEP=FACTOR; repeatable.", metavar="STEP=FACTOR"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of arrivals, choice of runs and step times: the same gives the same.")] = 0,
    other_fm: OtherFmOption = False,
    no_noise: NoNoiseOption = False,
    profiles_in: Annotated[
        Path | None, typer.Option(help="Store with the profiles, if not the one with the runs.", metavar="PATH")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how recorded runs would do at a load on so many replicas: latencies, utilisation, attainment of an SLO.

    Runs are closed loop: lengths and waits as recorded, only their beginnings are drawn. Exit 1 when --slo is missed.
    """
    with errors_in_one_line():
        rate, target = rate_of(load), None if slo is None else RunSlo.parse(slo)
        source = store_to_read(store)
        if profiles_in is None and isinstance(source, Dataset):
            fail(f"{source.url} is a published dataset: say where the profiles are, --profiles-in .redecode")
        selection = Selection(run or [], last if run or last or since else _DEFAULT_LAST, since, agent)
        with progress("reading recorded runs"):
            chosen = choose_selected(source, selection, ReplayMode.SIMULATE)
        options = ReplayOptions(scaling=Scaling(tool_speed, parse_steps(step or ())))
        options.scaling.check(p.recorded for p in chosen.plans.values())
        fleet = fleet_of(
            store_path(store) if profiles_in is None else profiles_in, source, chosen.plans.values(), profile,
            replicas=replicas, other_fm=other_fm, routing=routing,
        )  # fmt: skip
        contents = fleet.contents()
        shapes = [lay_out(plan, options, contents).shape for plan in chosen.plans.values()]
        workload = poisson_workload(shapes, runs, rate, random.Random(seed), target)
        with progress(f"simulating {runs} runs") as tell:
            found = fleet.simulate(
                workload, seed=seed, noise=not no_noise, on_run=lambda done, total: tell(f"{done / total:.0%}")
            )
        report = report_of(found, rate, target, doubts(fleet, found), fleet.alone_ps)
    if as_json:
        told = {"profiles": [p.key for p in fleet.profiles], "replicas": replicas, "routing": routing.value}
        drawn = {"drawn_from": list(chosen.plans), "left_out": chosen.left_out, "as_waits": as_waits(chosen)}
        print_json({**told, **drawn, "seed": seed, **report.to_json()})
    else:
        _print(report, fleet, chosen)
    raise typer.Exit(1 if report.met is False else 0)


def _print(report: LoadReport, fleet: Fleet, chosen: Chosen) -> None:
    console = screen()
    for line in _facts(report, fleet, chosen):
        console.print(line)
    table = Table(box=None, pad_edge=False)
    for column in ("", "count", "mean", "p50", "p95", "p99"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    rows: tuple[tuple[str, Quantiles], ...] = (
        ("run, end to end", report.run),
        ("FM call, end to end", report.call),
        ("  until it is in a step", report.queue),
        ("  TTFT", report.ttft),
        ("  TPOT", report.tpot),
    )
    for name, q in rows:
        table.add_row(name, str(q.count), *(seconds(v) for v in (q.mean, q.p50, q.p95, q.p99)))
    console.print(table)
    cached = (
        "" if report.cached_share is None else f", {report.cached_share:.0%} of prompt tokens from the prefix cache"
    )
    console.print(
        Text(f"replicas in a step {report.utilisation:.0%} of their time, {report.preemptions} preemptions{cached}")
    )
    if report.attained is not None:
        style, verdict = ("green", "attained") if report.met else ("bold red", "NOT ATTAINED")
        within = f"{report.attained:.1%} of the runs end within it"
        console.print(Text(f"SLO {report.slo}: {verdict}, {within}", style=style))
    if report.growing:
        words = "WARNING runs pile up all along: this is more than the replicas serve, and times grow with --runs"
        console.print(Text(words, style="bold red"))
    for doubt in report.doubts:
        console.print(Text(f"WARNING {clean(doubt)}"))


def _facts(report: LoadReport, fleet: Fleet, chosen: Chosen) -> Iterator[Text]:
    each = f"{fleet.replicas} replica{'s' * (fleet.replicas != 1)} of "
    what = ", ".join(f"{clean(p.model)} on {clean(p.hardware)} ({p.key})" for p in fleet.profiles)
    yield Text(f"simulated: {each}{what}, calls routed by {fleet.routing}", style="bold")
    yield Text(
        f"{report.runs} runs drawn from {len(chosen.plans)} recorded; {report.offered_per_s:g} begin a second, "
        f"{report.done_per_s:.3g} end"
    )
    yield from left_out_lines(chosen)
