"""The only place that asks a store anything, in short reads; answers are kept until the store changes.

A dashboard never holds the database file: each read opens it, takes its turn, and lets it go. Whether the store has
changed is seen from the sizes and times of its files alone.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from redecode.dashboards.listing import Listing
from redecode.dashboards.planned import Kept, plans_in
from redecode.dashboards.sameness import Sameness, sameness
from redecode.dashboards.tuned import JOURNAL, NIGHTS, REPORT, REPORTS, Study, studies_in
from redecode.replay import RunAnalysis, RunComparison, compare_runs
from redecode.replay.analysis import RunActivities, activities_of, analyze_recorded
from redecode.replay.analysis.aggregate import Aggregate, aggregate_stored
from redecode.replay.analysis.errors import AnalysisError
from redecode.replay.analysis.profiles import Profiles, stored_profiles
from redecode.replay.closed_loop.batch import LABEL
from redecode.replay.prices import FILE, Cost, Price, cost_of, prices_of, read_prices
from redecode.replay.simulator.catalogue import Shelf, shelf
from redecode.tracer import Dataset, RecordedRun, RedecodeError, Run, Store, UnknownRun, open_store
from redecode.tracer.bulk import uncollected
from redecode.tracer.store import Answer, CallTimes, RunColumns

T = TypeVar("T")
Version = tuple[Any, ...]
_KEPT = 48
_BESIDE = (FILE, "plans/*.json", "profiles/*.json", f"{REPORTS}/*/{REPORT}", str(JOURNAL), f"{NIGHTS}/{REPORT}")
"""Of what is kept in a store beside its runs: what pages are drawn from."""
_ELSEWHERE_S = 60
_MOST_BASELINES = 20
SUMMED = 500
CALLS_OF = 1000
"""Runs that a page over many runs looks into, the newest."""
_PROFILED = 300  # runs, the newest


class Unreadable(RedecodeError):
    """What a page asked for cannot be had; the message says what to do."""


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """A run and its analysis.

    Attributes:
        analysis: `None` if there is none; `why` says why, in a sentence.
        gains: what was found out about it so far (`gains.gain_ns`); `kept`: what else was made of it.
    """

    recorded: RecordedRun
    cut: RunActivities | None
    analysis: RunAnalysis | None
    why: str | None
    gains: dict[frozenset[str], int] = field(default_factory=dict, compare=False)
    kept: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def run(self) -> Run:
        """The run itself."""
        return self.recorded.run


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """What the Health page shows of a store or a dataset.

    Attributes:
        facts: name → value, in the order to be shown.
        troubles: what is wrong and what to do, a sentence each.
    """

    facts: dict[str, str]
    troubles: list[str]


class Source:
    """A store (or a published dataset) to read from; one for all users of a dashboard."""

    def __init__(self, location: str, prices: str | None = None) -> None:
        self.location = location
        self._prices = prices
        self._kept: OrderedDict[Hashable, tuple[Version, Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._turns: dict[Hashable, threading.Lock] = {}

    def version(self) -> Version:
        """What differs when anything was recorded or read in since: names, sizes and times of the files."""
        root = Path(self.location)
        if not root.is_dir():  # a dataset elsewhere: to list it takes long
            return (int(time.monotonic() / _ELSEWHERE_S),)
        files = [root / "runs.duckdb", *sorted((root / "spool").glob("*"))]
        if not (root / "spool").is_dir():
            files = sorted((root / "runs").rglob("*.parquet"))  # of a published dataset
        files += [file for pattern in _BESIDE for file in sorted(root.glob(pattern))]
        found = []
        for file in files:
            try:
                stat = file.stat()
            except OSError:  # read in and deleted meanwhile
                continue
            found.append((file.name, stat.st_size, 0 if file.parent.name == "spool" else stat.st_mtime_ns))
        return tuple(found)

    def _get(self, key: Hashable, read: Callable[[Store | Dataset], T]) -> T:
        """The answer kept under a key, or a new one if the store has changed since."""
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                kept = self._kept.get(key)
                if kept is not None:
                    self._kept.move_to_end(key)
            if kept is not None and kept[0] == self.version():
                return cast(T, kept[1])
            opened = open_store(self.location)
            if isinstance(opened, Store):
                opened.drain()
            version = self.version()  # what is recorded after this is read too, but read again
            with uncollected():
                answer = read(opened)
            with self._lock:
                self._kept[key] = version, answer
                while len(self._kept) > _KEPT:
                    forgotten, _ = self._kept.popitem(last=False)
                    self._turns.pop(forgotten, None)
            return answer

    def runs(self) -> RunColumns:
        """Every run."""
        return self._get("runs", lambda opened: opened.run_columns())

    def listing(self, target_s: float | None = None) -> Listing:
        """Every run, ready to be filtered; `target_s` is the SLO of those recorded without one."""
        return self._get(("listing", target_s), lambda _: Listing(self.runs(), target_s))

    def labelled(self, name: str, value: str) -> frozenset[str]:
        """Ids of the runs with a label (of a dotted name: in one that is a table); a published dataset has none."""

        def read(opened: Store | Dataset) -> frozenset[str]:
            return frozenset(opened.labelled(name, value) if isinstance(opened, Store) else ())

        return self._get(("labelled", name, value), read)

    def load(self, run_id: str, slo_s: float | None = None, quantile: str | None = None) -> LoadedRun:
        """A run and where its time went.

        Args:
            slo_s: what it may take; by default the SLO that it was recorded with.
            quantile: "p50", "p95" or "p99" of other runs of the agent, for its budgets; by default its own times.

        Raises:
            UnknownRun, AmbiguousRun: no run, or several, start with it.
            Unreadable: what is stored of it makes no sense.
        """
        recorded = self.recorded(run_id)
        run = recorded.run
        others = None if quantile is None else self.profiles(run.agent, run.source_run_id or run.run_id)
        key = "analysis", run_id, slo_s, quantile

        def work(_: Store | Dataset) -> LoadedRun:
            with self._lock:
                before = self._kept.get(key, (None, None))[1]
            if before is not None and others is None and before.recorded == recorded:
                return cast(LoadedRun, before)  # the store has changed, and this run has not
            return _analysed(recorded, slo_s, others, quantile or "p95")

        return self._get(key, work)

    def is_loaded(self, run_id: str) -> bool:
        """Whether `load` has its answer at hand."""
        with self._lock:
            kept = self._kept.get(("analysis", run_id, None, None))
        return kept is not None and kept[0] == self.version()

    def recorded(self, run_id: str) -> RecordedRun:
        """A run as it was recorded; raises as `load`."""

        def read(opened: Store | Dataset) -> RecordedRun:
            try:
                return opened.load(run_id)
            except (ValueError, KeyError, TypeError) as error:  # rows that are no record: another program's, or damaged
                raise Unreadable(
                    f"run {run_id} cannot be read from {self.location}: {error}; `redecode doctor` checks the store, "
                    f"`redecode store forget {run_id}` takes the run out"
                ) from error

        return self._get(("run", run_id), read)

    def replays(self, run_id: str) -> list[Run]:
        """Runs that replay (or fork) this one, newest first."""

        def read(opened: Store | Dataset) -> list[Run]:
            columns = opened.run_columns()
            ids = [i for i, source in zip(columns.run_id, columns.source_run_id, strict=True) if source == run_id]
            return opened.runs(run_ids=ids[:200]) if ids else []

        return self._get(("replays", run_id), read)

    def plain_replays(self, run_id: str) -> tuple[str, ...]:
        """Finished replays of a run by force, nothing scaled and nothing lost: what its times vary by."""
        return tuple(r.run_id for r in self.replays(run_id) if _is_plain(r))

    def sameness(self, run_id: str) -> list[Sameness]:
        """Whether the newest replays of a run sampled the same tokens; of a replay, whether it did as its source."""
        recorded = self.recorded(run_id)
        source_id = recorded.run.source_run_id
        if source_id is not None:
            try:
                original = self.recorded(source_id)
            except UnknownRun:
                return []
            return sameness(original, [recorded])
        replays = [r for r in self.replays(run_id) if r.replay_mode in ("force", "resample") and r.status == "ok"]
        chosen = [r.run_id for r in replays[:_MOST_BASELINES]]
        return self._get(
            ("sameness", run_id), lambda opened: sameness(recorded, [opened.load(other) for other in chosen])
        )

    def profiles(self, agent: str, without: str) -> Profiles:
        """How long the steps of an agent's newest runs took, one run and all replays left out."""
        return self._get(
            ("profiles", agent, without),
            lambda opened: stored_profiles(opened, agent=agent, without=without, limit=_PROFILED),
        )

    def engine_profiles(self) -> Shelf:
        """The engine profiles of the store, and files that are none; a published dataset has neither."""
        return shelf(Path(self.location))

    def studies(self) -> list[Study]:
        """What was tuned, newest first; a published dataset has none."""
        root = Path(self.location)
        return studies_in(root) if root.is_dir() else []

    def plans(self) -> list[Kept]:
        """What was planned, newest first; a published dataset has none."""
        root = Path(self.location)
        return plans_in(root) if root.is_dir() else []

    def summed(self, run_ids: tuple[str, ...], slo_s: float | None) -> Aggregate:
        """Where the time of these runs together went."""
        return self._get(
            ("summed", run_ids, slo_s), lambda opened: aggregate_stored(opened, run_ids=list(run_ids), slo_s=slo_s)
        )

    def calls(self, run_ids: tuple[str, ...]) -> list[CallTimes]:
        """The times of the FM calls of these runs."""

        def read(opened: Store | Dataset) -> list[CallTimes]:
            return [call for run in opened.structures(run_ids=list(run_ids)) for call in run.decodes]

        return self._get(("calls", run_ids), read)

    def prices(self) -> dict[str, Price]:
        """By model: of the file that was named, else of the store.

        Raises:
            BadPrices: they cannot be read.
        """
        if self._prices is not None:
            return read_prices(Path(self._prices))
        root = Path(self.location)
        return prices_of(root) if root.is_dir() else {}

    def costs(self, run_ids: tuple[str, ...]) -> dict[str, Cost]:
        """What runs with FM calls cost; a published dataset does not say it of many runs."""

        def read(opened: Store | Dataset) -> list[CallTimes]:
            return opened.call_times(list(run_ids)) if isinstance(opened, Store) else []

        prices, by_run = self.prices(), dict[str, list[CallTimes]]()
        for call in self._get(("call times", run_ids), read):
            by_run.setdefault(call.run_id, []).append(call)
        return {run_id: cost_of(calls, prices) for run_id, calls in by_run.items()}

    def compare(self, recorded: str, candidate: str, baseline: tuple[str, ...] = ()) -> RunComparison:
        """A candidate against a recorded run, with the noise of its plain replays.

        Raises:
            Unreadable: they cannot be compared; says why.
        """
        a, b = self.recorded(recorded), self.recorded(candidate)
        others = [self.recorded(run_id) for run_id in baseline[:_MOST_BASELINES]]

        def work(_: Store | Dataset) -> RunComparison:
            try:
                return compare_runs(a, b, others)
            except AnalysisError as error:
                raise Unreadable(f"{recorded[:12]} and {candidate[:12]} cannot be compared: {error}") from error

        return self._get(("compare", recorded, candidate, baseline), work)

    def engine(self, engine_id: str | None) -> dict[str, Any] | None:
        """What an engine said of itself."""
        return self._get(("engine", engine_id), lambda opened: opened.engine(engine_id))

    def ask(self, sql: str) -> Answer:
        """Rows for a SQL statement.

        Raises:
            BadQuery: it cannot be answered.
            Unreadable: this is a dataset.
        """

        def read(opened: Store | Dataset) -> Answer:
            if isinstance(opened, Dataset):
                raise Unreadable(
                    "a published dataset is Parquet files: ask them with DuckDB, or import its runs into a store"
                )
            return opened.ask(sql)

        return self._get(("sql", sql), read)

    def health(self) -> StoreHealth:
        """Sizes, backlog, losses, damage."""
        told = self._get("health", self._health)
        unread = [*self.engine_profiles().left_out.values()]
        unread += [f"{k.why}; make it anew (`redecode place`), or delete the file" for k in self.plans() if k.why]
        unread += [f"{s.why}; the page Tuning says what to do" for s in self.studies() if s.state == "unreadable"]
        return replace(told, troubles=told.troubles + unread)

    def _health(self, opened: Store | Dataset) -> StoreHealth:
        if isinstance(opened, Dataset):
            told = opened.health()
            facts = {
                "Runs": f"{told.runs:,}",
                "Spans": f"{told.spans:,}",
                "FM calls": f"{told.decodes:,}",
                "Size": _bytes(told.bytes),
                "Events lost when recorded": f"{told.lost:,}",
                "Published by": f"{len(told.stores)} stores",
            }
            return StoreHealth(facts, [])
        health = opened.health()
        dropped = sum(n for _, n, _ in health.dropped)
        facts = {
            "Runs": f"{health.runs:,}",
            "Spans": f"{health.spans:,}",
            "FM calls": f"{health.decodes:,}",
            "Database": _bytes(health.database_bytes),
            "Spool backlog": _bytes(health.backlog_bytes),
            "Events lost when recorded": f"{dropped:,}",
            "Damaged journals": f"{len(health.corrupt):,}",
            "Schema": health.migrations[-1] if health.migrations else "none",
        }
        troubles = [f"{n:,} events were lost by {journal}: {why}" for journal, n, why in health.dropped]
        troubles += [f"{journal} is damaged and set aside ({why}); the rest is read" for journal, why in health.corrupt]
        return StoreHealth(facts, troubles)


def _analysed(recorded: RecordedRun, slo_s: float | None, others: Profiles | None, quantile: str) -> LoadedRun:
    try:
        cut = activities_of(recorded)
        return LoadedRun(recorded, cut, analyze_recorded(cut, slo_s=slo_s, profiles=others, quantile=quantile), None)
    except AnalysisError as error:
        return LoadedRun(recorded, None, None, str(error))


def _is_plain(replay: Run) -> bool:
    how = replay.labels.get(LABEL)
    scaled = isinstance(how, dict) and (how.get("tool_speed", 1.0) != 1.0 or how.get("steps"))
    return replay.replay_mode == "force" and replay.status != "open" and not replay.lost and not scaled


def _bytes(n: int) -> str:
    """A size for a screen."""
    size, unit = float(n), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


_SOURCES: dict[tuple[str, str | None], Source] = {}
_SOURCES_LOCK = threading.Lock()


def source(location: str, prices: str | None = None) -> Source:
    """The source at a place, the same for all who ask."""
    with _SOURCES_LOCK:
        return _SOURCES.setdefault((location, prices), Source(location, prices))
