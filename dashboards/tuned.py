"""Studies of `redecode tune` as the Tuning page draws them: the reports in a store, and studies that have none yet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from redecode.tracer import RedecodeError

REPORTS, REPORT, TEXT = "tuned", "report.json", "report.md"
JOURNAL = Path("studies") / "studies.journal"
NIGHTS = "nightly/*/nights/*"
OBJECTIVES = ("error", "cost", "latency_s")
"""As `optimizer.objectives.NAMES`."""
State = Literal["decided", "not finished", "unreadable", "text only", "not searched"]


class CannotRead(RedecodeError):
    """What is kept of a study cannot be read; the message says which file, and what is wrong."""


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Measure(_Lenient):
    """As `optimizer.objectives.Measured`; what is not finite is `None`."""

    runs: int
    scored: int = 0
    failed: int = 0
    missed: int = 0
    error: float | None
    error_se: float | None = None
    cost: float | None
    cost_se: float | None = None
    latency_s: float | None
    median_s: float | None = None

    def value(self, objective: str) -> float | None:
        """One of `OBJECTIVES`."""
        found: float | None = getattr(self, objective)
        return found if found is not None and math.isfinite(found) else None


class Trial(_Lenient):
    """A candidate that was evaluated.

    Attributes:
        out: why it left the race early; `None`: it ran on all cases.
    """

    number: int
    candidate: dict[str, Any]
    measured: Measure
    feasible: bool
    out: str | None = None


class Effect(_Lenient):
    """A finalist's difference from the incumbent: of error in points, of cost and latency the log of a ratio."""

    estimate: float
    low: float | None
    high: float | None


class Finalist(_Lenient):
    """How a finalist compares with the incumbent, on held-out runs."""

    name: str
    verdict: str
    effects: dict[str, Effect]
    p_adjusted: float | None = None
    why: list[str] = Field(default_factory=list)


class Decision(_Lenient):
    """The verdict; margins are a difference of error, and factors of cost and latency."""

    verdict: str
    chosen: str | None = None
    more_runs: int | None = None
    pairs: int = 0
    why: str = ""
    margins: dict[str, float] = Field(default_factory=dict)
    finalists: list[Finalist] = Field(default_factory=list)


class Failure(_Lenient):
    """A candidate that could not be evaluated."""

    candidate: dict[str, Any]
    why: str


class Report(_Lenient):
    """What a study came to, or how far it is."""

    study: str
    agent: str
    knobs: dict[str, dict[str, Any]]
    goals: dict[str, Any]
    incumbent: dict[str, Any]
    trials: list[Trial]
    spec: str = ""
    fidelity: str = ""
    runs: dict[str, Any] = Field(default_factory=dict)
    chosen: dict[str, Any] | None = None
    verdict: str | None = None
    decision: Decision | None = None
    lanes: dict[str, Measure] = Field(default_factory=dict)
    finalists: dict[str, dict[str, Any]] = Field(default_factory=dict)
    failures: list[Failure] = Field(default_factory=list)
    front: list[int] = Field(default_factory=list)
    importances: dict[str, dict[str, float]] = Field(default_factory=dict)
    stopped: str | None = None
    cut: str | None = None
    fm_calls: dict[str, float | None] = Field(default_factory=dict)
    seconds: float | None = None
    notes: list[str] = Field(default_factory=list)
    last: str | None = None

    @property
    def cost_unit(self) -> str:
        """What a cost is counted in."""
        return str(self.goals.get("cost_unit") or "engine s")

    def standing(self, trial: Trial) -> str:
        """How a trial stands: "incumbent", "on the front", "dominated", "left the race" or "misses the SLO"."""
        if self.trials and trial.number == self.trials[0].number and trial.candidate == self.incumbent:
            return "incumbent"
        if not trial.feasible:
            return "misses the SLO"
        if trial.out is not None:
            return "left the race"
        return "on the front" if trial.number in self.front else "dominated"

    def trial_of(self, finalist: str) -> Trial | None:
        """The trial that became a finalist."""
        wanted = self.finalists.get(finalist)
        return next((t for t in self.trials if t.candidate == wanted), None) if wanted is not None else None


class Drift(_Lenient):
    """Whether what was asked of the agent has changed."""

    verdict: str = ""
    words: str = ""


class Night(_Lenient):
    """What `redecode nightly` says of a night around its study.

    Attributes:
        tuning: `None` of a night that searched nothing: `skipped` says why.
    """

    job: str
    night: str
    verdict: str
    verdict_words: str = ""
    why: str = ""
    promoted: bool = False
    drift: Drift = Field(default_factory=Drift)
    skipped: str | None = None
    tuning: Report | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """A study that is known of.

    Attributes:
        at_ns: when it was reported, or else begun.
        report: `None` if there is none that can be read: `why` says why.
        place: of its report, or of the journal.
        words: the report that is text alone.
    """

    name: str
    state: State
    at_ns: int
    place: Path
    report: Report | None = None
    why: str | None = None
    words: Path | None = None
    night: Night | None = None

    @property
    def verdict(self) -> str | None:
        """In a few words; `None` without one."""
        if self.night is not None:
            return self.night.verdict_words or self.night.verdict
        return None if self.report is None else self.report.verdict


