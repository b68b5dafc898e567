"""An engine model is found again in the steps it made, from either source, and says where it was not measured."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from redecode.replay.engine import EngineInfo
from redecode.replay.engine.protocol import TokenSteps
from redecode.replay.simulator import least_squares
from redecode.replay.simulator.costs import StepCosts, prefill_pairs, to_ps
from redecode.replay.simulator.engine import Engine, Spread
from redecode.replay.simulator.errors import OutsideTheFit, SimulationError, TooFewSteps
from redecode.replay.simulator.fit import fit_profile, info_of
from redecode.replay.simulator.lasting import lasting
from redecode.replay.simulator.observed import (
    ALONE,
    CUT,
    FOREIGN,
    Observed,
    ObservedStep,
    Passage,
    from_clock,
    from_decodes,
)
from redecode.replay.simulator.profile import EngineProfile
from redecode.replay.simulator.rows import Extremes, Limits
from redecode.tracer import Decode, Fidelity, TimeSource

TRUE = {"step": 4e-3, "prefill_token": 5e-5, "prefill_pair": 2e-8, "prefill_call": 3e-4, "decode": 6e-4,
        "context_token": 3e-7}  # fmt: skip


def info(**other: Any) -> EngineInfo:
    said: dict[str, Any] = {
        "protocol": 1, "engine": "vllm", "force": True, "step_clock": True, "model": "m", "served_model_name": "m",
        "max_num_seqs": 16, "max_num_batched_tokens": 4096, "max_model_len": 2048, "chunked_prefill": False,
        "prefix_caching": True, "device": "cpu", "device_name": "cpu", "threads": 1, "kv_blocks": 500, "block_size": 32,
        "monotonic_ns": 0, "time_ns": 0,
    }  # fmt: skip
    return EngineInfo.model_validate({**said, **other})


def made_up(count: int, rng: random.Random, noise: float = 0.0, strange: float = 0.0) -> Observed:
    """Steps of an engine with the true factors; some took ten times as long."""
    steps = []
    for _ in range(count):
        calls = rng.choice([0, 0, 0, 1, 2])
        decodes = rng.randint(0 if calls else 1, 16)
        prompts = [rng.randint(4, 900) for _ in range(calls)]
        context = sum(rng.randint(10, 1000) for _ in range(decodes))
        pairs = sum(prefill_pairs(0, p) for p in prompts)
        work = sum(f * x for f, x in zip(TRUE.values(), (1, sum(prompts), pairs, calls, decodes, context), strict=True))
        work *= max(0.5, 1 + noise * rng.gauss(0, 1)) * (10 if rng.random() < strange else 1)
        steps.append(
            ObservedStep(
                work_s=work, pause_s=1e-3 + 5e-5 * (calls + decodes), prefill_tokens=sum(prompts), pairs=pairs,
                prefill_calls=calls, decodes=decodes, context_tokens=context,
            )
        )  # fmt: skip
    return Observed(tuple(steps), {})


def test_an_exact_engine_is_found_exactly() -> None:
    profile = fit_profile(made_up(400, random.Random(1)), info(), source="sweep", now_ns=0)
    found = profile.seconds.model_dump()
    for name, value in {**TRUE, "gap": 1e-3, "gap_row": 5e-5}.items():
        assert found[name] == pytest.approx(value, rel=1e-4)
    assert all(abs(r.bias) < 1e-4 for r in profile.residuals)


def test_noise_and_strange_steps_do_not_mislead_the_fit() -> None:
    rng = random.Random(2)
    strange = made_up(3000, rng, noise=0.1, strange=0.009)
    profile = fit_profile(strange, info(), source="sweep", now_ns=0)
    for decodes, prompt in ((1, 0), (16, 0), (4, 500), (0, 100)):
        pairs = prefill_pairs(0, prompt)
        predicted = profile.step_s(
            prefill_tokens=prompt, pairs=pairs, prefill_calls=int(prompt > 0), decodes=decodes,
            context_tokens=300 * decodes,
        )  # fmt: skip
        rows = decodes + (prompt > 0)
        exact = sum(
            f * x for f, x in zip(TRUE.values(), (1, prompt, pairs, prompt > 0, decodes, 300 * decodes), strict=True)
        )
        assert predicted == pytest.approx(exact + 1e-3 + 5e-5 * rows, rel=0.06)
    assert profile.step_spread[0] < 0.9 < 1.1 < profile.step_spread[-1]
    assert profile.to_engine().steps is not None


def test_a_factor_below_zero_is_left_out_and_a_column_that_others_make_up_too() -> None:
    rows = [(1.0, x, 2 * x, 5 - x) for x in (1.0, 2.0, 3.0, 4.0)]
    found = least_squares.fit(rows, [10 + 3 * row[1] for row in rows])
    assert min(found) >= 0
    for row in rows:
        assert sum(f * x for f, x in zip(found, row, strict=True)) == pytest.approx(10 + 3 * row[1])


def test_a_prediction_outside_of_what_was_measured_says_so(tmp_path: Path) -> None:
    profile = fit_profile(made_up(300, random.Random(3)), info(), source="sweep", now_ns=0)
    assert profile.outside(Extremes(rows=2, prefill_tokens=10, prefill_pairs=10, context_tokens=10)) == []
    beyond = Extremes(rows=64, prefill_tokens=10, prefill_pairs=10, context_tokens=10**6)
    assert len(profile.outside(beyond)) == 2
    with pytest.raises(OutsideTheFit, match="64 calls in a step"):
        profile.step_s(decodes=64)
    path = tmp_path / "profiles" / "m.json"
    profile.save(path)
    assert EngineProfile.load(path) == profile
    path.write_text(path.read_text().replace('"version":1', '"version":7').replace('"version": 1', '"version": 7'))
    with pytest.raises(SimulationError, match="version 7"):
        EngineProfile.load(path)
    with pytest.raises(SimulationError, match="no engine profile at"):
        EngineProfile.load(tmp_path / "nowhere.json")
    path.write_text('{"model": 1}')
    with pytest.raises(SimulationError, match="is no engine profile"):
        EngineProfile.load(path)


def test_too_few_steps_and_steps_of_one_kind_are_refused() -> None:
    with pytest.raises(TooFewSteps, match="3 steps are too few"):
        fit_profile(made_up(3, random.Random(4)), info(), source="sweep", now_ns=0)
    steps = tuple(s for s in made_up(300, random.Random(4)).steps if not s.prefill_calls)
    with pytest.raises(TooFewSteps, match="needs both"):
        fit_profile(Observed(steps, {}), info(), source="sweep", now_ns=0)


def test_an_engine_that_does_not_say_its_limits_is_asked_for_by_name() -> None:
    with pytest.raises(SimulationError, match="does not say its kv_blocks"):
        fit_profile(made_up(100, random.Random(5)), info(kv_blocks=None), source="sweep", now_ns=0)
    given = fit_profile(made_up(100, random.Random(5)), info(kv_blocks=None), source="sweep", now_ns=0, kv_blocks=7)
    assert given.limits.kv_blocks == 7
    assert info_of({**info().model_dump(), "model": None}).model == "m"
    with pytest.raises(SimulationError, match="without our plug-in"):
        info_of({"engine": "vllm"})


def test_overheads_are_those_of_calls_that_found_the_engine_idle() -> None:
    passages = [Passage(n, 2e-3 + 1e-6 * n, 3e-3) for n in (10, 100, 500, 900)]
    profile = fit_profile(made_up(100, random.Random(6)), info(), source="sweep", now_ns=0, passages=passages)
    assert profile.overheads.before_s == pytest.approx(2e-3)
    assert profile.overheads.before_token_s == pytest.approx(1e-6)
    assert profile.overheads.after_s == pytest.approx(3e-3)


def clock(first: int, tokens: int, rows: list[int], prompt: int) -> TokenSteps:
    """Token k in step first + k; a step takes 10 ms, of which 2 are the pause."""
    t = [(first + k) * 10_000_000 + 8_000_000 for k in range(tokens)]
    return TokenSteps(
        t_ns=t, start_ns=[x - 8_000_000 for x in t], rows=rows, k=list(range(tokens)), context_tokens=[0] * tokens,
        prefill_tokens=[prompt] + [0] * (tokens - 1),
    )  # fmt: skip


def test_steps_are_put_together_from_the_clocks_of_their_calls() -> None:
    calls = [(100, 64, clock(0, 4, [1, 2, 2, 2], 100)), (50, 0, clock(1, 3, [2, 2, 2], 50))]
    found = from_clock(calls, None)
    assert [(s.prefill_calls, s.decodes, s.prefill_tokens, s.context_tokens) for s in found.steps] == [
        (1, 0, 36, 0), (1, 1, 50, 101), (0, 2, 0, 102 + 51), (0, 2, 0, 103 + 52),
    ]  # fmt: skip
    assert found.steps[0].pairs == prefill_pairs(64, 36)
    assert all(s.work_s == pytest.approx(8e-3) for s in found.steps)
    # The second call may have come after the first step was over: that pause may be waiting for it.
    assert [s.pause_s and round(s.pause_s, 6) for s in found.steps] == [None, 2e-3, 2e-3, None]


def test_steps_with_calls_of_others_or_with_cut_prompts_are_left_out_and_counted() -> None:
    assert from_clock([(100, 0, clock(0, 3, [1, 2, 1], 100))], None).left_out == {FOREIGN: 1}
    assert from_clock([(100, 0, clock(0, 3, [1, 1, 1], 100))], 64).left_out == {CUT: 1}


def decode(number: int, first: int, tokens: int, rows: list[int], prompt: int, cached: int = 0) -> Decode:
    sent = 5_000_000 + number * 1_000
    steps = clock(first, tokens, rows, prompt)
    return Decode(
        run_id="r", span_id=str(number), step_key="s", model="m", fidelity=Fidelity.ENGINE, sent_ns=10**18 + sent,
        first_chunk_ns=None, done_ns=None, token_times_ns=tuple(t - sent for t in steps.t_ns),
        token_time_source=TimeSource.ENGINE, batch_rows=tuple(rows), input_tokens=prompt, cached_tokens=cached,
        prefill_ns=7_000_000,
    )  # fmt: skip


def test_recorded_decodes_give_the_same_steps_from_token_to_token() -> None:
    found = from_decodes([decode(0, 0, 4, [1, 2, 2, 2], 100, 64), decode(1, 1, 3, [2, 2, 2], 50)], None)
    assert [(s.prefill_calls, s.decodes, s.prefill_tokens, s.context_tokens) for s in found.steps] == [
        (1, 0, 36, 0), (1, 1, 50, 101), (0, 2, 0, 102 + 51), (0, 2, 0, 103 + 52),
    ]  # fmt: skip
    assert [round(s.work_s, 6) for s in found.steps] == [7e-3, 10e-3, 10e-3, 10e-3]
    foreign = from_decodes([decode(0, 0, 3, [2, 1, 1], 10), decode(1, 9, 1, [1], 10)], None)
    assert foreign.left_out == {FOREIGN: 1}
    two_at_once = from_decodes([decode(0, 0, 1, [2], 10), decode(1, 0, 1, [2], 10)], None)
    assert two_at_once.left_out == {ALONE: 1}


def test_slow_noise_is_told_from_quick_and_comes_out_of_the_simulator_again() -> None:
    spread = Spread(tuple(0.5 + i / 100 for i in range(101)))
    limits = Limits(max_num_seqs=1, token_budget=10, kv_blocks=10)
    engine = Engine(costs=StepCosts(), limits=limits, steps=spread, lasting=0.7, lasts_ps=to_ps(0.5))
    draw = engine.noise(random.Random(7))
    assert draw is not None
    times = [n * 0.01 for n in range(20_000)]
    ratios = [draw(1, False, to_ps(t), to_ps(0.01)) for t in times]
    assert sum(ratios) / len(ratios) == pytest.approx(1.0, abs=0.04)
    share, lasts_s = lasting(times, ratios)
    assert share == pytest.approx(0.7, abs=0.1)
    assert 0.25 < lasts_s < 1.0
    rng = random.Random(8)
    assert lasting(times, [rng.random() for _ in times]) == (0.0, 0.0)
