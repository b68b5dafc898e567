"""A batch on its way: the sessions of its runs, their FM calls, and what becomes of them when it is stopped."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

from redecode.replay.closed_loop.batch import LABEL, Batch
from redecode.replay.closed_loop.calls import StepClocks, replayed_decode
from redecode.replay.closed_loop.loop import ClosedLoop, Kind, Session, compile_run
from redecode.replay.closed_loop.mirror import Mirror
from redecode.replay.closed_loop.options import ReplayMode
from redecode.replay.closed_loop.plan import Plan, sampling_for_replay
from redecode.replay.comparison.compare import first_divergence
from redecode.replay.engine import EngineClient, EngineError, EngineInfo
from redecode.replay.engine.errors import EngineRefused, EngineUnreachable
from redecode.replay.pacing import ScheduleError
from redecode.tracer import Decode, Recorder

_SERVER_ERROR = 500


class ReplayedRun:
    """One run of a batch: does what its session says (`closed_loop.Part`).

    Attributes:
        replayed: recorded span id → the decode that was replayed for it.
        happened_ns: of the root's start and end, monotonic.
    """

    def __init__(self, loop: EngineLoop, place: int, plan: Plan, after_ns: int) -> None:
        self.plan, self.place, self._loop = plan, place, loop
        batch = loop.batch
        self._labels = batch.labels(place)
        self._mirror = Mirror(loop.recorder, plan.recorded, batch.mode.value, {LABEL: self._labels})
        factors = batch.options.altered.scaling(batch.options.scaling).factors(plan.graph.spans)
        self.session = Session(compile_run(plan.graph, plan.decodes, factors), self, after_ns)
        self.replayed: dict[str, Decode] = {}
        self.happened_ns: dict[Kind, int] = {}
        self.complete = False

    @property
    def run_id(self) -> str:
        """Of the replay; empty before it has begun."""
        return self._mirror.run_id

    @property
    def schedule_error(self) -> ScheduleError:
        """Of this run so far."""
        return ScheduleError.of(self.session.late_ns, self.session.waits_ns)

    def happened(self, span_id: str, kind: Kind, monotonic_ns: int) -> None:
        """Write down that a span starts or ends now."""
        graph = self.plan.graph
        span, root = graph.spans[span_id], span_id == graph.root
        if root:
            self.happened_ns[kind] = monotonic_ns
        if kind is Kind.START:
            self._mirror.start(span, monotonic_ns)
        else:
            self._mirror.end(span, monotonic_ns, self.replayed.get(span_id), self._last_labels() if root else None)

    def _last_labels(self) -> dict[str, Any]:
        late, made = self.schedule_error.to_json(), self.replayed
        # Told here, because what the store is not to keep cannot be compared again when the batch is gone on with.
        diverged = [i for i, d in self.plan.decodes.items() if i in made and first_divergence(d, made[i]) is not None]
        return {LABEL: {**self._labels, "complete": True, "schedule_error": late, "diverged": diverged}}

    async def call(self, span_id: str) -> tuple[int, int]:
        """Make an FM call."""
        return await self._loop.call(self, self.plan.decodes[span_id], span_id)

    def finished(self) -> None:
        """The run has been replayed."""
        self.complete = True

    def span_of(self, span_id: str) -> Any:
        """The copy of a recorded span."""
        return self._mirror.live[span_id]

    def give_up(self, why: str) -> None:
        """The batch was stopped: mark what there is of this run."""
        if self.run_id and not self.complete:
            late = self.schedule_error.to_json()
            self._mirror.give_up(
                why, {LABEL: {**self._labels, "complete": False, "stopped": why, "schedule_error": late}}
            )


class EngineLoop:
    """Runs of a batch on one engine.

    Attributes:
        parts: the runs.
        clocks: the step clocks of what the engine has made, to be fetched.
    """

    def __init__(
        self,
        client: EngineClient,
        info: EngineInfo,
        engine_id: str,
        recorder: Recorder,
        batch: Batch,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.recorder, self.batch = recorder, batch
        self._client, self._info, self._engine_id, self._on_progress = client, info, engine_id, on_progress
        self.parts: list[ReplayedRun] = []
        self.clocks = StepClocks(client, info, recorder, self._timed)
        self._by_span: dict[str, tuple[ReplayedRun, str]] = {}
        self._total = self._done = 0
        self._fetching: asyncio.Task[None] | None = None

    def add(self, place: int, plan: Plan, after_ns: int) -> None:
        """Let a run begin so long after the loop."""
        self.parts.append(ReplayedRun(self, place, plan, after_ns))
        self._total += len(plan.decodes)

    def lateness(self) -> tuple[list[int], list[int]]:
        """Of every point of every run: how late it was, and the wait before it."""
        sessions = [p.session for p in self.parts]
        return [x for s in sessions for x in s.late_ns], [x for s in sessions for x in s.waits_ns]

    async def run(self) -> str | None:
        """Replay the runs; returns what stopped it, `None` if nothing did."""
        stopped = None
        try:
            await ClosedLoop().run([p.session for p in self.parts])
        except asyncio.CancelledError:
            stopped = "interrupted"
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
        except EngineUnreachable as error:
            stopped = str(error)
        if self._fetching is not None:
            await self._fetching
        if stopped is not None:
            for part in self.parts:
                part.give_up(f"ReplayStopped: {stopped}")
        return stopped

    async def call(self, part: ReplayedRun, recorded: Decode, span_id: str) -> tuple[int, int]:
        """Make one FM call; returns when it was sent and done, monotonic ns.

        Raises:
            EngineUnreachable: the engine is gone, or says that it is going.
        """
        clock, rng = self.recorder.clock, self.recorder.rng
        span = part.span_of(span_id)
        rid = uuid.UUID(int=rng.getrandbits(128)).hex
        sampling = sampling_for_replay(recorded, self._info.max_model_len)
        force = recorded.sampled_ids if self.batch.mode is ReplayMode.FORCE else None
        stream = recorded.stream and self.batch.options.as_streamed
        sent, completion, error = time.monotonic_ns(), None, None
        try:
            completion = await self._client.complete(
                recorded.prompt_ids or (), sampling=sampling, force=force, rid=rid, stream=stream, with_steps=False
            )
        except EngineUnreachable:
            raise
        except EngineError as failure:
            if isinstance(failure, EngineRefused) and failure.status >= _SERVER_ERROR:
                await self._check_alive(failure)
            error = str(failure)
        done = time.monotonic_ns() if completion is None else completion.done_ns
        decode = replayed_decode(
            recorded,
            completion,
            span,
            self._info,
            engine_id=self._engine_id,
            base_url=self.batch.engine,
            sent_ns=clock.utc_ns(sent),
            done_ns=clock.utc_ns(done),
            rid=rid,
            stream=stream,
            error=error,
            utc_ns=clock.utc_ns,
        )
        part.replayed[span_id] = decode
        self._by_span[decode.span_id] = part, span_id
        self.clocks.add(decode)
        if self.clocks.urgent and (self._fetching is None or self._fetching.done()):
            self._fetching = asyncio.create_task(self.clocks.fetch())
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)
        return (sent if completion is None else completion.sent_ns), done

    async def _check_alive(self, failure: EngineRefused) -> None:
        if not await self._client.healthy():
            raise EngineUnreachable(self._client.base_url, f"it is dying: {failure}") from failure

    def _timed(self, decode: Decode) -> None:
        part, span_id = self._by_span[decode.span_id]
        part.replayed[span_id] = decode
