"""Replay on an engine model: `simulate`. Recorded runs with their own lengths, waits and arrivals, in virtual time.

The same closed loop as `force` and `resample`: each point of a run happens when everything it waits for has happened,
plus its recorded gap. FM calls take what the simulator says (`simulator/`), which knows engines from their profiles.
What comes of it is recorded as runs of their own with `replay_mode` "simulate", times of a clock that begins when it
was simulated, and an engine that is named as a model.

A simulated decode has the recorded tokens (or their count), no logprobs, and the time of its first and last token only.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redecode.replay.closed_loop.batch import LABEL, Batch
from redecode.replay.closed_loop.loop import Kind, Program, compile_run
from redecode.replay.closed_loop.mirror import Mirror
from redecode.replay.closed_loop.options import ReplayMode, ReplayOptions
from redecode.replay.closed_loop.plan import Plan
from redecode.replay.closed_loop.report import BatchReport, report_of_simulated
from redecode.replay.simulator.costs import to_ps
from redecode.replay.simulator.errors import virtual_time
from redecode.replay.simulator.fleet import Fleet
from redecode.replay.simulator.profile import EngineProfile
from redecode.replay.simulator.results import Simulated
from redecode.replay.simulator.workload import Naming, Shape, Workload, contract
from redecode.tracer import Decode, Fidelity, LiveSpan, Recorder, Store, TimeSource
from redecode.tracer.fm.engine_probe import describe

_PS_IN_NS = 1000
ENGINE = "engine model"
"""What a simulated decode's engine and provider are called, in the place of "vllm"."""


@dataclass(frozen=True, slots=True)
class Laid:
    """A run laid out for the simulator.

    Attributes:
        calls: the spans of its FM calls, in the order of `shape.calls`.
    """

    plan: Plan
    program: Program
    shape: Shape

    @property
    def calls(self) -> list[str]:
        """Spans of its FM calls, in the order of the shape."""
        places = zip(self.program.spans, self.program.kinds, strict=True)
        return [span for span, kind in places if kind is Kind.SEND]


def lay_out(plan: Plan, options: ReplayOptions, contents: Naming) -> Laid:
    """A run as it is to be simulated, with what the options change of it.

    Raises:
        ReplayError: a step to be changed is not there.
    """
    altered = options.altered.applied(plan)
    factors = options.altered.scaling(options.scaling).factors(altered.graph.spans)
    program = compile_run(altered.graph, altered.decodes, factors)
    return Laid(altered, program, contract(program, altered.decodes, contents, plan.recorded.run.agent))


def models_of(plans: Iterable[Plan]) -> set[str]:
    """The FMs that these runs call."""
    return {decode.model for plan in plans for decode in plan.decodes.values()}


def workload_of(laid: Sequence[Laid], begins_s: Sequence[float]) -> Workload:
    """Runs that begin so many seconds after the first."""
    first = min(begins_s, default=0.0)
    order = sorted(range(len(laid)), key=lambda i: (begins_s[i], i))
    assert order == list(range(len(laid))), "runs come in the order in which they begin"
    with virtual_time():
        begins = array("q", [to_ps(at - first) for at in begins_s])
    return Workload(tuple(run.shape for run in laid), begins, array("l", range(len(laid))))


def simulate_batch(
    store: Path,
    batch: Batch,
    plans: Mapping[str, Plan],
    fleet: Fleet,
    *,
    noise: bool = True,
    seed: int = 0,
    left_out: Mapping[str, str] | None = None,
    on_run: Callable[[int, int], None] | None = None,
) -> BatchReport:
    """Simulate a batch, record what came, and report on it.

    Args:
        store: where the simulated runs are recorded.
        plans: of its runs, by id (`engine_replay.choose`, for `ReplayMode.SIMULATE`).
        noise, seed: step times are drawn from what was measured, or (without noise) are their mean.
        on_run: called now and then with (runs that have ended, runs in all).

    Raises:
        ReplayError: before anything is simulated or recorded.
    """
    Store(store)  # an unusable store is said before anything is simulated
    batch.options.scaling.check(p.recorded for p in plans.values())
    fleet.check(models_of(plans.values()))
    contents = fleet.contents()
    once = {run_id: lay_out(plan, batch.options, contents) for run_id, plan in plans.items()}
    laid = [once[item.run_id] for item in batch.items]
    found = fleet.simulate(workload_of(laid, [i.at_s for i in batch.items]), seed=seed, noise=noise, on_run=on_run)
    recorder = Recorder(store)
    try:
        writer = _Writer(recorder, batch, fleet, found, {"noise_seed": seed if noise else None})
        reports = [writer.write(place, run, plans[item.run_id]) for place, (run, item) in _placed(laid, batch)]
    finally:
        recorder.close()
    return BatchReport(
        batch_id=batch.batch_id,
        mode=batch.mode.value,
        options=batch.options.to_json(),
        engine=batch.engine,
        items=len(batch.items),
        replays=tuple(reports),
        partial={},
        left_out=dict(left_out or {}),
        stopped=None,
        earlier=0,
        schedule_error=None,
        without=(),
        unknown_engine=False,
        doubts=tuple(doubts(fleet, found)),
    )


def _placed(laid: Sequence[Laid], batch: Batch) -> Iterable[tuple[int, tuple[Laid, Any]]]:
    return enumerate(zip(laid, batch.items, strict=True))


