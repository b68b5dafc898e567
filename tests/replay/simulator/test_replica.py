"""The event-driven engine gives the very numbers of a naive one that goes step by step, whatever the load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from hypothesis import event, given, settings
from hypothesis import strategies as st

from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import StepCosts
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.results import Simulated
from redecode.replay.simulator.rows import Limits
from redecode.replay.simulator.views import CallView, ReplicaView, Router
from redecode.replay.simulator.workload import Call, Contents, Shape, Workload, chain, single
from tests.replay.simulator.reference import step_by_step


class Fixed(Router):
    """Each call where it was said to go, as urgent as it was said to be."""

    def __init__(self, where: dict[int, int], priorities: dict[int, int]) -> None:
        self.where, self.priorities = where, priorities

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> int:
        return self.where[call.call]

    def priority(self, call: CallView, now_s: float) -> int:
        return self.priorities[call.call]


small = st.integers(0, 5)
costs_of = st.builds(
    StepCosts, step=st.integers(1, 30), prefill_token=small, prefill_pair=small, prefill_call=small, decode=small,
    context_token=small, gap=small, gap_row=small,
)  # fmt: skip


@st.composite
def limits_of(draw: st.DrawFn) -> Limits:
    rows = draw(st.integers(1, 6))
    chunked = draw(st.booleans())
    return Limits(
        max_num_seqs=rows,
        token_budget=draw(st.integers(rows, 40)) if chunked else draw(st.integers(62, 120)),
        kv_blocks=draw(st.integers(16, 40)),
        block_size=draw(st.sampled_from([4, 5])),
        chunked_prefill=chunked,
        prefix_caching=draw(st.booleans()),
        by_priority=draw(st.booleans()),
    )


@st.composite
def workload_of(draw: st.DrawFn, block_size: int) -> Workload:
    """Runs of one call and chains whose prompts grow, some with a beginning in common; no two write the same."""
    contents, fresh = Contents(block_size), iter(range(10**6, 10**7))
    shapes: list[Shape] = []
    for _ in range(draw(st.integers(1, 8))):
        family = draw(st.integers(0, 2))
        tokens = [family * 1000 + i for i in range(draw(st.integers(0, 20)))]
        calls: list[Call] = []
        for _ in range(draw(st.integers(1, 3))):
            tokens = tokens + [next(fresh) for _ in range(draw(st.integers(1, 8)))]
            output = draw(st.integers(1, min(25, 62 - len(tokens)))) if len(tokens) < 60 else 1
            prompt = tokens
            tokens = tokens + [next(fresh) for _ in range(output)]
            if len(tokens) > 62:
                break
            known = contents.of(tokens)[: draw(st.sampled_from([0, 3, 100]))]
            calls.append(Call(step="s", prompt_tokens=len(prompt), output_tokens=output, hashes=known))
        gaps = draw(st.lists(st.integers(0, 200), min_size=len(calls), max_size=len(calls)))
        shapes.append(chain(calls, gaps) if len(calls) > 1 else single(calls[0]))
    begins = sorted(draw(st.lists(st.integers(0, 1500), min_size=len(shapes), max_size=len(shapes))))
    return Workload.of(shapes, begins)


def same(found: Simulated, workload: Workload, engines: list[Engine], router: Fixed) -> list[dict[str, int]]:
    expected, replicas = step_by_step(workload, engines, router.where, router.priorities)
    columns = {"sent": found.sent, "scheduled": found.scheduled, "first": found.first, "last": found.last,
               "done": found.done, "cached": found.cached}  # fmt: skip
    for number, log in expected.items():
        assert {name: column[number] for name, column in columns.items()} == {n: log[n] for n in columns}
        assert max(found.preempted[number], 0) == log.get("preempted", 0)
    assert [asdict(c) for c in found.counts] == [r.counts for r in replicas]
    assert list(found.peak_blocks) == [r.most_held for r in replicas]
    return [r.counts for r in replicas]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_jumps_over_many_steps_equal_the_steps_one_by_one(data: st.DataObject) -> None:
    engine = Engine(
        costs=data.draw(costs_of), limits=data.draw(limits_of()), before_ps=data.draw(st.sampled_from([0, 7])),
        before_token_ps=data.draw(st.sampled_from([0, 1])), after_ps=data.draw(st.sampled_from([0, 11])),
    )  # fmt: skip
    workload = data.draw(workload_of(engine.limits.block_size))
    engines = [engine] * data.draw(st.integers(1, 2))
    calls = range(workload.calls())
    router = Fixed(
        {n: data.draw(st.integers(0, len(engines) - 1)) for n in calls},
        {n: data.draw(st.integers(0, 2)) for n in calls},
    )
    found = Simulation(workload, engines, router=router).run()
    counts = same(found, workload, engines, router)
    event(f"preempted: {any(c['preempted'] for c in counts)}, cached: {any(c['cached'] for c in counts)}")
