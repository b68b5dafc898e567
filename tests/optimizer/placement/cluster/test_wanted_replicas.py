"""What a provisioner commands becomes a number of replicas, and it is asked about those that come and go."""

from __future__ import annotations

from collections.abc import Sequence

from redecode.optimizer.placement.cluster.live import LiveReplica
from redecode.optimizer.placement.cluster.placing import sent_prefixes
from redecode.optimizer.placement.cluster.ray_scaling import Wanted
from redecode.optimizer.placement.cluster.ray_spec import RayReplica, RaySpec
from redecode.replay.simulator.costs import to_ps
from redecode.replay.simulator.views import Add, Command, Remove, ReplicaView, State, Swap
from tests.optimizer.placement.cluster.conftest import an_engine

QUICK, SLOW = an_engine(), an_engine(0.1, cold_start_ps=to_ps(30))


class AsTold:
    """Commands given to it before."""

    every_s = 1.0

    def __init__(self) -> None:
        self.commands: Sequence[Command] = ()
        self.saw: list[tuple[int, State, float]] = []

    def plan(self, replicas: Sequence[ReplicaView], now_s: float) -> Sequence[Command]:
        self.saw = [(r.number, r.state, r.ready_s) for r in replicas]
        commands, self.commands = self.commands, ()
        return commands


def test_replicas_that_start_are_seen_and_those_that_leave_are_not() -> None:
    told, published = AsTold(), list[int]()
    spec = RaySpec(
        name="a", replicas=(RayReplica(engine=QUICK), RayReplica(engine=SLOW)), router=None, why=None,
        provisioner=told, began_ns=0, slo_s=None, most=3,
    )  # fmt: skip
    wanted = Wanted(spec, published.append)
    running = [replica(0), replica(1)]

    told.commands = (Add(SLOW), Add(QUICK), Swap(0, SLOW))  # one more than there may be; and what cannot be done
    wanted.ask(running, 5.0)
    assert published == [3]
    wanted.ask(running, 6.0)
    assert published == [3]
    assert told.saw == [(0, State.READY, 0.0), (1, State.READY, 0.0), (1_000_000, State.STARTING, 6.0)]

    running.append(replica(2))
    told.commands = (Remove(1), Remove(0))
    wanted.ask(running, 7.0)
    assert published == [3, 1]
    assert [number for number, *_ in told.saw] == [0, 1, 2]
    wanted.ask(running, 8.0)  # they are still there, and have been reckoned with
    assert [number for number, *_ in told.saw] == [2]
    told.commands = (Remove(2),)  # one is always left
    wanted.ask([running[0]], 9.0)  # Serve stopped others than those named
    assert published == [3, 1]
    assert [number for number, *_ in told.saw] == [0]


def test_the_next_to_start_is_the_next_kind() -> None:
    told = AsTold()
    spec = RaySpec(
        name="a", replicas=(RayReplica(engine=QUICK), RayReplica(engine=SLOW)), router=None, why=None,
        provisioner=told, began_ns=0, slo_s=None, most=2,
    )  # fmt: skip
    (starting,) = Wanted(spec, lambda _: None).views([replica(0)], 2.0)[1:]
    assert (starting.engine, starting.ready_s) == (SLOW, 32.0)


def replica(number: int) -> LiveReplica:
    made = LiveReplica(number, QUICK, str(number), sent_prefixes(QUICK), ready_s=0.0)
    made.state = State.READY
    return made
