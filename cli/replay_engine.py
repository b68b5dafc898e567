"""`redecode replay --mode force|resample`: a batch of runs on an engine, begun or gone on with."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import typer

from redecode.cli.common import duration_s, fail, print_json, progress, say, shown, store_to_read
from redecode.cli.replay_report import bands, print_bands, print_report
from redecode.replay import ReplayMode, ReplayOptions
from redecode.replay.closed_loop.batch import Batch, load_batch
from redecode.replay.closed_loop.engine_replay import Chosen, choose, make_batch, replay_batch
from redecode.replay.closed_loop.report import BatchReport
from redecode.replay.engine import status
from redecode.tracer import Clock, Dataset, RecordedRun, Store

_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Selection:
    """Which runs: by id, or the recorded ones that fit.

    Attributes:
        last: at most so many, the newest.
        since: recorded within this time, as "24h".
        agent: of this agent.
    """

    ids: Sequence[str]
    last: int | None
    since: str | None
    agent: str | None

    @property
    def by_id(self) -> bool:
        """Whether the runs are named one by one: each of them must be replayable then."""
        return bool(self.ids)


def load_selected(
    source: Store | Dataset, selection: Selection, passed_over: dict[str, str] | None = None
) -> list[RecordedRun]:
    """The runs asked for; exit 2 if there are none, or none was asked for.

    Args:
        passed_over: takes those that would have been among them, had there been anything to replay: run id → why not.
    """
    wanted = selection.last is not None or selection.since is not None
    if selection.by_id == wanted:
        fail("name the runs to replay, or say --last N or --since 24h; `redecode runs` lists them")
    if selection.by_id:
        return [source.load(i) for i in selection.ids]
    earliest = 0 if selection.since is None else Clock.start().now_ns() - round(duration_s(selection.since) * 1e9)
    found: list[str] = []
    passed: dict[str, str] = {}
    for r in source.runs():
        if len(found) == selection.last:
            break
        if r.source_run_id is not None or r.started_ns < earliest or selection.agent not in (None, r.agent):
            continue
        if r.status == "open":
            passed[r.run_id] = f"run {r.run_id[:12]} has not ended, or its process died"
        elif not r.decodes:
            passed[r.run_id] = f"run {r.run_id[:12]} has no FM call; there is nothing to replay"
        else:
            found.append(r.run_id)
    if passed_over is not None:
        passed_over.update(passed)
    if not found:
        of = f" of agent {selection.agent}" if selection.agent else ""
        within = f" since {selection.since} ago" if selection.since else ""
        which = " that has ended" if any("not ended" in why for why in passed.values()) else ""
        fail(f"no recorded run{of} with FM calls{which}{within} in {shown(source)}")
    return source.load_many(found)


def replay_runs(
    path: Path,
    source: Store | Dataset,
    selection: Selection,
    mode: ReplayMode,
    options: ReplayOptions,
    engine: str | None,
    *,
    repeat: int,
    as_json: bool,
) -> None:
    """Replay a selection as a new batch, or so many after each other; ends the program as it went."""
    chosen = choose(load_selected(source, selection), mode, leave_out=not selection.by_id)
    url = engine or engine_of(path)
    runs = [p.recorded for p in chosen.plans.values()]
    elsewhere = shown(source) if isinstance(source, Dataset) or source.path != path else None
    reports = []
    for _ in range(repeat):
        batch = make_batch(runs, mode, url, options, source=elsewhere)
        reports.append(_replay(path, source, batch, chosen, url))
        if repeat == 1:
            _tell(reports[0], as_json=as_json, one=selection.by_id and len(runs) == 1)
        elif not as_json:
            print_report(reports[-1], one=False)
        _end_if_stopped(reports[-1])
    if repeat > 1 and as_json:
        print_json({"repeats": [r.to_json() for r in reports], "e2e": {k: b._asdict() for k, b in bands(reports)}})
    elif repeat > 1:
        print_bands(reports)
    raise typer.Exit(0 if all(r.tokens_equal for r in reports) else 1)


def resume(path: Path, prefix: str, engine: str | None, *, as_json: bool) -> None:
    """Go on with a batch; ends the program as it went."""
    batch = load_batch(path, prefix)
    source = store_to_read(batch.source or str(path))
    ids = list(dict.fromkeys(item.run_id for item in batch.items))
    runs = source.load_many(ids)
    for gone in set(ids).difference(r.run.run_id for r in runs):
        source.load(gone)  # says that it is not there
    chosen = choose(runs, batch.mode)
    report = _replay(path, source, batch, chosen, engine or batch.engine)
    _tell(report, as_json=as_json, one=False)
    _end_if_stopped(report)
    raise typer.Exit(0 if report.tokens_equal else 1)


def engine_of(store: Path) -> str:
    """URL of the engine that runs in a store; exit 2 if none does."""
    state = status(store / "engine").state
    if state is None:
        fail(f"no engine runs in {store}; start one with `redecode engine start`, or name one with --engine URL")
    return state.base_url


def _allow_connections() -> None:
    """As many open files as this user may have: each call under way is a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with suppress(ValueError, OSError):  # then it stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _replay(path: Path, source: Store | Dataset, batch: Batch, chosen: Chosen, url: str) -> BatchReport:
    _allow_connections()
    many = len(batch.items)
    with progress(f"replaying {many} run{'s' * (many != 1)} by {batch.mode}") as tell:

        async def go() -> BatchReport:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
            return await replay_batch(
                path,
                batch,
                chosen.plans,
                url,
                api_key=os.environ.get("OPENAI_API_KEY"),
                on_progress=lambda done, total: tell(f"{done} of {total} decodes"),
                source=source,
                left_out=chosen.left_out,
            )

        return asyncio.run(go())


def _tell(report: BatchReport, *, as_json: bool, one: bool) -> None:
    if as_json:
        print_json(report.one_json() if one and report.replays else report.to_json())
    else:
        print_report(report, one=one)


def _end_if_stopped(report: BatchReport) -> None:
    if report.stopped is None:
        return
    rest = report.items - len(report.replays)
    say(
        f"redecode: {report.stopped}; {len(report.replays)} of {report.items} runs are replayed and kept, "
        f"{len(report.partial)} of the other {rest} in part; go on with: redecode replay --resume {report.batch_id}"
    )
    raise typer.Exit(_INTERRUPTED if report.stopped == "interrupted" else 2)
