"""A decode comes back from the store exactly as it was recorded, whatever is missing or empty in it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redecode.tracer import Decode, Fidelity, Recorder, SpanKind, Store, TimeSource, decode_attributes

ids = st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=70).map(tuple)
times = st.none() | st.lists(st.integers(-(2**62), 2**62), max_size=5).map(tuple)
counts = st.none() | st.integers(0, 2**40)


@st.composite
def decodes(draw: st.DrawFn) -> Decode:
    return Decode(
        run_id="", span_id="", step_key="", model="m", fidelity=draw(st.sampled_from(Fidelity)), sent_ns=draw(
            st.integers(0, 2**62)), first_chunk_ns=draw(counts), done_ns=draw(counts), prompt_ids=draw(ids),
        sampled_ids=draw(ids), logprobs=draw(st.none() | st.lists(st.floats(allow_nan=False), max_size=5).map(tuple)),
        token_times_ns=draw(times), token_time_source=draw(st.none() | st.sampled_from(TimeSource)),
        chunk_times_ns=draw(times), chunk_tokens=draw(ids), batch_rows=draw(ids), seed=draw(counts),
        sampling={"stop": draw(st.text(max_size=5))}, messages=[{"content": draw(st.text(max_size=5))}],
        stream=draw(st.booleans()), input_tokens=draw(counts), queue_ns=draw(counts), base_url="u",
    )  # fmt: skip


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(decodes(), min_size=1, max_size=8))
def test_round_trip(batch: list[Decode], tmp_path: Path) -> None:
    path = tmp_path / f"{random.Random().getrandbits(64):x}"
    recorder = Recorder(path)
    run = recorder.start_run("agent")
    expected = {}
    for decode in batch:
        span = recorder.start(SpanKind.DECODE, "chat m", run, "chat")
        named = replace(decode, run_id=run.run_id, span_id=span.span_id, step_key=span.step_key)
        recorder.end(span, attributes=decode_attributes(named))
        expected[span.span_id] = replace(named, digest=named.content_digest())
    recorder.end(run)
    recorder.close()
    assert {d.span_id: d for d in Store(path).load(run.run_id).decodes} == expected
