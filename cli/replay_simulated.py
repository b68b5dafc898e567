"""`redecode replay --mode simulate`: a batch of runs on engine models."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import typer

from redecode.cli.common import print_json, progress, shown
from redecode.cli.replay_report import bands, print_bands, print_report
from redecode.replay import ReplayMode, ReplayOptions
from redecode.replay.closed_loop.engine_replay import Chosen, make_batch
from redecode.replay.closed_loop.simulated import simulate_batch
from redecode.replay.simulator.fleet import Fleet
from redecode.tracer import Dataset, Store


def simulate_runs(
    path: Path,
    source: Store | Dataset,
    chosen: Chosen,
    fleet: Fleet,
    options: ReplayOptions,
    *,
    seed: int,
    noise: bool,
    repeat: int,
    one: bool,
    as_json: bool,
) -> NoReturn:
    """Simulate a selection, so many times with other step times; ends the program as it went."""
    runs = [p.recorded for p in chosen.plans.values()]
    elsewhere = shown(source) if isinstance(source, Dataset) or source.path != path else None
    where = "engine model " + ", ".join(f"{p.key} ({p.model})" for p in fleet.profiles)
    reports = []
    with progress(f"simulating {len(runs)} run{'s' * (len(runs) != 1)}") as tell:
        for turn in range(repeat):
            batch = make_batch(runs, ReplayMode.SIMULATE, where, options, source=elsewhere)
            reports.append(
                simulate_batch(
                    path,
                    batch,
                    chosen.plans,
                    fleet,
                    noise=noise,
                    seed=seed + turn,
                    left_out=chosen.left_out,
                    on_run=lambda done, total: tell(f"{done} of {total} runs"),
                )
            )
    if repeat == 1 and as_json:
        print_json(reports[0].one_json() if one else reports[0].to_json())
    elif as_json:
        print_json({"repeats": [r.to_json() for r in reports], "e2e": {k: b._asdict() for k, b in bands(reports)}})
    else:
        for report in reports:
            print_report(report, one=one and repeat == 1)
        if repeat > 1:
            print_bands(reports)
    raise typer.Exit
