"""The first lane of a report: the held-out runs themselves, as they were recorded."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Sequence
from typing import Any

from redecode.optimizer.cases import MODE, SCORER
from redecode.optimizer.inputs import as_came
from redecode.optimizer.objectives import Outcome
from redecode.optimizer.promotion.statistics import paired
from redecode.optimizer.spec import Case, Spec
from redecode.tracer import begun_for

WORSE = 0.05
"""So much more error than as recorded is told."""


async def _awaited(said: Awaitable[Any]) -> Any:
    return await said


def observed(cases: Sequence[Case], spec: Spec, graph: Any = None) -> tuple[list[Outcome], str | None]:
    """The recorded runs themselves, as far as they tell, and what they do not; their cost is not known here (0).

    Args:
        graph: of the configuration in use, whose schema says what was an object in a recorded output.
    """
    outcomes, raised = [], []
    for case in cases:
        if case.duration_s is None and case.error is None:
            continue
        try:
            with begun_for(MODE, {MODE: SCORER}):
                said = None if case.error or spec.score is None else spec.score(as_came(graph, case.output), case)
                said = asyncio.run(_awaited(said)) if inspect.isawaitable(said) else said
            quality = None if said is None else float(said)
        except Exception as error:  # a scorer of outputs of graphs that may be others than now
            quality = None
            raised.append(f"{type(error).__name__}: {error}"[:120])
        outcomes.append(
            Outcome(case=case.id, run_id=case.id, quality=quality, latency_s=case.duration_s or 0.0, error=case.error)
        )
    if not raised:
        return outcomes, None
    return outcomes, (
        f"of {len(raised)} of {len(outcomes)} held-out runs the scorer could not tell how good they were as recorded, "
        f"which is plain data ({raised[0]})"
    )


def worse_again(recorded: Sequence[Outcome], again: Sequence[Outcome]) -> str | None:
    """That the incumbent, run again on the same inputs, is surely worse than it was: not all is as it was then."""
    losses = {o.case: o.loss for o in recorded}
    pairs = [(o.loss, then) for o in again if o.loss is not None and (then := losses.get(o.case)) is not None]
    now, was = [a for a, _ in pairs], [b for _, b in pairs]
    if paired(now, was, range(len(pairs)), seed=0, shrink=1.0, resamples=1000).low <= WORSE:
        return None
    return (
        f"run again on the same inputs the incumbent's error is {sum(now) / len(now):.3f}, where it was "
        f"{sum(was) / len(was):.3f} as recorded: it is not what ran then, or is not given what that was given"
    )
