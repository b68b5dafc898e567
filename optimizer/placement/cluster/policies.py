"""The routers, by the names people give them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from redecode.optimizer.placement.beliefs import Beliefs
from redecode.optimizer.placement.cluster.names import Policy
from redecode.optimizer.placement.cluster.placing import LastDecision
from redecode.optimizer.placement.deadline import DeadlineRouter
from redecode.optimizer.placement.estimates import Estimator
from redecode.optimizer.placement.serve_router import PowerOfTwoChoices
from redecode.optimizer.placement.simple import LeastOutstanding, PrefixAffinity, RoundRobin, ShortestExpectedDelay
from redecode.replay.simulator.engine import Engine
from redecode.replay.simulator.views import Router
from redecode.replay.simulator.workload import Shape


def make_router(
    policy: Policy, engines: Sequence[Engine], shapes: Sequence[Shape] = (), *, seed: int = 0
) -> tuple[Router, LastDecision]:
    """A router for these replicas, and the log of its reasons.

    Args:
        shapes: recorded runs, from which it knows what to expect of a call.
    """
    why = LastDecision()
    if policy is Policy.TURNS:
        return RoundRobin(), why
    if policy is Policy.LEAST:
        return LeastOutstanding(), why
    if policy is Policy.POW2:
        return PowerOfTwoChoices(random.Random(seed)), why
    if policy is Policy.PREFIX:
        return PrefixAffinity(), why
    estimator = Estimator(Beliefs(shapes, engines))
    if policy is Policy.SOONEST:
        return ShortestExpectedDelay(estimator, why), why
    return DeadlineRouter(estimator, log=why), why
