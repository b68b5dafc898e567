"""Two runs compared: the difference adds up, whatever they did; noise is told from change; what differs is named."""

from __future__ import annotations

import random
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.replay import RunComparison, compare_runs
from redecode.replay.comparison.lanes import Change
from redecode.replay.comparison.noise import band
from redecode.tracer import Decode, Edge, EdgeKind, Fidelity, Provenance, RecordedRun, Run, Span, SpanKind, ToolStep


def run(run_id: str, steps: dict[str, tuple[int, int]], *, times: int = 1, **more: Any) -> RecordedRun:
    """A run of steps that wait for each other in their order; `more` are fields of its first decode and tool."""
    spans, edges, last = [], [], "root"
    end = max((e for _, e in steps.values()), default=0) + 5
    for key, (start, finish) in {"root": (0, end), **steps}.items():
        above = None if key == "root" else run_id + "root"
        kind = SpanKind.RUN if key == "root" else SpanKind.TOOL if "tool" in key else SpanKind.DECODE
        spans.append(
            Span(
                run_id=run_id,
                span_id=run_id + key,
                parent_span_id=above,
                kind=kind,
                name=key,
                step_key=key,
                start_ns=start * times,
                end_ns=finish * times,
                status="ok",
            )
        )
        if key != "root":
            how = EdgeKind.CALL if last == "root" else EdgeKind.RETURN
            edges.append(Edge(run_id + last, run_id + key, how, Provenance.RECORDED))
        last = key
    if steps:
        edges.append(Edge(run_id + last, run_id + "root", EdgeKind.RETURN, Provenance.RECORDED))
    decodes = [decode(run_id, s, more.get("decode", {})) for s in spans if s.kind is SpanKind.DECODE]
    tools = [tool(run_id, s, more.get("tool", {})) for s in spans if s.kind is SpanKind.TOOL]
    whole = Run(
        run_id=run_id, agent="a", status="ok", started_ns=0, ended_ns=end * times, fidelity=None, decodes=len(decodes),
        tools=len(tools), tokens=0, prompt_tokens=0,
    )  # fmt: skip
    return RecordedRun(whole, spans, edges, decodes, tools)


def decode(run_id: str, span: Span, fields: dict[str, Any]) -> Decode:
    plain: dict[str, Any] = {
        "run_id": run_id, "span_id": span.span_id, "step_key": span.step_key, "model": "m", "fidelity": Fidelity.TOKENS,
        "sent_ns": span.start_ns, "first_chunk_ns": None, "done_ns": span.end_ns, "prompt_ids": (1,),
        "sampled_ids": (1, 2, 3), "messages": [{"role": "user", "content": "Who?"}], "sampling": {"temperature": 0.5},
        "output": {"content": "Anna"},
    }  # fmt: skip
    made = Decode(**{**plain, **fields})
    return replace(made, digest=made.content_digest())


def tool(run_id: str, span: Span, fields: dict[str, Any]) -> ToolStep:
    plain: dict[str, Any] = {
        "run_id": run_id, "span_id": span.span_id, "step_key": span.step_key, "tool": "find", "call_id": None,
        "arguments": {"name": "A"}, "result": "Berlin", "error": None, "side_effect": None,
    }  # fmt: skip
    return ToolStep(**{**plain, **fields})


STEPS = {"chat": (10, 50), "tool": (55, 95)}


def test_a_run_and_itself() -> None:
    found = compare_runs(run("a", STEPS), run("b", STEPS))
    assert found.same
    assert (found.delta_ns, found.recorded_ns) == (0, 100)
    assert all(s.delta_ns == 0 for s in found.shares)


def test_the_difference_is_where_it_came_from() -> None:
    slower = {"chat": (10, 90), "tool": (100, 140)}
    found = compare_runs(run("a", STEPS), run("b", slower))
    assert found.same  # only later
    assert found.delta_ns == 45
    shares = {(s.step_key, s.part): s.delta_ns for s in found.shares if s.delta_ns}
    assert shares == {("chat", "work"): 40, ("root", "gap"): 5}
    assert found.shares[0].step_key == "chat"


def test_an_fm_call_is_told_apart_where_both_engines_did() -> None:
    def engine(prefill: int, decode: int) -> dict[str, Any]:
        return {"decode": {"queue_ns": 0, "prefill_ns": prefill, "decode_ns": decode}}

    slower = {"chat": (10, 90), "tool": (95, 135)}
    found = compare_runs(run("a", STEPS, **engine(10, 30)), run("b", slower, **engine(50, 30)))
    assert {(s.step_key, s.part): s.delta_ns for s in found.shares if s.delta_ns} == {("chat", "prefill"): 40}
    only_one = compare_runs(run("a", STEPS), run("b", slower, **engine(50, 30)))
    assert {(s.step_key, s.part): s.delta_ns for s in only_one.shares if s.delta_ns} == {("chat", "work"): 40}


names = st.sampled_from(["chat", "tool", "chat#1", "tool#1", "chat#2", "tool#2"])


