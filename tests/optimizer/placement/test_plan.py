"""Plans: the cheapest hardware that does, several models, several SLOs, and the way a run takes."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from redecode.optimizer.placement.alone import runs_alone, way_of
from redecode.optimizer.placement.errors import PlacementError
from redecode.optimizer.placement.kinds import Kind, longest_s
from redecode.optimizer.placement.plan import BeyondCapacity, Impossible, Wanted, make_plan
from redecode.optimizer.placement.work import Speed
from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import PS, to_ps
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.load import RunSlo
from redecode.replay.simulator.workload import Call, Shape, Workload
from tests.optimizer.placement.made import engine, one, two

SHAPES = tuple(one("run/a@1/chat", n) for n in (20, 30, 40, 50, 60))


def kind(e: Engine, usd: float, most: int = 6) -> Kind:
    return Kind(f"{e.hardware} {e.model}".strip(), e, usd, most)


def wanted(*kinds: Kind, shapes: tuple[Shape, ...] = SHAPES, slo: str = "1500ms@p90", per_s: float = 20.0) -> Wanted:
    return Wanted(shapes=shapes, slos={"": RunSlo.parse(slo)}, per_s=per_s, kinds=kinds, seeds=2, runs=60)


def test_the_hardware_that_costs_least_for_the_load_is_taken() -> None:
    fast, slow = engine(1.0), engine(2.0)
    cheap_slow = make_plan(wanted(kind(fast, 10.0), kind(slow, 1.0)))
    assert [row[1] for row in cheap_slow.replicas] == ["x2"]
    cheap_fast = make_plan(wanted(kind(fast, 1.0), kind(slow, 10.0)))
    assert [row[1] for row in cheap_fast.replicas] == ["x1"]
    assert cheap_slow.met
    assert cheap_fast.met


def test_hardware_too_slow_for_the_slo_is_not_taken_however_cheap() -> None:
    plan = make_plan(wanted(kind(engine(1.0), 10.0), kind(engine(9.0), 0.01), slo="1s@p90"))
    assert [row[1] for row in plan.replicas if row[2]] == ["x1"]


def test_every_model_has_a_replica() -> None:
    shapes = (one("a", 30, model="m"), one("b", 30, model="n"))
    plan = make_plan(wanted(kind(engine(model="m"), 1.0), kind(engine(model="n"), 1.0), shapes=shapes))
    assert sorted(row[0] for row in plan.replicas) == ["m", "n"]


def test_each_agent_is_held_to_its_own_slo() -> None:
    shapes = (one("a", 20, name="quick"), two(30, 60, 0.5, name="long"))
    both = Wanted(
        shapes=shapes, slos={"quick": RunSlo(0.5, 90), "long": RunSlo(4.0, 80)}, per_s=15.0,
        kinds=(kind(engine(), 1.0),), seeds=2, runs=60,
    )  # fmt: skip
    plan = make_plan(both)
    assert [(c.agent, c.slo, c.met) for c in plan.classes] == [("long", "4s@p80", True), ("quick", "0.5s@p90", True)]
    with pytest.raises(Impossible, match=r"long: 0.8s@p80 cannot be met .*run/a@3/chat 0\.6"):
        make_plan(replace(both, slos={"quick": RunSlo(0.5, 90), "long": RunSlo(0.8, 80)}))


def test_a_model_nobody_serves_is_named() -> None:
    with pytest.raises(PlacementError, match=r"no engine profile of n; .*there are profiles of m"):
        make_plan(wanted(kind(engine(model="m"), 1.0), shapes=(one("a", 5, model="n"),)))


def test_the_most_that_can_be_served_is_served_and_not_much_more_is() -> None:
    only = kind(engine(), 1.0, most=1)
    with pytest.raises(BeyondCapacity) as said:
        make_plan(wanted(only, per_s=300.0))
    most = said.value.most_per_s
    assert 5 < most < 60  # one of these ends 42 a second with a full batch
    make_plan(wanted(only, per_s=0.8 * most))


def test_the_most_that_can_be_served_is_found_of_whatever_load_was_asked_for() -> None:
    for per_s in (300.0, 1e6):
        with pytest.raises(BeyondCapacity) as said:
            make_plan(replace(wanted(kind(engine(), 1.0, most=1), per_s=per_s), runs=150))
        assert 5 < said.value.most_per_s < 60


def test_that_a_few_runs_end_in_time_is_no_plan_for_a_load_at_which_more_begin_meanwhile() -> None:
    told: list[str] = []
    with pytest.raises(PlacementError, match=r"60 runs at 100000 a second .* Simulate 6000000 \(--runs\)") as said:
        make_plan(wanted(kind(engine(), 1.0, most=3), slo="60s@p90", per_s=100_000.0), told.append)
    assert told == ["runs alone", "simulating 3 × x1"], "before any search"
    assert not isinstance(said.value, BeyondCapacity)
    plan = make_plan(wanted(kind(engine(), 1.0), slo="6s@p90", per_s=8.0))
    assert plan.breaks.holds_per_s <= 10.0  # 60 runs within 6 s


def test_the_load_that_breaks_a_plan_does_break_it() -> None:
    plan = make_plan(wanted(kind(engine(), 1.0, most=1), per_s=10.0))
    assert plan.breaks.per_s is not None
    assert 10.0 <= plan.breaks.holds_per_s < plan.breaks.per_s < 60
    assert plan.breaks.step == "run/a@1/chat"
    assert plan.breaks.more_s > 0


def test_the_way_of_a_run_is_what_it_took() -> None:
    calls = tuple(Call(step=f"s{i}", prompt_tokens=16, output_tokens=n) for i, n in enumerate((5, 30, 10, 7)))
    forked = Shape(
        calls=calls, first=((0, to_ps(0.25)),), waits=(1, 1, 1, 2), last={3: to_ps(0.5)},
        after=(((1, 0), (2, to_ps(4.0))), ((3, 0),), ((3, to_ps(0.1)),), ()),
    )  # fmt: skip
    found = Simulation(Workload((forked,), array("q", [0]), array("l", [0])), [engine()]).run()
    way = way_of(found, 0)
    assert [leg.step for leg in way if not leg.wait] == ["s0", "s2", "s3"]
    assert sum(leg.seconds for leg in way) == pytest.approx(found.run_ended[0] / PS)
    (alone,) = runs_alone([forked], [engine()])
    assert "wait before s2 4 s" in alone.words()


def test_as_many_runs_as_begin_within_five_slos_are_simulated_if_nobody_says() -> None:
    for slo, per_s, runs in (("2s@p95", 10.0, 400), ("2s@p95", 100.0, 1000), ("60s@p90", 100.0, 2000)):
        assert wanted(kind(engine(), 1.0), slo=slo, per_s=per_s).runs_that_tell() == runs


def test_that_many_show_a_load_a_fifth_beyond_what_is_served() -> None:
    asked = replace(wanted(kind(engine(), 1.0, most=1), slo="3s@p95"), runs=800)
    with pytest.raises(BeyondCapacity) as said:
        make_plan(replace(asked, per_s=300.0))
    for beyond, met in ((0.9, True), (1.2, False)):
        more = replace(asked, per_s=beyond * said.value.most_per_s)
        more = replace(more, runs=more.runs_that_tell())
        try:
            assert make_plan(more).met is met
        except BeyondCapacity:
            assert not met


def test_more_runs_than_virtual_time_has_room_for_are_each_alone() -> None:
    alone = runs_alone([one("a", 20)] * 1001, [engine()])
    assert {round(a.seconds, 9) for a in alone} == {round(alone[0].seconds, 9)}
    assert len(alone) == 1001


def test_the_longest_way_at_one_speed_is_what_a_simulation_of_many_replicas_takes() -> None:
    shape = two(20, 30, 0.7)
    e = engine()
    speed = Speed(0.0, 0.0, 2e-5, 0.0, 0.0105)
    (alone,) = runs_alone([shape], [e, e])
    assert longest_s(shape, speed) == pytest.approx(alone.seconds, rel=0.05)
