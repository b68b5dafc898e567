"""A candidate goes up: blocks of the same cases in the same order, until it is through or out of the race."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from redecode.optimizer.cases import STUDY
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
        return None if known is None else [replace(o, live=0, memo=o.live + o.memo, judging={}, paid={}) for o in known]

    def _evaluated(self, outcomes: Sequence[Outcome], out: str | None = None, *, infeasible: bool = False) -> Evaluated:
        found = measured(outcomes, self.goals)
        return Evaluated(outcomes=tuple(outcomes), measured=found, out=out, infeasible=infeasible)


def _key(config: Config, cases: Sequence[Case]) -> str:
    return json.dumps([without_placement(config), [c.id for c in cases]], sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """Candidates on the same cases.

    Attributes:
        ran: the outcomes of each, of as many cases for all, in their order.
        cut: why it ended early, if it did.
        gone: candidates that cannot be evaluated on some case, and why.
    """

    ran: Mapping[str, list[Outcome]]
    cut: str | None
    gone: Mapping[str, str]


def lanes(ladder: Ladder, lanes: Mapping[str, Config], *, over: Callable[[], str | None] = lambda: None) -> Lanes:
    """Several candidates on the same cases without the memo, in turns, each in an order drawn anew.

    In any fixed order something that lasts for some turns would fall upon the same candidate again and again.

    Args:
        lanes: the first is the one that the others are compared with.

    Raises:
        BadSpec: the first cannot be evaluated.
    """
    live = replace(ladder, memo=False, race=False)
    names = list(lanes)
    ran: dict[str, list[Outcome]] = {name: [] for name in names}
    gone: dict[str, str] = {}

    def unless_gone(name: str, made: Callable[[], list[Outcome]]) -> list[Outcome]:
        try:
            return made()
        except BadSpec as error:
            if name == names[0]:
                raise
            gone[name] = str(error)
            return []

    def turn_of(name: str, cases: Sequence[Case]) -> list[Outcome]:
        labels = {**live.labels, "lane": name, "candidate": lanes[name]}
        values = without_placement(live.space.decoded(lanes[name]))
        made = live.evaluates.evaluate(Block(values=values, cases=cases, labels=labels, memo=False))
        live.spent(made)
        return made

    def at_load(name: str) -> list[Outcome]:
        return list(ran[name] if live.simulates is None or not ran[name] else live.simulates(ran[name], lanes[name]))

    cut = None
    for turn, start in enumerate(range(0, len(live.cases), live.block)):
        if (cut := over()) is not None:
            break
        cases = live.cases[start : start + live.block]
        # Whoever is first meets what the others find done: in two turns, which count as one, each is where it was not.
        order = random.Random(f"{live.labels.get(STUDY)}/{turn // 2}").sample(names, len(names))
        for name in order if turn % 2 else reversed(order):
            if name not in gone:
                ran[name] += unless_gone(name, partial(turn_of, name, cases))
    found = {name: unless_gone(name, partial(at_load, name)) for name in names if name not in gone}
    return Lanes(ran={name: made for name, made in found.items() if name not in gone}, cut=cut, gone=gone)
