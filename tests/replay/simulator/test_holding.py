"""Calls that wait at the router: until it lets them go, in its order, and not for ever."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import PS, StepCosts, to_ps
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.errors import BadRoute
from redecode.replay.simulator.rows import Limits
from redecode.replay.simulator.views import CallView, Hold, ReplicaView, Route, Router
from redecode.replay.simulator.workload import Call, Shape, Workload, single

ENGINE = Engine(
    costs=StepCosts(step=to_ps(1.0)), limits=Limits(max_num_seqs=8, token_budget=8192, kv_blocks=1000)
)  # a second per step, whatever is in it
TWO_SECONDS = single(Call(step="s", prompt_tokens=4, output_tokens=2))


class OneAtATime(Router):
    """No replica has two calls; who waits goes last come, first served."""

    def __init__(self) -> None:
        self.waiting: list[int] = []

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        free = next((r.number for r in replicas if not r.outstanding), None)
        if free is None:
            self.waiting.append(call.call)
            return Hold()
        return free

    def release(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[tuple[int, Route]]:
        free = [r.number for r in replicas if not r.outstanding]
        return [(self.waiting.pop(), number) for number in free if self.waiting]


def test_calls_held_go_when_others_end_in_the_order_of_the_router() -> None:
    workload = Workload.of([TWO_SECONDS], [0, 0, 1, 2, 3])
    found = Simulation(workload, [ENGINE, ENGINE], router=OneAtATime()).run()
    assert [round(t / PS) for t in found.done] == [2, 2, 6, 4, 4]
    assert found.sent[2] == 1  # it waits from then on, wherever that is


class Until(Router):
    """Everything waits until a time."""

    def __init__(self, until_s: float | None, then: Route = 0) -> None:
        self.until_s, self.waiting, self.then = until_s, list[int](), then

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
        self.waiting.append(call.call)
        return Hold(self.until_s)

    def release(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[tuple[int, Route]]:
        if self.until_s is None or now_s < self.until_s:
            return []
        out = [(call, self.then) for call in self.waiting]
        self.waiting = []
        return out


def test_a_held_call_may_ask_to_be_looked_at_again() -> None:
    found = Simulation(Workload.of([TWO_SECONDS], [0, to_ps(1.0)]), [ENGINE], router=Until(5.0)).run()
    assert [round(t / PS) for t in found.done] == [7, 7]


def test_a_held_call_may_be_refused() -> None:
    found = Simulation(Workload.of([TWO_SECONDS], [0, 1]), [ENGINE], router=Until(5.0, None)).run()
    assert list(found.run_ended) == [-1, -1]
    assert found.refused == 2


def test_a_call_whose_run_was_refused_meanwhile_leaves_its_place_to_the_next() -> None:
    call = Call(step="s", prompt_tokens=4, output_tokens=2)
    fork = Shape(calls=(call, call), first=((0, 0), (1, 0)), after=((), ()), waits=(1, 1), last={0: 0, 1: 0})

    class FirstRefused(Router):
        """Lets one call at a time go, by what it was told has ended, and refuses the very first."""

        def __init__(self) -> None:
            self.waiting: list[int] = []
            self.open = 0

        def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> Route:
            self.waiting.append(call.call)
            return Hold(1.0)

        def release(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[tuple[int, Route]]:
            if now_s < 1.0 or self.open or not self.waiting:
                return []
            call = self.waiting.pop(0)
            if call == 0:
                return [(call, None), *self.release(replicas, now_s)]
            self.open += 1
            return [(call, 0)]

        def ended(self, call: int, replica: int, now_s: float) -> None:
            self.open -= 1

    found = Simulation(Workload.of([fork, TWO_SECONDS], [0, 0], which=[0, 1]), [ENGINE], router=FirstRefused()).run()
    assert found.refused == 1
    assert [round(t / PS) for t in found.run_ended] == [0, 3]


def test_calls_held_for_ever_are_said() -> None:
    with pytest.raises(BadRoute, match="2 calls wait at the router for ever"):
        Simulation(Workload.of([TWO_SECONDS], [0, 1]), [ENGINE], router=Until(None)).run()


def test_only_a_call_that_waits_can_be_let_go() -> None:
    class Liar(Until):
        def release(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[tuple[int, Route]]:
            return [(7, 0)]

    with pytest.raises(BadRoute, match="call 7 go, and it does not wait"):
        Simulation(Workload.of([TWO_SECONDS], [0]), [ENGINE], router=Liar(5.0)).run()