@st.composite
def any_run(draw: st.DrawFn, run_id: str) -> RecordedRun:
    at, steps = 0, {}
    for key in draw(st.lists(names, unique=True, max_size=6)):
        at += draw(st.integers(0, 50))
        steps[key] = (at, at := at + draw(st.integers(0, 100)))
    return run(run_id, steps)


@given(any_run("a"), any_run("b"))
@settings(max_examples=150)
def test_the_parts_add_up(a: RecordedRun, b: RecordedRun) -> None:
    found = compare_runs(a, b)
    assert sum(s.delta_ns for s in found.shares) == found.delta_ns
    assert found.recorded_ns == a.run.ended_ns
    assert found.candidate_ns == b.run.ended_ns
    keys = [s.step_key for s in found.steps]
    assert sorted(keys) == sorted({s.step_key for r in (a, b) for s in r.spans})
    assert [k for k in keys if k in {s.step_key for s in a.spans}] == [s.step_key for s in a.spans]
    told = {c.step_key for c in found.changes if c.what.startswith("only")}
    assert told == {s.step_key for s in a.spans} ^ {s.step_key for s in b.spans}


@pytest.mark.parametrize(
    ("fields", "what", "words"),
    [
        ({"decode": {"messages": [{"role": "user", "content": "Whose?"}]}}, "asked", "messages[0].content"),
        ({"decode": {"sampling": {"temperature": 0.9}}}, "asked", "sampling.temperature: recorded “0.5”, now “0.9”"),
        ({"decode": {"model": "n"}}, "asked", "model"),
        ({"decode": {"sampled_ids": (1, 9, 3)}}, "tokens", "at 1: recorded token 2, now token 9"),
        ({"decode": {"sampled_ids": (1,)}}, "tokens", "at 1: recorded token 2, now nothing more"),
        ({"decode": {"sampled_ids": None, "output": {"content": "Ann"}}}, "answered", "output.content"),
        ({"tool": {"arguments": {"name": "B"}}}, "asked", "arguments.name"),
        ({"tool": {"result": "Bonn"}}, "answered", "result"),
    ],
    ids=["prompt", "sampling", "model", "token", "shorter", "text", "arguments", "result"],
)
def test_what_differs_is_named(fields: dict[str, Any], what: str, words: str) -> None:
    found = compare_runs(run("a", STEPS), run("b", STEPS, **fields))
    assert not found.same
    (change,) = found.changes
    assert change.what == what
    assert words in change.details[0]


def test_what_the_tracer_asked_for_itself_is_no_change() -> None:
    more: Any = {"decode": {"sampling": {"temperature": 0.5, "logprobs": True, "return_token_ids": True}}}
    assert compare_runs(run("a", STEPS), run("b", STEPS, **more)).same


def test_a_step_more_is_told_where_it_happened() -> None:
    more = {"chat": (10, 50), "tool#1": (50, 52), "tool": (55, 95)}
    found = compare_runs(run("a", STEPS), run("b", more))
    assert found.changes == (Change("tool#1", "only in the candidate", ()),)
    assert [s.step_key for s in found.steps] == ["root", "chat", "tool#1", "tool"]
    assert found.edges == (("chat", "tool", "return", -1),)


def compared(candidate: int, baselines: list[int]) -> RunComparison:
    replays = [run(f"r{n}", STEPS, times=t) for n, t in enumerate(baselines)]
    return compare_runs(run("a", STEPS), run("b", STEPS, times=candidate), replays)


def test_noise_is_not_taken_for_a_change() -> None:
    within, beyond = compared(11, [9, 10, 11, 10, 10]), compared(30, [9, 10, 11, 10, 10])
    assert (within.beyond_noise, beyond.beyond_noise) == (False, True)
    assert {s.step_key for s in beyond.steps if s.beyond_noise} == {"root", "chat", "tool"}
    assert not any(s.beyond_noise for s in within.steps)
    step = next(s for s in beyond.steps if s.step_key == "chat")
    assert step.delta_ns == 40 * 30 - 40 * 10  # against the replays, not the recording


@pytest.mark.parametrize("baselines", [[], [10]])
def test_without_repetition_nothing_is_said_of_noise(baselines: list[int]) -> None:
    found = compared(30, baselines)
    assert found.beyond_noise is None
    assert all(s.baseline is None and s.beyond_noise is None for s in found.steps)


def test_the_band_holds_19_of_20() -> None:
    rng = random.Random(5)
    for n in (2, 5, 20, 60):
        inside = 0
        for _ in range(2000):
            values = [round(rng.gauss(1e6, 1e4)) for _ in range(n + 1)]
            found = band(values[:-1])
            assert found is not None
            inside += found.holds(values[-1])
        assert 0.93 < inside / 2000 < 0.97, n


def test_the_band_is_the_textbook_s() -> None:
    values = [10, 12, 9, 11]
    found = band(values)
    assert found is not None
    half = 3.182 * stdev(values) * (1 + 1 / 4) ** 0.5
    assert abs(found.high_ns - (fmean(values) + half)) <= 1
    assert found.low_ns == max(0, int(fmean(values) - half))
    assert band([5]) is None
