"""Recorded runs give the model of the engine that made them: each engine its own, and what says nothing is counted."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from redecode.replay.simulator.costs import prefill_pairs
from redecode.replay.simulator.fit import info_of, key_of_engine
from redecode.replay.simulator.observed import passages_of
from redecode.replay.simulator.recorded_fit import NO_CLOCK, NO_ENGINE, fit_store
from redecode.tracer import Decode, Fidelity, Recorder, SpanKind, Store, TimeSource, decode_attributes

STEP_S, TOKEN_S, PAIR_S = 5e-3, 4e-4, 1e-7
BEFORE_S, AFTER_S = 3e-3, 2e-3
SAID: dict[str, Any] = {
    "protocol": 1, "engine": "vllm", "engine_version": "0.32.0", "force": True, "step_clock": True, "model": "m",
    "served_model_name": "m", "max_num_seqs": 8, "max_num_batched_tokens": 4096, "chunked_prefill": False,
    "prefix_caching": True, "device": "cpu", "processor": "a processor", "threads": 1, "kv_blocks": 90,
    "block_size": 16,
}  # fmt: skip


def decodes_of(engine_id: str | None, model: str, rng: random.Random, slow: float = 1.0) -> Iterator[Decode]:
    """Calls that were alone on an engine: what passes before and after, a prefill, and steps that all take the same."""
    for n in itertools.count():
        prompt, tokens = rng.randrange(5, 400), rng.randrange(2, 12)
        prefill = slow * (STEP_S + TOKEN_S * prompt + PAIR_S * prefill_pairs(0, prompt))
        times = [BEFORE_S + prefill + slow * STEP_S * k for k in range(tokens)]
        yield Decode(
            run_id="", span_id="", step_key="s", model=model, fidelity=Fidelity.ENGINE, sent_ns=10**18 + n * 10**10,
            first_chunk_ns=None, done_ns=10**18 + n * 10**10 + round((times[-1] + AFTER_S) * 1e9),
            base_url="http://engine/v1", engine_id=engine_id, sampled_ids=tuple(range(tokens)),
            prompt_ids=tuple(range(prompt)), token_times_ns=tuple(round(t * 1e9) for t in times),
            token_time_source=TimeSource.ENGINE, batch_rows=(1,) * tokens, cached_tokens=0,
            prefill_ns=round(prefill * 1e9), input_tokens=prompt, output_tokens=tokens,
        )  # fmt: skip


def record(store: Path, decodes: list[Decode], engines: dict[str, dict[str, Any]], mode: str | None = None) -> None:
    recorder = Recorder(store)
    for engine_id, info in engines.items():
        recorder.journal.write({"t": "engine", "id": engine_id, "info": info})
    for decode in decodes:
        run = recorder.start_run("a", start_ns=decode.sent_ns)
        if mode is not None:
            run.replays("f" * 32, mode)
        live = recorder.start(SpanKind.DECODE, "chat", run, "chat", start_ns=decode.sent_ns)
        told = replace(decode, run_id=run.run_id, span_id=live.span_id)
        recorder.end(live, attributes=decode_attributes(told), end_ns=decode.done_ns)
        recorder.end(run, end_ns=decode.done_ns)
    recorder.close()


def some(count: int, *arguments: Any, **more: Any) -> list[Decode]:
    return list(itertools.islice(decodes_of(*arguments, **more), count))


def test_engines_are_fitted_each_on_its_own(store: Path) -> None:
    rng = random.Random(1)
    record(store, some(40, "e1", "m", rng), {"e1": SAID})
    other = {**SAID, "served_model_name": "n", "model": "n"}
    record(store, some(40, "e2", "n", rng, slow=3.0), {"e2": other})
    found = fit_store(Store(store), most_runs=100, now_ns=0)
    assert (found.runs, found.decodes, found.refused, found.unusable) == (80, 80, {}, {})
    m, n = sorted(found.profiles, key=lambda p: p.model)
    assert m.seconds.step == pytest.approx(STEP_S, rel=0.01)
    assert m.seconds.prefill_token == pytest.approx(TOKEN_S, rel=0.02)
    assert n.seconds.step == pytest.approx(3 * STEP_S, rel=0.01)
    assert m.r2 == pytest.approx(1.0, abs=1e-3)
    assert m.overheads.before_s == pytest.approx(BEFORE_S, rel=0.01)
    assert m.overheads.after_s == pytest.approx(AFTER_S, rel=0.01)
    assert m.hardware == "a processor 1 thread"
    assert m.sample
    assert all(s.predicted_ms == pytest.approx(s.measured_ms, rel=0.02) for s in m.sample)
    # The engine of a recording is known to be that of its profile.
    assert m.key == key_of_engine(info_of(Store(store).engine("e1") or {})) != n.key


def test_what_says_nothing_of_steps_is_counted_and_what_ran_on_no_engine_left_out(store: Path) -> None:
    rng = random.Random(2)
    whole = some(60, "e1", "m", rng)
    record(store, whole, {"e1": SAID})
    record(store, [replace(d, token_times_ns=None, batch_rows=None, token_time_source=None) for d in whole[:3]], {})
    record(store, [replace(d, engine_id=None) for d in whole[:2]], {})
    strange = [replace(d, token_times_ns=tuple(t * 9 for t in d.token_times_ns or ())) for d in whole]
    record(store, strange, {}, mode="playback")
    record(store, strange, {}, mode="simulate")
    found = fit_store(Store(store), most_runs=1000, now_ns=0)
    assert found.runs == 65
    assert found.unusable == {NO_CLOCK: 3, NO_ENGINE: 2}
    (profile,) = found.profiles
    assert profile.seconds.step == pytest.approx(STEP_S, rel=0.01)


def test_an_engine_that_said_too_little_is_refused_with_the_reason(store: Path) -> None:
    record(store, some(40, "e1", "m", random.Random(3)), {"e1": {**SAID, "kv_blocks": None}})
    found = fit_store(Store(store), most_runs=1000, now_ns=0)
    assert not found.profiles
    assert "does not say its kv_blocks; say it with --kv-blocks" in found.refused["m (e1)"]
    (profile,) = fit_store(Store(store), most_runs=1000, now_ns=0, kv_blocks=77).profiles
    assert profile.limits.kv_blocks == 77
    assert fit_store(Store(store), most_runs=3, now_ns=0).runs == 3


def test_a_call_that_met_others_does_not_count_for_the_way_to_the_engine() -> None:
    first, second, third = some(3, "e", "m", random.Random(4))
    into = replace(second, sent_ns=first.sent_ns + (first.last_token_ns or 0) - 1)  # the first decodes
    close = replace(third, sent_ns=into.sent_ns + 1000)  # and another while it waits
    assert len(passages_of([first, into, close])) == 1
    assert len(passages_of([first, second, third])) == 3


def test_timed_decodes_are_those_of_the_runs_without_what_was_said(store: Path) -> None:
    record(store, some(5, "e1", "m", random.Random(5)), {"e1": SAID})
    opened = Store(store)
    ids = [r.run_id for r in opened.runs()]
    whole = sorted((d for i in ids for d in opened.load(i).decodes), key=lambda d: (d.sent_ns, d.span_id))
    timed = opened.timed_decodes(ids)
    assert len(timed) == 5
    said: dict[str, Any] = {
        "prompt_ids": None,
        "sampled_ids": None,
        "logprobs": None,
        "sampling": {},
        "output": None,
        "messages": None,
    }
    assert timed == [replace(d, **said) for d in whole]
    assert opened.timed_decodes([]) == []
