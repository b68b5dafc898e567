"""Where the time of a run went: critical path, floats, drag, budgets, blame. A pure function of activities and edges.

Definitions are in docs/critical-path.md. Identities that hold of every run: the path's activities and gaps tile the run
exactly; 0 ≤ free float ≤ total float; deadline slack = total float + headroom; a run that misses its deadline has
somebody on its critical path with burn > 0.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from redecode.replay.analysis.budgets import Expected, expect
from redecode.replay.analysis.errors import BadDeadline, UnknownActivity
from redecode.replay.analysis.graph import Graph, build_graph
from redecode.replay.analysis.model import Activity, ActivityAnalysis, ActivityKind, RunAnalysis
from redecode.replay.analysis.passes import Floats, Time, avoidable, data_only_finishes, floats, path
from redecode.replay.analysis.segments import Stretch, split_of, stretches, tile
from redecode.tracer import Edge
from redecode.tracer.bulk import uncollected

_MOST_WARNINGS = 20
_PERSON: str = ActivityKind.PERSON


def analyze(
    activities: Iterable[Activity],
    edges: Iterable[Edge],
    *,
    deadline_ns: int | None = None,
    profiles: Mapping[str, int] | None = None,
    gap_profiles: Mapping[str, int] | None = None,
    count_person: bool = False,
    start_ns: int | None = None,
    end: str | None = None,
    status: str = "ok",
    warnings: Sequence[str] = (),
) -> RunAnalysis:
    """Analyse one run.

    Args:
        activities: what was at work, when; times in ns.
        edges: `dst` waited for the finish of `src`. Those of provenance `declared` held nothing up: they count only
            for what would be left without barriers.
        deadline_ns: a point in time on the activities' clock: start of the run + what it may take.
        profiles: activity id → expected duration, ns; without, budgets share out the recorded durations.
        gap_profiles: likewise of the gap before an activity.
        count_person: whether waiting for a person counts against the deadline.
        start_ns: when the run began; by default the earliest start.
        end: the activity whose finish ends the run; by default the last finish does. What it does not wait for, not
            even through others, has no total float: it never holds the run up.
        status: of the run.
        warnings: what was found odd before.

    Raises:
        AnalysisError: no activities, an id twice, an edge (or a profile) of an unknown activity, an end before a start,
            a cycle, a deadline before the start.
    """
    with uncollected():
        edges = edges if isinstance(edges, Sequence) else list(edges)
        found = find(
            activities,
            edges,
            deadline_ns=deadline_ns,
            profiles=profiles,
            gap_profiles=gap_profiles,
            count_person=count_person,
            start_ns=start_ns,
            end=end,
        )
        graph, expected = found.graph, found.expected
        return RunAnalysis(
            start_ns=graph.origin_ns,
            end_ns=found.floats.end_ns,
            makespan_ns=found.makespan_ns,
            status=status,
            activities=tuple(_rows(found)),
            critical_path=tile(graph, found.stretches, found.critical, edges),
            split=split_of(graph, found.stretches),
            deadline_ns=deadline_ns,
            headroom_ns=found.headroom_ns,
            person_ns=found.person_ns,
            data_only_ns=found.data_only_ns,
            barrier_cost_ns=found.makespan_ns - found.data_only_ns,
            edges_by_time=graph.by_time,
            budgets_from=None if expected is None else _basis(expected, given=profiles is not None),
            no_profile=() if expected is None or profiles is None else _unknown(graph, expected),
            warnings=(*warnings, *_contradictions(graph, found.gaps)),
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What the passes find of a run, by position in its graph, before it is put into words.

    Attributes:
        critical: positions on the critical path; `drags` likewise what the run gains without them (at most that).
        stretches: of the path, last to first.
    """

    graph: Graph
    floats: Floats
    gaps: list[int]
    critical: list[int]
    drags: list[Time]
    stretches: list[Stretch]
    person_ns: int
    deadline_ns: int | None
    headroom_ns: int | None
    expected: Expected | None
    data_only_ns: int

    @property
    def makespan_ns(self) -> int:
        """The run's duration."""
        return self.floats.end_ns - self.graph.origin_ns

    def budgets(self) -> tuple[list[int | None], list[int | None]] | None:
        """Of activities and of the gaps before them; `None` without a deadline."""
        if self.expected is None or self.deadline_ns is None:
            return None
        return self.expected.budgets(self.deadline_ns - self.graph.origin_ns)


