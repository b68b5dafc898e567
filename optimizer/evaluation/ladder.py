"""A candidate goes up: blocks of the same cases in the same order, until it is through or out of the race."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from redecode.optimizer.errors import BadSpec, Stopped
from redecode.optimizer.evaluation.placing import without_placement
from redecode.optimizer.evaluation.racing import breaks_slo, dominated
from redecode.optimizer.evaluation.session import Block, Evaluates
from redecode.optimizer.knobs import Config, Space
from redecode.optimizer.objectives import Goals, Measured, Outcome, measured
from redecode.optimizer.spec import Case
from redecode.optimizer.study.search import Asked, Evaluated

BLOCK = 8
Simulates = Callable[[Sequence[Outcome], Config], Sequence[Outcome]]
"""What the runs of a candidate would take at load: outcomes with `simulated_s`."""


class BudgetSpent(Exception):
    """A budget is used up in the middle of a candidate; its trial is asked again when the study goes on."""


@dataclass(slots=True, kw_only=True)
class Ladder:
    """Evaluates candidates of one study.

    Args:
        withheld: held-out runs, of which the caches of these cases are to know nothing.
        ran: what has run here, for candidates that differ in their placement alone.
        spent: told of the outcomes of every block; says why to stop, if so.
        race: whether candidates may be out early.
    """

    evaluates: Evaluates
    space: Space
    goals: Goals
    cases: Sequence[Case]
    labels: Mapping[str, object] = field(default_factory=dict)
    block: int = BLOCK
    memo: bool = True
    race: bool = True
    simulates: Simulates | None = None
    withheld: Sequence[str] = ()
    ran: dict[str, list[Outcome]] = field(default_factory=dict)
    spent: Callable[[Sequence[Outcome]], str | None] = lambda _: None

    def batch(self, asked: Sequence[Asked], kept: Sequence[tuple[int, Measured]]) -> list[Evaluated]:
        """Candidates evaluated beside each other, in the order they were asked.

        Args:
            kept: feasible trials of earlier batches; those of this one are not raced against, so that the order in
                which they happen to end changes nothing.

        Raises:
            Stopped: something outside must be mended first.
            BudgetSpent: as it says.
        """
        if len(asked) == 1:
            return [self.one(asked[0], kept)]
        with ThreadPoolExecutor(min(len(asked), self.evaluates.workers)) as pool:
            return list(pool.map(lambda a: self.one(a, kept), asked))

    def one(self, asked: Asked, kept: Sequence[tuple[int, Measured]]) -> Evaluated:
        """One candidate; raises as `batch`."""
        try:
            return self._climb(asked.config, asked.number, kept)
        except (Stopped, BudgetSpent):
            raise
        except BadSpec as error:
            return Evaluated(failed=str(error))

    def _climb(self, config: Config, number: int, kept: Sequence[tuple[int, Measured]]) -> Evaluated:
        outcomes: list[Outcome] = []
        ran: list[Outcome] = []
        labels = {**self.labels, "trial": number, "candidate": config}
        for start in range(0, len(self.cases), self.block):
            cases = self.cases[start : start + self.block]
            block = Block(
                values=without_placement(self.space.decoded(config)),
                cases=cases,
                labels=labels,
                memo=self.memo,
                first=start == 0,
                withheld=self.withheld,
            )
            made = self._ran_before(config, cases) or self.evaluates.evaluate(block)
            self.ran[_key(config, cases)] = made
            ran += made
            outcomes += made if self.simulates is None else self.simulates(made, config)
            why = self.spent(made)
            through = start + self.block >= len(self.cases)
            if why is not None and not through:
                raise BudgetSpent(why)
            if self.race and not through:
                if (reason := breaks_slo(outcomes, self.goals)) is not None:
                    return self._evaluated(outcomes, reason, infeasible=True)
                if (reason := dominated(outcomes, kept, self.goals)) is not None:
                    return self._evaluated(outcomes, reason)
        # Blocks decide who is out; what a candidate takes at load is that of all its runs, mixed.
        return self._evaluated(outcomes if self.simulates is None else self.simulates(ran, config))

    def _ran_before(self, config: Config, cases: Sequence[Case]) -> list[Outcome] | None:
        """The runs of a candidate that differs in nothing that runs."""
        if not self.memo or self.simulates is None:
            return None
        known = self.ran.get(_key(config, cases))
        return None if known is None else [replace(o, live=0, memo=o.live + o.memo) for o in known]

    def _evaluated(self, outcomes: Sequence[Outcome], out: str | None = None, *, infeasible: bool = False) -> Evaluated:
        found = measured(outcomes, self.goals)
        return Evaluated(outcomes=tuple(outcomes), measured=found, out=out, infeasible=infeasible)


def _key(config: Config, cases: Sequence[Case]) -> str:
    return json.dumps([without_placement(config), [c.id for c in cases]], sort_keys=True)


def lanes(
    ladder: Ladder, lanes: Mapping[str, Config], *, over: Callable[[], str | None] = lambda: None
) -> tuple[dict[str, list[Outcome]], str | None]:
    """Several candidates on the same cases without the memo, in turns: the order changes from block to block.

    Returns:
        The outcomes of each, of as many cases for all, and why it ended early, if it did.
    """
    live = replace(ladder, memo=False, race=False)
    names = list(lanes)
    out: dict[str, list[Outcome]] = {name: [] for name in names}

    def at_load(ran: Mapping[str, list[Outcome]]) -> dict[str, list[Outcome]]:
        return {n: o if live.simulates is None or not o else list(live.simulates(o, lanes[n])) for n, o in ran.items()}

    for turn, start in enumerate(range(0, len(live.cases), live.block)):
        if (why := over()) is not None:
            return at_load(out), why
        cases = live.cases[start : start + live.block]
        made: dict[str, list[Outcome]] = {}
        for place in range(len(names)):
            name = names[(place + turn) % len(names)]
            labels = {**live.labels, "lane": name, "candidate": lanes[name]}
            values = without_placement(live.space.decoded(lanes[name]))
            made[name] = live.evaluates.evaluate(Block(values=values, cases=cases, labels=labels, memo=False))
            live.spent(made[name])
        for name, outcomes in made.items():
            out[name] += outcomes
    return at_load(out), None
