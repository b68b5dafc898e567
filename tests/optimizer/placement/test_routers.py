"""Where calls go: what each policy promises, on replicas of several kinds, models and loads."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redecode.optimizer.placement.beliefs import Beliefs, Truth
from redecode.optimizer.placement.deadline import DeadlineRouter, Parts
from redecode.optimizer.placement.decisions import JsonLines, Recent
from redecode.optimizer.placement.errors import NoReplica
from redecode.optimizer.placement.estimates import Estimator
from redecode.optimizer.placement.serve_router import PowerOfTwoChoices
from redecode.optimizer.placement.simple import LeastOutstanding, PrefixAffinity, RoundRobin, ShortestExpectedDelay
from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import Hold, ReplicaView, Router
from tests.optimizer.placement.made import View, call_view, engine, one, two, workload

FAST, SLOW = engine(1.0), engine(4.0)
KNOWN = [one("run/a@1/chat", n) for n in (20, 30, 40, 50, 60)]


def estimator(engines: Sequence[Engine] = (FAST, SLOW)) -> Estimator:
    return Estimator(Beliefs(KNOWN, engines))


def every_router() -> list[Router]:
    return [
        RoundRobin(),
        LeastOutstanding(),
        PrefixAffinity(),
        PowerOfTwoChoices(random.Random(0), max_ongoing_requests=100),
        ShortestExpectedDelay(estimator()),
        DeadlineRouter(estimator()),
        DeadlineRouter(estimator(), parts=Parts(hold=True)),
    ]


@pytest.mark.parametrize("router", every_router(), ids=lambda r: type(r).__name__)
def test_a_call_goes_to_replicas_of_its_model_only(router: Router) -> None:
    views = [View(i, engine(model=m)) for i, m in enumerate(("a", "b", "a", "b", ""))]
    for n in range(20):
        model = "ab"[n % 2]
        found = router.route(call_view(n, model=model), views, 0.0)
        assert isinstance(found, int)
        assert views[found].engine.model in (model, "")


@pytest.mark.parametrize("router", every_router(), ids=lambda r: type(r).__name__)
def test_a_call_that_nobody_can_run_is_named(router: Router) -> None:
    with pytest.raises(NoReplica, match=r"run/a@1/chat for c .* replicas of a, b"):
        router.route(call_view(model="c"), [View(0, engine(model="a")), View(1, engine(model="b"))], 0.0)
    with pytest.raises(NoReplica, match="100000 tokens of prompt"):
        router.route(call_view(1, prompt=100_000), [View(0, FAST)], 0.0)


@pytest.mark.parametrize("router", every_router(), ids=lambda r: type(r).__name__)
def test_all_runs_end_or_are_refused_whatever_the_load(router: Router) -> None:
    w = workload([two(20, 30, 0.05), one("run/a@1/chat", 40)], 120.0, 90, 1.5)
    found = Simulation(w, [FAST, SLOW, SLOW], router=router).run()
    assert sum(end < 0 for end in found.run_ended) == found.refused


def test_round_robin_takes_turns_for_each_model() -> None:
    views = [View(i, engine(model="ab"[i % 2])) for i in range(6)]
    router = RoundRobin()
    assert [router.route(call_view(n, model="a"), views, 0.0) for n in range(4)] == [0, 2, 4, 0]
    assert [router.route(call_view(n, model="b"), views, 0.0) for n in range(4)] == [1, 3, 5, 1]


def test_least_outstanding_ignores_what_replicas_are() -> None:
    assert LeastOutstanding().route(call_view(), [View(0, FAST, outstanding=1), View(1, SLOW)], 0.0) == 1


def test_shortest_expected_delay_knows_what_replicas_are() -> None:
    router = ShortestExpectedDelay(estimator())
    assert router.route(call_view(), [View(0, FAST, outstanding=1), View(1, SLOW)], 0.0) == 0


def test_a_cold_replica_costs_the_time_until_it_is_ready() -> None:
    log = Recent()
    router = ShortestExpectedDelay(estimator(), log)
    assert router.route(call_view(), [View(0, FAST, ready_s=50.0), View(1, SLOW)], 10.0) == 1
    cold, warm = log.decisions()[0].candidates
    assert (cold.l_r, warm.l_r) == (40.0, 0.0)
    assert cold.l_est == cold.l_x + cold.l_q + cold.l_r


def test_prefix_affinity_returns_to_where_the_prompt_was_unless_that_is_far_more_loaded() -> None:
    router = PrefixAffinity(imbalanced=4)
    views = [View(0, FAST, outstanding=1), View(1, FAST)]
    assert router.route(call_view(0, hashes=(1, 2, 3)), views, 0.0) == 1
    views[1].outstanding = 3
    assert router.route(call_view(1, hashes=(1, 2, 3, 4)), views, 0.0) == 1
    assert router.route(call_view(2, hashes=(7, 8)), views, 0.0) == 0
    views[1].outstanding = 6
    assert router.route(call_view(3, hashes=(1, 2, 3, 4)), views, 0.0) == 0


# --- ours ----------------------------------------------------------------------------------------


def test_a_run_with_little_time_goes_to_a_fast_replica_and_one_with_much_leaves_it_free() -> None:
    """The fast one has calls that a new one would slow down; only who needs it takes that time from them."""
    views = [View(0, FAST, outstanding=14), View(1, engine(2.0))]
    slow = 60 * 0.0215  # the longest that is known, on the slow one
    tight = DeadlineRouter(estimator()).route(call_view(0, deadline_s=0.75 * slow), views, 0.0)
    loose = DeadlineRouter(estimator()).route(call_view(1, deadline_s=60.0), views, 0.0)
    assert (tight, loose) == (0, 1)


@settings(max_examples=60, deadline=None)
@given(
    loads=st.lists(st.integers(0, 14), min_size=3, max_size=3),
    speeds=st.permutations([1.0, 2.0, 5.0]),
    deadline=st.floats(0.2, 8.0),
    more=st.floats(0.0, 30.0),
)
def test_more_time_never_takes_a_costlier_replica_and_never_refuses(
    loads: list[int], speeds: list[float], deadline: float, more: float
) -> None:
    """The chance rises with time left, so what was good enough stays so, and the least costly is chosen of more."""
    engines = [engine(s) for s in speeds]
    views = [View(i, e, outstanding=n) for i, (e, n) in enumerate(zip(engines, loads, strict=True))]

    def route(until: float) -> tuple[object, dict[int, float]]:
        log = Recent()
        chosen = DeadlineRouter(estimator(engines), log=log).route(call_view(deadline_s=until), views, 0.0)
        return chosen, {c.replica: c.attains or 0.0 for c in log.decisions()[0].candidates}

    before, chances = route(deadline)
    after, later = route(deadline + more)
    assert all(later[r] >= chances[r] for r in chances)
    if before is not None:
        assert after is not None


@settings(max_examples=40, deadline=None)
@given(
    deadlines=st.lists(st.floats(0.5, 20.0), min_size=2, max_size=8),
)
def test_priorities_are_in_the_order_of_deadlines_for_calls_of_one_step(deadlines: list[float]) -> None:
    router = DeadlineRouter(estimator(), parts=Parts(shed=False))
    views: list[ReplicaView] = [View(0, FAST)]
    found = []
    for n, deadline in enumerate(deadlines):
        call = call_view(n, deadline_s=deadline)
        assert router.route(call, views, 0.0) == 0
        found.append(router.priority(call, 0.0))
    order = sorted(range(len(deadlines)), key=lambda n: deadlines[n])
    assert [found[n] for n in order] == sorted(found)


def test_a_run_that_cannot_be_in_time_is_not_begun_and_the_reason_is_said() -> None:
    log = Recent()
    router = DeadlineRouter(estimator(), log=log)
    assert router.route(call_view(deadline_s=0.05), [View(0, FAST)], 0.0) is None
    decision = log.decisions()[0]
    assert (decision.action, decision.replica) == ("refuse", None)
    assert "in time with a chance of 0.00 at most" in decision.reason


def test_nothing_is_refused_without_shedding_or_without_a_deadline() -> None:
    keeps = DeadlineRouter(estimator(), parts=Parts(shed=False))
    assert keeps.route(call_view(deadline_s=0.05), [View(0, FAST)], 0.0) == 0
    assert DeadlineRouter(estimator()).route(call_view(), [View(0, FAST, outstanding=500)], 1e6) == 0


def test_a_call_may_wait_for_a_replica_that_gets_free_and_the_most_urgent_goes_first() -> None:
    parts = Parts(hold=True)
    router = DeadlineRouter(estimator(), parts=parts)
    busy = [View(0, FAST, outstanding=400)]
    assert isinstance(router.route(call_view(0, deadline_s=9.0), busy, 0.0), Hold)
    assert isinstance(router.route(call_view(1, deadline_s=5.0), busy, 0.0), Hold)
    assert router.queued == 2
    assert [c for c, _ in router.release([View(0, FAST)], 0.1)] == [1, 0]
    assert router.queued == 0


def test_work_that_runs_in_flight_will_ask_for_is_seen_while_no_replica_shows_it() -> None:
    """Twenty runs in their tools, the long call to come: the cluster is idle, and is not taken for it."""
    known = [two(5, 300, 2.0) for _ in range(4)]
    engines = [FAST]
    estimator_ = Estimator(Beliefs(known, engines))
    router = DeadlineRouter(estimator_)
    for n in range(20):
        router.route(call_view(n, deadline_s=9.0), [View(0, FAST, outstanding=n % 3)], 0.0)
        router.ended(n, 0, 0.1)
    idle = [View(0, FAST)]
    later = router.committed.later(
        call_view(99, deadline_s=9.5), estimator_.beliefs.of(call_view()), idle, 0.3, estimator_.later(idle)
    )
    assert router.committed.shares(idle, 0.3)[""] > 0.3
    assert later[""].output_s > 1.3 * estimator_.later(idle)[""].output_s
    gone = router.committed.shares(idle, 60.0)  # all are past their deadlines
    assert gone[""] == 0.0


def test_a_run_that_does_not_come_back_is_forgotten_little_by_little() -> None:
    known = [two(5, 300, 2.0), one("run/a@1/chat", 5)]
    router = DeadlineRouter(Estimator(Beliefs(known, [FAST])))
    for n in range(10):
        router.route(call_view(n, deadline_s=30.0), [View(0, FAST)], 0.0)
        router.ended(n, 0, 0.1)
    shares = [router.committed.shares([View(0, FAST)], at)[""] for at in (0.2, 1.0, 2.0, 9.0)]
    assert shares[0] > shares[1] > shares[2] > shares[3] == 0.0


def test_beyond_capacity_shedding_keeps_those_let_in_in_time() -> None:
    """Three times what two replicas can do: they do about what they can, and late runs are few."""
    w = workload(KNOWN, 180.0, 900, 1.5)
    engines = [replace(FAST), replace(FAST)]
    shed = Simulation(w, engines, router=DeadlineRouter(Estimator(Beliefs(KNOWN, engines)))).run()
    plain = Simulation(w, engines, router=LeastOutstanding()).run()
    admitted = 1.0 - shed.refused / 900
    assert (shed.attained() or 0.0) > 0.65 * admitted
    assert (shed.attained() or 0.0) > (plain.attained() or 0.0) + 0.1


def test_on_unequal_replicas_ours_serves_more_than_serves_default_and_true_lengths_do_not_lose_to_it() -> None:
    engines = [engine(1.0, calls=32), engine(2.0, calls=32), engine(5.0, calls=32)]
    w = workload(KNOWN, 60.0, 500, 1.2)
    routers: dict[str, Router] = {
        "serve": PowerOfTwoChoices(random.Random(0)),
        "ours": DeadlineRouter(Estimator(Beliefs(KNOWN, engines))),
        "oracle": DeadlineRouter(Estimator(Truth(w, engines))),
    }
    found = {name: Simulation(w, engines, router=router).run().attained() or 0.0 for name, router in routers.items()}
    assert found["ours"] > 1.25 * found["serve"]
    assert found["oracle"] > found["ours"] - 0.03


def test_two_tenants_with_slos_of_their_own_are_told_apart() -> None:
    """The same step of two agents: one ends there, the other has a long way to go, and so less time for this call."""
    short = [one("run/a@1/chat", 30, name="short")] * 3
    long = [two(30, 300, 1.0, name="long")] * 3
    beliefs = Estimator(Beliefs([*short, *long], [FAST, SLOW]))
    log = Recent()
    router = DeadlineRouter(beliefs, log=log, parts=Parts(shed=False))
    views = [View(0, FAST), View(1, SLOW)]
    for n, agent in enumerate(("short", "long")):
        router.route(call_view(n, agent=agent, deadline_s=6.0), views, 0.0)
    first, second = log.decisions()
    assert (first.tail_s, second.tail_s > 1.0) == (0.0, True)
    assert (first.deadline_slack_s or 0) > (second.deadline_slack_s or 0) + 1.0


def test_decisions_are_written_as_lines_of_json_up_to_a_bound() -> None:
    out = io.StringIO()
    lines = JsonLines(out, most=2)
    router = DeadlineRouter(estimator(), log=lines)
    for n in range(5):
        router.route(call_view(n, deadline_s=9.0), [View(0, FAST), View(1, SLOW)], 0.0)
    written = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (len(written), lines.left_out) == (2, 3)
    for line in written:
        assert line["policy"] == "deadline"
        assert line["reason"]
        for c in line["candidates"]:
            assert c["l_est"] == pytest.approx(c["l_x"] + c["l_q"] + c["l_r"])


def test_the_same_runs_are_placed_alike_every_time() -> None:
    w = workload(KNOWN, 50.0, 200, 1.5)
    found = [
        Simulation(w, [FAST, SLOW], router=DeadlineRouter(Estimator(Beliefs(KNOWN, [FAST, SLOW])))).run()
        for _ in range(2)
    ]
    assert found[0].replica == found[1].replica
    assert found[0].run_ended == found[1].run_ended
