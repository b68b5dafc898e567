"""What-if, measured: a run is replayed on an engine with steps scaled, shortened or answered from a cache, in
alternation with replays that have nothing changed, and the prediction is held against what came.

The prediction is made from the unchanged replays (same engine, same hour), by `what_if` of each, so that an engine that
is faster than the recorded one is no error of the prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from redecode.replay.analysis.activities import RunActivities, activities_of
from redecode.replay.analysis.changes import CacheHit, Change, FewerTokens, OffBarrier, Scale
from redecode.replay.analysis.what_if import what_if
from redecode.replay.closed_loop.alterations import Alterations
from redecode.replay.closed_loop.engine_replay import choose, make_batch, replay_batch
from redecode.replay.closed_loop.options import ReplayMode, ReplayOptions
from redecode.replay.closed_loop.scaling import Scaling, names_of
from redecode.replay.comparison.noise import Band, band
from redecode.replay.errors import ReplayError
from redecode.tracer import ReadableStore, RecordedRun, SpanKind, Store

TIER = "measured (replays)"


class NotMeasurable(ReplayError):
    """A change that no replay makes yet; says what can be done."""


@dataclass(frozen=True, slots=True)
class StepMeasured:
    """A changed step, in all its places together: one without FM calls below it that was scaled (what varies there is
    not the engine), or an FM call that was shortened.

    Attributes:
        baseline, measured: what it took as it was, and changed; `predicted_ns` is made of the former's median.
    """

    step: str
    baseline: Band
    predicted_ns: int
    measured: Band

    @property
    def within_noise(self) -> bool:
        """Whether the prediction cannot be told from one more measurement."""
        return self.measured.holds(self.predicted_ns)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        bands = {"baseline": self.baseline._asdict(), "measured": self.measured._asdict()}
        return {"step": self.step, **bands, "predicted_ns": self.predicted_ns, "within_noise": self.within_noise}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the replays took.

    Attributes:
        baseline_ns, changed_ns: durations, in the order in which they were replayed.
        predictions_ns: of each unchanged replay, what it would take with the changes.
        calls_known_ns: of each changed replay, the prediction had it known how long the FM calls of that replay take
            (all else is from the unchanged replay beside it): what is left of the error is not the engine's to vary.
        steps: the scaled steps themselves.
        baseline_runs, changed_runs: ids of the replays; `warm_up_run` counts nowhere.
        warnings: what is to be known before the times are believed.
    """

    changes: tuple[str, ...]
    engine: str
    warm_up_run: str
    baseline_runs: tuple[str, ...]
    changed_runs: tuple[str, ...]
    baseline_ns: tuple[int, ...]
    changed_ns: tuple[int, ...]
    predictions_ns: tuple[int, ...]
    calls_known_ns: tuple[int, ...]
    steps: tuple[StepMeasured, ...]
    warnings: tuple[str, ...]

    @property
    def predicted_ns(self) -> int:
        """The prediction: the median over the unchanged replays."""
        return round(median(self.predictions_ns))

    @property
    def baseline(self) -> Band:
        """How much the unchanged replays vary."""
        return _band(self.baseline_ns)

    @property
    def measured(self) -> Band:
        """How much the changed ones vary: where one more would fall 19 times of 20."""
        return _band(self.changed_ns)

    @property
    def error_ns(self) -> int:
        """Predicted − median measured."""
        return self.predicted_ns - self.measured.median_ns

    @property
    def calls_known_errors_ns(self) -> tuple[int, ...]:
        """Predicted − measured of each changed replay, its FM calls known."""
        return tuple(p - m for p, m in zip(self.calls_known_ns, self.changed_ns, strict=True))

    @property
    def within_noise(self) -> bool:
        """Whether the prediction cannot be told from one more measurement."""
        return self.measured.holds(self.predicted_ns)

    @property
    def telling(self) -> bool:
        """Whether the predicted gain is larger than the noise; if not, being within it says little."""
        b = self.baseline
        return b.median_ns - self.predicted_ns > (self.measured.high_ns - self.measured.low_ns) / 2

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "tier": TIER,
            "changes": list(self.changes),
            "engine": self.engine,
            "repeat": len(self.changed_ns),
            "baseline": {**self.baseline._asdict(), "runs": list(self.baseline_runs), "ns": list(self.baseline_ns)},
            "measured": {**self.measured._asdict(), "runs": list(self.changed_runs), "ns": list(self.changed_ns)},
            "warm_up_run": self.warm_up_run,
            "predicted_ns": self.predicted_ns,
            "predictions_ns": list(self.predictions_ns),
            "predicted_gain_ns": self.baseline.median_ns - self.predicted_ns,
            "measured_gain_ns": self.baseline.median_ns - self.measured.median_ns,
            "error_ns": self.error_ns,
            "calls_known_ns": list(self.calls_known_ns),
            "calls_known_errors_ns": list(self.calls_known_errors_ns),
            "within_noise": self.within_noise,
            "telling": self.telling,
            "steps": [step.to_json() for step in self.steps],
            "warnings": list(self.warnings),
        }


