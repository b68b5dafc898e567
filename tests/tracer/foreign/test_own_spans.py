"""Runs we recorded ourselves, sent by OTLP, are the same runs where they arrive, whatever is added to them."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.tracer import RecordedRun
from redecode.tracer import conventions as c
from redecode.tracer.events import SpanEvent
from redecode.tracer.export.otlp import otlp_span, otlp_spans
from redecode.tracer.export.spans import span_events
from redecode.tracer.foreign import OtlpSpan, derive
from redecode.tracer.foreign.reading import believable
from tests.tracer.export.recorded_runs import runs


@settings(max_examples=60, deadline=None)
@given(run=runs(), rng=st.randoms(use_true_random=False))
def test_a_recorded_run_comes_back_as_it_was(run: RecordedRun, rng: random.Random) -> None:
    sent = otlp_spans(run)
    rng.shuffle(sent)
    got = {e.span: asdict(e) for e in derive(sent)}
    assert got == {e.span: asdict(e) for e in span_events(run)}


def event(n: int, parent: int | None, kind: str = "decode", **fields: Any) -> SpanEvent:
    given = {"step_key": f"run/{kind}{n}", "end_ns": 200, "status": "ok", **fields}
    above = None if parent is None else f"{parent:016x}"
    return SpanEvent(run="1" * 32, span=f"{n:016x}", parent=above, kind=kind, name="x", start_ns=100, **given)


def test_while_the_run_itself_has_not_come_its_spans_hang_below_an_open_one() -> None:
    spans = [event(2, 1, "node"), event(3, 2, "tool")]
    run, node, tool = derive([otlp_span(e, {}) for e in spans])
    assert (run.kind, run.span, run.status, run.end_ns) == ("run", f"{1:016x}", "open", None)
    assert [asdict(e) for e in (node, tool)] == [asdict(e) for e in spans]


def test_an_open_span_and_the_same_span_ended_are_one() -> None:
    ended = event(1, None, "run", step_key="run", edges=[(f"{2:016x}", "join", "recorded")])
    still_open = replace(ended, end_ns=None, status="open", edges=[])
    for order in ([ended, still_open], [still_open, ended]):
        [got] = derive([otlp_span(e, {}) for e in order])
        assert asdict(got) == asdict(ended)
    [got] = derive([otlp_span(still_open, {})])
    assert asdict(got) == asdict(still_open)


def test_the_engine_s_own_span_fills_what_a_recorded_decode_does_not_know() -> None:
    decode = event(2, 1, attributes={c.SENT_NS: 100, c.PREFILL_NS: 5})
    engine = OtlpSpan(
        run="1" * 32, span="e" * 16, parent=decode.span, kind=2, flags=0x301, name="llm_request", start_ns=1, end_ns=9,
        attributes={"gen_ai.latency.time_in_queue": 0.5, "gen_ai.latency.time_in_model_prefill": 0.25},
    )  # fmt: skip
    run = event(1, None, "run", step_key="run")
    events = derive([engine, *(otlp_span(e, {}) for e in (run, decode))])
    assert [e.span for e in events] == [run.span, decode.span]
    assert events[1].attributes == {c.SENT_NS: 100, c.PREFILL_NS: 5, c.QUEUE_NS: 500_000_000}


def test_another_tracer_s_span_in_a_recorded_run_stays_in_its_place() -> None:
    run, tool = event(1, None, "run", step_key="run"), event(2, 1, "tool", step_key="run/tool:look")
    http = OtlpSpan(run=run.run, span="f" * 16, parent=tool.span, name="GET /x", kind=3, start_ns=120, end_ns=150)
    events = derive([http, *(otlp_span(e, {}) for e in (run, tool))])
    assert [asdict(e) for e in events[:2]] == [asdict(run), asdict(tool)]
    assert (events[2].kind, events[2].parent, events[2].step_key) == ("node", tool.span, "run/tool:look/span:GET |x")
    assert events[2].edges == [(tool.span, "call", "recorded")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (c.KIND, "person"),
        (c.KIND, ["run"]),
        (c.STEP_KEY, 7),
        (c.EDGES, "[[1]]"),
        (c.EDGES, '[["a", "because", "recorded"]]'),
        (c.EDGES, "nonsense"),
        (c.SENT_NS, "soon"),
        (c.SENT_NS, 2**70),
        (c.REQUEST_STREAM, "yes"),
        (c.FIDELITY, "perfect"),
        (c.SAMPLED_IDS, "AAAA"),
        (c.SAMPLED_IDS, 5),
        (c.SAMPLING, "{"),
        (c.REQUEST_MODEL, 5),
        (c.CHOICES, 10**9),
        (c.SLO, "fast"),
    ],
)
def test_what_only_claims_to_be_ours_is_read_as_any_other_span(name: str, value: Any) -> None:
    sent = [otlp_span(e, {}) for e in (event(1, None, "run", step_key="run"), event(2, 1, "tool", step_key="run/x"))]
    sent[1].attributes[name] = value
    run, other = derive(sent)
    assert run.step_key == "run" and (other.kind, other.step_key) == ("node", "run/span:x")


def test_as_many_as_our_own_records_may_have_are_believed() -> None:
    assert (believable(1 << 40), believable((1 << 40) + 1), believable(-1)) == (1 << 40, None, None)
