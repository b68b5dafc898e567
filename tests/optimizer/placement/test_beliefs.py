"""What is believed of calls: samples with their tails, named fallbacks, and never the truth."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.optimizer.placement.beliefs import Beliefs, Source, Truth, node_of, tails_of, works_of
from redecode.optimizer.placement.deadline import DeadlineRouter
from redecode.optimizer.placement.decisions import Recent
from redecode.optimizer.placement.estimates import Estimator
from redecode.optimizer.placement.simple import ShortestExpectedDelay
from redecode.optimizer.placement.work import Model, Speed
from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import to_ps
from redecode.replay.simulator.workload import Call, Shape, Workload
from tests.optimizer.placement.made import call_view, engine, one, two, workload

SPEED = {"": Speed(0.0, 0.0, 0.0, 0.0, 0.1)}  # a token takes 100 ms, and nothing else takes time


def test_a_step_is_known_by_its_output_and_what_follows() -> None:
    beliefs = Beliefs([two(10, 40), two(20, 80, gap_s=2.0)], [engine()])
    found = beliefs.of(call_view(step="run/a@1/chat"))
    assert found.source is Source.STEP
    assert found.output_tokens == 15
    assert [(s.output_tokens, s.waits_s, s.later[0][1].output_tokens) for s in found.samples] == [
        (10, 1.0, 40),
        (20, 2.0, 80),
    ]
    assert all(s.later == s.rest == () for s in beliefs.of(call_view(step="run/a@3/chat")).samples)


def test_the_tail_is_the_longest_way_and_the_rest_all_ways() -> None:
    calls = tuple(Call(step=f"s{n}", prompt_tokens=16, output_tokens=n) for n in (5, 30, 10, 7))
    forked = Shape(  # 0 → (1, and 2 after a wait of 4 s) → 3
        calls=calls, first=((0, 0),), waits=(1, 1, 1, 2), last={3: to_ps(0.5)},
        after=(((1, 0), (2, to_ps(4.0))), ((3, 0),), ((3, 0),), ()),
    )  # fmt: skip
    first = tails_of(forked, works_of(forked), SPEED)[0]
    assert (first.waits_s, first.later[0][1].output_tokens) == (4.5, 17)  # 4 s and 10 tokens, longer than 30 tokens
    assert first.rest[0][1].output_tokens == 47


@pytest.mark.parametrize(
    ("asked", "source"),
    [
        ({"step": "run/a@1/chat", "agent": "y"}, Source.OTHER_AGENT),
        ({"step": "run/a@9[pull:a]/chat", "agent": "x"}, Source.NODE),
        ({"step": "run/new@1/chat", "agent": "x"}, Source.AGENT),
        ({"step": "run/new@1/chat", "agent": "z"}, Source.MODEL),
        ({"step": "run/new@1/chat", "agent": "z", "model": "m"}, Source.ALL),
    ],
)
def test_a_step_never_seen_is_like_one_that_was_and_says_which(asked: dict[str, str], source: Source) -> None:
    assert Beliefs([two(10, 40)], [engine()]).of(call_view(**asked)).source is source  # type: ignore[arg-type]


def test_with_nothing_recorded_the_limit_of_the_caller_is_believed_or_a_guess_said_to_be_one() -> None:
    beliefs = Beliefs([], [engine()])
    limited, not_limited = beliefs.of(call_view(max_tokens=33)), beliefs.of(call_view())
    assert (limited.source, limited.output_tokens) == (Source.LIMIT, 33)
    assert not_limited.source is Source.GUESS
    assert "256" in not_limited.source


def test_no_output_is_believed_to_exceed_its_callers_limit() -> None:
    belief = Beliefs([two(10, 1), two(90, 1)], [engine()]).of(call_view(max_tokens=50))
    assert sorted(s.output_tokens for s in belief.samples) == [10, 50]


def test_node_names_are_step_keys_without_supersteps_tasks_and_counts() -> None:
    assert node_of("run/agent@3[pull:agent]/chat#2") == "run/agent/chat"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_what_a_router_first_decides_does_not_depend_on_true_lengths(seed: int) -> None:
    """The same runs with other lengths of outputs: until the first call ends nobody can tell."""
    rng = random.Random(seed)
    known = [two(rng.randint(5, 60), rng.randint(5, 60)) for _ in range(8)]
    shapes = [two(rng.randint(5, 60), rng.randint(5, 60)) for _ in range(6)]
    others = [replace(s, calls=tuple(replace(c, output_tokens=rng.randint(5, 60)) for c in s.calls)) for s in shapes]
    engines = [engine(1.0), engine(2.0), engine(4.0)]
    decided = []
    for some in (shapes, others):
        plain = workload(shapes, 2000.0, 6, 3.0, seed)
        log = Recent()
        router = DeadlineRouter(Estimator(Beliefs(known, engines)), log=log)
        found = Simulation(Workload(tuple(some), plain.begins, plain.which, plain.deadlines), engines, router=router)
        found.run()
        first = [d for d in log.decisions() if d.now_s < 0.01]
        decided.append([(d.call, d.action, d.replica, d.candidates) for d in first])
    assert len(decided[0]) == 6
    assert decided[0] == decided[1]


def test_the_oracle_and_it_alone_knows_true_lengths() -> None:
    w = workload([two(7, 9)], 1.0, 1, 5.0)
    truth = Truth(w, [engine()]).of(call_view(step="run/a@1/chat", run=0))
    assert truth.source is Source.TRUTH
    assert [(s.output_tokens, s.later[0][1].output_tokens) for s in truth.samples] == [(7, 9)]


def test_an_estimate_meets_what_a_call_takes_alone() -> None:
    shapes = [one("s", 50, prompt=400)]
    slow = engine(3.0)
    log = Recent()
    router = ShortestExpectedDelay(Estimator(Beliefs(shapes, [slow])), log)
    found = Simulation(workload(shapes, 1.0, 1, None), [slow], router=router).run()
    estimate = log.decisions()[0].candidates[0]
    assert estimate.l_est == pytest.approx(found.e2e_s()[0], rel=0.05)
    assert (estimate.l_q, estimate.l_r) == (0.0, 0.0)


def test_the_pace_under_a_steady_load_is_that_of_the_simulator() -> None:
    """Little's law and pace(n) together: calls in the batch at a rate, against the mean the simulator finds."""
    shapes = [one("s", 40, prompt=200)]
    fast = engine(calls=64)
    model = Model(fast, Beliefs(shapes, [fast]).typical[""])
    for rate in (5.0, 15.0, 25.0):
        found = Simulation(workload(shapes, rate, 1500, None), [fast]).run()
        mean = sum(found.e2e_s()) * rate / len(found.e2e_s())
        assert model.load_at(rate) == pytest.approx(mean, rel=0.12)
    assert model.load_at(1e4) == float("inf")
