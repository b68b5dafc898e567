"""The analysis of a recorded run, from a store."""

from __future__ import annotations

from redecode.replay.analysis.activities import RunActivities, activities_of
from redecode.replay.analysis.critical_path import analyze
from redecode.replay.analysis.model import RunAnalysis
from redecode.tracer import ReadableStore, RecordedRun


def analyze_run(store: ReadableStore, run_id: str, *, slo_s: float | None = None) -> RunAnalysis:
    """Analyse a stored run.

    Args:
        run_id: or enough of its beginning.
        slo_s: what the run may take; by default the SLO it was recorded with, if any.

    Raises:
        UnknownRun, AmbiguousRun: as `Store.find`.
        AnalysisError: as `analyze`.
    """
    return analyze_recorded(store.load(run_id), slo_s=slo_s)


def analyze_recorded(recorded: RecordedRun | RunActivities, *, slo_s: float | None = None) -> RunAnalysis:
    """As `analyze_run`, of a run that is at hand."""
    cut = recorded if isinstance(recorded, RunActivities) else activities_of(recorded)
    allowed = slo_s if slo_s is not None else cut.run.slo_s
    return analyze(
        cut.activities,
        cut.edges,
        deadline_ns=None if allowed is None else cut.start_ns + round(allowed * 1e9),
        start_ns=cut.start_ns,
        end=cut.end,
        status=cut.status,
        warnings=cut.warnings,
    )
