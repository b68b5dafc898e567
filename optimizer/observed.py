"""The first lane of a report: the held-out runs themselves, as they were recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from redecode.optimizer.errors import OptimizerError
from redecode.optimizer.evaluation.session import Block, Evaluates
from redecode.optimizer.objectives import Outcome
from redecode.optimizer.promotion.statistics import paired
from redecode.optimizer.spec import Case

WORSE = 0.05
"""So much more error than as recorded is told."""


def observed(
    cases: Sequence[Case],
    evaluates: Evaluates,
    values: Mapping[str, Any],
    labels: Mapping[str, Any],
    over: str | None = None,
) -> tuple[list[Outcome], str | None]:
    """The recorded runs themselves, as far as they tell, and what they do not; their cost is not known here (0).

    They are scored where candidates' runs are: a judge's clients belong to that event loop, and its calls are counted.

    Args:
        values: of the configuration in use.
        labels: of what a scorer itself runs.
        over: why the scorer, which asks an FM, may not be asked any more.
    """
    told = [case for case in cases if case.duration_s is not None or case.error is not None]
    if over is not None:
        told, over = [], f"how good the held-out runs were is not told: the scorer asks an FM, and {over}"
    try:
        block = Block(values=values, cases=told, labels=labels, memo=False, recorded=True)
        outcomes = evaluates.evaluate(block) if told else []
    except OptimizerError as error:
        return [], f"the held-out runs could not be scored as recorded: {error}"
    raised = [o.unscored for o in outcomes if o.unscored is not None]
    if not raised:
        return outcomes, over
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
