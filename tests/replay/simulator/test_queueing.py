"""Where theory has a closed form, the simulator agrees with it within the error that theory itself allows.

A replica that takes one call at a time and steps of a fixed time is a server: service time = prompt tokens. Tolerances
are five standard errors of the mean of n correlated waits. For M/G/1 near utilisation ρ the asymptotic variance of the
mean is about Var(W)·(1+ρ)²/(1-ρ)²/n, from the regeneration cycles (Whitt, Management Science 35(11), 1989).
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Sequence

import pytest

from redecode.replay.simulator.cluster import Simulation
from redecode.replay.simulator.costs import PS, StepCosts, to_ps
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.results import Simulated
from redecode.replay.simulator.rows import Limits
from redecode.replay.simulator.views import CallView, ReplicaView, Router
from redecode.replay.simulator.workload import Call, Workload, single

MS = to_ps(0.001)
CALLS = 20_000


def server(rows: int = 1) -> Engine:
    """A millisecond for each token of a prompt, and calls of one token of output."""
    limits = Limits(max_num_seqs=rows, token_budget=100_000, kv_blocks=100_000, chunked_prefill=False)
    return Engine(costs=StepCosts(prefill_token=MS), limits=limits)


def poisson(rng: random.Random, rate_per_s: float, count: int) -> list[int]:
    at, begins = 0.0, []
    for _ in range(count):
        at += rng.expovariate(rate_per_s)
        begins.append(to_ps(at))
    return begins


def served(tokens: Sequence[int], begins: Sequence[int], engines: int = 1, router: Router | None = None) -> Simulated:
    """Calls of these service times, in ms."""
    sizes = sorted(set(tokens))
    shapes = tuple(single(Call(step="s", prompt_tokens=size, output_tokens=1)) for size in sizes)
    number = {size: place for place, size in enumerate(sizes)}
    workload = Workload(shapes, array("q", begins), array("l", [number[t] for t in tokens]))
    return Simulation(workload, [server()] * engines, router=router).run()


def waits_s(found: Simulated) -> list[float]:
    return [(a - s) / PS for a, s in zip(found.scheduled, found.sent, strict=True)]


def allowed(variance: float, utilisation: float, count: int) -> float:
    return 5 * math.sqrt(variance / count) * (1 + utilisation) / (1 - utilisation)


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_constant_service_is_m_d_1(utilisation: float) -> None:
    service_s = 0.05
    found = served([50] * CALLS, poisson(random.Random(1), utilisation / service_s, CALLS))
    waits = waits_s(found)
    mean = utilisation * service_s / (2 * (1 - utilisation))  # Pollaczek-Khinchine
    second = 2 * mean**2 + utilisation * service_s**2 / (3 * (1 - utilisation))
    assert sum(waits) / CALLS == pytest.approx(mean, abs=allowed(second - mean**2, utilisation, CALLS))


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_exponential_service_is_m_m_1(utilisation: float) -> None:
    rng = random.Random(2)
    service_s = 1.0
    tokens = [max(1, round(rng.expovariate(1 / service_s) * 1000)) for _ in range(CALLS)]
    found = served(tokens, poisson(rng, utilisation / service_s, CALLS))
    mean = utilisation * service_s / (1 - utilisation)
    variance = utilisation * (2 - utilisation) * service_s**2 / (1 - utilisation) ** 2
    tolerance = allowed(variance, utilisation, CALLS) + 0.001
    assert sum(waits_s(found)) / CALLS == pytest.approx(mean, abs=tolerance)


class ShortestQueue(Router):
    """A free replica if there is one: what M/M/c has; calls that find none wait here."""

    def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> int:
        return min(replicas, key=lambda r: (r.outstanding, r.number)).number


def erlang_c(servers: int, load: float) -> float:
    """Probability of waiting (Erlang 1917)."""
    blocking = 1.0
    for n in range(1, servers + 1):
        blocking = load * blocking / (n + load * blocking)
    return blocking / (1 - load / servers * (1 - blocking))


def test_parallel_rows_of_one_replica_are_m_m_c() -> None:
    """A row is a server where a step costs nothing for company: decoding at a fixed time per step."""
    rows, step_s, mean_steps, rng = 4, 0.001, 1000, random.Random(3)
    utilisation = 0.7
    limits = Limits(max_num_seqs=rows, token_budget=100_000, kv_blocks=10**6, chunked_prefill=False)
    engine = Engine(costs=StepCosts(step=to_ps(step_s)), limits=limits)
    outputs = [max(1, round(rng.expovariate(1 / mean_steps))) for _ in range(CALLS)]
    sizes = sorted(set(outputs))
    place = {size: n for n, size in enumerate(sizes)}
    shapes = tuple(single(Call(step="s", prompt_tokens=1, output_tokens=size)) for size in sizes)
    service_s = step_s * mean_steps
    begins = poisson(rng, rows * utilisation / service_s, CALLS)
    workload = Workload(shapes, array("q", begins), array("l", [place[o] for o in outputs]))
    waits = waits_s(Simulation(workload, [engine]).run())
    chance = erlang_c(rows, rows * utilisation)
    mean = chance * service_s / (rows * (1 - utilisation))
    spread = chance * (2 - chance) * (service_s / (rows * (1 - utilisation))) ** 2
    # A call begins with a step: half of one on average, at most one.
    tolerance = allowed(spread, utilisation, CALLS) + step_s
    assert sum(waits) / CALLS == pytest.approx(mean, abs=tolerance)
    waited = sum(w > step_s for w in waits) / CALLS
    assert waited == pytest.approx(chance, abs=allowed(chance * (1 - chance), utilisation, CALLS) + 0.01)


def test_pooled_calls_on_free_replicas_wait_less_than_on_any_fixed_one() -> None:
    rng = random.Random(4)
    tokens = [max(1, round(rng.expovariate(0.001))) for _ in range(4000)]
    begins = poisson(rng, 1.4, 4000)
    pooled = sum(waits_s(served(tokens, begins, 2, ShortestQueue())))

    class Turns(Router):
        def route(self, call: CallView, replicas: Sequence[ReplicaView], now_s: float) -> int:
            return call.call % len(replicas)

    assert pooled < 0.8 * sum(waits_s(served(tokens, begins, 2, Turns())))


def test_littles_law_holds_to_the_last_picosecond() -> None:
    """L·T = Σ W over an interval that begins and ends empty: no tolerance, it is an identity of sample paths."""
    rng = random.Random(5)
    tokens = [rng.randint(1, 2000) for _ in range(3000)]
    found = served(tokens, poisson(rng, 0.9, 3000))
    changes = sorted([(s, 1) for s in found.sent] + [(d, -1) for d in found.done])
    area = inside = before = 0
    for at, change in changes:
        area += inside * (at - before)
        inside, before = inside + change, at
    assert inside == 0
    assert area == sum(d - s for d, s in zip(found.done, found.sent, strict=True))
