"""Ray Serve's router and rule: against closed forms, and against Ray itself where it is installed."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.optimizer.placement.serve_router import PowerOfTwoChoices
from redecode.optimizer.placement.serve_scaling import Delays, ServeRule, ServeScaling
from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import PS
from redecode.replay.simulator.views import Add, Hold, Remove, State
from tests.optimizer.placement.made import View, call_view, engine, one, workload

ENGINE = engine()


def test_two_replicas_are_drawn_and_the_shorter_queue_wins() -> None:
    """With queues of distinct lengths replica i of n is chosen with chance 2(n - 1 - i) / (n(n - 1))."""
    views = [View(i, ENGINE, outstanding=i) for i in range(5)]
    router = PowerOfTwoChoices(random.Random(1), max_ongoing_requests=100)
    trials = 20_000
    found = Counter(router.choose(views) for _ in range(trials))
    for i in range(5):
        assert found[i] / trials == pytest.approx(2 * (4 - i) / 20, abs=0.012)


def test_of_equal_queues_the_first_drawn_wins_so_that_all_are_alike() -> None:
    views = [View(i, ENGINE) for i in range(3)]
    router = PowerOfTwoChoices(random.Random(2))
    found = Counter(router.choose(views) for _ in range(9000))
    assert all(abs(n / 9000 - 1 / 3) < 0.02 for n in found.values())


def test_a_full_or_starting_replica_gets_nothing() -> None:
    router = PowerOfTwoChoices(random.Random(3), max_ongoing_requests=5)
    views = [View(0, ENGINE, outstanding=5), View(1, ENGINE, state=State.STARTING), View(2, ENGINE, outstanding=4)]
    routes = [router.route(call_view(n), views, 0.0) for n in range(20)]
    assert all(route == 2 or isinstance(route, Hold) for route in routes)
    assert 2 in routes
    assert router.choose([views[0]]) is None


def test_calls_beyond_the_limit_wait_and_go_in_the_order_they_came() -> None:
    shapes = [one("s", 20)]
    w = workload(shapes, 1000.0, 40, None)
    router = PowerOfTwoChoices(random.Random(4), max_ongoing_requests=1)
    found = Simulation(w, [ENGINE, ENGINE], router=router).run()
    assert min(found.run_ended) >= 0
    order = sorted(range(40), key=lambda c: found.scheduled[c])
    assert order == list(range(40))
    spans = sorted((found.scheduled[c], found.last[c]) for c in range(40))
    for begin, _ in spans:  # never more than one in each
        assert sum(b <= begin < e for b, e in spans) <= 2


def test_a_waiting_call_is_tried_again_after_serves_backoffs() -> None:
    """25 ms, 50 ms, 100 ms and so on: a replica that got free in between stays idle until then."""
    shapes = [one("s", 21)]  # 21 steps of 10.5 ms
    w = workload(shapes, 1e6, 2, None)
    found = Simulation(w, [ENGINE], router=PowerOfTwoChoices(random.Random(5), max_ongoing_requests=1)).run()
    waited = (found.scheduled[1] - found.sent[1]) / PS
    assert waited == pytest.approx(0.025 + 0.05 + 0.1 + 0.2, abs=0.012)


RULES = st.builds(
    ServeRule,
    min_replicas=st.integers(1, 2),
    max_replicas=st.integers(3, 20),
    target_ongoing_requests=st.sampled_from([0.5, 1.0, 2.0, 7.0]),
    upscale_delay_s=st.sampled_from([0.0, 2.0, 30.0]),
    downscale_delay_s=st.sampled_from([0.0, 5.0, 600.0]),
    upscaling_factor=st.sampled_from([0.3, 1.0, 2.0]),
    downscaling_factor=st.sampled_from([0.3, 1.0]),
)


@settings(max_examples=60, deadline=None)
@given(rule=RULES, loads=st.lists(st.floats(0, 200), min_size=1, max_size=40))
def test_the_rule_decides_as_the_installed_ray_does(rule: ServeRule, loads: list[float]) -> None:
    policy = pytest.importorskip("ray.serve.autoscaling_policy")
    config = pytest.importorskip("ray.serve.config").AutoscalingConfig(
        min_replicas=rule.min_replicas,
        max_replicas=rule.max_replicas,
        target_ongoing_requests=rule.target_ongoing_requests,
        upscale_delay_s=rule.upscale_delay_s,
        downscale_delay_s=rule.downscale_delay_s,
        upscaling_factor=rule.upscaling_factor,
        downscaling_factor=rule.downscaling_factor,
    )
    theirs = ours = ready = 2
    state: dict[str, object] = {}
    delays = Delays()
    for turn, load in enumerate(loads):
        ctx = SimpleNamespace(
            current_num_replicas=ready, target_num_replicas=theirs, total_num_requests=load, config=config
        )
        raw, _ = policy._core_replica_queue_length_policy(ctx)
        desired = policy._apply_scaling_factors(raw, ready, config)
        theirs, state = policy._apply_delay_logic(max(0, desired), theirs, config, state, _now=float(turn))
        theirs = max(rule.min_replicas, min(rule.max_replicas, theirs))
        ours = delays.decide(rule, max(0, rule.desired(load, ready)), ours, float(turn))
        ours = max(rule.min_replicas, min(rule.max_replicas, ours))
        assert ours == theirs
        ready = ours


def test_more_replicas_come_after_the_delay_and_fewer_long_after() -> None:
    rule = ServeRule(min_replicas=1, max_replicas=4)
    scaling = ServeScaling(rule, ENGINE)
    views = [View(0, ENGINE, outstanding=8)]
    asked = [(t / 10, scaling.plan(views, t / 10)) for t in range(400)]
    first, commands = next((t, c) for t, c in asked if c)
    assert first == pytest.approx(30.0, abs=0.2)
    assert [type(c) for c in commands] == [Add, Add, Add]
    views = [View(i, ENGINE) for i in range(4)]
    fewer = [(t, c) for t in range(400, 12000) if (c := scaling.plan(views, t / 10))]
    assert fewer[0][0] / 10 > 40 + 600
    assert fewer[0][1] == [Remove(3), Remove(2), Remove(1)]  # the newest first


def test_calls_that_wait_at_the_handle_count() -> None:
    scaling = ServeScaling(ServeRule(max_replicas=9, upscale_delay_s=0.0), ENGINE, lambda: 8)
    assert len(scaling.plan([View(0, ENGINE)], 0.0)) == 3
