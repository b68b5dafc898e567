"""The closed loop: every point of every run happens when what it waits for has happened, plus its recorded gap.

One heap of what is due and one timer for all runs; a task exists only while an FM call is under way. What is due is
computed from when the points before it were due, not from when they were got to, so being late does not add up; how
late each point was is kept. Rejected: a task per point (thousands of runs are a million tasks), sleeping per task
(each wakes to find out what to wait for next).
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from redecode.replay.pacing import Alarm
from redecode.replay.run_graph import START, Point, RunGraph
from redecode.tracer import Decode

_LEAD_NS = 5_000_000
"""Between laying everything out and the first beginning."""
_LONGEST_TURN_NS = 2_000_000
"""After so much work at a stretch the event loop looks at its sockets again."""


class Kind(StrEnum):
    """What happens at a place of a program."""

    START = "start"  # of a span
    SEND = "send"  # of an FM call: it is made for real, and its end waits for the answer
    END = "end"  # of a span


@dataclass(frozen=True, slots=True)
class Program:
    """One recorded run as places, in an order in which each comes after all it waits for.

    Attributes:
        spans, kinds: what happens at each place, and to which span.
        after: the places that wait for each.
        waits: how many each waits for.
        gaps_ns: what passes after the last of them.
    """

    spans: tuple[str, ...]
    kinds: tuple[Kind, ...]
    after: tuple[tuple[int, ...], ...]
    waits: tuple[int, ...]
    gaps_ns: tuple[int, ...]


def compile_run(graph: RunGraph, calls: Mapping[str, Decode], factors: Mapping[str, float]) -> Program:
    """The program of a run.

    Args:
        calls: the FM calls to make, by span id; all other spans are waited through.
        factors: span id → what its own waits are multiplied by (`Scaling.factors`).
    """
    places: dict[tuple[str, Kind], int] = {}
    spans: list[str] = []
    kinds: list[Kind] = []
    before: list[set[int]] = []
    gaps: list[int] = []

    def place(span_id: str, kind: Kind, waits: set[int], gap_ns: float) -> None:
        places[span_id, kind] = len(spans)
        spans.append(span_id)
        kinds.append(kind)
        before.append(waits)
        gaps.append(max(0, round(gap_ns)))

    for point in graph.order:
        span_id, end = point[0], Kind(point[1])
        waited = {places[p[0], Kind(p[1])] for p in graph.before[point]}
        parent = (str(graph.spans[span_id].parent_span_id), Kind.START)
        if end is Kind.START and parent in places:
            waited.add(places[parent])  # its mirror needs one to be below
        decode = calls.get(span_id)
        if decode is not None and end is Kind.END:
            # What the agent's own client spent before and after the call is waited through, as all its code is.
            span = graph.spans[span_id]
            ended_ns = graph.time_ns[point]
            begun = places[span_id, Kind.START]
            place(span_id, Kind.SEND, {begun}, decode.sent_ns - span.start_ns)
            others = waited - {begun}  # what another tracer put below the call
            place(span_id, Kind.END, others | {places[span_id, Kind.SEND]}, ended_ns - (decode.done_ns or ended_ns))
        else:
            gap_ns = graph.gap_ns(point) if waited else graph.time_ns[point] - graph.time_ns[graph.root, START]
            place(span_id, end, waited, gap_ns * factors.get(_owner(graph, point), 1.0))
    after: list[list[int]] = [[] for _ in spans]
    for at, waited in enumerate(before):
        for earlier in waited:
            after[earlier].append(at)
    return Program(
        spans=tuple(spans),
        kinds=tuple(kinds),
        after=tuple(map(tuple, after)),
        waits=tuple(map(len, before)),
        gaps_ns=tuple(gaps),
    )


def _owner(graph: RunGraph, point: Point) -> str:
    """In which span the wait before a point passes: it starts in its parent, it ends in itself."""
    return str(graph.spans[point[0]].parent_span_id) if point[1] == START else point[0]


class Part(Protocol):
    """What a session does at its places."""

    def happened(self, span_id: str, kind: Kind, monotonic_ns: int) -> None:
        """A span starts or ends now."""

    def call(self, span_id: str) -> Coroutine[Any, Any, tuple[int, int]]:
        """Make an FM call; returns when it was sent and when it was done, monotonic ns."""

    def finished(self) -> None:
        """The last place of the run has happened."""


@dataclass(slots=True, eq=False)
class Session:
    """One run on its way.

    Attributes:
        after_ns: when it begins, after the loop.
        late_ns, waits_ns: of every place so far, in the order they happened.
    """

    program: Program
    part: Part
    after_ns: int
    late_ns: list[int] = field(default_factory=list)
    waits_ns: list[int] = field(default_factory=list)
    _waits: list[int] = field(default_factory=list)
    _ready_ns: list[int] = field(default_factory=list)
    _done: int = 0

    def __post_init__(self) -> None:
        self._waits = list(self.program.waits)
        self._ready_ns = [0] * len(self._waits)


class ClosedLoop:
    """Runs sessions. Times are monotonic ns.

    Args:
        now_ns: the clock; it must be the one of `pacing.Alarm`.
    """

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._now_ns = now_ns
        self._due: list[tuple[int, int, Session, int]] = []
        self._count = 0
        self._open = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, sessions: list[Session]) -> None:
        """Until all have finished, or a call raised: that is raised here, and the others are given up."""
        loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[None] = loop.create_future()
        self._loop, self._alarm = loop, Alarm(self._pump)
        self._open = len(sessions)
        try:
            begin_ns = self._now_ns() + _LEAD_NS
            for session in sessions:
                for place, waits in enumerate(session.program.waits):
                    if not waits:
                        self._push(session, place, begin_ns + session.after_ns)
            if not sessions:
                return
            self._pump()
            await self._finished
        finally:
            self._open = 0
            self._due.clear()
            self._alarm.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _push(self, session: Session, place: int, ready_ns: int) -> None:
        self._count += 1
        due_ns = ready_ns + session.program.gaps_ns[place]
        heapq.heappush(self._due, (due_ns, self._count, session, place))

    def _pump(self) -> None:
        """Do what is due, then wait for what is due next."""
        try:
            begun = now = self._now_ns()
            while self._due and self._due[0][0] <= now:
                due_ns, _, session, place = heapq.heappop(self._due)
                self._do(session, place, due_ns, now)
                now = self._now_ns()
                if now - begun > _LONGEST_TURN_NS:
                    break
            if self._due:
                self._alarm.set(self._due[0][0])
        except Exception as error:  # whatever is wrong ends the replay, in `run`
            self._fail(error)

    def _do(self, session: Session, place: int, due_ns: int, now: int) -> None:
        program = session.program
        kind, span_id = program.kinds[place], program.spans[place]
        session.waits_ns.append(program.gaps_ns[place])
        if kind is Kind.SEND:
            task = self._loop.create_task(self._call(session, place, due_ns))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        session.late_ns.append(now - due_ns)
        session.part.happened(span_id, kind, now)
        self._did(session, place, due_ns)

    def _did(self, session: Session, place: int, ready_ns: int) -> None:
        waits, ready = session._waits, session._ready_ns
        for later in session.program.after[place]:
            waits[later] -= 1
            ready[later] = max(ready[later], ready_ns)
            if not waits[later]:
                self._push(session, later, ready[later])
        session._done += 1
        if session._done == len(waits):
            session.part.finished()
            self._open -= 1
            if not self._open and not self._finished.done():
                self._finished.set_result(None)

    async def _call(self, session: Session, place: int, due_ns: int) -> None:
        try:
            sent_ns, done_ns = await session.part.call(session.program.spans[place])
            session.late_ns.append(max(0, sent_ns - due_ns))
            self._did(session, place, done_ns)
            if self._due and self._due[0][0] <= self._now_ns():
                self._pump()
            elif self._due:
                self._alarm.set(self._due[0][0])
        except Exception as error:  # as in `_pump`
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._finished.done():
            self._finished.set_exception(error)
