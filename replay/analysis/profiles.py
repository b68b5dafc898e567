"""Profiles: how long each step takes, by what many runs took. Quantiles of what was recorded, by nearest rank.

A step is known by its step key (and an FM call's part by its name), an FM by the name it is called by. What no other
run has taken has no profile; nothing stands in for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from redecode.replay.analysis.activities import RunActivities, activities_of
from redecode.replay.analysis.model import ActivityKind

if TYPE_CHECKING:
    from redecode.tracer import ReadableStore
    from redecode.tracer.store import CallTimes, RunStructure

Key = tuple[str, str]
"""Step key and part of an activity, or an FM and one of `FM_TIMES`."""
FM_TIMES = ("queue", "prefill", "decode", "ttft", "tpot", "e2e")


_QUANTILES = (Fraction(1, 2), Fraction(95, 100), Fraction(99, 100))


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of durations in ns; `n` of them."""

    n: int
    p50_ns: int
    p95_ns: int
    p99_ns: int

    @classmethod
    def of(cls, values: Sequence[int]) -> Quantiles:
        """Of at least one value."""
        ranked = sorted(values)
        return cls(len(ranked), *(nearest_rank(ranked, q) for q in _QUANTILES))

    def at(self, quantile: str) -> int:
        """Of "p50", "p95" or "p99"."""
        return {"p50": self.p50_ns, "p95": self.p95_ns, "p99": self.p99_ns}[quantile]

    def to_json(self) -> dict[str, int]:
        """Plain data."""
        return {"n": self.n, "p50_ns": self.p50_ns, "p95_ns": self.p95_ns, "p99_ns": self.p99_ns}


def nearest_rank(ranked: Sequence[int], quantile: Fraction) -> int:
    """The least value that at least this part of all values do not exceed."""
    return ranked[max(0, math.ceil(quantile * len(ranked)) - 1)]


@dataclass(frozen=True, slots=True)
class Profiles:
    """Durations over many runs.

    Attributes:
        steps: step key → of whole spans, calls below them and all.
        parts: of activities, what budgets are made of; `gaps` of the gap before each.
        fms: (FM, time) → of its calls, whatever step made them.
        runs: how many were looked at.
    """

    steps: dict[str, Quantiles] = field(default_factory=dict)
    parts: dict[Key, Quantiles] = field(default_factory=dict)
    gaps: dict[Key, Quantiles] = field(default_factory=dict)
    fms: dict[Key, Quantiles] = field(default_factory=dict)
    runs: int = 0

    def expected(self, cut: RunActivities, quantile: str = "p95") -> tuple[dict[str, int], dict[str, int]]:
        """Expected durations of a run's activities and of the gaps before them, by activity id, where there are any."""
        known: dict[str, int] = {}
        gaps: dict[str, int] = {}
        for a in cut.activities:
            if a.kind == ActivityKind.PERSON:
                continue
            if (found := self.parts.get(a.profile_key)) is not None:
                known[a.id] = found.at(quantile)
            if (found := self.gaps.get(a.profile_key)) is not None:
                gaps[a.id] = found.at(quantile)
        return known, gaps

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "runs": self.runs,
            "steps": {key: q.to_json() for key, q in sorted(self.steps.items())},
            "parts": [{"step_key": k, "part": p, **q.to_json()} for (k, p), q in sorted(self.parts.items())],
            "gaps": [{"step_key": k, "part": p, **q.to_json()} for (k, p), q in sorted(self.gaps.items())],
            "fms": [{"model": m, "time": t, **q.to_json()} for (m, t), q in sorted(self.fms.items())],
        }


class Profiler:
    """Collects durations, run by run."""

    def __init__(self) -> None:
        self._steps: dict[str, list[int]] = {}
        self._parts: dict[Key, list[int]] = {}
        self._gaps: dict[Key, list[int]] = {}
        self._fms: dict[Key, list[int]] = {}
        self._runs = 0

    def add(self, cut: RunActivities, calls: Iterable[CallTimes] = ()) -> None:
        """A run; what in it failed, or has not ended, tells nothing of how long it takes."""
        self._runs += 1
        for span in cut.spans.values():
            if span.status == "ok" and span.end_ns is not None:
                self._steps.setdefault(span.step_key, []).append(span.end_ns - span.start_ns)
        gaps = cut.gaps_ns()
        for a in cut.activities:
            if a.status == "ok":
                self._parts.setdefault(a.profile_key, []).append(a.end_ns - a.start_ns)
                self._gaps.setdefault(a.profile_key, []).append(max(0, gaps[a.id]))
        for call in calls:
            if call.error is None:
                times = (call.queue_ns, call.prefill_ns, call.decode_ns, call.ttft_ns, call.tpot_ns, call.e2e_ns)
                for name, value in zip(FM_TIMES, times, strict=True):
                    if value is not None:
                        self._fms.setdefault((call.model, name), []).append(round(value))

    def profiles(self) -> Profiles:
        """Of all that was added."""
        return Profiles(
            steps={key: Quantiles.of(values) for key, values in self._steps.items()},
            parts={key: Quantiles.of(values) for key, values in self._parts.items()},
            gaps={key: Quantiles.of(values) for key, values in self._gaps.items()},
            fms={key: Quantiles.of(values) for key, values in self._fms.items()},
            runs=self._runs,
        )


def profiles_of(runs: Iterable[RunStructure]) -> Profiles:
    """Of these runs; those of which nothing but the name was recorded are left out."""
    profiler = Profiler()
    for run in runs:
        if run.spans:
            profiler.add(activities_of(run), run.decodes)
    return profiler.profiles()


def stored_profiles(
    store: ReadableStore, *, agent: str | None = None, without: str | None = None, limit: int | None = None
) -> Profiles:
    """Of what a store has recorded, replays left out: they take the times that they were told to take.

    Args:
        agent: of runs of this agent alone.
        without: id of a run that is left out: the one to be judged by the others.
        limit: of so many runs, the newest.
    """
    runs = [r for r in store.runs() if r.source_run_id is None and r.run_id != without and agent in (None, r.agent)]
    return profiles_of(store.structures(run_ids=[r.run_id for r in runs[:limit]]))
