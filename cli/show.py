"""`redecode show RUN`: where the time of one run went, as a tree on a common time axis or in tables."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated

import typer
from rich.text import Text

from redecode.cli.common import JsonOption, StoreOption, errors_in_one_line, fail, print_json, store_to_read
from redecode.cli.runs_slow import advice_lines
from redecode.cli.screen import has_unicode, screen, time_s
from redecode.cli.show_head import conversations, cost_line, errors, head, longest
from redecode.cli.show_json import shown_json
from redecode.cli.show_tables import blame_table, critical_table, float_table
from redecode.cli.show_tree import Tree
from redecode.replay import RunAnalysis
from redecode.replay.analysis import (
    AnalysisError,
    RunActivities,
    activities_of,
    advise,
    analyze_recorded,
    joined,
    resumed,
)
from redecode.replay.analysis.errors import BadDeadline
from redecode.replay.analysis.profiles import Profiles, stored_profiles
from redecode.replay.prices import cost_of, prices_of
from redecode.tracer import Dataset, RecordedRun, Store

_PROFILED_RUNS = 200
_ADVICE = 3


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: redecode show 3f2a --slo 2s --blame")(show)


def show(
    run: Annotated[str, typer.Argument(help="Run id, or enough of its beginning.")],
    *,
    critical: Annotated[
        bool, typer.Option("--critical", help="The critical path as a table that adds up to the run's duration.")
    ] = False,
    slack: Annotated[
        bool,
        typer.Option(
            "--slack", help="Each step's duration, total and free float, drag and, with an SLO, budget and burn."
        ),
    ] = False,
    blame: Annotated[
        bool, typer.Option("--blame", help="Who spent the time, worst first; adds up to the run's duration.")
    ] = False,
    decodes: Annotated[bool, typer.Option("--decodes", help="Also what each FM call was asked and answered.")] = False,
    slo: Annotated[
        str | None,
        typer.Option(help="What the run may take, like 2s; by default the SLO it was recorded with.", metavar="TIME"),
    ] = None,
    joined_up: Annotated[
        bool,
        typer.Option("--joined", help="With the runs before it that waited for a person, as one; waiting is no SLO's."),
    ] = False,
    depth: Annotated[int | None, typer.Option(help="Levels below the run that are drawn.", min=0)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every span and line, however many.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one run: its steps on a time axis, what the critical path was doing, and what would make it faster."""
    with errors_in_one_line():
        opened = store_to_read(store)
        recorded = opened.load(run)
        slo_s = recorded.run.slo_s if slo is None else time_s("--slo", slo)
        parts = [recorded]
        if joined_up:
            parts = [opened.load(part.run.run_id) for part in resumed(opened, recorded.run.run_id)]
            recorded = _as_one(parts)
        cut, analysis, why_not = _analysed(opened, parts, slo_s)
        cost = cost_of(recorded.decodes, prices_of(opened.path) if isinstance(opened, Store) else {})
    if as_json:
        print_json({**shown_json(recorded, analysis, why_not), "cost": asdict(cost)})
        return
    console = screen()
    for line in (*head(recorded, analysis, why_not), *cost_line(cost)):
        console.print(Text(line))
    tables = [
        name for name, wanted in ((critical_table, critical), (float_table, slack), (blame_table, blame)) if wanted
    ]
    if tables and analysis is None:
        fail(f"run {recorded.run.run_id} has no critical path: {why_not}")
    for table in tables:
        console.print()
        if analysis is not None:
            for row in table(analysis, console.width, everything=everything):
                console.print(row, crop=False)
    if not tables and recorded.spans:
        tree = Tree(recorded, cut, analysis, console.width, has_unicode(console), depth, everything)
        for row in tree.lines():
            console.print(row, crop=False)
        for line in errors(recorded):
            console.print(Text(line), no_wrap=True, overflow="ellipsis")
        if cut is not None and analysis is not None:
            for row in longest(cut, analysis, console.width):
                console.print(row, crop=False)
            for advice in advise(recorded, analysis)[:_ADVICE] if len(parts) == 1 else ():
                for row in advice_lines(advice, console.width):
                    console.print(row)
    if decodes:
        for row in conversations(recorded):
            console.print(row, soft_wrap=True)


def _as_one(parts: list[RecordedRun]) -> RecordedRun:
    """All that several runs did, as the last of them."""
    return RecordedRun(
        replace(parts[-1].run, started_ns=parts[0].run.started_ns),
        [s for part in parts for s in part.spans],
        [e for part in parts for e in part.edges],
        [d for part in parts for d in part.decodes],
        [t for part in parts for t in part.tools],
    )


def _analysed(
    opened: Store | Dataset, parts: list[RecordedRun], slo_s: float | None
) -> tuple[RunActivities | None, RunAnalysis | None, str | None]:
    """The run's activities and analysis, or why there is none: a run that makes no sense is shown all the same."""
    try:
        cut = activities_of(parts[0]) if len(parts) == 1 else joined(parts)
        return cut, analyze_recorded(cut, slo_s=slo_s, profiles=_profiles(opened, parts[-1], slo_s)), None
    except BadDeadline:
        raise
    except AnalysisError as error:
        return None, None, str(error)


def _profiles(opened: Store | Dataset, recorded: RecordedRun, slo_s: float | None) -> Profiles | None:
    """What other runs of this agent took, of which budgets are made; `None` without an SLO, or another run."""
    if slo_s is None:
        return None
    found = stored_profiles(opened, agent=recorded.run.agent, without=recorded.run.run_id, limit=_PROFILED_RUNS)
    return found if found.runs else None
