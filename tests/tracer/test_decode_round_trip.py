"""A decode comes back from the store exactly as it was recorded, whatever is missing or empty in it."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redecode.tracer import Decode, Fidelity, Recorder, SpanKind, Store, TimeSource, conventions, decode_attributes

ids = st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=70).map(tuple)
# In ns, in steps of 1 us, at most 35 minutes apart.
times = st.none() | st.lists(st.integers(-(2**29), 2**29), max_size=5).map(lambda at: tuple(t * 1000 for t in at))
logprobs = st.none() | st.lists(st.floats(allow_nan=False, width=32), max_size=5).map(tuple)
counts = st.none() | st.integers(0, 2**40)


@st.composite
def decodes(draw: st.DrawFn) -> Decode:
    return Decode(
        run_id="", span_id="", step_key="", model="m", fidelity=draw(st.sampled_from(Fidelity)), sent_ns=draw(
            st.integers(0, 2**62)), first_chunk_ns=draw(counts), done_ns=draw(counts), prompt_ids=draw(ids),
        sampled_ids=draw(ids), logprobs=draw(logprobs),
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


@given(times_ns=st.lists(st.integers(-(2**62), 2**62), max_size=8))
def test_times_are_kept_to_a_microsecond(times_ns: list[int]) -> None:
    gaps = conventions.unpack(conventions.gaps_us(times_ns), "i")
    longest_ns = max((abs(b - a) for a, b in pairwise([0, *times_ns])), default=0)
    if longest_ns < 2**30 * 1000:
        assert all(abs(a - b) <= 500 for a, b in zip(conventions.times_ns(gaps), times_ns, strict=True))
    assert len(gaps) == len(times_ns)


def test_after_a_gap_of_more_than_35_minutes_the_next_time_is_right_again() -> None:
    hour = 3600 * 10**9
    gaps = conventions.unpack(conventions.gaps_us([10**9, hour, hour + 10**9, hour + 2 * 10**9]), "i")
    first, _, *later = conventions.times_ns(gaps)
    assert (first, later) == (10**9, [hour + 10**9, hour + 2 * 10**9])
