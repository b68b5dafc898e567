"""Replay on a real engine, closed loop: `force` and `resample`.

Each point of the run's graph happens when everything it waits for has happened in the replay, plus its
recorded gap. FM calls are made for real, tools and the agent's own code are waited through as recorded. So
a slower engine delays what comes after, as it would have, and a faster one shows its whole gain.

`force` sends the recorded prompt ids and forces the recorded tokens: same tokens, same lengths, real engine
time. `resample` sends the recorded prompt ids, sampling parameters and seed and looks what comes.

The replay is recorded as a run of its own with the recording's step keys.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from redecode.replay.compare import ReplayReport, compare_decodes, engine_differences
from redecode.replay.engine import Completion, EngineClient, EngineError, EngineInfo
from redecode.replay.errors import TooLittleRecorded
from redecode.replay.pacing import until
from redecode.replay.run_graph import END, START, Point, RunGraph, build_run_graph
from redecode.replay.withheld import withheld
from redecode.tracer import (
    Decode,
    Dependency,
    Fidelity,
    LiveSpan,
    ReadableStore,
    RecordedRun,
    Recorder,
    Span,
    SpanKind,
    Store,
    TimeSource,
    decode_attributes,
)


class ReplayMode(StrEnum):
    """How a replay on an engine treats FM calls."""

    FORCE = "force"
    RESAMPLE = "resample"


# Parameters of a chat request that /v1/completions does not know, or that the replay sets itself.
_NOT_SENT = frozenset(
    {
        "n", "logprobs", "top_logprobs", "return_token_ids", "tool_choice", "parallel_tool_calls",
        "max_completion_tokens", "echo", "suffix", "best_of", "metadata", "store", "service_tier", "reasoning_effort",
        "chat_template_kwargs", "add_generation_prompt", "continue_final_message", "stream_interval",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Plan:
    """One run, ready to be replayed."""

    recorded: RecordedRun
    graph: RunGraph
    decodes: dict[str, Decode]
    skipped: tuple[str, ...]

    @property
    def started_ns(self) -> int:
        return self.recorded.run.started_ns


def plan(recorded: RecordedRun, mode: ReplayMode) -> _Plan:
    """Check that a run can be replayed in this mode.

    Raises:
        TooLittleRecorded: a successful decode lacks what the mode needs; says which and why.
    """
    run = recorded.run
    if not recorded.decodes:
        raise TooLittleRecorded(f"run {run.run_id[:12]} has no finished FM call; there is nothing to replay")
    skipped = []
    for decode in recorded.decodes:
        if decode.sampled_ids is None and decode.error is not None:
            skipped.append(decode.step_key)  # it failed then; the time it took is waited through
            continue
        if decode.redacted:
            raise TooLittleRecorded(f"run {run.run_id[:12]} cannot be replayed by {mode}: {withheld(decode)}")
        need = _lack(decode, mode)
        if need:
            raise TooLittleRecorded(
                f"run {run.run_id[:12]} cannot be replayed by {mode}: decode {decode.step_key} has {need} "
                f"(fidelity {decode.fidelity}); record it against vLLM, or use --mode playback"
            )
    decodes = {d.span_id: d for d in recorded.decodes if d.sampled_ids}
    return _Plan(recorded, build_run_graph(recorded), decodes, tuple(skipped))


def _lack(decode: Decode, mode: ReplayMode) -> str:
    if decode.prompt_ids is None:
        return "no prompt token ids"
    if decode.sampled_ids is None:
        return "no sampled token ids"
    greedy = decode.sampling.get("temperature") == 0
    if mode is ReplayMode.RESAMPLE and decode.seed is None and not greedy:
        return "no seed"
    return ""


async def replay_on_engine(
    store: Path,
    runs: Sequence[RecordedRun],
    mode: ReplayMode,
    engine_url: str,
    *,
    api_key: str | None = None,
    speed: float = 1.0,
    cold: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
    source: ReadableStore | None = None,
) -> list[ReplayReport]:
    """Replay runs together, each starting when it did in the recording relative to the first.

    Args:
        store: where the replays are recorded.
        speed: arrivals of runs are this many times closer together; inside a run nothing is scaled.
        cold: empty the engine's prefix cache first, where it can be.
        on_progress: called with (decodes done, decodes in all).
        source: where the runs were read from, if not from `store`.

    Raises:
        TooLittleRecorded, EngineError: before anything is replayed.
    """
    plans = [plan(r, mode) for r in runs]
    async with EngineClient(engine_url, api_key=api_key) as client:
        info = await client.info()
        if mode is ReplayMode.FORCE:
            _check_model(plans, info)
        if cold:
            await client.reset_prefix_cache()
        recorder = Recorder(store)
        try:
            driver = _Driver(client, info, recorder, mode, sum(len(p.decodes) for p in plans), on_progress)
            first, begin = min(p.started_ns for p in plans), time.monotonic_ns() + 20_000_000
            starts = [begin + round((p.started_ns - first) / speed) for p in plans]
            outcomes = await asyncio.gather(*(driver.run(p, at) for p, at in zip(plans, starts, strict=True)))
        finally:
            recorder.close()
    present = source or Store(store)
    now = info.model_dump()
    return [_report(p, o, mode, present, now) for p, o in zip(plans, outcomes, strict=True)]


def _check_model(plans: Sequence[_Plan], info: EngineInfo) -> None:
    """Forced tokens of another vocabulary mean nothing: refuse early, naming both models."""
    vocab = info.vocab_size
    for p in plans:
        for decode in p.decodes.values():
            top = max((*(decode.sampled_ids or ()), *(decode.prompt_ids or ())))
            if vocab is not None and top >= vocab:
                raise TooLittleRecorded(
                    f"decode {decode.step_key} was recorded with model {decode.model} (token id {top}), but the "
                    f"engine serves {info.served_model_name} with {vocab} token ids; start the recorded model"
                )


@dataclass(slots=True)
class _Outcome:
    """What happened to one run in the replay."""

    run_id: str
    happened_ns: dict[Point, int]
    replayed: dict[str, Decode]
    lateness_ns: list[int]


class _Driver:
    """Replays runs on one engine."""

    def __init__(
        self,
        client: EngineClient,
        info: EngineInfo,
        recorder: Recorder,
        mode: ReplayMode,
        total: int,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self._client, self._info, self._recorder, self._mode = client, info, recorder, mode
        self._total, self._done, self._on_progress = total, 0, on_progress

    async def run(self, plan: _Plan, start_ns: int) -> _Outcome:
        """Replay one run, its root starting at `start_ns` (monotonic)."""
        graph = plan.graph
        outcome = _Outcome("", {}, {}, [])
        happened = {point: asyncio.Event() for point in graph.order}
        live: dict[str, LiveSpan] = {}
        mirror = _Mirror(self._recorder, plan.recorded, self._mode)

        async def at_point(point: Point) -> None:
            waited = graph.before[point]
            for earlier in waited:
                await happened[earlier].wait()
            if graph.is_work(point) and point[0] in plan.decodes:
                recorded, span = plan.decodes[point[0]], graph.spans[point[0]]
                # What the agent's own client spent before and after the call is waited through, as all its code is.
                await until(outcome.happened_ns[point[0], START] + max(0, recorded.sent_ns - span.start_ns))
                await self._decode(recorded, live[point[0]], outcome)
                after = (span.end_ns or 0) - (recorded.done_ns or span.end_ns or 0)
                await until(time.monotonic_ns() + max(0, after))
                now = time.monotonic_ns()
            else:
                due = max((outcome.happened_ns[p] for p in waited), default=start_ns) + graph.gap_ns(point)
                await until(due)
                now = time.monotonic_ns()
                if point[1] == START and point[0] in plan.decodes:
                    outcome.lateness_ns.append(now - due)
            outcome.happened_ns[point] = now
            if point[1] == START:
                live[point[0]] = mirror.start(graph.spans[point[0]], live, now)
                outcome.run_id = outcome.run_id or live[point[0]].run_id
            else:
                mirror.end(graph.spans[point[0]], live, now, outcome.replayed.get(point[0]))
            happened[point].set()

        async with asyncio.TaskGroup() as group:
            for point in graph.order:
                group.create_task(at_point(point))
        return outcome

    async def _decode(self, recorded: Decode, span: LiveSpan, outcome: _Outcome) -> None:
        rid = uuid.UUID(int=self._recorder.rng.getrandbits(128)).hex
        sampling = sampling_for_replay(recorded, self._info.max_model_len)
        force = list(recorded.sampled_ids or ()) if self._mode is ReplayMode.FORCE else None
        clock = self._recorder.clock
        sent = time.monotonic_ns()
        completion, error = None, None
        try:
            completion = await self._client.complete(
                list(recorded.prompt_ids or ()), sampling=sampling, force=force, rid=rid, stream=recorded.stream
            )
        except EngineError as failure:
            error = str(failure)
        decode = replayed_decode(
            recorded, completion, span, self._info, clock.utc_ns(sent), clock.utc_ns(time.monotonic_ns()), rid, error,
            clock.utc_ns,
        )  # fmt: skip
        outcome.replayed[recorded.span_id] = decode
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)


def sampling_for_replay(recorded: Decode, max_model_len: int | None) -> dict[str, Any]:
    """The recorded sampling parameters as /v1/completions takes them.

    A chat request without a limit may fill the context; /v1/completions would stop at 16 tokens.
    """
    given = recorded.sampling
    sampling = {k: v for k, v in given.items() if k not in _NOT_SENT}
    limit = given.get("max_completion_tokens") or given.get("max_tokens")
    if limit is None and max_model_len is not None:
        limit = max_model_len - len(recorded.prompt_ids or ())
    if limit is not None:
        sampling["max_tokens"] = limit
    if recorded.seed is not None:
        sampling["seed"] = recorded.seed
    return sampling


def replayed_decode(
    recorded: Decode,
    completion: Completion | None,
    span: LiveSpan,
    info: EngineInfo,
    sent_ns: int,
    done_ns: int,
    rid: str,
    error: str | None,
    utc_ns: Callable[[int], int],
) -> Decode:
    """The replayed call as a decode record."""
    common: dict[str, Any] = {
        "run_id": span.run_id,
        "span_id": span.span_id,
        "step_key": recorded.step_key,
        "model": info.served_model_name,
        "request_id": rid,
        "seed": recorded.seed,
        "seed_source": recorded.seed_source,
        "sampling": recorded.sampling,
        "messages": recorded.messages,
        "tool_definitions": recorded.tool_definitions,
        "stream": recorded.stream,
        "prompt_ids": recorded.prompt_ids,
    }
    if completion is None:
        return Decode(
            **common, fidelity=Fidelity.TOKENS, sent_ns=sent_ns, first_chunk_ns=None, done_ns=done_ns, error=error
        )
    sent, first, times = completion.sent_ns, completion.first_chunk_ns, completion.token_times_ns
    chunks = completion.chunks
    same = completion.token_ids == recorded.sampled_ids
    source = TimeSource.ENGINE if times else TimeSource.CLIENT if chunks else TimeSource.REQUEST
    return Decode(
        **common,
        fidelity=Fidelity.ENGINE if completion.system_fingerprint else Fidelity.TOKENS,
        sent_ns=utc_ns(sent),
        first_chunk_ns=utc_ns(first) if first is not None else None,
        done_ns=utc_ns(completion.done_ns),
        fingerprint=completion.system_fingerprint,
        output=recorded.output if same else None,
        sampled_ids=completion.token_ids,
        logprobs=completion.logprobs,
        token_times_ns=tuple(t - sent for t in times) if times else None,
        token_time_source=source,
        chunk_times_ns=tuple(t - sent for t, _ in chunks) or None,
        chunk_tokens=tuple(n for _, n in chunks) or None,
        batch_rows=tuple(completion.steps.rows) if completion.steps is not None else None,
        finish_reason=recorded.finish_reason if same else completion.finish_reason,
        input_tokens=completion.prompt_tokens,
        output_tokens=len(completion.token_ids),
        cached_tokens=completion.cached_tokens,
        queue_ns=completion.queue_ns,
        prefill_ns=completion.prefill_ns,
        decode_ns=completion.decode_ns,
    )


class _Mirror:
    """Records the replay as a run with the shape, names and step keys of the recording."""

    def __init__(self, recorder: Recorder, recorded: RecordedRun, mode: ReplayMode) -> None:
        self._recorder, self._recorded, self._mode = recorder, recorded, mode
        self._tools = {t.span_id: t for t in recorded.tools}
        parents = {s.span_id: s.parent_span_id for s in recorded.spans}
        self._starts: dict[str, list[tuple[str, Dependency]]] = {}
        self._ends: dict[str, list[tuple[str, Dependency]]] = {}
        for edge in recorded.edges:
            inward = self._ends if parents.get(edge.src) == edge.dst else self._starts
            inward.setdefault(edge.dst, []).append((edge.src, (edge.src, edge.kind, edge.provenance)))

    def start(self, span: Span, live: dict[str, LiveSpan], monotonic_ns: int) -> LiveSpan:
        """Open the mirror of a span."""
        start_ns = self._recorder.clock.utc_ns(monotonic_ns)
        if span.kind is SpanKind.RUN:
            run = self._recorded.run
            return self._recorder.start_replay(run, mode=self._mode.value, start_ns=start_ns)
        parent = live[str(span.parent_span_id)]
        return self._recorder.start(
            span.kind,
            span.name,
            parent,
            "",
            step_key=span.step_key,
            start_ns=start_ns,
            edges=self._translate(self._starts, span, live),
            attributes=self._recorder.mirrored(span, self._tools.get(span.span_id)),
        )

    def end(self, span: Span, live: dict[str, LiveSpan], monotonic_ns: int, decode: Decode | None) -> None:
        """Close the mirror of a span."""
        attributes = decode_attributes(decode, provider="vllm") if decode is not None else {}
        error = decode.error if decode is not None else span.error
        self._recorder.end(
            live[span.span_id],
            end_ns=self._recorder.clock.utc_ns(monotonic_ns),
            attributes=attributes,
            error=error,
            returns=self._translate(self._ends, span, live),
        )

    @staticmethod
    def _translate(
        edges: dict[str, list[tuple[str, Dependency]]], span: Span, live: dict[str, LiveSpan]
    ) -> list[Dependency]:
        return [
            (live[src].span_id, kind, provenance)
            for src, (_, kind, provenance) in edges.get(span.span_id, ())
            if src in live
        ]


def _report(
    plan: _Plan, outcome: _Outcome, mode: ReplayMode, store: ReadableStore, engine_now: dict[str, Any]
) -> ReplayReport:
    comparisons = tuple(compare_decodes(decode, outcome.replayed[span_id]) for span_id, decode in plan.decodes.items())
    late = sorted(outcome.lateness_ns)
    graph = plan.graph
    root = graph.root
    replayed_ns = outcome.happened_ns[root, END] - outcome.happened_ns[root, START]
    engine_ids = {d.engine_id for d in plan.decodes.values() if d.engine_id}
    differences: dict[str, tuple[Any, Any]] = {}
    for engine_id in sorted(engine_ids):
        differences |= engine_differences(store.engine(engine_id), engine_now)
    return ReplayReport(
        run_id=plan.recorded.run.run_id,
        replay_run_id=outcome.run_id,
        mode=mode.value,
        decodes=comparisons,
        e2e_recorded_s=(graph.time_ns[root, END] - graph.time_ns[root, START]) / 1e9,
        e2e_replayed_s=replayed_ns / 1e9,
        lateness_p99_s=late[min(len(late) - 1, round(0.99 * len(late)))] / 1e9 if late else 0.0,
        skipped=plan.skipped,
        engine_differences=differences,
    )
