"""`redecode whatif RUN`: how long a run would have taken, predicted from its graph and, if asked, measured."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.text import Text

from redecode.cli.common import (
    JsonOption,
    StoreOption,
    errors_in_one_line,
    fail,
    print_json,
    progress,
    shown,
    store_path,
    store_to_read,
)
from redecode.cli.engine_models import ProfileOption
from redecode.cli.replay_engine import engine_of
from redecode.cli.screen import Unit, clean, screen
from redecode.cli.show_tables import step_of
from redecode.cli.whatif_simulated import lines, side_by_side, simulated
from redecode.replay.analysis import RunActivities, activities_of
from redecode.replay.analysis.changes import CacheHit, Change, FewerTokens, OffBarrier, Remove, Scale
from redecode.replay.analysis.what_if import WhatIf, what_if
from redecode.replay.closed_loop.scaling import parse_steps
from redecode.replay.errors import ReplayError
from redecode.replay.what_if.measured import Measured, measure, options_of
from redecode.replay.what_if.simulated import SimulatedWhatIf
from redecode.tracer import Dataset, RecordedRun, Store

_MOST = 5


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: redecode whatif 3f2a --step find_person=0.5 --measure")(whatif)


def whatif(
    run: Annotated[str, typer.Argument(help="Run id, or enough of its beginning.")],
    *,
    step: Annotated[
        list[str] | None,
        typer.Option(help="This step takes FACTOR times as long; 0.5 halves it. Repeatable.", metavar="STEP=FACTOR"),
    ] = None,
    shorter: Annotated[
        list[str] | None,
        typer.Option(help="This FM call ends TOKENS tokens earlier. Repeatable.", metavar="STEP=TOKENS"),
    ] = None,
    cached: Annotated[
        list[str] | None, typer.Option(help="This step is answered from a cache, at once. Repeatable.", metavar="STEP")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="This step, and all below it, is not there. Repeatable.", metavar="STEP")
    ] = None,
    data_only: Annotated[
        list[str] | None,
        typer.Option(help="This node waits for its data alone, not at barriers. Repeatable.", metavar="STEP"),
    ] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Also simulate it on the engine models of its FMs (redecode profile).")
    ] = False,
    profile: ProfileOption = None,
    load: Annotated[
        str | None,
        typer.Option(help="With --simulate: among copies of itself, so many beginning a second.", metavar="RATE"),
    ] = None,
    measured: Annotated[
        bool, typer.Option("--measure", help="Also replay it so on an engine, and hold the prediction against that.")
    ] = False,
    repeat: Annotated[int, typer.Option(help="With --measure: replays of each kind.", min=2)] = 5,
    engine: Annotated[
        str | None, typer.Option(help="URL of the engine; by default the one started in this store.", metavar="URL")
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(help="Store to record the replays in; by default the one the run is in.", metavar="PATH"),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how long a run would have taken had some steps been otherwise, all changes together.

    A STEP is named as for redecode replay --step: a step key or its end, or the name of a node, tool or FM, which then
    counts for each such step. With --measure, exit 1 when the prediction lies outside of the noise of the replays.
    """
    with errors_in_one_line():
        changes = _changes(step, shorter, cached, without, data_only)
        source = store_to_read(store)
        recorded = source.load(run)
        cut = activities_of(recorded)
        predicted = what_if(cut, changes)
        if (profile or load is not None) and not simulate:
            fail("--profile and --load are of --simulate")
        modelled = simulated(source, into or store, recorded, changes, profile, load) if simulate else None
        found = None
        if measured:
            options_of(changes, recorded)  # what cannot be measured is refused before an engine is looked for
            found = _measured(source, store if into is None else into, recorded, changes, engine, repeat)
    if as_json:
        print_json(_json(recorded, predicted, modelled, found))
    else:
        console = screen()
        told = (
            *_predicted(recorded, cut, predicted),
            *(() if modelled is None else lines(modelled)),
            *(() if found is None else _compared(found)),
            *side_by_side(predicted, modelled, found),
        )
        for line in told:
            console.print(line)
    raise typer.Exit(0 if found is None or found.within_noise else 1)


def _changes(
    step: Sequence[str] | None,
    shorter: Sequence[str] | None,
    cached: Sequence[str] | None,
    without: Sequence[str] | None,
    data_only: Sequence[str] | None,
) -> list[Change]:
    changes: list[Change] = [Scale(name, factor) for name, factor in parse_steps(step or ()).items()]
    for text in shorter or ():
        name, equals, tokens = text.rpartition("=")
        if not equals or not name.strip() or not tokens.strip().isdecimal():
            raise ReplayError(f"--shorter wants STEP=TOKENS, like chat=20, not '{text}'")
        changes.append(FewerTokens(name.strip(), int(tokens)))
    changes += [CacheHit(name) for name in cached or ()]
    changes += [Remove(name) for name in without or ()]
    changes += [OffBarrier(name) for name in data_only or ()]
    if not changes:
        fail("say what would change: --step STEP=0.5, --shorter STEP=20, --cached, --without or --data-only STEP")
    return changes


