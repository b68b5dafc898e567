"""Our provisioner: more replicas as soon as the risk is foreseen, fewer after a while, the cheapest kind first."""

from __future__ import annotations

import random

from redecode.optimizer.placement.beliefs import Beliefs
from redecode.optimizer.placement.deadline import DeadlineRouter
from redecode.optimizer.placement.estimates import Estimator
from redecode.optimizer.placement.risk_scaling import RiskRule, RiskScaling
from redecode.optimizer.placement.serve_router import PowerOfTwoChoices
from redecode.optimizer.placement.serve_scaling import ServeRule, ServeScaling
from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import Add, Remove, State
from tests.optimizer.placement.made import View, call_view, engine, one, workload

KNOWN = [one("run/a@1/chat", n) for n in (20, 30, 40, 50, 60)]
FAST = engine(1.0, usd=4.0)


def scaling(kinds: list[Engine] | None = None, rule: RiskRule | None = None) -> RiskScaling:
    kinds = kinds or [FAST]
    return RiskScaling(rule or RiskRule(), kinds, Estimator(Beliefs(KNOWN, kinds)))


def begin(it: RiskScaling, per_s: float, seconds: float, at: float = 0.0) -> float:
    """Runs that begin evenly; returns the time after."""
    for n in range(round(per_s * seconds)):
        it.began(call_view(n, deadline_s=at + n / per_s + 2.0), at + n / per_s)
    return at + seconds


def test_more_load_wants_more_replicas_at_once() -> None:
    counts = []
    for rate in (5.0, 40.0, 120.0):
        it = scaling(rule=RiskRule(most=20))
        it.plan([View(0, FAST)], 0.0)
        commands = it.plan([View(0, FAST)], begin(it, rate, 30.0))
        assert all(isinstance(c, Add) for c in commands)
        counts.append(len(commands))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[2] >= counts[1] + 1


def test_a_replica_that_starts_counts_as_one() -> None:
    it = scaling(rule=RiskRule(most=20))
    it.plan([View(0, FAST)], 0.0)
    now = begin(it, 100.0, 30.0)
    added = len(it.plan([View(0, FAST)], now))
    views = [View(0, FAST), *(View(1 + n, FAST, state=State.STARTING, ready_s=now + 40) for n in range(added))]
    assert added > 0
    assert it.plan(views, now) == []


def test_replicas_go_when_they_were_too_many_for_a_while_and_never_all() -> None:
    it = scaling(rule=RiskRule(release_after_s=60.0, least=1))
    views = [View(i, FAST) for i in range(3)]
    assert it.plan(views, 0.0) == []
    assert it.plan(views, 59.0) == []
    assert sorted(c.replica for c in it.plan(views, 61.0) if isinstance(c, Remove)) == [1, 2]


def test_the_cheapest_work_is_added_and_the_dearest_released() -> None:
    dear, cheap = engine(1.0, usd=9.0), engine(2.0, usd=1.0)
    it = scaling([dear, cheap], RiskRule(most=20))
    it.plan([View(0, dear)], 0.0)
    commands = it.plan([View(0, dear)], begin(it, 100.0, 30.0))
    assert {c.engine.hardware for c in commands if isinstance(c, Add)} == {cheap.hardware}
    it = scaling([dear, cheap])
    views = [View(0, dear), View(1, cheap), View(2, dear)]
    it.plan(views, 0.0)
    gone = [c.replica for c in it.plan(views, 100.0) if isinstance(c, Remove)]
    assert 1 not in gone
    assert gone


def test_when_the_load_rises_ours_keeps_more_runs_in_time_than_serves_rule() -> None:
    """A load that four replicas are needed for, on one to begin with; a cold start takes 5 s, Serve waits 30 s."""
    kind = engine(1.0, cold_s=5.0)
    w = workload(KNOWN, 60.0, 1800, 2.0)
    pow2 = PowerOfTwoChoices(random.Random(0))
    serve = ServeScaling(ServeRule(max_replicas=8), kind, lambda: pow2.queued)
    theirs = Simulation(w, [kind], router=pow2, provisioner=serve).run()
    estimator = Estimator(Beliefs(KNOWN, [kind]))
    made: list[RiskScaling] = []
    router = DeadlineRouter(estimator, began=lambda call, now: made[0].began(call, now))
    made.append(RiskScaling(RiskRule(most=8), [kind], estimator, router.committed))
    ours = Simulation(w, [kind], router=router, provisioner=made[0]).run()
    assert (ours.attained() or 0.0) > (theirs.attained() or 0.0) + 0.2
    assert len(ours.alive_ps) <= 8
