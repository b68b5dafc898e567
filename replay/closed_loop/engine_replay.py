"""Replay on a real engine, closed loop: `force` and `resample`.

Each point of a run's graph happens when everything it waits for has happened in the replay, plus its recorded gap. FM
calls are made for real, tools and the agent's own code are waited through as recorded. So a slower engine delays what
comes after, as it would have, and a faster one shows its whole gain.

`force` sends the recorded prompt ids and forces the recorded tokens: same tokens, same lengths, real engine time.
`resample` sends the recorded prompt ids, sampling parameters and seed and looks what comes.

The replays are recorded as runs of their own with the recording's step keys, and belong to a batch. What stops a batch
(Ctrl-C, an engine that dies) leaves what is done, and the part of a run that was under way, marked as that.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from redecode.replay.closed_loop.batch import Batch, Item, finished, new_batch_id
from redecode.replay.closed_loop.options import ReplayMode, ReplayOptions
from redecode.replay.closed_loop.plan import Plan, check_engine, plan
from redecode.replay.closed_loop.report import BatchReport, name_tokens, report_of, report_of_recorded
from redecode.replay.closed_loop.session import EngineLoop
from redecode.replay.comparison.compare import ReplayReport, engine_differences
from redecode.replay.engine import EngineClient, EngineInfo, requirements
from redecode.replay.errors import ReplayError, TooLittleRecorded
from redecode.replay.pacing import ScheduleError, short_slices
from redecode.tracer import Clock, ReadableStore, RecordedRun, Recorder, Store
from redecode.tracer.fm.engine_probe import describe
from redecode.tracer.privacy.keys import public_fields, public_url

_DIGESTS_TRIES = 5


class ReplayStopped(ReplayError):
    """Not all of a batch was replayed.

    Attributes:
        report: of what was.
    """

    def __init__(self, report: BatchReport) -> None:
        super().__init__(f"{report.stopped}; go on with `redecode replay --resume {report.batch_id}`")
        self.report = report


@dataclass(frozen=True, slots=True)
class Chosen:
    """Runs to replay together, checked.

    Attributes:
        plans: by run id.
        left_out: run id → why it cannot be replayed.
    """

    plans: dict[str, Plan]
    left_out: dict[str, str]


def choose(runs: Sequence[RecordedRun], mode: ReplayMode, *, leave_out: bool = False) -> Chosen:
    """Check recorded runs for a mode.

    Args:
        leave_out: go on without runs that cannot be replayed, if there are others.

    Raises:
        TooLittleRecorded: a run lacks what the mode needs.
    """
    plans: dict[str, Plan] = {}
    left_out: dict[str, str] = {}
    for recorded in runs:
        try:
            plans[recorded.run.run_id] = plan(recorded, mode)
        except TooLittleRecorded as error:
            if not leave_out:
                raise
            left_out[recorded.run.run_id] = str(error)
    if not plans:
        first = next(iter(left_out.values()), "no run was named")
        raise TooLittleRecorded(f"none of {len(runs)} runs can be replayed by {mode}: {first}")
    return Chosen(plans, left_out)


def make_batch(
    runs: Sequence[RecordedRun],
    mode: ReplayMode,
    engine_url: str,
    options: ReplayOptions,
    *,
    source: str | None = None,
    clock: Clock | None = None,
) -> Batch:
    """A batch of these runs, in order of their arrival; a run may stand in it several times.

    Raises:
        BadArrivals: the options give none.
    """
    ordered = sorted(runs, key=lambda r: (r.run.started_ns, r.run.run_id))
    offsets = options.offsets_s(ordered)
    items = tuple(Item(r.run.run_id, at_s) for r, at_s in zip(ordered, offsets, strict=True))
    return Batch(
        batch_id=new_batch_id(),
        created_ns=(clock or Clock.start()).now_ns(),
        mode=mode,
        source=source,
        engine=public_url(engine_url),
        options=options,
        items=items,
    )


async def replay_batch(
    store: Path,
    batch: Batch,
    plans: Mapping[str, Plan],
    engine_url: str,
    *,
    api_key: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    source: ReadableStore | None = None,
    left_out: Mapping[str, str] | None = None,
) -> BatchReport:
    """Replay what of a batch is not done yet, and report on all of it.

    Cancelling it is what Ctrl-C does: the replays under way are closed and marked, and the report says so.

    Args:
        store: where the replays are recorded.
        plans: of its runs, by id (`choose`).
        engine_url: user and password may be in it; they are not recorded.
        on_progress: called with (decodes done, decodes in all).
        source: where the runs were read from, if not from `store`.

    Raises:
        ReplayError, EngineError: before anything is replayed.
    """
    if batch.mode is ReplayMode.SIMULATE:
        raise ReplayError("a simulation needs an engine model, no engine: redecode.replay.closed_loop.simulated")
    present = Store(store)
    batch.options.scaling.check(p.recorded for p in plans.values())
    altered = batch.options.altered
    if altered and batch.mode is not ReplayMode.FORCE:
        raise ReplayError(f"only what is forced can be shortened or left out, not what is replayed by {batch.mode}")
    plans = {run_id: altered.applied(p) for run_id, p in plans.items()}
    done = finished(batch, present.runs())
    todo = [place for place in range(len(batch.items)) if place not in done]
    replays = {r.run.run_id: r for r in present.load_many([run.run_id for run in done.values()])}
    earlier = [
        report_of_recorded(plans[batch.items[place].run_id], place, batch.mode, replays[run.run_id], run)
        for place, run in done.items()
    ]
    async with EngineClient(engine_url, api_key=api_key) as client:
        info = await _whole_info(client)
        force = batch.mode is ReplayMode.FORCE
        seeded = not force and any(d.seed is not None for p in plans.values() for d in p.decodes.values())
        without = requirements.check_engine(batch.engine, info, force=force, seeded=seeded)
        check_engine(list(plans.values()), batch.mode, info)
        batch.save(store)
        recorder = Recorder(store)
        try:
            stopped = None
            engine_id, lasting = describe(info.model_dump(exclude_unset=True))
            recorder.journal.write({"t": "engine", "id": engine_id, "info": public_fields(lasting)})
            if batch.options.cold and todo:
                await client.reset_prefix_cache()
            loop = EngineLoop(client, info, engine_id, recorder, batch, on_progress)
            if todo:
                first_s = min(batch.items[place].at_s for place in todo)
                for place in todo:
                    item = batch.items[place]
                    loop.add(place, plans[item.run_id], round((item.at_s - first_s) * 1e9))
                with _no_collections(), short_slices():
                    stopped = await loop.run()
                await asyncio.shield(asyncio.ensure_future(loop.clocks.fetch()))
            reports = [*earlier, *(report_of(p, batch.mode) for p in loop.parts if p.complete)]
            reports = _with_engine(reports, plans, source or present, info)
            if batch.mode is ReplayMode.RESAMPLE and stopped is None:
                reports = await name_tokens(client, reports)
        finally:
            recorder.close()
    return BatchReport(
        batch_id=batch.batch_id,
        mode=batch.mode.value,
        options=batch.options.to_json(),
        engine=batch.engine,
        items=len(batch.items),
        replays=tuple(sorted(reports, key=lambda r: r.place)),
        partial={p.run_id: p.plan.recorded.run.run_id for p in loop.parts if p.run_id and not p.complete},
        left_out=dict(left_out or {}),
        stopped=stopped,
        earlier=len(earlier),
        schedule_error=ScheduleError.of(*loop.lateness()) if loop.parts else None,
        without=without,
        unknown_engine=any(d.engine_id is None for p in plans.values() for d in p.decodes.values()),
    )


async def replay_on_engine(
    store: Path,
    runs: Sequence[RecordedRun],
    mode: ReplayMode,
    engine_url: str,
    *,
    api_key: str | None = None,
    options: ReplayOptions | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    source: ReadableStore | None = None,
) -> list[ReplayReport]:
    """Replay runs together, as `replay_batch`; one report for each, in order of their arrival.

    Raises:
        ReplayError, EngineError: before anything is replayed.
        ReplayStopped: not all could be; what could is in the store, and in the error's report.
    """
    chosen = choose(runs, mode)
    batch = make_batch(runs, mode, engine_url, options or ReplayOptions())
    report = await replay_batch(
        store, batch, chosen.plans, engine_url, api_key=api_key, on_progress=on_progress, source=source
    )
    if report.stopped is not None:
        raise ReplayStopped(report)
    return list(report.replays)


async def _whole_info(client: EngineClient) -> EngineInfo:
    """What the engine says of itself, when it has read its weights; they tell models apart."""
    for _ in range(_DIGESTS_TRIES):
        info = await client.info()
        if not info.digests_pending:
            break
    return info


def _with_engine(
    reports: Sequence[ReplayReport], plans: Mapping[str, Plan], store: ReadableStore, info: EngineInfo
) -> list[ReplayReport]:
    """The reports with what differs between the engine they were recorded on and this one."""
    now = info.model_dump()
    known: dict[str, Any] = {}
    found = []
    for report in reports:
        differences: dict[str, tuple[Any, Any]] = {}
        decodes = plans[report.run_id].decodes.values()
        for engine_id in sorted({d.engine_id for d in decodes if d.engine_id}):
            if engine_id not in known:
                known[engine_id] = store.engine(engine_id)
            differences |= engine_differences(known[engine_id], now)
        prints = {d.fingerprint for d in decodes if d.fingerprint and not d.engine_id}
        if other := sorted(prints - {info.system_fingerprint}):
            differences["system_fingerprint"] = (", ".join(other), info.system_fingerprint)
        found.append(replace(report, engine_differences=differences))
    return found


@contextmanager
def _no_collections() -> Iterator[None]:
    """No garbage collection: with thousands of recorded runs one stops everything for tens of milliseconds.

    What is kept is kept anyway, and what is dropped has no cycles but for errors.
    """
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
