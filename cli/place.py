"""`redecode place`: how many replicas of what serve these agents at a load within their SLOs, found by simulation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    say,
    seconds,
    store_path,
    store_to_read,
)
from redecode.cli.replay_engine import Selection
from redecode.cli.screen import clean, screen
from redecode.replay import ReplayMode, ReplayOptions
from redecode.replay.closed_loop.simulated import lay_out, models_of
from redecode.replay.simulator import catalogue
from redecode.replay.simulator.load import RunSlo, rate_of
from redecode.replay.simulator.profile import EngineProfile
from redecode.replay.simulator.workload import Contents
from redecode.tracer import Clock, Dataset, Store

if TYPE_CHECKING:
    from redecode.optimizer.placement.kept import First
    from redecode.optimizer.placement.kinds import Kind
    from redecode.optimizer.placement.plan import Plan
    from redecode.replay.closed_loop.engine_replay import Chosen

_DEFAULT_LAST = 100
_MOST = 8


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: redecode place --slo 2s@p95 --load 10rps --from-store")(place)


def place(
    *,
    slo: Annotated[
        list[str],
        typer.Option(
            help="What runs must attain: 2s@p95 is 95 of 100 within 2 s. AGENT=2s@p95 is of one agent; repeatable.",
            metavar="[AGENT=]SLO",
        ),
    ],
    load: Annotated[str, typer.Option(help="Runs that begin, as a Poisson process: 10rps, 30/m.", metavar="RATE")],
    from_store: Annotated[
        bool, typer.Option("--from-store", help="Runs are like those recorded in the store (they always are so far).")
    ] = False,
    last: Annotated[int | None, typer.Option(help="Like the last N recorded runs (100).", min=1)] = None,
    since: Annotated[
        str | None, typer.Option(help="Like what was recorded within this time: 90s, 15m, 24h, 7d.", metavar="TIME")
    ] = None,
    agent: Annotated[str | None, typer.Option(help="Only runs of this agent.")] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Engine profiles of the hardware there is (key, FM, or file; `redecode profile` lists them); "
            "repeatable. By default all of these FMs.",
            metavar="PROFILE",
        ),
    ] = None,
    hardware: Annotated[
        list[str] | None, typer.Option(help="Only profiles on this hardware (a part of its name); repeatable.")
    ] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option(
            help="What a replica costs an hour, by hardware (a part of its name); repeatable. Default 1.",
            metavar="HARDWARE=USD",
        ),
    ] = None,
    most: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Replicas there may be, of each profile or of those on a hardware; repeatable. Default {_MOST}.",
            metavar="[HARDWARE=]N",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Simulations of the plan that is printed.", min=2)] = 10,
    runs: Annotated[
        int | None,
        typer.Option(help="Runs in each; by default 400, or what begins within 5 SLOs (2000 at most).", min=50),
    ] = None,
    profiles_in: Annotated[
        Path | None, typer.Option(help="Store with the profiles, if not the one with the runs.", metavar="PATH")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="What to keep it under, STORE/plans/NAME.json; by default the time. The dashboard shows it."),
    ] = None,
    deploy: Annotated[
        bool,
        typer.Option(
            "--deploy", help="Start what is planned on Ray Serve, a vLLM for each replica, and listen until Ctrl-C."
        ),
    ] = False,
    deploy_engine: Annotated[
        list[str] | None,
        typer.Option(help="With --deploy: a vLLM that is up, for one replica; repeatable.", metavar="URL"),
    ] = None,
    deploy_paced: Annotated[
        bool,
        typer.Option("--deploy-paced", help="With --deploy: replicas compute nothing and take their profile's times."),
    ] = False,
    deploy_port: Annotated[int, typer.Option(help="With --deploy: where to listen.", min=1, max=65535)] = 8000,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Plan: replicas per FM and hardware, how surely they attain the SLO, what they cost, what would break it.

    The plan is kept in the store, with what the router decided in one of its simulations.
    Exit 1 when no number of replicas is enough: says which way takes too long, or the most that can be served.
    """
    from redecode.optimizer.placement import kept
    from redecode.optimizer.placement.plan import BeyondCapacity, Impossible, Wanted, make_plan

    with errors_in_one_line():
        if (deploy_engine or deploy_paced) and not deploy:
            fail("--deploy-engine and --deploy-paced go with --deploy")
        if deploy_engine and deploy_paced:
            fail("--deploy-engine or --deploy-paced: replicas are either servers or paced")
        now_ns = Clock.start().now_ns()
        name = kept.name_at(now_ns) if name is None else kept.check_name(name)
        rate = rate_of(load)
        slos = _slos(slo)
        source = store_to_read(store)
        if profiles_in is None and isinstance(source, Dataset):
            fail(f"{source.url} is a published dataset: say where the profiles are, --profiles-in .redecode")
        with progress("reading recorded runs"):
            selection = Selection([], last if last or since else _DEFAULT_LAST, since, agent)
            chosen = choose_selected(source, selection, ReplayMode.SIMULATE)
        plans = list(chosen.plans.values())
        profiles = _profiles(store_path(store) if profiles_in is None else profiles_in, models_of(plans), profile)
        kinds = _kinds(profiles, hardware or [], cost or [], most or [])
        size = {p.limits.block_size for p in profiles}
        contents = Contents(min(size))
        naming = {p.model: contents for p in profiles} | {"": contents}
        shapes = tuple(lay_out(p, ReplayOptions(), naming).shape for p in plans)
        agents = {s.name for s in shapes}
        if unknown := sorted(set(slos) - agents - {""}):
            fail(f"--slo {unknown[0]}=…: no recorded run of that agent; there are {', '.join(sorted(agents))}")
        if "" not in slos and (without := sorted(agents - set(slos))):
            fail(f"no --slo for {', '.join(without)}; give one without an agent, or leave them out with --agent")
        wanted = Wanted(shapes=shapes, slos=slos, per_s=rate, kinds=tuple(kinds), seeds=seeds, runs=runs or 1)
        if runs is None:
            wanted = replace(wanted, runs=wanted.runs_that_tell())
        told: dict[str, Any] = {"drawn_from": list(chosen.plans), "left_out": chosen.left_out}
        told |= {"as_waits": as_waits(chosen), "profiles": [p.key for p in profiles]}
        wished = {"slos": {a: str(s) for a, s in slos.items()}, "per_s": rate, "seeds": seeds, "runs": wanted.runs}
        place_ = source.path if isinstance(source, Store) else profiles_in
        log = kept.First()
        try:
            with progress("planning") as tell:
                plan = make_plan(wanted, tell, log)
        except (Impossible, BeyondCapacity) as error:
            most_per_s = error.most_per_s if isinstance(error, BeyondCapacity) else None
            refused = {"met": False, "reason": str(error), "most_per_s": most_per_s}
            _keep(place_, name, {"made_ns": now_ns, "asked": wished, **told, **refused})
            if as_json:
                print_json(refused)
            say(f"redecode: {error}")
            raise typer.Exit(1) from None
        _keep(place_, name, {"made_ns": now_ns, "asked": wished, **told, **plan.to_json()}, log)
    starts = deploy and plan.met
    if as_json and not starts:
        print_json({**told, **plan.to_json()})
    elif not as_json:
        for line in _lines(plan, chosen):
            screen().print(line)
    if starts:
        from redecode.cli.place_deploy import Deployment
        from redecode.cli.place_deploy import deploy as start

        how = Deployment(deploy_engine or [], deploy_paced, deploy_port)
        with errors_in_one_line():
            start(plan, kinds, shapes, slos, how, {**told, "plan": plan.to_json()}, as_json=as_json)
    raise typer.Exit(0 if plan.met else 1)


