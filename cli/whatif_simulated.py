"""`redecode whatif --simulate`: the tier between the graph and the engine, on a screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.text import Text

from redecode.cli.common import fail, progress, store_path
from redecode.cli.engine_models import fleet_of
from redecode.cli.screen import Unit, clean
from redecode.replay.analysis.changes import Change
from redecode.replay.analysis.what_if import WhatIf
from redecode.replay.simulator.fleet import Fleet
from redecode.replay.simulator.load import rate_of
from redecode.replay.what_if.measured import Measured
from redecode.replay.what_if.simulated import TIER, SimulatedWhatIf, plan_of, simulate_what_if
from redecode.tracer import Dataset, RecordedRun, Store


def simulated(
    source: Store | Dataset,
    into: str | None,
    recorded: RecordedRun,
    changes: Sequence[Change],
    names: Sequence[str] | None,
    load: str | None,
) -> SimulatedWhatIf:
    """Simulate a run with and without changes; the profiles are in the store the run is in, or `into`."""
    if into is None and isinstance(source, Dataset):
        fail(f"{source.url} is a published dataset: name the store the engine profiles are in, say --into .redecode")
    path: Path = store_path(into)
    fleet: Fleet = fleet_of(path, source, [plan_of(recorded)], names)
    rate = None if load is None else rate_of(load)
    with progress("simulating"):
        return simulate_what_if(recorded, changes, fleet, load_per_s=rate)


def lines(found: SimulatedWhatIf) -> Iterator[Text]:
    """What came of it."""
    before, after = round((found.unchanged.p50 or 0) * 1e9), round((found.changed.p50 or 0) * 1e9)
    unit = Unit.of(max(before, found.recorded_ns))

    def p95(value: float | None) -> str:
        return "" if found.load_per_s is None else f"  p95 {unit.show(round((value or 0) * 1e9))} {unit.name}"

    yield Text("")
    yield Text(f"tier       {TIER}: {', '.join(found.profiles)}", style="bold")
    if found.load_per_s is not None:
        yield Text(f"load       {found.runs} copies of the run, {found.load_per_s:g} a second; times are medians")
    off = (before - found.recorded_ns) / max(found.recorded_ns, 1)
    held = "" if found.load_per_s is not None else f"  {off:+.1%} of what was recorded: the model's own error, and more"
    yield Text(f"unchanged  {unit.show(before)} {unit.name}{p95(found.unchanged.p95)}{held}")
    gain = unit.show(after - before, signed=True)
    yield Text(
        f"simulated  {unit.show(after)} {unit.name}, {gain} ({(after - before) / max(before, 1):+.1%})"
        f"{p95(found.changed.p95)}"
    )
    for doubt in found.doubts:
        yield Text(f"WARNING {clean(doubt)}")


def side_by_side(predicted: WhatIf, modelled: SimulatedWhatIf | None, measured: Measured | None) -> Iterator[Text]:
    """The gain by each tier that was asked for, if there are several."""
    rows = [("algebraic", predicted.recorded_ns, predicted.predicted_ns)]
    if modelled is not None:
        before, after = (round((q.p50 or 0) * 1e9) for q in (modelled.unchanged, modelled.changed))
        rows.append(("simulated", before, after))
    if measured is not None:
        rows.append(("measured", measured.baseline.median_ns, measured.measured.median_ns))
    if len(rows) == 1:
        return
    unit = Unit.of(max(before for _, before, _ in rows))
    yield Text("")
    yield Text(f"{'tier':<12}{'unchanged':>12}{'changed':>12}{'gain ' + unit.name:>12}{'share':>9}", style="bold")
    for name, before, after in rows:
        share = (before - after) / max(before, 1)
        yield Text(
            f"{name:<12}{unit.show(before):>12}{unit.show(after):>12}{unit.show(before - after):>12}{share:>9.1%}"
        )
