"""The closed loop, without an engine: order, due times, gaps, scaling and failures."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.support.chains import chain
from redecode.replay import build_run_graph
from redecode.replay.closed_loop.loop import ClosedLoop, Kind, Program, Session, compile_run
from redecode.replay.pacing import Alarm, ScheduleError, short_slices
from redecode.tracer import Edge, EdgeKind, Provenance, RecordedRun, Run, Span, SpanKind

MS = 1_000_000


class Noting:
    """A part that writes down what happens; its calls take `call_ns`."""

    def __init__(self, call_ns: int = 0, fails: str | None = None) -> None:
        self.events: list[tuple[str, Kind, int]] = []
        self.call_ns, self.fails, self.is_finished = call_ns, fails, False

    def happened(self, span_id: str, kind: Kind, monotonic_ns: int) -> None:
        self.events.append((span_id, kind, monotonic_ns))

    def call(self, span_id: str) -> Coroutine[Any, Any, tuple[int, int]]:
        async def made() -> tuple[int, int]:
            sent_ns = time.monotonic_ns()
            self.events.append((span_id, Kind.SEND, sent_ns))
            await asyncio.sleep(self.call_ns / 1e9)
            if span_id == self.fails:
                raise RuntimeError("the call failed")
            return sent_ns, time.monotonic_ns()

        return made()

    def finished(self) -> None:
        self.is_finished = True


def program(waits: Sequence[Sequence[int]], gaps_ns: Sequence[int], sends: frozenset[int] = frozenset()) -> Program:
    after: list[list[int]] = [[] for _ in waits]
    for at, earlier in enumerate(waits):
        for e in earlier:
            after[e].append(at)
    return Program(
        spans=tuple(str(n) for n in range(len(waits))),
        kinds=tuple(Kind.SEND if n in sends else Kind.START for n in range(len(waits))),
        after=tuple(map(tuple, after)),
        waits=tuple(map(len, waits)),
        gaps_ns=tuple(gaps_ns),
    )


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[list[int]], list[int], frozenset[int]]:
    count = draw(st.integers(1, 12))
    waits = [sorted(draw(st.sets(st.integers(0, n - 1), max_size=3))) if n else [] for n in range(count)]
    gaps = draw(st.lists(st.integers(0, MS), min_size=count, max_size=count))
    return waits, gaps, frozenset(draw(st.sets(st.integers(0, count - 1))))


@settings(max_examples=40, deadline=None)
@given(st.lists(programs(), min_size=1, max_size=4))
def test_every_point_comes_after_all_it_waits_for_and_its_gap(
    drawn: list[tuple[list[list[int]], list[int], frozenset[int]]],
) -> None:
    parts = [Noting() for _ in drawn]
    made = [
        Session(program(w, g, s), part, n * 500_000)
        for n, ((w, g, s), part) in enumerate(zip(drawn, parts, strict=True))
    ]

    asyncio.run(ClosedLoop().run(made))
    for (waits, gaps, _), part, session in zip(drawn, parts, made, strict=True):
        assert part.is_finished
        at = {int(span): when for span, _, when in part.events}
        assert sorted(at) == list(range(len(waits)))
        assert len(session.late_ns) == len(session.waits_ns) == len(waits)
        assert min(session.late_ns) >= 0
        for place, earlier in enumerate(waits):
            # Due times are not shifted by what came late, so the gap is kept up to how late the earlier ones were.
            late = max(session.late_ns)
            assert all(at[place] >= at[e] + gaps[place] - late for e in earlier)


def test_a_chain_is_kept_to_its_recorded_gaps_without_errors_adding_up() -> None:
    part = Noting()
    count = 40
    session = Session(program([[n - 1] if n else [] for n in range(count)], [0] + [MS] * (count - 1)), part, 0)
    asyncio.run(ClosedLoop().run([session]))
    first, last = part.events[0][2], part.events[-1][2]
    length_ns = last - first
    assert length_ns >= (count - 1) * MS - session.late_ns[0]
    assert length_ns <= (count - 1) * MS + session.late_ns[-1]


def test_a_call_delays_what_waits_for_it_and_nothing_else() -> None:
    part = Noting(call_ns=5 * MS)
    session = Session(program([[], [0], [0], [1]], [0, 0, MS, 0], frozenset({1})), part, 0)
    asyncio.run(ClosedLoop().run([session]))
    assert sorted(span for span, _, _ in part.events[1:3]) == ["1", "2"]
    assert part.events[-1][0] == "3"
    at = {span: when for span, _, when in part.events}
    assert at["3"] - at["1"] >= 5 * MS


def test_what_a_call_raises_ends_the_loop_and_gives_the_others_up() -> None:
    bad, other = Noting(fails="1"), Noting(call_ns=3_600_000 * MS)
    sessions = [Session(program([[], [0]], [0, 0], frozenset({1})), part, 0) for part in (bad, other)]
    with pytest.raises(RuntimeError, match="the call failed"):
        asyncio.run(ClosedLoop().run(sessions))
    assert not bad.is_finished
    assert not other.is_finished


def test_nothing_to_do_is_done_at_once() -> None:
    asyncio.run(ClosedLoop().run([]))


def test_thousands_of_sessions_need_no_task_of_their_own() -> None:
    parts = [Noting() for _ in range(2000)]
    shape = program([[], [0], [0], [1, 2]], [0, 0, 0, 0])
    most = 0

    async def run() -> None:
        nonlocal most
        task = asyncio.create_task(ClosedLoop().run([Session(shape, part, 0) for part in parts]))
        while not task.done():
            most = max(most, len(asyncio.all_tasks()))
            await asyncio.sleep(0)
        await task

    asyncio.run(run())
    assert all(part.is_finished for part in parts)
    assert most == 2  # the loop, and the one that counts


def spans_of(*rows: tuple[str, str | None, SpanKind, int, int]) -> RecordedRun:
    spans = [
        Span(run_id="r", span_id=i, parent_span_id=p, kind=k, name=i, step_key=i, start_ns=a, end_ns=b, status="ok")
        for i, p, k, a, b in rows
    ]
    run = Run(
        run_id="r", agent="a", status="ok", started_ns=0, ended_ns=100, fidelity=None, decodes=0, tools=0, tokens=0,
        prompt_tokens=0,
    )  # fmt: skip
    calls = [Edge(str(s.parent_span_id), s.span_id, EdgeKind.CALL, Provenance.RECORDED) for s in spans[1:]]
    returns = [Edge(s.span_id, str(s.parent_span_id), EdgeKind.RETURN, Provenance.RECORDED) for s in spans[1:]]
    return RecordedRun(run, spans, [*calls, *returns], [], [])


def test_a_tool_that_calls_others_is_scaled_by_its_own_waits_alone() -> None:
    recorded = spans_of(
        ("root", None, SpanKind.RUN, 0, 100), ("t", "root", SpanKind.TOOL, 10, 90), ("n", "t", SpanKind.NODE, 20, 70)
    )
    made = compile_run(build_run_graph(recorded), {}, {"t": 0.5})
    gaps = {(s, k): g for s, k, g in zip(made.spans, made.kinds, made.gaps_ns, strict=True)}
    assert gaps["n", Kind.START] == 5
    assert gaps["n", Kind.END] == 50
    assert gaps["t", Kind.END] == 10
    assert gaps["t", Kind.START] == gaps["root", Kind.END] == 10


def test_a_call_is_sent_after_its_own_preparation_and_ends_after_its_own_handling() -> None:
    recorded = chain("f" * 32, [(1, 2)], [(3,)], [0], stream=False)
    (decode,) = recorded.decodes
    (span,) = [s for s in recorded.spans if s.span_id == decode.span_id]
    graph = build_run_graph(recorded)
    early = compile_run(graph, {decode.span_id: decode}, {})
    places = {(s, k): n for n, (s, k) in enumerate(zip(early.spans, early.kinds, strict=True))}
    start, send, end = (places[span.span_id, k] for k in (Kind.START, Kind.SEND, Kind.END))
    assert early.after[start] == (send,)
    assert early.after[send] == (end,)
    assert early.gaps_ns[send] == early.gaps_ns[end] == 0


def test_a_call_with_spans_of_another_tracer_below_it_is_made_once() -> None:
    recorded = chain("f" * 32, [(1, 2)], [(3,)], [0], stream=False)
    (decode,) = recorded.decodes
    call = next(s for s in recorded.spans if s.span_id == decode.span_id)
    below = replace(call, span_id="below", parent_span_id=call.span_id, kind=SpanKind.PARSE)
    edge = Edge("below", call.span_id, EdgeKind.RETURN, Provenance.RECORDED)
    deeper = replace(recorded, spans=[*recorded.spans, below], edges=[*recorded.edges, edge])
    made = compile_run(build_run_graph(deeper), {decode.span_id: decode}, {})
    places = {(s, k): n for n, (s, k) in enumerate(zip(made.spans, made.kinds, strict=True))}
    assert made.kinds.count(Kind.SEND) == 1
    end = places[call.span_id, Kind.END]
    assert {n for n, after in enumerate(made.after) if end in after} == {
        places[call.span_id, Kind.SEND],
        places["below", Kind.END],
    }


def test_a_part_of_a_run_that_hangs_on_nothing_begins_when_it_did() -> None:
    recorded = spans_of(("root", None, SpanKind.RUN, 0, 100), ("lost", "nobody", SpanKind.NODE, 30, 40))
    made = compile_run(build_run_graph(recorded), {}, {})
    at = made.spans.index("lost")
    assert (made.waits[at], made.gaps_ns[at]) == (0, 30)


def test_schedule_error_is_of_the_points_and_warns_of_what_matters() -> None:
    late = [0] * 98 + [2 * MS, 9 * MS]
    error = ScheduleError.of(late, [100 * MS, 40 * MS, MS, 0])
    assert (error.points, error.p50_s, error.p99_s, error.max_s) == (100, 0.0, 0.002, 0.009)
    assert error.median_wait_s == pytest.approx(0.07)
    assert error.warning is None
    assert "5% of the median wait" not in str(ScheduleError.of([MS] * 10, [25 * MS]).warning)
    assert "8% of the median wait (25.0 ms)" in str(ScheduleError.of([2 * MS] * 10, [25 * MS]).warning)
    assert "6.0 ms or more after it was due" in str(ScheduleError.of([6 * MS] * 10, [1000 * MS]).warning)
    assert ScheduleError.of([], []).to_json()["points"] == 0


async def test_an_alarm_rings_not_before_its_moment_and_only_for_the_last_one() -> None:
    rang: list[int] = []
    alarm = Alarm(lambda: rang.append(time.monotonic_ns()))
    due = time.monotonic_ns() + 3 * MS
    alarm.set(due + 3_600_000 * MS)
    alarm.set(due)
    while not rang:
        await asyncio.sleep(0.0005)
    assert rang[0] >= due
    alarm.set(time.monotonic_ns() - MS)
    while len(rang) < 2:
        await asyncio.sleep(0)
    alarm.set(time.monotonic_ns() + MS)
    alarm.close()
    await asyncio.sleep(0.003)
    assert len(rang) == 2


def test_short_slices_leave_the_priority_alone() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with short_slices():
        assert os.getpriority(os.PRIO_PROCESS, 0) == before
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
