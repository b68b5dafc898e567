"""Activities, and what an analysis says of them. All times are int ns; points in time are UTC.

What there is one of for every activity is a named tuple: a frozen dataclass takes four times as long to make.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, NamedTuple

from redecode.tracer import EdgeKind, Provenance


class ActivityKind(StrEnum):
    """What an activity does."""

    __hash__ = str.__hash__  # Enum's own is Python code

    QUEUE = "queue"  # an FM call waits in the engine
    PREFILL = "prefill"  # scheduled → first token
    DECODE = "decode"  # first → last token
    FM = "fm"  # an FM call, or the part of it before its first token, that the engine has not split
    TRANSPORT = "transport"  # the rest of a split FM call: client, network, the engine's front end
    TOOL = "tool"
    RETRIEVAL = "retrieval"
    CACHE = "cache"
    PARSE = "parse"
    CODE = "code"  # the agent's own code: a node between its calls
    FRAMEWORK = "framework"  # dispatch: begins and ends of graphs, and every gap
    PERSON = "person"  # a run waits for a person


class Activity(NamedTuple):
    """A stretch of work of one strand, from its start to its finish.

    Attributes:
        kind: an `ActivityKind`; any other word is taken as the agent's own code.
        span_id, step_key: the recorded span it is a part of; `part` says which part, "" if it is all of it.
        status: of the span: "ok", "error" or "open".
        host: where its clock is; `None`: the run's own.
        tokens: of a decode's part: tokens that came in it after the call's first.
        label: the FM's or the tool's name.
    """

    id: str
    start_ns: int
    end_ns: int
    kind: str
    span_id: str = ""
    step_key: str = ""
    part: str = ""
    status: str = "ok"
    host: str | None = None
    tokens: int | None = None
    label: str = ""

    @property
    def duration_ns(self) -> int:
        """Finish minus start."""
        return self.end_ns - self.start_ns

    @property
    def profile_key(self) -> tuple[str, str]:
        """Whose durations on other runs tell about this one."""
        return self.step_key or self.id, self.part


class ActivityAnalysis(NamedTuple):
    """One activity in the run's graph (CPM: Kelley and Walker 1959; drag: Devaux 1999).

    Attributes:
        gap_ns: start − the last finish waited for (of those that waited for nothing: − the run's start). Negative only
            where the record contradicts itself (`RunAnalysis.warnings`).
        latest_finish_ns: the latest that leaves the run's end where it is.
        total_float_ns: latest − earliest finish; `None`: its finish never holds the run's end up.
        free_float_ns: how much later it may finish and move nothing at all; `None`: nothing waits for it.
        drag_ns: what the run gains if it took no time. A critical activity beside another equally long branch has 0.
        gap_drag_ns: what the run gains without the gap before it.
        profile_ns: its duration as other runs have it; `None`: no profile, and its recorded duration is used instead.
        latency_budget_ns: its share of the deadline, `T·p/L`, rounded down; `gap_budget_ns` of the gap before it.
            `None` without a deadline, of what leads nowhere, and of waits for a person, which do not count.
        deadline_slack_ns: how much later it may finish and the deadline is still met.
    """

    activity: Activity
    gap_ns: int
    latest_finish_ns: int | None
    total_float_ns: int | None
    free_float_ns: int | None
    drag_ns: int
    gap_drag_ns: int
    profile_ns: int | None = None
    latency_budget_ns: int | None = None
    gap_budget_ns: int | None = None
    deadline_slack_ns: int | None = None

    @property
    def id(self) -> str:
        """The activity's."""
        return self.activity.id

    @property
    def duration_ns(self) -> int:
        """The activity's."""
        return self.activity.end_ns - self.activity.start_ns

    @property
    def earliest_start_ns(self) -> int:
        """As observed."""
        return self.activity.start_ns

    @property
    def earliest_finish_ns(self) -> int:
        """As observed."""
        return self.activity.end_ns

    @property
    def latest_start_ns(self) -> int | None:
        """The latest that leaves the run's end where it is."""
        return None if self.latest_finish_ns is None else self.latest_finish_ns - self.duration_ns

    @property
    def critical(self) -> bool:
        """Whether any delay of it delays the run: total float 0."""
        return self.total_float_ns == 0

    @property
    def burn_ns(self) -> int | None:
        """Duration − budget."""
        return None if self.latency_budget_ns is None else self.duration_ns - self.latency_budget_ns

    @property
    def gap_burn_ns(self) -> int | None:
        """The gap's duration − its budget."""
        return None if self.gap_budget_ns is None else self.gap_ns - self.gap_budget_ns

    def to_json(self) -> dict[str, Any]:
        """Plain data: the activity's own fields first."""
        return {**self.activity._asdict(), **{name: getattr(self, name) for name in _TOLD}}


_TOLD = (
    "duration_ns", "gap_ns", "earliest_start_ns", "latest_start_ns", "earliest_finish_ns", "latest_finish_ns",
    "total_float_ns", "free_float_ns", "critical", "drag_ns", "gap_drag_ns", "profile_ns", "latency_budget_ns",
    "gap_budget_ns", "burn_ns", "gap_burn_ns", "deadline_slack_ns",
)  # fmt: skip


class PathSegment(NamedTuple):
    """A stretch `[start_ns, end_ns)` of the critical path; segments tile the run without hole or overlap.

    Attributes:
        activity: what was at work or, for a gap, what the run waited to begin.
        gap: whether nothing was at work.
        kind: the activity's; `framework` of a gap.
        after, edge, provenance: what had been waited for before it, how, and how that is known; `None` at the start.
        barrier_wait_ns: how much of it passed only because of a barrier: what follows had all its data by then.
    """

    activity: Activity
    gap: bool
    start_ns: int
    end_ns: int
    kind: str
    after: str | None
    edge: EdgeKind | None
    provenance: Provenance | None
    barrier_wait_ns: int = 0

    @property
    def duration_ns(self) -> int:
        """Length."""
        return self.end_ns - self.start_ns

    def to_json(self) -> dict[str, Any]:
        """Plain data, the activity by its id."""
        a = self.activity
        return {**self._asdict(), "activity": a.id, "span_id": a.span_id, "step_key": a.step_key, "part": a.part}


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """The run's duration by what its critical path was doing; the fields add up to it exactly.

    Attributes:
        fm_ns: FM calls whose engine gave no split, and what of split ones is neither queue, prefill nor decode.
        tool_ns: tools and retrievals.
        code_ns: the agent's own code.
        framework_ns: gaps: dispatch, checkpoints, back-off before a retry.
        barrier_wait_ns: time in which the next step had all its data and a barrier alone held it up, whatever the path
            was doing then (that is not counted again above).
    """

    queue_ns: int = 0
    prefill_ns: int = 0
    decode_ns: int = 0
    fm_ns: int = 0
    tool_ns: int = 0
    code_ns: int = 0
    framework_ns: int = 0
    barrier_wait_ns: int = 0
    person_ns: int = 0

    @property
    def total_ns(self) -> int:
        """The sum: the run's duration."""
        return sum(self.to_json().values())

    def to_json(self) -> dict[str, int]:
        """Plain data."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


class Blame(NamedTuple):
    """One line of the blame table: an activity on the critical path, or the gap before one.

    Attributes:
        duration_ns: of its stretch of the path; the table's add up to the run's duration.
        budget_ns, burn_ns: burns add up to as `RunAnalysis.blame` says.
        drag_ns: what the run gains without it.
        has_profile: whether the budget comes from other runs.
    """

    activity: Activity
    gap: bool
    duration_ns: int
    budget_ns: int | None
    burn_ns: int | None
    drag_ns: int
    has_profile: bool

    def to_json(self) -> dict[str, Any]:
        """Plain data, the activity by its id."""
        a = self.activity
        of = {"activity": a.id, "span_id": a.span_id, "step_key": a.step_key, "part": a.part, "kind": a.kind}
        return {**self._asdict(), **of}


@dataclass(frozen=True, slots=True)
class RunAnalysis:
    """Where the time of one run went.

    Attributes:
        status: of the run; an open one is analysed up to the last known time.
        activities: by start, then end, then id.
        critical_path: from the run's start to its end.
        deadline_ns: as given, a point in time; waiting for a person (`person_ns`) comes on top of it unless that
            was to be counted.
        headroom_ns: deadline − end; negative: missed.
        barrier_cost_ns: makespan − `data_only_ns`, the makespan if a step waited for its data alone.
        edges_by_time: edges that were guessed from times: with any of them, the path is a guess.
        budgets_from: "profiles", "recorded" (without profiles budgets share out this run's own durations), "both";
            `None` without a deadline.
        no_profile: step keys (with part) that have none though profiles were given.
        warnings: what the record says that cannot be, in words.
    """

    start_ns: int
    end_ns: int
    makespan_ns: int
    status: str
    activities: tuple[ActivityAnalysis, ...]
    critical_path: tuple[PathSegment, ...]
    split: TimeSplit
    deadline_ns: int | None
    headroom_ns: int | None
    person_ns: int
    data_only_ns: int
    barrier_cost_ns: int
    edges_by_time: int
    budgets_from: str | None
    no_profile: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def blame(self) -> tuple[Blame, ...]:
        """The critical path as a table, worst first: by burn or, without a deadline, by duration.

        Durations add up to the run's; burns to (end − deadline) + what of the deadline's time no budget here holds.
        """
        rows = {row.activity.id: row for row in self.activities if row.critical}
        table = [_blame(rows[s.activity.id], s) for s in self.critical_path]
        table.sort(key=lambda b: (-(b.duration_ns if b.burn_ns is None else b.burn_ns), b.activity.start_ns, b.gap))
        return tuple(table)

    @property
    def critical_spans(self) -> list[str]:
        """Ids of the spans at work on the path, in order, each once."""
        return list(dict.fromkeys(s.activity.span_id or s.activity.id for s in self.critical_path if not s.gap))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("activities", "critical_path", "blame"):
            out[name] = [row.to_json() for row in getattr(self, name)]
        return {**out, "split": self.split.to_json(), "critical_spans": self.critical_spans}


def _blame(row: ActivityAnalysis, segment: PathSegment) -> Blame:
    budget, burn = (row.gap_budget_ns, row.gap_burn_ns) if segment.gap else (row.latency_budget_ns, row.burn_ns)
    if burn is not None:  # where clocks contradict each other the path holds a part of the activity only
        burn += segment.duration_ns - (row.gap_ns if segment.gap else row.duration_ns)
    drag = row.gap_drag_ns if segment.gap else row.drag_ns
    return Blame(row.activity, segment.gap, segment.duration_ns, budget, burn, drag, row.profile_ns is not None)