def doubts(fleet: Fleet, *found: Simulated) -> list[str]:
    """Why simulations may be wrong: where they went beyond what was measured, and what was not measured at all."""
    return [f"beyond what was measured: {words}" for words in fleet.outside(*found)] + fleet.unmeasured()


def times_of(laid: Laid, found: Simulated, run: int) -> list[int]:
    """When each place of a run's program happened, ps of virtual time."""
    program, first = laid.program, found.bases[run]
    ready = [found.workload.begins[run]] * len(program.spans)
    times, call = [], 0
    for place, kind in enumerate(program.kinds):
        if kind is Kind.SEND:
            at, after = found.sent[first + call], found.done[first + call]
            call += 1
        else:
            at = after = ready[place] + program.gaps_ns[place] * _PS_IN_NS
        times.append(at)
        for later in program.after[place]:
            ready[later] = max(ready[later], after)
    return times


class _Writer:
    """Records simulated runs."""

    def __init__(
        self, recorder: Recorder, batch: Batch, fleet: Fleet, found: Simulated, labels: Mapping[str, Any]
    ) -> None:
        self._recorder, self._batch, self._fleet, self._found, self._labels = recorder, batch, fleet, found, labels
        self._begin_ns = time.monotonic_ns()
        self._engine_ids = [self._describe(p) for p in fleet.profiles]

    def _describe(self, profile: EngineProfile) -> str:
        limits = {k: v for k, v in profile.limits.model_dump().items() if k != "token_budget"}
        told = {
            **profile.engine, **limits, "max_num_batched_tokens": profile.limits.token_budget, "engine": ENGINE,
            "served_model_name": profile.model, "profile": profile.key, "profile_made": profile.made,
        }  # fmt: skip
        engine_id, lasting = describe(told)
        self._recorder.journal.write({"t": "engine", "id": engine_id, "info": lasting})
        return engine_id

    def write(self, place: int, laid: Laid, plan: Plan) -> Any:
        """Record one run; returns its report."""
        labels = {**self._batch.labels(place), **self._labels, "complete": True}
        mirror = Mirror(self._recorder, plan.recorded, ReplayMode.SIMULATE.value, {LABEL: labels}, provider=ENGINE)
        graph, times = laid.plan.graph, times_of(laid, self._found, place)
        numbers = {span: self._found.bases[place] + n for n, span in enumerate(laid.calls)}
        replayed: dict[str, Decode] = {}
        order = sorted(range(len(times)), key=lambda p: (times[p], p))
        ends: dict[Kind, int] = {}
        for at in order:
            span_id, kind = laid.program.spans[at], laid.program.kinds[at]
            when = self._mono_ns(times[at])
            if kind is Kind.START:
                mirror.start(graph.spans[span_id], when)
            elif kind is Kind.END:
                if span_id in numbers:
                    decode = laid.plan.decodes[span_id]
                    replayed[span_id] = self._decode(decode, mirror.live[span_id], numbers[span_id])
                mirror.end(graph.spans[span_id], when, replayed.get(span_id))
            if span_id == graph.root:
                ends[kind] = times[at]
        took_s = (ends[Kind.END] - ends[Kind.START]) / _PS_IN_NS / 1e9
        return report_of_simulated(laid.plan, place, mirror.run_id, replayed, took_s)

    def _mono_ns(self, ps: int) -> int:
        return self._begin_ns + ps // _PS_IN_NS

    def _decode(self, recorded: Decode, span: LiveSpan, number: int) -> Decode:
        """The simulated call as a decode record."""
        found, clock = self._found, self._recorder.clock
        profile_at = found.replica[number] // self._fleet.replicas
        profile = self._fleet.profiles[profile_at]
        sent, first, last = found.sent[number], found.first[number], found.last[number]
        way = to_ps(profile.overheads.before_s + profile.overheads.before_token_s * (recorded.input_tokens or 0))
        tokens = recorded.output_tokens if recorded.sampled_ids is None else len(recorded.sampled_ids)
        return Decode(
            run_id=span.run_id,
            span_id=span.span_id,
            step_key=recorded.step_key,
            model=profile.model,
            fidelity=recorded.fidelity if recorded.fidelity.rank < Fidelity.TOKENS.rank else Fidelity.TOKENS,
            sent_ns=clock.utc_ns(self._mono_ns(sent)),
            first_chunk_ns=clock.utc_ns(self._mono_ns(first)),
            done_ns=clock.utc_ns(self._mono_ns(found.done[number])),
            engine_id=self._engine_ids[profile_at],
            seed=recorded.seed,
            seed_source=recorded.seed_source,
            sampling=recorded.sampling,
            messages=recorded.messages,
            tool_definitions=recorded.tool_definitions,
            output=recorded.output,
            stream=recorded.stream,
            prompt_ids=recorded.prompt_ids,
            sampled_ids=recorded.sampled_ids,
            prompt_hashes=recorded.prompt_hashes,
            redacted=recorded.redacted,
            token_time_source=TimeSource.REQUEST,
            finish_reason=recorded.finish_reason,
            input_tokens=recorded.input_tokens if recorded.prompt_ids is None else len(recorded.prompt_ids),
            output_tokens=tokens,
            cached_tokens=max(0, found.cached[number]),
            queue_ns=max(0, found.scheduled[number] - sent - way) // _PS_IN_NS,
            prefill_ns=(first - found.scheduled[number]) // _PS_IN_NS,
            decode_ns=(last - first) // _PS_IN_NS,
        )