def _keep(store: Path | None, name: str, document: dict[str, Any], log: First | None = None) -> None:
    from redecode.optimizer.placement import kept

    if store is None:
        return
    try:
        kept.keep(store, name, document, log)
    except OSError as error:
        say(f"redecode: the plan is not kept: {error}")


def _slos(given: Sequence[str]) -> dict[str, RunSlo]:
    out: dict[str, RunSlo] = {}
    for text in given:
        name, equals, value = text.rpartition("=")
        key = name.strip() if equals else ""
        if key in out:
            fail(f"--slo {text}: there is one{' of ' + key if key else ''} already; one for each agent")
        out[key] = RunSlo.parse(value)
    return out


def _profiles(path: Path, models: set[str], names: Sequence[str] | None) -> list[EngineProfile]:
    """Those named, or all of these FMs; what no run calls is left out."""
    if names:
        found = catalogue.all_named(path, names)
        if not any(p.model in models for p in found):
            fail(
                f"these runs call {', '.join(sorted(models))}, and the profiles are of "
                f"{', '.join(sorted({p.model for p in found}))}; `redecode profile` lists those there are"
            )
    else:
        found = catalogue.profiles_in(path)
    for model in sorted(models):
        if not any(p.model == model for p in found):
            catalogue.profile_for(path, model)  # says that there is none
            fail(f"no engine profile of {model} among those named; name one with --profile")
    return [p for p in found if p.model in models]


