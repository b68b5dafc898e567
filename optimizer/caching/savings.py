"""What hits would have saved: only the seconds on the critical path, and less what looking up costs where it misses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redecode.optimizer.caching.calls import Call
from redecode.optimizer.caching.replayed import Hit
from redecode.replay.analysis import Activity, CacheHit, Change, RunActivities, Scale, what_if
from redecode.replay.analysis.errors import AnalysisError


@dataclass(frozen=True, slots=True)
class Savings:
    """Over all runs.

    Attributes:
        runs: that could be analysed; `not_analysed`: that could not.
        recorded_s: their durations; `saved_s`: of that, what the cache saves (negative: what it costs).
        calls_s: durations of the calls that were hits, wherever they were: the engine's time, not the user's.
        tokens: that were not sampled.
    """

    runs: int
    not_analysed: int
    recorded_s: float
    saved_s: float
    calls_s: float
    tokens: int

    @property
    def share(self) -> float | None:
        """Of the runs' durations; `None` of no runs."""
        return self.saved_s / self.recorded_s if self.recorded_s else None


def savings(
    calls: Sequence[Call], hits: Sequence[Hit], runs: Mapping[str, RunActivities], *, lookup_s: float = 0.0
) -> Savings:
    """What a cache asked by these calls, with these hits, would have saved.

    Args:
        lookup_s: what asking it costs, hit or miss.
    """
    hit_ids = {hit.call.span_id for hit in hits}
    changes: dict[str, list[Change]] = {}
    lookup_ns = round(lookup_s * 1e9)
    for call in calls:
        if call.span_id in hit_ids:
            changes.setdefault(call.run_id, []).append(CacheHit(call.span_id, lookup_ns))
        elif lookup_ns and (part := _longest(runs.get(call.run_id), call.span_id)) is not None:
            longer = Scale(part.id, (part.duration_ns + lookup_ns) / part.duration_ns)
            changes.setdefault(call.run_id, []).append(longer)
    recorded = saved = analysed = failed = 0
    for run_id in dict.fromkeys(call.run_id for call in calls):
        if run_id not in runs:
            failed += 1
            continue
        try:
            outcome = what_if(runs[run_id], changes.get(run_id, []))
        except AnalysisError:
            failed += 1
            continue
        analysed += 1
        recorded += outcome.recorded_ns
        saved += outcome.gain_ns
    return Savings(
        runs=analysed,
        not_analysed=failed,
        recorded_s=recorded / 1e9,
        saved_s=saved / 1e9,
        calls_s=sum(hit.call.done_ns - hit.call.sent_ns for hit in hits) / 1e9,
        tokens=sum(hit.call.tokens for hit in hits),
    )


def _longest(run: RunActivities | None, span_id: str) -> Activity | None:
    """Where a call can be made longer: the longest of its activities."""
    some = () if run is None else (a for a in run.activities if a.span_id == span_id and a.end_ns > a.start_ns)
    return max(some, key=lambda a: a.duration_ns, default=None)
