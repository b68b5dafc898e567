"""Many runs together: which steps are on the critical path how often, where their time and budgets go, what would gain.

A step is known by its step key, so runs that went the same way add up. Its time is what it did itself: what it called
is other steps'.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from redecode.replay.analysis.critical_path import Found
from redecode.replay.analysis.errors import AnalysisError
from redecode.replay.analysis.model import TimeSplit
from redecode.replay.analysis.profiles import Profiles, Quantiles
from redecode.replay.analysis.runs import find_in_recorded
from redecode.replay.analysis.segments import spend, split
from redecode.tracer.bulk import uncollected

if TYPE_CHECKING:
    from redecode.tracer import ReadableStore, RecordedRun
    from redecode.tracer.store import RunStructure


@dataclass(frozen=True, slots=True)
class StepSummary:
    """One step over many runs.

    Attributes:
        kind: what it does in its longest part.
        runs: that have it; `on_path` of them with some of it on the critical path.
        path_ns: its time on critical paths, all runs together; `path_share` of the time of all runs.
        duration: of all its parts together, run by run.
        total_float: the least of its parts'; `None` if nothing ever waited for it.
        burn: duration − latency budget, of the runs that have an SLO; `None` if none has.
        drag_ns: what all runs together would gain without it: an upper bound where it has several parts.
    """

    step_key: str
    kind: str
    runs: int
    on_path: int
    path_ns: int
    path_share: float
    duration: Quantiles
    total_float: Quantiles | None
    burn: Quantiles | None
    drag_ns: int

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v.to_json() if isinstance(v, Quantiles) else v for k, v in out.items()}


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Many runs.

    Attributes:
        runs: analysed; `left_out` of those given could not be: nothing of them was recorded but their name, or
            their edges form a cycle.
        open: of them have not ended, and count up to the last known time.
        by_time: of them have edges guessed from times: their paths are guesses.
        missed: of those with an SLO (`with_slo`) the ones that did not meet it.
        latency: of runs.
        split: where the time of all runs together went; it adds up to `total_ns`.
        barrier_cost: run by run; `barrier_cost_ns` all together.
        steps: longest on critical paths first.
    """

    runs: int
    left_out: int
    open: int
    by_time: int
    with_slo: int
    missed: int
    total_ns: int
    latency: Quantiles | None
    split: TimeSplit
    barrier_cost: Quantiles | None
    barrier_cost_ns: int
    steps: tuple[StepSummary, ...]

    @property
    def gains(self) -> tuple[StepSummary, ...]:
        """The steps whose absence would gain most, most first."""
        return tuple(sorted((s for s in self.steps if s.drag_ns), key=lambda s: (-s.drag_ns, s.step_key)))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("latency", "barrier_cost", "split"):
            out[name] = None if out[name] is None else out[name].to_json()
        gains = [
            {"step_key": s.step_key, "gain_ns": s.drag_ns, "mean_gain_ns": s.drag_ns // max(self.runs, 1)}
            for s in self.gains
        ]
        return {**out, "steps": [s.to_json() for s in self.steps], "gains": gains}


class _Step:
    """What is collected of a step."""

    __slots__ = ("burns", "drag", "durations", "floats", "kind", "longest", "on_path", "path")

    def __init__(self) -> None:
        self.durations: list[int] = []
        self.floats: list[int] = []
        self.burns: list[int] = []
        self.kind = ""
        self.on_path = self.path = self.drag = self.longest = 0


class _OfRun:
    """What one run has of a step."""

    __slots__ = ("burn", "drag", "duration", "kind", "least", "longest", "path")

    def __init__(self) -> None:
        self.duration = self.drag = self.path = self.longest = 0
        self.kind = ""
        self.least: float = math.inf
        self.burn: int | None = None


class Aggregator:
    """Adds runs up, one by one."""

    def __init__(self) -> None:
        self._steps: dict[str, _Step] = {}
        self._latencies: list[int] = []
        self._barriers: list[int] = []
        self._spent: dict[str, int] = {}
        self._counts: Counter[str] = Counter()

    def leave_out(self) -> None:
        """A run that cannot be analysed."""
        self._counts["left_out"] += 1

    def add(self, run: Found, status: str) -> None:
        """A run, and its status."""
        counts, graph = self._counts, run.graph
        self._latencies.append(run.makespan_ns)
        self._barriers.append(run.makespan_ns - run.data_only_ns)
        spend(graph, run.stretches, self._spent)
        counts["open"] += status == "open"
        counts["by_time"] += graph.by_time > 0
        if run.headroom_ns is not None:
            counts["with_slo"] += 1
            counts["missed"] += run.headroom_ns < 0
        of: dict[str, _OfRun] = {}
        budgets = run.budgets()
        budget: list[int | None] = [None] * len(graph.finish) if budgets is None else budgets[0]
        for a, latest, own in zip(graph.activities, run.floats.latest, budget, strict=True):
            here = of.get(a.step_key)
            if here is None:
                here = of[a.step_key] = _OfRun()
            duration = a.end_ns - a.start_ns
            if duration:
                here.duration += duration
                if duration > here.longest:
                    here.longest, here.kind = duration, a.kind
            total = latest - a.end_ns
            if total < here.least:
                here.least = total
            if own is not None:
                here.burn = (here.burn or 0) + duration - own
        for n, gain in zip(run.critical, run.drags, strict=True):
            a = graph.activities[n]
            duration = a.end_ns - a.start_ns
            of[a.step_key].drag += duration if duration < gain else int(gain)
        for _, n, gap, start, end, _ in run.stretches:
            if not gap:
                of[graph.activities[n].step_key].path += end - start
        for key, here in of.items():
            step = self._steps.get(key)
            if step is None:
                step = self._steps[key] = _Step()
            step.durations.append(here.duration)
            step.drag += here.drag
            if here.least != math.inf:
                step.floats.append(int(here.least))
            if here.burn is not None:
                step.burns.append(here.burn)
            if here.path:
                step.on_path += 1
                step.path += here.path
            if here.longest > step.longest:
                step.longest, step.kind = here.longest, here.kind

    def aggregate(self) -> Aggregate:
        """All that was added."""
        total = sum(self._latencies)
        steps = [
            StepSummary(
                step_key=key,
                kind=s.kind,
                runs=len(s.durations),
                on_path=s.on_path,
                path_ns=s.path,
                path_share=s.path / total if total else 0.0,
                duration=Quantiles.of(s.durations),
                total_float=Quantiles.of(s.floats) if s.floats else None,
                burn=Quantiles.of(s.burns) if s.burns else None,
                drag_ns=s.drag,
            )
            for key, s in self._steps.items()
        ]
        steps.sort(key=lambda s: (-s.path_ns, s.step_key))
        counts = self._counts
        return Aggregate(
            runs=len(self._latencies),
            left_out=counts["left_out"],
            open=counts["open"],
            by_time=counts["by_time"],
            with_slo=counts["with_slo"],
            missed=counts["missed"],
            total_ns=total,
            latency=Quantiles.of(self._latencies) if self._latencies else None,
            split=split(self._spent),
            barrier_cost=Quantiles.of(self._barriers) if self._barriers else None,
            barrier_cost_ns=sum(self._barriers),
            steps=tuple(steps),
        )


def aggregate(
    runs: Iterable[RunStructure | RecordedRun],
    *,
    slo_s: float | None = None,
    profiles: Profiles | None = None,
    quantile: str = "p95",
) -> Aggregate:
    """Analyse runs and add them up.

    Args:
        slo_s, profiles, quantile: as `analyze_recorded`; budgets are made of the profiles' durations.
    """
    out = Aggregator()
    with uncollected():
        for run in runs:
            try:
                cut, found = find_in_recorded(run, slo_s=slo_s, profiles=profiles, quantile=quantile)
                out.add(found, cut.status)
            except AnalysisError:
                out.leave_out()
    return out.aggregate()


def aggregate_stored(
    store: ReadableStore,
    *,
    run_ids: list[str] | None = None,
    limit: int | None = None,
    slo_s: float | None = None,
    profiles: Profiles | None = None,
    quantile: str = "p95",
) -> Aggregate:
    """As `aggregate`, of runs in a store: of these or, by default, of the newest (all of them without a limit)."""
    with uncollected():
        runs = store.structures(limit=limit, run_ids=run_ids)
        return aggregate(runs, slo_s=slo_s, profiles=profiles, quantile=quantile)