def _kinds(
    profiles: Sequence[EngineProfile], hardware: Sequence[str], costs: Sequence[str], most: Sequence[str]
) -> list[Kind]:
    from redecode.optimizer.placement.kinds import Kind

    names = sorted({p.hardware for p in profiles})
    for wanted in hardware:
        _known(wanted, names, "--hardware")
    kept = [p for p in profiles if not hardware or any(_meant(h, p.hardware) for h in hardware)]
    for model in sorted({p.model for p in profiles} - {p.model for p in kept}):
        fail(f"no engine profile of {model} on {', '.join(hardware)}; `redecode profile` measures one there")
    prices = dict.fromkeys(names, 1.0)
    numbers = dict.fromkeys(names, _MOST)
    for text in costs:
        name, equals, value = text.rpartition("=")
        if not equals or re.fullmatch(r"\d+(\.\d+)?", value.strip()) is None:
            fail(f"--cost is HARDWARE=USD an hour, like H100=3.5, not '{text}'")
        for one in _known(name, names, "--cost"):
            prices[one] = float(value)
    for text in most:
        name, equals, value = text.rpartition("=")
        if re.fullmatch(r"[1-9]\d{0,3}", value.strip()) is None:
            fail(f"--most is a number of replicas from 1 on, or HARDWARE=N, not '{text}'")
        for one in _known(name, names, "--most") if equals else names:
            numbers[one] = int(value)
    return [
        Kind(
            f"{p.hardware} ({p.key})",
            p.to_engine(cost_per_s=prices[p.hardware] / 3600),
            prices[p.hardware],
            numbers[p.hardware],
            p.outside,
        )
        for p in kept
    ]


def _meant(name: str, hardware: str) -> bool:
    return name.strip().lower() in hardware.lower()


def _known(name: str, names: Sequence[str], option: str) -> list[str]:
    found = [n for n in names if _meant(name, n)] if name.strip() else []
    if not found:
        fail(f"{option} {name or '…'}: unknown hardware; there are engine profiles on {'; '.join(names)}")
    return found


def _lines(plan: Plan, chosen: Chosen) -> Iterator[Text | Table]:
    yield Text(f"a plan for {plan.per_s:g} runs a second like {len(chosen.plans)} recorded ones", style="bold")
    yield from left_out_lines(chosen)
    table = Table(box=None, pad_edge=False)
    for column in ("FM", "hardware", "replicas", "USD/h each"):
        table.add_column(column, justify="right" if column[0] in "rU" else "left", overflow="fold")
    for model, hardware, count, usd in plan.replicas:
        table.add_row(clean(model), clean(hardware), str(count), f"{usd:g}")
    yield table
    good = "" if plan.usd_per_good_run is None else f", {plan.usd_per_good_run * 1000:.3g} USD per 1000 runs in time"
    refused = f", {plan.refused:.1%} of the runs refused" if plan.refused else ""
    yield Text(f"costs {plan.usd_per_hour:g} USD an hour{good}; in a step {plan.utilisation:.0%} of the time{refused}")
    for c in plan.classes:
        verdict, style = ("attained", "green") if c.met else ("NOT ATTAINED", "bold red")
        yield Text(
            f"{clean(c.agent) or 'runs'} {c.slo}: {verdict}, {c.attained:.1%} in time ({c.low:.1%} to {c.high:.1%}, "
            f"95 % by {plan.seeds} simulations of {plan.runs} runs); p50 {seconds(c.run.p50)}, "
            f"p95 {seconds(c.run.p95)}",
            style=style,
        )
    b = plan.breaks
    if b.per_s is None:
        yield Text(f"still attained at {b.holds_per_s:.3g} runs a second, the most that was tried")
    else:
        yield Text(
            f"breaks at about {b.per_s:.3g} runs a second (it holds at {b.holds_per_s:.3g}): then {clean(b.step)} of "
            f"{clean(b.agent)} takes {seconds(b.more_s)} more of a run"
        )
    for a in plan.alone:
        yield Text(f"alone, {clean(a.name) or 'a run'} takes {seconds(a.seconds)}: {clean(a.words())}", style="dim")
    for words in plan.guesses:
        yield Text(f"WARNING beyond what was measured: {clean(words)}")