def options_of(changes: Sequence[Change], recorded: RecordedRun, mode: ReplayMode = ReplayMode.FORCE) -> ReplayOptions:
    """The options with which a replay in this mode makes these changes.

    Raises:
        NotMeasurable: none does.
        ReplayError: a step that is not there, or that cannot be changed so.
    """
    for change in changes:
        if not isinstance(change, Scale | FewerTokens | CacheHit):
            why = (
                "keeps the recorded order of steps"
                if isinstance(change, OffBarrier)
                else "goes through every step that was recorded"
            )
            option = "--simulate" if mode is ReplayMode.SIMULATE else "--measure"
            done = "simulated" if mode is ReplayMode.SIMULATE else "measured"
            raise NotMeasurable(f"'{change}' cannot be {done} yet: a replay {why}; without {option} it is predicted")
    scaling = Scaling(steps={c.step: c.factor for c in changes if isinstance(c, Scale)})
    scaling.check([recorded])
    altered = Alterations(
        shorter={c.step: c.tokens for c in changes if isinstance(c, FewerTokens)},
        cached=frozenset(c.step for c in changes if isinstance(c, CacheHit)),
    )
    altered.applied(choose([recorded], mode).plans[recorded.run.run_id])
    return ReplayOptions(scaling=scaling, altered=altered)


async def measure(
    store: Path,
    recorded: RecordedRun,
    changes: Sequence[Change],
    engine_url: str,
    *,
    repeat: int = 5,
    api_key: str | None = None,
    source: ReadableStore | None = None,
    on_replay: Callable[[int, int], None] | None = None,
) -> Measured:
    """Replay a run by force, once to warm up, then `repeat` times as it was and `repeat` times changed.

    The two go in alternation (as it was, changed, changed, as it was, …), so that an engine that drifts favours none;
    its prefix cache is emptied before each. The replays stay in the store.

    Args:
        store: where the replays are recorded.
        repeat: at least 2.
        source: where the run was read from, if not from `store`.
        on_replay: called with (replays done, replays in all).

    Raises:
        NotMeasurable, UnknownStep, TooLittleRecorded: before anything is replayed.
        ReplayError: it was stopped; what was replayed is kept.
    """
    if repeat < 2:
        raise NotMeasurable(f"--repeat {repeat} tells nothing of noise; say at least 2")
    changed_options = options_of(changes, recorded)
    plans = choose([recorded], ReplayMode.FORCE).plans
    present = Store(store)
    warm_up = ""
    done: dict[bool, list[RunActivities]] = {False: [], True: []}
    warnings: dict[str, None] = {}
    order = [False, *(changed for n in range(repeat) for changed in ((False, True) if n % 2 == 0 else (True, False)))]
    for place, changed in enumerate(order):
        if on_replay is not None:
            on_replay(place, len(order))
        options = changed_options if changed else ReplayOptions()
        batch = make_batch([recorded], ReplayMode.FORCE, engine_url, options)
        report = await replay_batch(store, batch, plans, engine_url, api_key=api_key, source=source)
        if report.stopped is not None or not report.replays:
            raise ReplayError(f"{report.stopped or 'nothing came'}; {place} of {len(order)} replays are done and kept")
        if not report.tokens_equal:
            d = report.replays[0].divergences[0]
            why = d.error or "it came out with other tokens"
            raise ReplayError(
                f"{d.step_key}: {why}; {place} of {len(order)} replays are done and kept, none is measured"
            )
        warnings |= dict.fromkeys(report.warnings)
        replay = present.load(report.replays[0].replay_run_id)
        if place == 0:
            warm_up = replay.run.run_id
        else:
            done[changed].append(activities_of(replay))
    kept = [c for c in changes if not isinstance(c, FewerTokens)]  # how long these calls take is then known, too
    return Measured(
        changes=tuple(map(str, changes)),
        engine=batch.engine,
        warm_up_run=warm_up,
        baseline_runs=tuple(cut.run.run_id for cut in done[False]),
        changed_runs=tuple(cut.run.run_id for cut in done[True]),
        baseline_ns=tuple(what_if(cut, ()).recorded_ns for cut in done[False]),
        changed_ns=tuple(what_if(cut, ()).recorded_ns for cut in done[True]),
        predictions_ns=tuple(what_if(cut, changes).predicted_ns for cut in done[False]),
        calls_known_ns=tuple(
            what_if(was, [*kept, *_calls_as_in(was, now)]).predicted_ns
            for was, now in zip(done[False], done[True], strict=True)
        ),
        steps=tuple(_steps(done[False], done[True], changes)),
        warnings=tuple(warnings),
    )