def _measured(
    source: Store | Dataset, into: str | None, recorded: RecordedRun, changes: list[Change], engine: str | None, n: int
) -> Measured:
    if into is None and isinstance(source, Dataset):
        fail(f"{shown(source)} is a published dataset: name a store to record the replays in, say --into .redecode")
    path: Path = store_path(into)
    url = engine or engine_of(path)
    with progress("measuring") as tell:

        async def go() -> Measured:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
            return await measure(
                path,
                recorded,
                changes,
                url,
                repeat=n,
                api_key=os.environ.get("OPENAI_API_KEY"),
                source=source,
                on_replay=lambda done, total: tell(f"{done} of {total} replays"),
            )

        return asyncio.run(go())


def _json(
    recorded: RecordedRun, predicted: WhatIf, modelled: SimulatedWhatIf | None, found: Measured | None
) -> dict[str, Any]:
    return {
        "run_id": recorded.run.run_id,
        "agent": recorded.run.agent,
        "predicted": predicted.to_json(),
        "simulated": None if modelled is None else modelled.to_json(),
        "measured": None if found is None else found.to_json(),
    }


def _predicted(recorded: RecordedRun, cut: RunActivities, found: WhatIf) -> Iterator[Text]:
    unit = Unit.of(found.recorded_ns)
    run = recorded.run
    yield Text(f"run {run.run_id[:12]}  {clean(run.agent)}: what if {clean(', '.join(found.changes))}", style="bold")
    yield Text(f"tier       {found.tier}: the recorded graph, gone through once more")
    yield Text(f"recorded   {unit.show(found.recorded_ns)} {unit.name}")
    share = found.gain_ns / max(found.recorded_ns, 1)
    less = unit.show(-found.gain_ns, signed=True)
    yield Text(f"predicted  {unit.show(found.predicted_ns)} {unit.name}, {less} ({-share:+.1%})")
    counts = found.to_json()["relied_on"]
    edges = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    yield Text(f"relies on  {sum(counts.values())} edges of the path it would have: {edges or 'none'}")
    activities = {a.id: a for a in cut.activities}
    before = {activities[i].step_key for i in what_if(cut, ()).path}
    new = list(dict.fromkeys(step_of(activities[i]) for i in found.path if activities[i].step_key not in before))
    if new:
        more = f" and {len(new) - _MOST} more" if len(new) > _MOST else ""
        yield Text(f"the critical path would go through {', '.join(new[:_MOST])}{more}")
    if not found.gain_ns:
        yield Text("nothing gained: what was changed is not on the critical path, or another path is as long")
    for note in found.notes:
        yield Text(f"note: {note}", style="dim")


def _compared(found: Measured) -> Iterator[Text]:
    unit = Unit.of(max(found.baseline_ns))

    def lane(name: str, ns: int, noise: str = "") -> Text:
        return Text(f"{name:<10} {unit.show(ns):>10} {unit.name}  {noise}".rstrip())

    def noise(low: int, high: int, n: int) -> str:
        return f"noise {unit.show(low)} to {unit.show(high)} (95 % of one more; {n} replays)"

    b, m = found.baseline, found.measured
    yield Text("")
    yield Text(f"measured on {found.engine}: by force, in alternation, prefix cache emptied before each", style="bold")
    yield lane("unchanged", b.median_ns, noise(b.low_ns, b.high_ns, b.n))
    yield lane("predicted", found.predicted_ns, "from the unchanged replays")
    yield lane("measured", m.median_ns, noise(m.low_ns, m.high_ns, m.n))
    gains = b.median_ns - found.predicted_ns, b.median_ns - m.median_ns
    yield Text(f"gain       {unit.show(gains[0])} {unit.name} predicted, {unit.show(gains[1])} measured")
    off = f"off by {unit.show(found.error_ns, signed=True)} {unit.name} ({found.error_ns / max(m.median_ns, 1):+.1%})"
    if not found.within_noise:
        yield Text(f"THE PREDICTION IS OUTSIDE of the noise of the measurement, {off}", style="bold red")
    elif found.telling:
        yield Text(f"the prediction is within the noise of the measurement, {off}", style="green")
    else:
        yield Text(
            f"the prediction is within the noise of the measurement, {off}, but that noise is wider than the gain and "
            "tells little: replay more often (--repeat), or on a machine with less to do"
        )
    known = sorted(found.calls_known_errors_ns)
    share = median(abs(e) / max(m, 1) for e, m in zip(found.calls_known_errors_ns, found.changed_ns, strict=True))
    yield Text(
        f"had it known the FM calls' times of each replay, it were off by {unit.show(known[0], signed=True)} to "
        f"{unit.show(known[-1], signed=True)} {unit.name} (median {share:.2%})"
    )
    for step in found.steps:
        m = step.measured
        verdict = "within the noise" if step.within_noise else "BEYOND THE NOISE"
        yield Text(
            f"{clean(step.step)} itself: {unit.show(step.baseline.median_ns)} {unit.name} unchanged, "
            f"{unit.show(step.predicted_ns)} predicted, {unit.show(m.median_ns)} measured "
            f"(noise {unit.show(m.low_ns)} to {unit.show(m.high_ns)}): {verdict}"
        )
    for warning in found.warnings[:1]:
        more = f" (and {len(found.warnings) - 1} more like it)" if len(found.warnings) > 1 else ""
        yield Text(f"WARNING {warning}{more}")
