"""One policy, three clusters: what a router says in a simulation it says of the same views on Ray Serve and over HTTP.

The stream of a simulated run (calls, what each replica showed, ends) goes through the whole of each adapter: a request
with headers and token ids that is read again, or a pending request of Ray Serve; counters are the adapter's own.
"""

from __future__ import annotations

import asyncio
import copy
import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from redecode.optimizer.placement.beliefs import Beliefs
from redecode.optimizer.placement.cluster.errors import Refused
from redecode.optimizer.placement.cluster.http_cluster import HttpCluster
from redecode.optimizer.placement.cluster.live import LiveReplica
from redecode.optimizer.placement.cluster.placing import Placed, Placing
from redecode.optimizer.placement.cluster.prometheus import Load
from redecode.optimizer.placement.cluster.ray_spec import RayCall, RayReplica, RaySpec, pack, unpack
from redecode.optimizer.placement.cluster.reading import read_call
from redecode.optimizer.placement.deadline import DeadlineRouter
from redecode.optimizer.placement.estimates import Estimator
from redecode.optimizer.placement.serve_router import PowerOfTwoChoices
from redecode.optimizer.placement.simple import LeastOutstanding, PrefixAffinity, RoundRobin, ShortestExpectedDelay
from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import StepCosts, to_ps
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.rows import Limits
from redecode.replay.simulator.views import CallView, Router
from redecode.replay.simulator.workload import Call, Contents, Shape, Workload, chain
from tests.optimizer.placement.cluster.policies import AfterItsTime, MostCached, OneAtATime
from tests.optimizer.placement.cluster.stream import Event, Manual, Recorded, Seen, Shown

BLOCK = 16
SLO_S = 1.5


def engine(step_ms: float, seqs: int) -> Engine:
    costs = StepCosts(
        step=to_ps(step_ms / 1e3), prefill_token=to_ps(1e-4), decode=to_ps(5e-4), context_token=to_ps(1e-7)
    )
    limits = Limits(max_num_seqs=seqs, token_budget=256, kv_blocks=64, block_size=BLOCK, by_priority=True)
    return Engine(costs=costs, limits=limits, model="m", before_ps=to_ps(0.002), after_ps=to_ps(0.001))


ENGINES = (engine(4, 8), engine(12, 4), engine(4, 8))


@cache
def work() -> tuple[Workload, dict[tuple[int, int], list[int]]]:
    """Agents whose prompts grow, beginning as one of a few; and the tokens of each call, by shape and place."""
    rng, contents = random.Random(7), Contents(BLOCK)
    starts = [[rng.randrange(500) for _ in range(64)] for _ in range(3)]
    shapes: list[Shape] = []
    tokens: dict[tuple[int, int], list[int]] = {}
    for shape in range(24):
        prompt, calls = list(rng.choice(starts)), []
        for place in range(rng.randint(1, 4)):
            prompt = [*prompt, *(rng.randrange(500) for _ in range(rng.randint(5, 60)))]
            tokens[shape, place] = list(prompt)
            output = [rng.randrange(500) for _ in range(rng.randint(2, 60))]
            calls.append(
                Call(
                    step=f"agent/step-{place}", model="m", prompt_tokens=len(prompt), output_tokens=len(output),
                    hashes=contents.of([*prompt, *output]), max_tokens=64,
                )
            )  # fmt: skip
            prompt += output
        shapes.append(chain(calls, [0, *(to_ps(rng.random() * 0.1) for _ in calls[1:])]))
    begins, now = [], 0.0
    for _ in range(160):
        now += rng.expovariate(14.0)
        begins.append(to_ps(now))
    which = [rng.randrange(len(shapes)) for _ in begins]
    deadlines = array("q", [to_ps(SLO_S * rng.choice((0.5, 1.0))) for _ in begins])
    return Workload(tuple(shapes), array("q", begins), array("l", which), deadlines), tokens


def estimator() -> Estimator:
    return Estimator(Beliefs(work()[0].shapes, ENGINES))