def _calls_as_in(was: RunActivities, now: RunActivities) -> Iterator[Scale]:
    """What makes the FM calls of one replay as long as those of another."""
    times = {s.step_key: (s.end_ns or s.start_ns) - s.start_ns for s in now.spans.values() if s.kind is SpanKind.DECODE}
    for span_id, span in was.spans.items():
        took = (span.end_ns or span.start_ns) - span.start_ns
        if span.kind is SpanKind.DECODE and took > 0 and span.step_key in times:
            yield Scale(span_id, times[span.step_key] / took)


def _steps(
    baseline: list[RunActivities], changed: list[RunActivities], changes: Sequence[Change]
) -> Iterator[StepMeasured]:
    for change in changes:
        if isinstance(change, CacheHit):
            continue  # it is not made
        before, after = ([_spent(cut, change.step) for cut in cuts] for cuts in (baseline, changed))
        told = [ns for ns in before if ns is not None], [ns for ns in after if ns is not None]
        if len(told[0]) == len(baseline) and len(told[1]) == len(changed):
            as_it_was = _band(told[0])
            predicted = (
                as_it_was.median_ns * change.factor
                if isinstance(change, Scale)
                else median(ns - _saved(cut, change) for ns, cut in zip(told[0], baseline, strict=True))
            )
            yield StepMeasured(change.step, as_it_was, round(predicted), _band(told[1]))


def _saved(cut: RunActivities, change: Change) -> float:
    """What fewer tokens save, in all places of their step."""
    tokens = change.tokens if isinstance(change, FewerTokens) else 0
    meant = (i for i, span in cut.spans.items() if span.kind is SpanKind.DECODE and change.step in names_of(span))
    return sum(tokens * cut.tpot_ns.get(i, 0.0) for i in meant)


def _spent(cut: RunActivities, step: str) -> int | None:
    """What a step took, in all its places; `None` if an FM call is below it."""
    total, waiting = 0, [i for i, span in cut.spans.items() if span.parent_span_id is None]
    children: dict[str, list[str]] = {}
    for span_id, parent in cut.parents.items():
        children.setdefault(parent, []).append(span_id)
    inside: set[str] = set()
    while waiting:
        at = waiting.pop()
        span = cut.spans[at]
        if at in inside and span.kind is SpanKind.DECODE:
            return None
        if at not in inside and step in names_of(span):
            total += (span.end_ns or span.start_ns) - span.start_ns
            inside.add(at)
        below = children.get(at, [])
        if at in inside:
            inside.update(below)
        waiting += below
    return total


def _band(values_ns: Sequence[int]) -> Band:
    found = band(values_ns)
    assert found is not None, "measured at least twice"
    return found
