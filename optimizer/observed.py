"""The first lane of a report: the held-out runs themselves, as they were recorded."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any

from redecode.optimizer.objectives import Goals, Measured, Outcome, measured
from redecode.optimizer.spec import Case, Spec


async def _awaited(said: Awaitable[Any]) -> Any:
    return await said


def observed(cases: Sequence[Case], spec: Spec, goals: Goals) -> Measured | None:
    """The recorded runs themselves, as far as they tell: the first lane. Their cost is not known here (0)."""
    outcomes = []
    for case in cases:
        if case.duration_s is None and case.error is None:
            continue
        try:
            said = None if case.error or spec.score is None else spec.score(case.output, case)
            said = asyncio.run(_awaited(said)) if inspect.isawaitable(said) else said
            quality = None if said is None else float(said)
        except Exception:  # a scorer of outputs of graphs that may be others than now
            quality = None
        outcomes.append(
            Outcome(case=case.id, run_id=case.id, quality=quality, latency_s=case.duration_s or 0.0, error=case.error)
        )
    return measured(outcomes, replace(goals, prices={})) if outcomes else None