POLICIES: dict[str, Callable[[], Router]] = {
    "round robin": RoundRobin,
    "least outstanding": LeastOutstanding,
    "power of two choices": lambda: PowerOfTwoChoices(random.Random(3)),
    "shortest expected delay": lambda: ShortestExpectedDelay(estimator()),
    "prefix affinity": PrefixAffinity,
    "deadline": lambda: DeadlineRouter(estimator()),
    "most cached": MostCached,
    "one at a time": OneAtATime,
    "after its time": AfterItsTime,
}


@pytest.mark.parametrize("policy", POLICIES)
async def test_three_clusters_decide_alike(ray_installed: None, policy: str) -> None:
    recorded = simulated(POLICIES[policy]())
    calls = sum(1 for event in recorded.events if event.call is not None)
    assert calls > 200
    assert len({replica for _, replica, _ in recorded.said}) > 1
    order = {event.call.call: n for n, event in enumerate(e for e in recorded.events if e.call) if event.call}
    golden = [(order[call], replica, priority) for call, replica, priority in recorded.said]
    for adapter in (OverHttp(POLICIES[policy]()), OnRay(POLICIES[policy]())):
        await feed(adapter, recorded.events, order)
        assert not adapter.placing.held
        said = [(c.call.call, c.replica, c.priority) for c in adapter.placing.choices]
        if isinstance(adapter, OnRay):
            said = [(order[call], replica, priority) for call, replica, priority in said]
            refused = [p.future.exception() for p in adapter.pending if p.future.done()]
            assert all(isinstance(error, Refused) for error in refused)
            assert len(refused) == sum(replica is None for _, replica, _ in golden)
        assert said == golden, f"{policy} on {type(adapter).__name__}"


def simulated(router: Router) -> Recorded:
    recorded = Recorded(router)
    Simulation(work()[0], ENGINES, router=recorded).run()
    return recorded


class Adapter:
    """A cluster that is shown a simulation."""

    placing: Placing

    def __init__(self) -> None:
        self.time = Manual()
        self.shown: list[Shown] = []

    def show(self, seen: tuple[Seen, ...]) -> None:
        """What the engines say; what was sent there the adapter must know itself."""
        for view, prefixes, was in zip(self.placing.replicas, self.shown, seen, strict=True):
            assert (view.outstanding, view.outstanding_prompt_tokens) == (
                was.outstanding,
                was.outstanding_prompt_tokens,
            )
            prefixes.blocks = was.cached_blocks
        self.show_loads(seen)

    def show_loads(self, seen: tuple[Seen, ...]) -> None:
        for view, was in zip(self.placing.replicas, seen, strict=True):
            used = 1.0 - was.free_kv_blocks / view.engine.limits.kv_blocks
            self.say(view, Load(was.running, was.waiting, used), was)

    def say(self, view: LiveReplica, load: Load, was: Seen) -> None:
        view.told(load, was.outstanding, was.outstanding_prompt_tokens)

    def prefixes(self, _: Engine) -> Shown:
        self.shown.append(Shown())
        return self.shown[-1]

    async def come(self, call: CallView) -> None:
        raise AssertionError

    async def end(self, number: int) -> None:
        raise AssertionError


class OverHttp(Adapter):
    """Requests, read as the front reads them."""

    def __init__(self, router: Router) -> None:
        super().__init__()
        self.cluster = HttpCluster(router, time=self.time, later=never, prefixes=self.prefixes)
        self.placing = self.cluster.placing
        self.placed: dict[int, Placed] = {}
        self.calls = 0
        for number, one in enumerate(ENGINES):
            self.placing.add(one, f"http://replica-{number}", ready=True)

    async def come(self, call: CallView) -> None:
        body, headers = request(call)
        view = self.cluster.view(read_call("/v1/completions", headers, body))
        assert view.call == self.calls
        assert len(view.hashes) == len(call.hashes)
        assert (view.prompt_tokens, view.step, view.agent, view.max_tokens, view.run_began_s, view.deadline_s) == (
            call.prompt_tokens, call.step, call.agent, call.max_tokens, call.run_began_s, call.deadline_s,
        )  # fmt: skip
        self.calls += 1

        def told(answer: Any) -> None:
            if isinstance(answer, Placed):
                self.placed[view.call] = answer

        self.placing.submit(view, told)

    async def end(self, number: int) -> None:
        self.placing.ended(self.placed.pop(number))


