"""Recorded runs at a load: as many as asked, at the rate asked, told apart from their copies, and overload is seen."""

from __future__ import annotations

import random
from itertools import pairwise
from statistics import fmean

import pytest

from redecode.replay.simulator.costs import to_ps
from redecode.replay.simulator.errors import SimulationError, TooLong
from redecode.replay.simulator.fleet import Fleet, Routing
from redecode.replay.simulator.load import LoadReport, RunSlo, poisson_workload, rate_of, report_of
from redecode.replay.simulator.workload import Call, Shape, chain, single
from tests.replay.simulator.made import call_s, made_profile

CALL = Call(step="s", prompt_tokens=34, output_tokens=10, model="m", hashes=(0, 1))
ALONE_S = call_s(34, 10)


def at(rate: float, *, runs: int = 400, shapes: list[Shape] | None = None, slo: str | None = None,
       fleet: Fleet | None = None, seed: int = 0) -> LoadReport:  # fmt: skip
    target = None if slo is None else RunSlo.parse(slo)
    workload = poisson_workload(shapes or [single(CALL)], runs, rate, random.Random(seed), target)
    found = (fleet or Fleet((made_profile(),))).simulate(workload, seed=seed, noise=False)
    return report_of(found, rate, target, ())


@pytest.mark.parametrize(
    ("text", "rate"), [("10rps", 10), ("0.5rps", 0.5), ("30/m", 0.5), ("3rpm", 0.05), ("7", 7), ("36 rph", 0.01)]
)
def test_a_load_is_runs_a_second(text: str, rate: float) -> None:
    assert rate_of(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["", "0rps", "-1rps", "rps", "1 per s", "nan", "1e3rps", "9" * 400])
def test_what_is_no_load_is_refused(text: str) -> None:
    with pytest.raises(SimulationError, match="like 10rps"):
        rate_of(text)


def test_an_slo_is_a_time_and_a_share() -> None:
    assert (RunSlo.parse("2s@p95"), RunSlo.parse("800ms")) == (RunSlo(2.0, 95), RunSlo(0.8, 95))
    assert str(RunSlo.parse("1.5m@p99.9")) == "90s@p99.9"
    for text in ("2", "p95", "2s@95", "0s", "2s@p0", "2s@p101"):
        with pytest.raises(SimulationError, match="like 2s@p95"):
            RunSlo.parse(text)


def test_a_light_load_takes_what_a_run_takes_alone() -> None:
    report = at(0.01, runs=50, slo=f"{ALONE_S + 1e-6}s")
    assert report.run.p99 == pytest.approx(ALONE_S)
    assert (report.attained, report.met, report.growing, report.calls) == (1.0, True, False, 50)
    assert report.offered_per_s == 0.01


def test_the_slo_is_missed_where_the_runs_take_longer() -> None:
    report = at(0.01, runs=50, slo=f"{ALONE_S - 1e-3}s@p50")
    assert (report.attained, report.met) == (0.0, False)


def test_more_than_the_replicas_serve_is_said_and_more_replicas_serve_it() -> None:
    busy = at(1000.0)
    assert busy.growing
    assert busy.done_per_s < 500
    assert not at(5.0).growing
    many = at(60.0, fleet=Fleet((made_profile(),), replicas=12))
    assert not many.growing
    assert many.utilisation < 0.8


def test_runs_that_only_take_long_do_not_pile_up_and_those_of_them_that_do_are_seen() -> None:
    slow = [chain([CALL, CALL], [to_ps(900.0), 0])]
    fleet = Fleet((made_profile(),))
    workload = poisson_workload(slow, 400, 4.0, random.Random(0))
    assert report_of(fleet.simulate(workload, noise=False), 4.0, None, (), fleet.alone_ps).growing is False
    workload = poisson_workload(slow, 400, 200.0, random.Random(0))
    assert report_of(fleet.simulate(workload, noise=False), 200.0, None, (), fleet.alone_ps).growing is True


def test_what_goes_beyond_virtual_time_is_refused() -> None:
    for seldom in (1e-9, 1e-300):
        with pytest.raises(TooLong, match=r"begin within .* days, and 106 can be simulated"):
            poisson_workload([single(CALL)], 50, seldom, random.Random(0))
    with pytest.raises(TooLong, match="at most 106 days"):
        RunSlo.parse("99999999999s")
    months = chain([CALL, CALL], [0, to_ps(200 * 86400.0)])
    with pytest.raises(TooLong, match="106 days of virtual time"):
        at(1.0, runs=2, shapes=[months])


def test_a_run_drawn_twice_does_not_find_itself_but_what_two_have_is_found() -> None:
    assert at(0.01, runs=50).cached_share == 0
    other = Call(step="t", prompt_tokens=34, output_tokens=10, model="m", hashes=(0, 5))
    shared = at(0.01, runs=50, shapes=[single(CALL), single(other)])
    assert shared.cached_share == pytest.approx(49 * 16 / (50 * 34))  # the block that both begin with


def test_the_same_seed_gives_the_same_and_arrivals_are_a_poisson_process() -> None:
    assert at(20.0, seed=3) == at(20.0, seed=3)
    assert at(20.0, seed=3) != at(20.0, seed=4)
    begins = poisson_workload([single(CALL)], 20_000, 5.0, random.Random(1)).begins
    gaps = [(b - a) / 1e12 for a, b in pairwise(begins)]
    assert fmean(gaps) == pytest.approx(0.2, rel=0.03)
    assert fmean(g * g for g in gaps) == pytest.approx(2 * 0.2**2, rel=0.06)


@pytest.mark.parametrize("routing", list(Routing))
def test_calls_go_to_replicas_of_their_fm_alone(routing: Routing) -> None:
    slow = made_profile("slow", seconds=made_profile().seconds.model_copy(update={"step": 0.1}))
    fleet = Fleet((made_profile(), slow), replicas=2, routing=routing)
    shapes = [single(CALL), single(Call(step="t", prompt_tokens=34, output_tokens=10, model="slow"))]
    workload = poisson_workload(shapes, 60, 1.0, random.Random(2))
    found = fleet.simulate(workload, noise=False)
    for call, replica in zip(found.calls(), found.replica, strict=True):
        assert (replica >= 2) == (call.model == "slow")
    used = {r for r in found.replica if r < 2}
    assert used == ({0, 1} if routing is Routing.TURNS else used)


def test_the_prefix_router_goes_where_the_prompt_is() -> None:
    fleet = Fleet((made_profile(),), replicas=3, routing=Routing.PREFIX)
    calls = [Call(step=str(n), prompt_tokens=34, output_tokens=2, model="m", hashes=(n, n + 100)) for n in range(3)]
    both = [Call(step=f"{n}again", prompt_tokens=50, output_tokens=2, model="m", hashes=(n, n + 100)) for n in range(3)]
    workload = poisson_workload([single(c) for c in (*calls, *both)], 60, 0.5, random.Random(5))
    found = fleet.simulate(workload, noise=False)
    homes: dict[int, set[int]] = {}
    for call, replica in zip(found.calls(), found.replica, strict=True):
        homes.setdefault(call.hashes[0], set()).add(replica)
    again = [c for c, call in zip(found.cached, found.calls(), strict=True) if call.prompt_tokens == 50]
    assert sum(c == 32 for c in again) >= len(again) - 3  # all but perhaps the first of each
    assert all(len(where) == 1 for where in homes.values())
