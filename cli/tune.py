"""`redecode tune SPEC`: search better values for an agent's knobs on its recorded runs, and decide on newer ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from redecode.cli.common import JsonOption, StoreOption, duration_s, errors_in_one_line, fail, store_path
from redecode.optimizer.schema import parse_fix, parse_knob
from redecode.tracer import Store

_STUDY: Any = {"rich_help_panel": "Study"}
_GOALS: Any = {"rich_help_panel": "Goals"}
_KNOBS: Any = {"rich_help_panel": "Knobs"}
EXAMPLE = "Example: redecode tune redecode.agents.extraction:spec --runs last-24h --budget 20m --slo 1.5"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog=EXAMPLE)(tune)


def tune(
    context: typer.Context,
    spec: Annotated[
        str, typer.Argument(help="What to tune: module:name or file.py:name of a LangGraph graph or a Spec.")
    ],
    *,
    runs: Annotated[
        str, typer.Option(help="Recorded runs: last-24h, last-200, all, or run ids with commas between.")
    ] = "last-24h",
    budget: Annotated[str | None, typer.Option(help="At most so long: 90s, 20m, 8h.", metavar="TIME")] = "20m",
    max_calls: Annotated[int | None, typer.Option(help="At most so many FM calls.", min=1)] = None,
    max_cost: Annotated[float | None, typer.Option(help="At most so much, in the unit of cost.", min=0)] = None,
    trials: Annotated[int | None, typer.Option(help="At most so many candidates.", min=1)] = None,
    knob: Annotated[
        list[str] | None,
        typer.Option(
            help="Search this field, and no other that is not named: NAME, NAME=a,b,c, NAME=0..1, NAME=0..1:0.1, "
            "NAME=1e-4..1:log; repeatable. By default all that their types allow.",
            **_KNOBS,
        ),
    ] = None,
    fix: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for every candidate; repeatable.", **_KNOBS)] = None,
    incumbent: Annotated[
        Path | None, typer.Option(help="The configuration in use: a tuned.toml.", metavar="FILE", **_KNOBS)
    ] = None,
    slo: Annotated[
        float | None, typer.Option(help="Seconds that a run should take at most.", min=0.001, **_GOALS)
    ] = None,
    percentile: Annotated[
        float | None, typer.Option(help="Of so many runs of a hundred (95).", min=50, max=99.9, **_GOALS)
    ] = None,
    max_error: Annotated[float | None, typer.Option(help="Mean error at most, 0 to 1.", min=0, max=1, **_GOALS)] = None,
    margin: Annotated[
        list[str] | None,
        typer.Option(
            help="How much worse a candidate may be to be promoted for another gain: error=0.05 (difference), "
            "cost=1.05, latency=1.05 (factors); repeatable.",
            **_GOALS,
        ),
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(
            help="MODEL=INPUT,OUTPUT[,CACHED]: USD per million tokens; without, cost is seconds of the engine.",
            **_GOALS,
        ),
    ] = None,
    expected: Annotated[
        Path | None,
        typer.Option(help='Right answers: lines of {"run_id": "...", "expected": ...}.', metavar="FILE", **_GOALS),
    ] = None,
    cases: Annotated[
        int, typer.Option(help="Search on so many at most, drawn from first to last.", min=1, **_STUDY)
    ] = 40,
    held_out: Annotated[
        float, typer.Option(help="Share of the runs, the newest, kept apart to decide on.", min=0, max=0.9, **_STUDY)
    ] = 1 / 3,
    finalists: Annotated[int, typer.Option(help="Candidates to decide on, at most.", min=1, max=5, **_STUDY)] = 3,
    seed: Annotated[int, typer.Option(help="The same one gives the same search.", **_STUDY)] = 0,
    sampler: Annotated[
        str, typer.Option(help="gp, tpe, tpe-default, tpe-multivariate, nsga2 or random.", **_STUDY)
    ] = "gp",
    engine: Annotated[
        str | None,
        typer.Option(
            help="URL that $OPENAI_BASE_URL has for the agent; by default what it has already, else the engine started "
            "in this store.",
            metavar="URL",
            **_STUDY,
        ),
    ] = None,
    load: Annotated[
        str | None,
        typer.Option(
            help="Judge latency by simulation at this load, 2rps say, on the engine profile of each FM (`redecode "
            "profile`); by default as it was measured, with --concurrency runs at a time.",
            metavar="RATE",
            **_STUDY,
        ),
    ] = None,
    replicas: Annotated[int, typer.Option(help="With --load: of each profile.", min=1, **_STUDY)] = 1,
    replica_price: Annotated[
        list[str] | None,
        typer.Option(
            help="With --knob placement.replicas: USD of a replica's hour, or PROFILE=USD of each profile; without, "
            "cost is seconds of replicas.",
            metavar="USD",
            **_STUDY,
        ),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="With --load: this profile, a key or a file; repeatable.", metavar="PROFILE", **_STUDY),
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes that evaluate; 0: this one (for a debugger).", min=0, **_STUDY)
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Workers are actors on this Ray cluster: its address, `auto`, or `local` for one of their own.",
            metavar="ADDRESS",
            **_STUDY,
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Runs at a time in each.", min=1, **_STUDY)] = 4,
    run_timeout: Annotated[float, typer.Option(help="Seconds after which a run has failed.", min=0.1, **_STUDY)] = 120,
    memo: Annotated[
        bool, typer.Option("--memo/--no-memo", help="Answer FM calls that were made before from the store.", **_STUDY)
    ] = True,
    live_tool: Annotated[
        list[str] | None,
        typer.Option(help="This tool may really run; others are answered as recorded. Repeatable.", **_STUDY),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Go on with a study (its name, or `last`), as it was begun.", metavar="STUDY", **_STUDY),
    ] = None,
    studies: Annotated[
        str | None,
        typer.Option(help="Where studies are kept: a file, or a database's URL. By default in the store.", **_STUDY),
    ] = None,
    kill_switch: Annotated[
        Path | None, typer.Option(help="Stop when this file is there; by default STORE/tune.stop.", **_STUDY)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for report.md, .html and .json, and tuned.toml; by default STORE/tuned/STUDY."),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search values for the knobs of an agent on its recorded runs, and decide on newer ones whether to change any.

    The knobs are the fields of the graph's context that have a list of values or bounds. Candidates are really run, on
    the engine that their context names. Exit 0: a candidate is to be promoted; 1: not, or not on this evidence; 2: bad
    input, or something must be mended before the study can go on.
    """
    with errors_in_one_line():
        try:
            from redecode.cli import tune_run  # Optuna is an extra, and slow to import
        except ModuleNotFoundError as error:
            fail(f"{error.name} is not installed; pip install 'redecode[optimizer]'")
        path = store_path(store)
        Store(path, create=False)
        tune_run.tune(
            tune_run.Asked(
                reference=spec,
                path=path,
                which=runs,
                seconds=None if budget is None else duration_s(budget),
                max_calls=max_calls,
                max_cost=max_cost,
                trials=trials,
                knobs=[parse_knob(k) for k in knob or ()],
                fixed=dict(parse_fix(f) for f in fix or ()),
                incumbent=incumbent,
                slo_s=slo,
                percentile=percentile,
                max_error=max_error,
                margins=margin or (),
                prices=price or (),
                expected=expected,
                cases=cases,
                held_out=held_out,
                finalists=finalists,
                seed=seed,
                sampler=sampler,
                workers=workers,
                ray=ray,
                concurrency=concurrency,
                timeout_s=run_timeout,
                memo=memo,
                live_tools=live_tool or (),
                engine=engine,
                load=load,
                replicas=replicas,
                replica_prices=replica_price or (),
                profiles=profile or (),
                resume=resume,
                said=[n for n in context.params if _is_said(context, n)],
                studies=studies,
                stop_file=kill_switch,
                out=out,
            ),
            as_json=as_json,
        )


def _is_said(context: typer.Context, option: str) -> bool:
    """Whether an option is on the command line, and not merely as it is by default."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"
