"""`redecode compare A B`: what a run did otherwise than another, and where the difference in time comes from."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from redecode.cli.common import (
    JsonOption,
    StoreOption,
    errors_in_one_line,
    fail,
    print_json,
    seconds,
    store_to_read,
)
from redecode.replay import RunComparison, StepLanes, compare_runs
from redecode.replay.closed_loop.batch import LABEL
from redecode.replay.comparison.compare import engine_differences
from redecode.tracer import Dataset, RecordedRun, Run, Store

_SHOWN = 12  # lines of a kind
_MOST_BASELINES = 40


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: redecode compare 3f2a 81cc")(compare)


def compare(
    recorded: Annotated[str, typer.Argument(help="Run id, or enough of its beginning.", metavar="A")],
    candidate: Annotated[
        str | None, typer.Argument(help="What to set against it; by default the newest replay of A.", metavar="B")
    ] = None,
    *,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="A replay of A with nothing changed, for the noise; repeatable. By default all its plain replays by "
            "force but B; `redecode replay A --repeat 5` makes some.",
            metavar="RUN",
        ),
    ] = None,
    all_steps: Annotated[bool, typer.Option("--all", help="All steps, not only the ones that differ most.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs in three lanes: recorded, its replays (how much times vary), and a candidate.

    Steps are aligned by step key. The difference in duration is shared out among steps so that the parts add up.
    Exit 1 when B did, asked or answered something else than A; times alone are no failure.
    """
    with errors_in_one_line():
        opened = store_to_read(store)
        a = opened.load(recorded)
        runs = opened.runs()
        b = opened.load(candidate if candidate is not None else _newest_replay(runs, a.run))
        chosen = baseline or [r.run_id for r in runs if _plain_replay(r, a.run) and r.run_id != b.run.run_id]
        lanes = [opened.load(run_id) for run_id in chosen[:_MOST_BASELINES]]
        found = compare_runs(a, b, lanes, engine_differences=_engines(opened, a, b))
    if as_json:
        print_json(found.to_json())
    else:
        _print(found, all_steps=all_steps)
    raise typer.Exit(0 if found.same else 1)


def _newest_replay(runs: list[Run], source: Run) -> str:
    replay = next((r for r in runs if r.source_run_id == source.run_id and r.status != "open"), None)
    if replay is None:
        fail(f"run {source.run_id[:12]} has no replay to compare it with; name a second run, or replay it first")
    return replay.run_id


def _plain_replay(run: Run, source: Run) -> bool:
    """Whether a run is a finished replay by force of the other, with nothing scaled."""
    how = run.labels.get(LABEL)
    scaled = isinstance(how, dict) and (how.get("tool_speed", 1.0) != 1.0 or how.get("steps"))
    finished = run.status != "open" and not run.lost
    return run.source_run_id == source.run_id and run.replay_mode == "force" and finished and not scaled


def _engines(opened: Store | Dataset, a: RecordedRun, b: RecordedRun) -> dict[str, tuple[object, object]]:
    ids = [next((d.engine_id for d in r.decodes if d.engine_id), None) for r in (a, b)]
    then, now = (opened.engine(i) for i in ids)
    return engine_differences(then, now) if then and now else {}


def _print(found: RunComparison, *, all_steps: bool) -> None:
    console = Console(width=None if Console().is_terminal else 170, highlight=False)
    for text in _head(found):
        console.print(text, markup=False)
    console.print(_shares(found, everything=all_steps))
    console.print(_steps(found, everything=all_steps))
    for text in _changes(found):
        console.print(text, markup=False)


def _head(found: RunComparison) -> list[str]:
    lines = [
        f"recorded   {found.recorded_id[:12]}  {_s(found.recorded_ns)}",
        f"candidate  {found.candidate_id[:12]}  {_s(found.candidate_ns)}  {_signed(found.delta_ns)}"
        f"{_noise(beyond=found.beyond_noise)}",
    ]
    if found.baseline is not None:
        b = found.baseline
        lines.insert(1, f"baseline   {b.n} replays    {_s(b.median_ns)}  noise {_s(b.low_ns)} to {_s(b.high_ns)}")
    else:
        lines.insert(1, "baseline   none: replay A a few times (--repeat 5) to know how much its times vary")
    return lines


def _shares(found: RunComparison, *, everything: bool) -> Table:
    table = _table(("where the difference comes from (critical paths)", "recorded", "candidate", "difference"))
    shown = [s for s in found.shares if s.delta_ns]
    for share in shown if everything else shown[:_SHOWN]:
        what = _plain(share.step_key) + ("" if share.part == "work" else f"  ({share.part})")
        table.add_row(what, _s(share.recorded_ns), _s(share.candidate_ns), _signed(share.delta_ns))
    if not everything and (rest := shown[_SHOWN:]):
        sums = [sum(getattr(s, name) for s in rest) for name in ("recorded_ns", "candidate_ns", "delta_ns")]
        table.add_row(f"and {len(rest)} more", _s(sums[0]), _s(sums[1]), _signed(sums[2]))
    table.add_row("in all", _s(found.recorded_ns), _s(found.candidate_ns), _signed(found.delta_ns))
    return table


def _steps(found: RunComparison, *, everything: bool) -> Table:
    table = _table(("step", "recorded", "baseline", "noise", "candidate", "difference", ""))
    steps = list(found.steps)
    if not everything:
        largest = sorted(steps, key=lambda s: -abs(s.delta_ns or 0))[:_SHOWN]
        steps = [s for s in steps if s in largest]
    for step in steps:
        b = step.baseline
        table.add_row(
            _plain(step.step_key),
            _s(step.recorded_ns),
            _s(None if b is None else b.median_ns),
            "-" if b is None else f"{_s(b.low_ns)} to {_s(b.high_ns)}",
            _s(step.candidate_ns),
            _signed(step.delta_ns),
            _mark(step),
        )
    return table


def _mark(step: StepLanes) -> str:
    if step.recorded_ns is None or step.candidate_ns is None:
        return "in one only"
    return "beyond noise" if step.beyond_noise else ""


def _changes(found: RunComparison) -> list[str]:
    lines = ["both did, asked and answered the same"] if found.same else []
    if found.changes:
        lines.append(f"first difference: {found.changes[0].step_key}")
    for change in found.changes[:_SHOWN]:
        lines.append(f"{change.what}: {change.step_key}")
        lines += [f"    {detail}" for detail in change.details[:_SHOWN]]
    if len(found.changes) > _SHOWN:
        lines.append(f"and {len(found.changes) - _SHOWN} more; --json has all")
    for src, dst, kind, more in found.edges[:_SHOWN]:
        lines.append(f"edge {'only in the candidate' if more > 0 else 'only recorded'}: {src} -{kind}-> {dst}")
    for name, (then, now) in found.engine_differences.items():
        lines.append(f"engine differs: {name} was {then}, is {now}")
    return lines


def _table(columns: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for place, column in enumerate(columns):
        numbers = 0 < place < len(columns) - (not columns[-1])
        table.add_column(column, justify="right" if numbers else "left", no_wrap=True)
    return table


def _noise(*, beyond: bool | None) -> str:
    return "" if beyond is None else "  (beyond noise)" if beyond else "  (within noise)"


def _s(ns: int | None) -> str:
    return seconds(None if ns is None else ns / 1e9)


def _signed(ns: int | None) -> str:
    return "-" if ns is None else f"{'+' if ns >= 0 else '-'}{seconds(abs(ns) / 1e9)}"


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
