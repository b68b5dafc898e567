"""Recorded runs on an engine model: every point when it is due, recorded as a replay, the same for the same seed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from redecode.replay import ReplayMode, ReplayOptions, replay_on_engine
from redecode.replay.analysis.changes import CacheHit, FewerTokens, OffBarrier, Scale
from redecode.replay.closed_loop.alterations import Alterations
from redecode.replay.closed_loop.arrivals import Arrivals, poisson_offsets
from redecode.replay.closed_loop.engine_replay import choose, make_batch
from redecode.replay.closed_loop.report import BatchReport
from redecode.replay.closed_loop.scaling import Scaling, UnknownStep
from redecode.replay.closed_loop.simulated import ENGINE, lay_out, simulate_batch, times_of, workload_of
from redecode.replay.comparison.lanes import compare_runs
from redecode.replay.errors import ReplayError
from redecode.replay.simulator.errors import CallDoesNotFit, NoProfile
from redecode.replay.simulator.fleet import Fleet
from redecode.replay.simulator.profile import EngineLimits, Overheads, Range
from redecode.replay.what_if.measured import NotMeasurable
from redecode.replay.what_if.simulated import simulate_what_if
from redecode.tracer import PROVIDER, RecordedRun, SpanKind, Store
from tests.replay.closed_loop.test_engine_replay import record, run_of
from tests.replay.simulator.made import AFTER_S, BEFORE_S, PAUSE_S, PROMPT_TOKEN_S, STEP_S, call_s, made_profile

SIMULATE = ReplayMode.SIMULATE
FLEET = Fleet((made_profile(),))
CALL_S = call_s(3, 4)  # of `run_of`: no full block, so nothing is found in a cache


def simulated(
    store: Path, runs: list[RecordedRun], fleet: Fleet = FLEET, noise: bool = False, draw: int = 0, **options: Any
) -> BatchReport:
    batch = make_batch(runs, SIMULATE, "engine model", ReplayOptions(**options))
    return simulate_batch(store, batch, choose(runs, SIMULATE).plans, fleet, noise=noise, seed=draw)


def recorded_in(store: Path, *runs: RecordedRun) -> list[RecordedRun]:
    """As a program would have recorded them: with spans around its calls, and edges."""
    ids = record(store, runs)
    return [Store(store).load(i) for i in reversed(ids)]


def test_a_run_takes_its_waits_and_what_the_model_says_of_its_calls(store: Path) -> None:
    (run,) = recorded_in(store, run_of(calls=3, wait_ms=40))
    report = simulated(store, [run])
    (one,) = report.replays
    assert one.e2e_replayed_s == pytest.approx(3 * (0.04 + CALL_S), abs=1e-6)
    for d in one.decodes:
        assert d.ttft_replayed_s == pytest.approx(BEFORE_S + 3 * PROMPT_TOKEN_S + STEP_S, abs=1e-8)
        assert d.tpot_replayed_s == pytest.approx(STEP_S + PAUSE_S, abs=1e-8)
        assert d.e2e_replayed_s == pytest.approx(CALL_S, abs=1e-8)
        assert (d.cached_replayed, d.logprob_gap) == (0, None)
    assert report.doubts == ()


def test_it_is_recorded_as_a_replay_that_says_it_was_simulated(store: Path) -> None:
    (run,) = recorded_in(store, run_of(calls=2, wait_ms=20))
    report = simulated(store, [run], noise=True, draw=5)
    opened = Store(store)
    replay = opened.load(report.replays[0].replay_run_id)
    assert (replay.run.source_run_id, replay.run.replay_mode, replay.run.status) == (run.run.run_id, "simulate", "ok")
    told = replay.run.labels["replay"]
    assert (told["batch"], told["engine"], told["complete"], told["noise_seed"]) == (
        report.batch_id, "engine model", True, 5,
    )  # fmt: skip
    steps = [sorted((s.step_key, s.kind, s.name) for s in r.spans) for r in (replay, run)]
    assert steps[0] == steps[1]
    assert all(s.end_ns is not None for s in replay.spans)
    for then, now in zip(run.decodes, replay.decodes, strict=True):
        assert (now.sampled_ids, now.prompt_ids, now.logprobs, now.token_times_ns) == (
            then.sampled_ids, then.prompt_ids, None, None,
        )  # fmt: skip
        engine = opened.engine(now.engine_id)
        assert engine is not None
        assert (engine["engine"], engine["profile"]) == (ENGINE, FLEET.profiles[0].key)
        parts = (now.queue_ns or 0) + (now.prefill_ns or 0) + (now.decode_ns or 0)
        assert parts <= (now.e2e_ns or 0)
        assert now.ttft_ns is not None
    assert {s.attributes.get(PROVIDER) for s in replay.spans if s.kind is SpanKind.DECODE} == {ENGINE}
    assert compare_runs(run, replay).same
    took = (replay.run.ended_ns or 0) - replay.run.started_ns
    assert report.replays[0].e2e_replayed_s == pytest.approx(took / 1e9, abs=2e-9)


def test_runs_meet_on_the_engine_as_they_arrive(store: Path) -> None:
    runs = recorded_in(store, *(run_of(n, calls=1) for n in range(3)))
    apart = simulated(store, runs, arrivals=Arrivals.POISSON, rate_per_s=1e-3, seed=1)
    assert [r.e2e_replayed_s for r in apart.replays] == pytest.approx([CALL_S] * 3)
    at_once = simulated(store, runs, speed=0.0)
    prompts = 3 * 3 * PROMPT_TOKEN_S  # one step computes all three
    assert [r.e2e_replayed_s for r in at_once.replays] == pytest.approx([CALL_S + prompts - 3 * PROMPT_TOKEN_S] * 3)
    starts = [Store(store).load(r.replay_run_id).run.started_ns for r in apart.replays]
    offsets = poisson_offsets(3, 1e-3, seed=1)
    assert [b - a for a, b in pairwise(starts)] == pytest.approx([(b - a) * 1e9 for a, b in pairwise(offsets)], abs=2)


def test_waits_are_scaled_and_calls_shortened_or_left_out(store: Path) -> None:
    (run,) = recorded_in(store, run_of(calls=3, wait_ms=40))

    def took(**options: Any) -> float:
        return simulated(store, [run], **options).replays[0].e2e_replayed_s

    assert took(scaling=Scaling(4.0)) == pytest.approx(3 * (0.01 + CALL_S))
    assert took(scaling=Scaling(1.0, {"tool:1:wait": 0.0})) == pytest.approx(3 * CALL_S + 2 * 0.04)
    keys = [d.step_key for d in run.decodes]
    shorter = took(altered=Alterations(shorter={keys[0]: 2}))
    assert shorter == pytest.approx(3 * (0.04 + CALL_S) - 2 * (STEP_S + PAUSE_S))
    assert took(altered=Alterations(cached=frozenset({keys[1]}))) == pytest.approx(3 * 0.04 + 2 * CALL_S)
    with pytest.raises(UnknownStep, match="no step 'nowhere'"):
        took(scaling=Scaling(1.0, {"nowhere": 0.5}))


def test_the_same_seed_gives_the_same_and_noise_differs_between_seeds(store: Path) -> None:
    runs = recorded_in(store, *(run_of(n, calls=3, wait_ms=10) for n in range(4)))

    def times(seed: int) -> list[float]:
        return [r.e2e_replayed_s for r in simulated(store, runs, noise=True, draw=seed).replays]

    assert times(1) == times(1) != times(2)


def test_times_of_all_points_end_with_the_run(store: Path) -> None:
    runs = recorded_in(store, *(run_of(n, calls=4, wait_ms=15) for n in range(5)))
    laid = [lay_out(p, ReplayOptions(), FLEET.contents()) for p in choose(runs, SIMULATE).plans.values()]
    found = FLEET.simulate(workload_of(laid, [0.01 * n for n in range(5)]), seed=3)
    for n, run in enumerate(laid):
        times = times_of(run, found, n)
        assert max(times) == found.run_ended[n]
        sent = [found.sent[found.bases[n] + k] for k in range(4)]
        assert [t for t, kind in zip(times, run.program.kinds, strict=True) if kind == "send"] == sent
        for place, later in enumerate(run.program.after):
            assert all(times[place] <= times[i] for i in later)


def test_runs_of_other_tracers_have_lengths_and_can_be_simulated(store: Path) -> None:
    (run,) = recorded_in(store, run_of(calls=2))
    texts = [
        replace(d, prompt_ids=None, sampled_ids=None, logprobs=None, digest=None, input_tokens=3, output_tokens=4)
        for d in run.decodes
    ]
    report = simulated(store, [replace(run, decodes=texts)])
    assert report.replays[0].e2e_replayed_s == pytest.approx(2 * CALL_S, abs=1e-6)
    assert [d.tokens_replayed for d in report.replays[0].decodes] == [4, 4]
    assert "not known: nothing is found in a cache" in report.replays[0].decodes[0].notes[0]
    unknown = [replace(d, output_tokens=None) for d in texts]
    with pytest.raises(ReplayError, match="no count of sampled tokens"):
        choose([replace(run, decodes=unknown)], SIMULATE)


def test_what_a_simulation_cannot_know_is_said(store: Path) -> None:
    (run,) = recorded_in(store, run_of(calls=1))
    small = Range(rows=1, prefill_tokens=2, prefill_pairs=1, context_tokens=3)
    report = simulated(store, [run], Fleet((made_profile(range=small, overheads=Overheads()),)))
    assert len(report.warnings) == 4
    assert "up to 3 prompt tokens in a step, measured up to 2" in report.warnings[0]
    assert "the way to the engine and back was not measured" in report.warnings[-1]


async def test_what_makes_no_sense_is_refused_before_anything_is_recorded(store: Path) -> None:
    (run,) = recorded_in(store, run_of(calls=1))
    before = len(Store(store).runs())
    other = Fleet((made_profile("n"),))
    with pytest.raises(NoProfile, match=r"call m, and the profile is of n; --other-fm"):
        simulated(store, [run], other)
    tiny = EngineLimits(max_num_seqs=1, token_budget=5, kv_blocks=9, block_size=16, max_model_len=5,
                        chunked_prefill=True, prefix_caching=True)  # fmt: skip
    with pytest.raises(CallDoesNotFit, match="7 tokens long, and the engine takes 5"):
        simulated(store, [run], Fleet((made_profile(limits=tiny),)))
    with pytest.raises(ReplayError, match="a simulation needs an engine model"):
        await replay_on_engine(store, [run], SIMULATE, "http://127.0.0.1:9")
    assert len(Store(store).runs()) == before
    assert simulated(store, [run], replace(other, any_model=True)).replays[0].e2e_replayed_s == pytest.approx(CALL_S)


def test_what_if_simulated_alone_and_at_a_load(store: Path) -> None:
    (run,) = recorded_in(store, run_of(calls=3, wait_ms=40))
    key = run.decodes[2].step_key
    found = simulate_what_if(run, [Scale("wait", 0.5), FewerTokens(key, 2)], FLEET)
    assert found.unchanged.p50 == pytest.approx(3 * (0.04 + CALL_S), abs=1e-6)
    assert found.gain_s == pytest.approx(3 * 0.02 + 2 * (STEP_S + PAUSE_S), abs=1e-6)
    cached = simulate_what_if(run, [CacheHit(key)], FLEET)
    assert cached.gain_s == pytest.approx(CALL_S, abs=1e-6)
    # At a load that the engine serves no more, fewer tokens gain more than they take alone.
    loaded = simulate_what_if(run, [FewerTokens(key, 2)], FLEET, load_per_s=60.0, runs=300)
    assert loaded.unchanged.count == 300
    assert loaded.gain_s > 5 * 2 * (STEP_S + PAUSE_S)
    with pytest.raises(NotMeasurable, match="cannot be simulated yet: a replay keeps the recorded order"):
        simulate_what_if(run, [OffBarrier("wait")], FLEET)


def test_a_call_is_sent_and_answered_with_its_way(store: Path) -> None:
    (run,) = recorded_in(store, run_of(calls=1))
    report = simulated(store, [run])
    (decode,) = Store(store).load(report.replays[0].replay_run_id).decodes
    assert decode.queue_ns == 0
    assert decode.prefill_ns == round((STEP_S + 3 * PROMPT_TOKEN_S) * 1e9)
    assert decode.decode_ns == round(3 * (STEP_S + PAUSE_S) * 1e9)
    way = (decode.e2e_ns or 0) - decode.prefill_ns - decode.decode_ns
    assert way == pytest.approx((BEFORE_S + AFTER_S) * 1e9, abs=2)
