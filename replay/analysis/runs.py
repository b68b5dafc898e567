"""The analysis of a recorded run, from a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from redecode.replay.analysis.activities import RunActivities, activities_of
from redecode.replay.analysis.critical_path import Found, analyze, find
from redecode.replay.analysis.model import RunAnalysis
from redecode.replay.analysis.profiles import Profiles

if TYPE_CHECKING:
    from redecode.tracer import ReadableStore, RecordedRun
    from redecode.tracer.store import RunStructure


def analyze_run(
    store: ReadableStore,
    run_id: str,
    *,
    slo_s: float | None = None,
    profiles: Profiles | None = None,
    quantile: str = "p95",
    count_person: bool = False,
) -> RunAnalysis:
    """Analyse a stored run.

    Args:
        run_id: or enough of its beginning.
        slo_s: what the run may take; by default the SLO it was recorded with, if any.
        profiles: what other runs took (`stored_profiles`), for the budgets; by default they share out this run's times.
        quantile: of the profiles: "p50", "p95" or "p99".
        count_person: whether waiting for a person counts against the SLO.

    Raises:
        UnknownRun, AmbiguousRun: as `Store.find`.
        AnalysisError: as `analyze`.
    """
    return analyze_recorded(
        store.load(run_id), slo_s=slo_s, profiles=profiles, quantile=quantile, count_person=count_person
    )


def analyze_recorded(
    recorded: RecordedRun | RunStructure | RunActivities,
    *,
    slo_s: float | None = None,
    profiles: Profiles | None = None,
    quantile: str = "p95",
    count_person: bool = False,
) -> RunAnalysis:
    """As `analyze_run`, of a run that is at hand."""
    cut = recorded if isinstance(recorded, RunActivities) else activities_of(recorded)
    asked = _asked(cut, slo_s, profiles, quantile)
    return analyze(
        cut.activities, cut.edges, **asked, count_person=count_person, status=cut.status, warnings=cut.warnings
    )


def find_in_recorded(
    recorded: RunStructure | RecordedRun, *, slo_s: float | None, profiles: Profiles | None, quantile: str
) -> tuple[RunActivities, Found]:
    """As `analyze_recorded`, but the bare numbers."""
    cut = activities_of(recorded)
    return cut, find(cut.activities, cut.edges, **_asked(cut, slo_s, profiles, quantile))


class _Asked(TypedDict):
    deadline_ns: int | None
    profiles: dict[str, int] | None
    gap_profiles: dict[str, int] | None
    start_ns: int
    end: str


def _asked(cut: RunActivities, slo_s: float | None, profiles: Profiles | None, quantile: str) -> _Asked:
    expected, gaps = (None, None) if profiles is None else profiles.expected(cut, quantile)
    allowed = slo_s if slo_s is not None else cut.run.slo_s
    return _Asked(
        deadline_ns=None if allowed is None else cut.start_ns + round(allowed * 1e9),
        profiles=expected,
        gap_profiles=gaps,
        start_ns=cut.start_ns,
        end=cut.end,
    )