def find(
    activities: Iterable[Activity],
    edges: Sequence[Edge],
    *,
    deadline_ns: int | None = None,
    profiles: Mapping[str, int] | None = None,
    gap_profiles: Mapping[str, int] | None = None,
    count_person: bool = False,
    start_ns: int | None = None,
    end: str | None = None,
) -> Found:
    """As `analyze`, but the bare numbers: what adding up thousands of runs needs."""
    graph = build_graph(activities, edges, start_ns=start_ns, end=end)
    for given in (profiles, gap_profiles):
        if given and (unknown := given.keys() - graph.at.keys()):
            raise UnknownActivity(f"a profile names activity {min(unknown)!r}, which is not there")
    if deadline_ns is not None and deadline_ns <= graph.origin_ns:
        raise BadDeadline(
            f"the deadline {deadline_ns} is not after the run's start {graph.origin_ns}: it is a point in time, "
            "the start plus what the run may take"
        )
    found = floats(graph)
    critical = path(graph)
    gaps = list(map(operator.sub, graph.start, found.release))
    along = stretches(graph, found.release, critical)
    person = 0
    for s in along:
        if not s.gap and graph.activities[s.n].kind == _PERSON:
            person += s.end_ns - s.start_ns
    headroom = expected = None
    if deadline_ns is not None:
        headroom = deadline_ns + (0 if count_person else person) - found.end_ns
        expected = expect(graph, found, gaps, profiles, gap_profiles, count_person=count_person)
    return Found(
        graph=graph,
        floats=found,
        gaps=gaps,
        critical=critical,
        drags=avoidable(graph, found, critical),
        stretches=along,
        person_ns=person,
        deadline_ns=deadline_ns,
        headroom_ns=headroom,
        expected=expected,
        data_only_ns=_data_only(graph, found, found.end_ns - graph.origin_ns),
    )


def _rows(run: Found) -> list[ActivityAnalysis]:
    """A row for each activity, made column by column."""
    graph, found, gaps, finish = run.graph, run.floats, run.gaps, run.graph.finish
    nothing: list[int | None] = [None] * len(finish)
    latest = _known(found.latest)
    total = [None if late is None else late - f for late, f in zip(latest, finish, strict=True)]
    drag, gap_drag = [0] * len(finish), [0] * len(finish)
    for n, gain in zip(run.critical, run.drags, strict=True):
        drag[n], gap_drag[n] = int(min(finish[n] - graph.start[n], gain)), int(min(max(gaps[n], 0), gain))
    profiled = budget = gap_budget = slack = nothing
    if run.expected is not None and (shares := run.budgets()) is not None and run.headroom_ns is not None:
        profiled, (budget, gap_budget) = run.expected.profiled, shares
        slack = [None if t is None else t + run.headroom_ns for t in total]
    columns = (
        graph.activities,
        gaps,
        latest,
        total,
        [None if f == math.inf else int(f) - at for f, at in zip(found.free, finish, strict=True)],
        drag,
        gap_drag,
        profiled,
        budget,
        gap_budget,
        slack,
    )
    return list(map(ActivityAnalysis._make, zip(*columns, strict=True)))


def _known(times: list[Time]) -> list[int | None]:
    """Times, infinity as `None`."""
    return [None if t == math.inf else t for t in times]  # type: ignore[misc]


def _data_only(graph: Graph, found: Floats, makespan: int) -> int:
    finishes = data_only_finishes(graph, found.release)
    if finishes is None:
        return makespan
    end = max(f for f, late in zip(finishes, found.latest, strict=True) if late != math.inf)
    return min(makespan, end - graph.origin_ns)


def _basis(expected: Expected, *, given: bool) -> str:
    if not given:
        return "recorded"
    missing = sum(p is None for p in expected.profiled)
    return "both" if 0 < missing < len(expected.profiled) else "recorded" if missing else "profiles"


def _unknown(graph: Graph, expected: Expected) -> tuple[str, ...]:
    """What has no profile, by step key and part; begins, ends and people need none."""
    names = {
        " ".join(filter(None, a.profile_key)): None
        for a, known in zip(graph.activities, expected.profiled, strict=True)
        if known is None and a.end_ns > a.start_ns and a.kind != ActivityKind.PERSON
    }
    return tuple(names)


def _contradictions(graph: Graph, gaps: list[int]) -> list[str]:
    """Where something began before what it waited for had finished: clocks that differ, mostly."""
    out, wrong = [], [n for n, gap in enumerate(gaps) if gap < 0]
    for n in wrong[:_MOST_WARNINGS]:
        a = graph.activities[n]
        if not graph.before[n]:
            out.append(f"{_named(a)} began {-gaps[n]} ns before the run did")
            continue
        src = graph.activities[max(graph.before[n], key=lambda i: (graph.finish[i], i))]
        where = f", on another host ({_host(src)} → {_host(a)})" if src.host != a.host else ""
        out.append(f"{_named(a)} began {-gaps[n]} ns before {_named(src)}, which it waited for, had finished{where}")
    if len(wrong) > _MOST_WARNINGS:
        out.append(f"and {len(wrong) - _MOST_WARNINGS} more that began before what they waited for had finished")
    return out


def _named(a: Activity) -> str:
    return " ".join(filter(None, (a.step_key or a.id, a.part)))


def _host(a: Activity) -> str:
    return a.host or "the run's own"