class OnRay(Adapter):
    """Ray Serve's router, with pending requests as Serve has them; the policy has been to another process and back."""

    def __init__(self, router: Router) -> None:
        super().__init__()
        from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID

        from redecode.optimizer.placement.cluster.ray_router import PolicyRouter

        replicas = tuple(RayReplica(engine=one) for one in ENGINES)
        spec = RaySpec(
            name="golden", replicas=replicas, router=copy.deepcopy(router), why=None, provisioner=None, began_ns=0,
            slo_s=None,
        )  # fmt: skip
        deployment = DeploymentID(name="golden")
        self.router = PolicyRouter(deployment_id=deployment, handle_source=DeploymentHandleSource.UNKNOWN)
        self.router.prepare(unpack(pack(spec)), self.time.now_s, self.prefixes, never)
        self.replicas: list[Any] = [
            Running(ReplicaID(f"replica-{rank}", deployment), rank) for rank in range(len(ENGINES))
        ]
        self.router._replicas = {r.replica_id: r for r in self.replicas}
        self.router.see(list(reversed(self.replicas)))
        self.placing = self.router.placing
        self.asked: dict[int, asyncio.Task[Any]] = {}
        self.pending: list[Any] = []

    def say(self, view: LiveReplica, load: Load, was: Seen) -> None:
        super().say(view, load, was)  # what waits is asked after without new statistics
        self.replicas[view.number].routing_stats = {
            "running": load.running, "waiting": load.waiting, "kv_used": load.kv_used,
            "outstanding": was.outstanding, "outstanding_prompt_tokens": was.outstanding_prompt_tokens,
        }  # fmt: skip

    async def come(self, call: CallView) -> None:
        from ray.serve._private.common import RequestMetadata
        from ray.serve.request_router import PendingRequest

        body, headers = request(call)
        payload = RayCall(view=call, path="/v1/completions", body=body, headers=headers, stream=False)
        metadata = RequestMetadata(request_id=str(call.call), internal_request_id=str(call.call))
        pending = PendingRequest(args=[payload], kwargs={}, metadata=metadata)
        task = asyncio.ensure_future(self.router.choose_replicas(self.replicas, pending))
        self.asked[call.call] = task
        self.pending.append(pending)
        await quiet()

    async def end(self, number: int) -> None:
        ((chosen,),) = await self.asked.pop(number)
        self.router.on_request_completed(chosen.replica_id, str(number))
        await quiet()


@dataclass
class Running:
    """What the router is given of a replica that runs."""

    replica_id: Any
    rank: int
    routing_stats: dict[str, Any] = field(default_factory=dict)

    @property
    def replica_metadata(self) -> dict[str, Any]:
        return {"redecode_rank": self.rank}


async def feed(adapter: Adapter, events: list[Event], order: dict[int, int]) -> None:
    rest = iter(events)
    for event in rest:
        adapter.time.at_s = event.now_s
        if event.call is not None:
            adapter.show(event.seen)
            await adapter.come(event.call)
        elif event.ended is not None:
            if adapter.placing.held:  # after an end, what waits is asked after; what engines say by then comes first
                follows = next(rest)
                assert follows.call is None
                assert follows.ended is None
                adapter.show_loads(follows.seen)
            await adapter.end(order[event.ended[0]] if isinstance(adapter, OverHttp) else event.ended[0])
        else:
            adapter.show(event.seen)
            adapter.placing.release()
            await quiet()


def request(call: CallView) -> tuple[bytes, dict[str, str]]:
    """As a client would send it."""
    workload, tokens = work()
    prompt = tokens[workload.which[call.run], int(call.step.rpartition("-")[2])]
    headers = {"x-redecode-run": str(call.run), "x-redecode-step": quote(call.step), "x-redecode-agent": call.agent}
    if call.deadline_s is not None:
        headers["x-redecode-deadline"] = repr(call.deadline_s)
    return orjson.dumps({"model": call.model, "prompt": prompt, "max_tokens": call.max_tokens}), headers


async def quiet() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


def never(delay_s: float, call: Callable[[], None]) -> None:
    """The stream says when what waits is asked after."""
