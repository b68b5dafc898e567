"""Runs, routers, replicas that come and go: what happens is what can be worked out by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from array import array
from collections.abc import Sequence

import pytest

from redecode.replay.simulator.cluster import Simulation, Transfer
from redecode.replay.simulator.costs import PS, StepCosts, prefill_pairs, to_ps
from redecode.replay.simulator.engine import Engine, Spread
from redecode.replay.simulator.errors import BadRoute, CallDoesNotFit, SimulationError
from redecode.replay.simulator.rows import Limits
from redecode.replay.simulator.views import Add, CallView, Command, Remove, ReplicaView, Router, Split, State, Swap
from redecode.replay.simulator.workload import Call, Shape, Workload, chain, single

MS = to_ps(0.001)
COSTS = StepCosts(step=4 * MS, prefill_token=MS // 10, prefill_pair=50, decode=MS // 2, context_token=300, gap=MS)
LIMITS = Limits(max_num_seqs=8, token_budget=512, kv_blocks=1000)


def engine(model: str = "", cold_s: float = 0.0, limits: Limits = LIMITS) -> Engine:
    return Engine(costs=COSTS, limits=limits, model=model, cold_start_ps=to_ps(cold_s))


def calls_of(count: int, prompt: int = 100, output: int = 20, every_ms: int = 30, model: str = "") -> Workload:
    call = Call(step="s", prompt_tokens=prompt, output_tokens=output, model=model)
    return Workload.of([single(call)], [every_ms * MS * i for i in range(count)])


class To(Router):
    """Where a function says."""

    def __init__(self, choose: object = 0) -> None:
        self.choose = choose
        self.seen: list[tuple[CallView, float, list[tuple[int, State, int]]]] = []

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> int | Split | None:
        self.seen.append((call, now_s, [(r.number, r.state, r.outstanding) for r in replicas]))
        return self.choose(call, replicas) if callable(self.choose) else self.choose  # type: ignore[return-value]


def test_a_single_call_takes_the_sum_of_its_steps() -> None:
    one = Engine(costs=COSTS, limits=LIMITS, before_ps=7 * MS, before_token_ps=11, after_ps=3 * MS)
    found = Simulation(calls_of(1), [one]).run()
    arrives = 7 * MS + 100 * 11
    first = arrives + COSTS.work(100, prefill_pairs(0, 100), 1, 0, 0)
    last = first
    for k in range(1, 20):
        last += COSTS.gap + COSTS.work(0, 0, 0, 1, 100 + k)
    assert (found.first[0], found.last[0], found.done[0]) == (first, last, last + 3 * MS)
    assert found.run_s() == [(last + 3 * MS) / PS]


def test_a_prompt_longer_than_a_step_is_cut_while_others_decode() -> None:
    prompts = Workload.of([single(Call(step="s", prompt_tokens=n, output_tokens=5)) for n in (10, 1200)], [0, 0])
    found = Simulation(prompts, [engine()]).run()
    cut = [min(512 - 10, 1200), 511, 1200 - 502 - 511]
    steps = [COSTS.work(512, prefill_pairs(0, 10) + prefill_pairs(0, cut[0]), 2, 0, 0)]
    steps.append(COSTS.work(cut[1], prefill_pairs(cut[0], cut[1]), 1, 1, 11))
    steps.append(COSTS.work(cut[2], prefill_pairs(cut[0] + cut[1], cut[2]), 1, 1, 12))
    assert found.first[1] == sum(steps) + 2 * COSTS.gap
    assert found.extremes[0].prefill_tokens == 512


def test_a_later_call_of_a_run_waits_for_the_one_before_and_finds_its_prefix() -> None:
    blocks = tuple(-n - 1 for n in range(20))
    calls = [
        Call(step="a", prompt_tokens=100, output_tokens=30, hashes=blocks[:8]),
        Call(step="b", prompt_tokens=160, output_tokens=10, hashes=blocks[:10]),
    ]
    workload = Workload.of([chain(calls, [0, 50 * MS])], [0, 10 * MS])
    found = Simulation(workload, [engine()]).run()
    assert found.sent[1] == found.done[0] + 50 * MS
    assert list(found.cached) == [0, 128, 0, 128], "content below 0 is not shared by runs"
    shared = [Call(step=c.step, prompt_tokens=c.prompt_tokens, output_tokens=c.output_tokens,
                   hashes=tuple(-h - 1 for h in c.hashes)) for c in calls]  # fmt: skip
    found = Simulation(Workload.of([chain(shared, [0, 50 * MS])], [0, PS]), [engine()]).run()
    assert list(found.cached) == [0, 128, 96, 144]


def test_a_join_waits_for_the_last_of_its_calls() -> None:
    def call(output: int) -> Call:
        return Call(step="s", prompt_tokens=10, output_tokens=output)

    fork = Shape(
        calls=(call(5), call(60), call(5)), first=((0, 0), (1, 0)), after=(((2, 0),), ((2, 7),), ()), waits=(1, 1, 2),
        last={2: 9},
    )  # fmt: skip
    found = Simulation(Workload.of([fork], [0]), [engine()]).run()
    assert found.done[0] < found.done[1]
    assert found.sent[2] == found.done[1] + 7
    assert found.run_ended[0] == found.done[2] + 9


def test_a_router_sees_what_was_sent_where_and_no_lengths_to_come() -> None:
    router = To(lambda call, replicas: call.call % 2)
    workload = calls_of(4, every_ms=1)
    found = Simulation(workload, [engine(), engine()], router=router).run()
    assert list(found.replica) == [0, 1, 0, 1]
    assert [seen[2] for seen in router.seen][3] == [(0, State.READY, 2), (1, State.READY, 1)]
    assert not any("output" in name for name in CallView.__slots__)
    assert router.seen[2][1] == pytest.approx(0.002)


def test_a_refused_call_ends_its_run_and_counts_as_missed() -> None:
    two = chain(
        [Call(step="a", prompt_tokens=10, output_tokens=2), Call(step="b", prompt_tokens=10, output_tokens=2)], [0, 0]
    )
    workload = Workload((two,), array("q", [0, 0]), array("l", [0, 0]), array("q", [PS, PS]))
    found = Simulation(workload, [engine()], router=To(lambda call, _: None if call.run else 0)).run()
    assert found.refused == 1
    assert found.run_ended[0] > 0 > found.run_ended[1]
    assert list(found.sent)[3] == -1
    assert found.attained() == 0.5


def test_urgent_calls_pass_those_that_wait() -> None:
    class Reverse(To):
        def priority(self, call: CallView, now_s: float) -> int:
            return -call.call

    limits = Limits(max_num_seqs=1, token_budget=512, kv_blocks=1000, by_priority=True)
    found = Simulation(calls_of(5, every_ms=1), [engine(limits=limits)], router=Reverse()).run()
    order = sorted(range(5), key=lambda n: found.scheduled[n])
    assert order == [0, 4, 3, 2, 1]


class Plan:
    """Commands at given ticks, one a second."""

    every_s = 1.0

    def __init__(self, commands: dict[int, list[Command]]) -> None:
        self.commands, self.seen = commands, list[tuple[float, list[State]]]()

    def plan(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[Command]:
        self.seen.append((now_s, [r.state for r in replicas]))
        return self.commands.get(round(now_s), [])


def test_calls_to_a_starting_replica_wait_until_it_is_ready() -> None:
    plan = Plan({1: [Add(engine(cold_s=5.0))]})
    router = To(lambda call, replicas: replicas[-1].number)
    found = Simulation(calls_of(10, every_ms=500), [engine()], router=router, provisioner=plan).run()
    late = [n for n in range(10) if found.replica[n] == 1]
    assert late and min(found.scheduled[n] for n in late) == 6 * PS
    assert found.alive_ps[1] == found.alive_ps[0] - PS
    assert plan.seen[2][1] == [State.READY, State.STARTING]


def test_a_removed_replica_ends_its_calls_and_gets_no_more() -> None:
    plan = Plan({1: [Remove(0)]})
    router = To(lambda call, replicas: replicas[0].number)
    workload = calls_of(30, output=200, every_ms=100)
    found = Simulation(workload, [engine(), engine()], router=router, provisioner=plan).run()
    assert all(d > 0 for d in found.done)
    assert all(found.replica[n] == (0 if found.sent[n] < PS else 1) for n in range(30))
    stopped = max(found.last[n] for n in range(30) if found.replica[n] == 0)
    assert found.alive_ps[0] == stopped


def test_a_swapped_replica_serves_the_other_model_after_its_cold_start() -> None:
    plan = Plan({1: [Swap(0, engine("b", cold_s=2.0))]})
    a, b = (Call(step=m, prompt_tokens=10, output_tokens=50, model=m) for m in "ab")
    workload = Workload.of([single(a), single(b)], [0, 2 * PS])
    found = Simulation(workload, [engine("a")], provisioner=plan, router=To()).run()
    assert found.scheduled[1] == 3 * PS
    assert found.counts[0].ended == 2


def test_prefill_and_decode_can_be_on_two_replicas() -> None:
    split = Simulation(
        calls_of(1), [engine(), engine()], router=To(Split(0, 1)), transfer=Transfer(base_ps=5 * MS, token_ps=10)
    ).run()
    first = COSTS.work(100, prefill_pairs(0, 100), 1, 0, 0)
    last = first + 5 * MS + 1000 + COSTS.work(1, prefill_pairs(100, 1), 1, 0, 0)
    for k in range(2, 20):
        last += COSTS.gap + COSTS.work(0, 0, 0, 1, 100 + k)
    assert (split.first[0], split.last[0]) == (first, last)
    assert [c.prefilled for c in split.counts] == [100, 1]
    assert [c.decoded for c in split.counts] == [0, 18]
    assert split.replica[0] == 1


@pytest.mark.parametrize(
    ("target", "model", "says"),
    [(7, "", "there is none"), (1, "a", "to replica 1 of b"), (-1, "", "there is none")],
)
def test_a_router_that_names_an_unfit_replica_is_told(target: int, model: str, says: str) -> None:
    with pytest.raises(BadRoute, match=says):
        Simulation(calls_of(1, model=model), [engine("a"), engine("b")], router=To(target)).run()


def test_what_cannot_be_simulated_is_refused_with_the_reason() -> None:
    short = Limits(max_num_seqs=2, token_budget=512, kv_blocks=1000, max_model_len=64)
    with pytest.raises(CallDoesNotFit, match="120 tokens long, and the engine takes 64"):
        Simulation(calls_of(1), [engine(limits=short)]).run()
    with pytest.raises(CallDoesNotFit, match="8 KV blocks, and the engine has 4"):
        Simulation(calls_of(1), [engine(limits=Limits(max_num_seqs=2, token_budget=512, kv_blocks=4))]).run()
    with pytest.raises(SimulationError, match="need a router"):
        Simulation(calls_of(1), [engine(), engine()])
    with pytest.raises(SimulationError, match="9 calls cannot each have a token in a step of 8"):
        Limits(max_num_seqs=9, token_budget=8, kv_blocks=10)
    with pytest.raises(BadRoute, match="no replica is left"):
        Simulation(calls_of(3, every_ms=900), [engine()], provisioner=Plan({1: [Remove(0)]})).run()
    with pytest.raises(SimulationError, match="in order"):
        Workload.of([single(Call(step="s", prompt_tokens=1, output_tokens=1))], [5, 3])


def test_every_token_is_served_once_and_blocks_never_exceed_what_there_is() -> None:
    limits = Limits(max_num_seqs=8, token_budget=512, kv_blocks=24)
    found = Simulation(calls_of(40, prompt=60, output=90, every_ms=5), [engine(limits=limits)]).run()
    counts = found.counts[0]
    assert counts.preempted > 0
    assert counts.ended == 40
    assert counts.decoded + 40 + counts.preempted >= 40 * 90
    assert found.peak_blocks[0] <= 24
    assert sorted(found.scheduled) == list(found.scheduled), "first come, first served"


def test_noise_is_around_the_mean_and_the_same_for_the_same_seed() -> None:
    spread = Spread(tuple(0.5 + i / 100 for i in range(101)))
    noisy = Engine(costs=COSTS, limits=LIMITS, steps=spread, prefills=spread, before=spread, before_ps=MS)
    workload = calls_of(300, every_ms=90)
    mean = sum(Simulation(workload, [noisy]).run().e2e_s())
    first = Simulation(workload, [noisy], noise=True, seed=1).run()
    assert first.e2e_s() == Simulation(workload, [noisy], noise=True, seed=1).run().e2e_s()
    assert first.e2e_s() != Simulation(workload, [noisy], noise=True, seed=2).run().e2e_s()
    assert sum(first.e2e_s()) == pytest.approx(mean, rel=0.05)


PROGRAM = """
import hashlib, random
from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import StepCosts
from redecode.replay.simulator.engine import Engine, Spread
from redecode.replay.simulator.rows import Limits
from redecode.replay.simulator.views import Router
from redecode.replay.simulator.workload import Call, Workload, single
rng = random.Random(1)
class Any(Router):
    def route(self, call, replicas, now_s):
        return rng.choice(replicas).number
spread = Spread((0.5, 1.0, 1.5))
engine = Engine(costs=StepCosts(step=4000, prefill_token=90, decode=300, context_token=1), steps=spread,
                prefills=spread, limits=Limits(max_num_seqs=4, token_budget=256, kv_blocks=60))
shapes = [single(Call(step=str(n), prompt_tokens=20 + n, output_tokens=1 + n, hashes=tuple(range(n // 8))))
          for n in range(60)]
workload = Workload.of(shapes, [n * 3000 for n in range(600)])
found = Simulation(workload, [engine] * 3, router=Any(), noise=True, seed=4).run()
print(hashlib.sha256(b"".join(c.tobytes() for c in (found.first, found.last, found.cached, found.replica))).hexdigest())
"""


def test_every_process_gets_the_same() -> None:
    answers = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True,
            check=True,
        ).stdout
        for seed in ("0", "4711")
    }  # fmt: skip
    assert len(answers) == 1 and len(answers.pop()) == 65
