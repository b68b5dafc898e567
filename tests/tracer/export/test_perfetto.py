"""The trace file: slices nest on every track as Perfetto demands, arrows meet their slices, nothing is lost or told."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.tracer import EdgeKind, RecordedRun, SpanKind, TimeSource
from redecode.tracer.export.perfetto import trace
from tests.tracer.export.recorded_runs import MS, Builder, runs

Event = dict[str, Any]


def bound(events: list[Event]) -> dict[int, list[str | None]]:
    """Replays the file as its readers do, event by event in time order: checks nesting, and to which slice each arrow
    is bound at its start and its end.
    """
    open_on: dict[tuple[int, int], list[tuple[float, str]]] = defaultdict(list)
    arrows: dict[int, list[str | None]] = {}
    for event in sorted((e for e in events if e["ph"] != "M"), key=lambda e: e["ts"]):
        if event["ph"] == "C":
            assert all(isinstance(value, int) and value >= 0 for value in event["args"].values())
            continue
        stack = open_on[event["pid"], event["tid"]]
        while stack and stack[-1][0] < event["ts"]:
            stack.pop()
        match event["ph"]:
            case "X" | "B":
                end = event["ts"] + event["dur"] if event["ph"] == "X" else float("inf")
                while stack and stack[-1][0] <= event["ts"]:
                    stack.pop()
                assert event.get("dur", 0) >= 0
                assert not stack or end <= stack[-1][0], f"{event['name']} overlaps {stack[-1][1]}"
                stack.append((end, event["args"]["span_id"] if "args" in event else ""))
            case "s":
                assert event["id"] not in arrows
                arrows[event["id"]] = [stack[-1][1] if stack else None]
            case "f":
                assert event["bp"] == "e"
                arrows[event["id"]].append(stack[-1][1] if stack else None)
            case "i":
                assert event["s"] == "t"
            case other:
                raise AssertionError(f"an event of unknown kind {other}")
    return arrows


@settings(max_examples=40, deadline=None)
@given(some=st.lists(runs(), max_size=3, unique_by=lambda run: run.run.run_id))
def test_any_runs_make_a_trace_that_nests(some: list[RecordedRun]) -> None:
    document = trace(some)
    events = json.loads(json.dumps(document))["traceEvents"]
    arrows = bound(events)
    slices = [e for e in events if e["ph"] in "XB" and e["cat"] != "engine"]
    assert len(slices) == sum(len(run.spans) for run in some)
    assert sum(e["ph"] == "B" for e in slices) == sum(s.end_ns is None for run in some for s in run.spans)
    assert all(isinstance(e["ts"], int) and e["ts"] >= 0 for e in slices)
    tracks = {(e["pid"], e["tid"]) for e in slices}
    assert {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"} == tracks
    assert all(tid > 0 for _, tid in tracks)
    assert all(len(ends) == 2 for ends in arrows.values())


def fan_out() -> Builder:
    run = Builder()
    root = run.span(SpanKind.RUN, "agent", 0, 100)
    ends = []
    for place in range(3):
        node = run.span(SpanKind.NODE, f"ask@1[push:{place}]", 1 + place, 50 + place, root)
        call = run.decode(
            "chat", 2 + place, 40 + place, node, [1, 2], 3, token_times_ns=(10 * MS, 20 * MS, 30 * MS),
            token_time_source=TimeSource.ENGINE, batch_rows=(1, 3, 3), queue_ns=2 * MS, prefill_ns=4 * MS,
            decode_ns=20 * MS, messages=[{"role": "user", "content": "secret"}],
        )  # fmt: skip
        run.edge(root, node, EdgeKind.CALL)
        run.edge(node, call, EdgeKind.CALL)
        run.edge(call, node)
        ends.append(node)
    join = run.span(SpanKind.NODE, "join@2", 60, 70, root, "ValueError: secret")
    for node in ends:
        run.edge(node, join, EdgeKind.BARRIER)
    return run


def test_a_fan_out_lies_side_by_side_and_arrows_join_it() -> None:
    run = fan_out().build()
    events = trace([run])["traceEvents"]
    where = {e["args"]["span_id"]: e["tid"] for e in events if e["ph"] == "X" and "span_id" in e.get("args", {})}
    nodes = [s.span_id for s in run.spans if "push" in s.name]
    assert len({where[n] for n in nodes}) == 3
    for decode in run.decodes:
        parent = next(s.parent_span_id for s in run.spans if s.span_id == decode.span_id)
        assert where[decode.span_id] == where[str(parent)]
    drawn = Counter(tuple(ends) for ends in bound(events).values())
    join = next(s.span_id for s in run.spans if s.name == "join@2")
    assert {(n, join) for n in nodes} <= set(drawn)
    root = run.spans[0].span_id
    assert {(root, n) for n in nodes if where[n] != where[root]} <= set(drawn)


def test_engine_phases_first_token_and_counters() -> None:
    events = trace([fan_out().build()])["traceEvents"]
    slices = [e for e in events if e.get("cat") == "engine" and e["ph"] == "X"]
    phases = [(e["name"], e["ts"], e["dur"]) for e in slices if e["tid"] == slices[0]["tid"]]
    assert phases == [("queue", 6000, 2000), ("prefill", 8000, 4000), ("decode phase", 12000, 20000)]
    assert [e["ts"] for e in events if e["ph"] == "i"] == [12000, 13000, 14000]
    counters = defaultdict(list)
    for event in events:
        if event["ph"] == "C":
            counters[event["name"]].append((event["ts"], *event["args"].values()))
    assert [v for _, v in counters["FM calls in flight"]] == [1, 2, 3, 2, 1, 0]
    assert counters["engine batch rows m"][0] == (12000, 1)
    assert counters["tokens/s"] == [(0, 90), (100_000, 0)]


def test_no_content_leaves() -> None:
    assert "secret" not in json.dumps(trace([fan_out().build()]))


def test_phases_are_not_drawn_over_what_a_call_has_below_it() -> None:
    run = Builder()
    root = run.span(SpanKind.RUN, "agent", 0, 100)
    call = run.decode(
        "chat", 2, 40, root, [1, 2], 2, token_times_ns=(10 * MS, 20 * MS), token_time_source=TimeSource.ENGINE,
        queue_ns=2 * MS, prefill_ns=4 * MS, decode_ns=10 * MS,
    )  # fmt: skip
    assert len([e for e in trace([run.build()])["traceEvents"] if e.get("cat") == "engine" and e["ph"] == "X"]) == 3
    run.span(SpanKind.PARSE, "parse", 11, 15, call)
    events = trace([run.build()])["traceEvents"]
    bound(events)
    assert [e["ph"] for e in events if e.get("cat") == "engine"] == ["i"]