def any_in(store: Path) -> bool:
    """Whether anything was ever tuned in a store."""
    if (store / JOURNAL).is_file():
        return True
    return any(store.glob(f"{REPORTS}/*/report.*")) or any(store.glob(f"{NIGHTS}/{REPORT}"))


def studies_in(store: Path) -> list[Study]:
    """All that a store knows of, newest first; one that cannot be read is among them, and says why."""
    found = [_reported(folder, folder.name) for folder in sorted(store.glob(f"{REPORTS}/*")) if folder.is_dir()]
    found += [_of_a_night(path) for path in sorted(store.glob(f"{NIGHTS}/{REPORT}"))]
    told = {study.name: study for study in found if study.state == "text only"}
    known = {study.name for study in found} - told.keys()
    known |= {study.report.study for study in found if study.report is not None}
    for study in _unfinished(store / JOURNAL, known):
        if (words := told.get(study.name)) is None:
            found.append(study)
        else:  # its trials are in the journal
            found.remove(words)
            found.append(replace(study, state="text only", why=words.why, words=words.place))
    return sorted(found, key=lambda s: s.at_ns, reverse=True)


def _reported(folder: Path, name: str) -> Study:
    path = folder / REPORT
    if not path.is_file():
        text = folder / TEXT
        if text.is_file():
            why = "it was decided by an earlier version, which told it in words alone"
            return Study(name, "text only", text.stat().st_mtime_ns, text, why=why, words=text)
        return Study(name, "unreadable", 0, folder, why="there is no report in its folder")
    at_ns = path.stat().st_mtime_ns
    try:
        return Study(name, "decided", at_ns, path, read_report(path, Report))
    except CannotRead as error:
        return Study(name, "unreadable", at_ns, path, why=str(error))


def _of_a_night(path: Path) -> Study:
    at_ns, name = path.stat().st_mtime_ns, f"{path.parents[2].name} night {path.parent.name}"
    try:
        night = read_report(path, Night)
    except CannotRead as error:
        return Study(name, "unreadable", at_ns, path, why=str(error))
    state: State = "decided" if night.tuning is not None else "not searched"
    return Study(name, state, at_ns, path, night.tuning, night=night)


_R = TypeVar("_R", Report, Night)


def stamp(path: Path) -> tuple[int, int]:
    """When a file was changed (ns) and its size, bytes: while they are the same it need not be read again.

    Raises:
        CannotRead: it is not there.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise CannotRead(f"{path} cannot be read: {error.strerror}") from error
    return stat.st_mtime_ns, stat.st_size


def read_report(path: Path, what: type[_R]) -> _R:
    """What `redecode tune` wrote of a study, or `redecode nightly` of a night.

    Raises:
        CannotRead: it is none.
    """
    return cast(_R, _parsed(path, what, *stamp(path)))


@lru_cache(maxsize=64)
def _parsed(path: Path, what: type[Report] | type[Night], _changed_ns: int, _size: int) -> Report | Night:
    try:
        return what.model_validate(orjson.loads(path.read_bytes()))
    except OSError as error:
        raise CannotRead(f"{path} cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise CannotRead(f"{path} is no JSON: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        by = "redecode tune" if what is Report else "redecode nightly"
        raise CannotRead(f"{path} is no report of {by}: {place}: {first['msg']}") from error


def _unfinished(journal: Path, known: set[str]) -> list[Study]:
    """Studies of Optuna's journal that have no report."""
    if not journal.is_file():
        return []
    stat = journal.stat()
    if find_spec("optuna") is None:
        why = "studies without a report are in Optuna's journal: pip install 'redecode[optimizer]' to see them"
        return [Study("studies in progress", "unreadable", stat.st_mtime_ns, journal, why=why)]
    from redecode.optimizer.errors import BadStudy
    from redecode.optimizer.study.progress import begun

    try:
        names = begun(journal)
    except BadStudy as error:
        return [Study("studies in progress", "unreadable", stat.st_mtime_ns, journal, why=str(error))]
    return [Study(name, "not finished", at_ns, journal) for name, at_ns in names.items() if name not in known]


def opened(study: Study) -> Study:
    """A study with its report: of one that is not finished, how far it is."""
    if study.place.name != JOURNAL.name or study.report is not None or study.state == "unreadable":
        return study
    stat = study.place.stat()
    try:
        report = _progress(study.place, study.name, stat.st_mtime_ns, stat.st_size)
    except CannotRead as error:
        return replace(study, state="unreadable", why=str(error))
    return replace(study, report=report)


@lru_cache(maxsize=16)
def _progress(journal: Path, name: str, _changed_ns: int, _size: int) -> Report:
    from redecode.optimizer.errors import BadStudy
    from redecode.optimizer.study.progress import progress

    try:
        return Report.model_validate(progress(journal, name))
    except BadStudy as error:
        raise CannotRead(str(error)) from error
    except ValidationError as error:
        raise CannotRead(
            f"study {name} in {journal} is not understood: {error.errors(include_url=False)[0]}"
        ) from error


def changes(incumbent: Mapping[str, Any], candidate: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Knob, value in use, value of a candidate; those that differ first. A knob that does not matter there is "–"."""
    rows = []
    for name in dict.fromkeys([*incumbent, *candidate]):
        was, becomes = (_said(side.get(name)) if name in side else "–" for side in (incumbent, candidate))
        rows.append((name, was, becomes))
    return sorted(rows, key=lambda row: row[1] == row[2])


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
