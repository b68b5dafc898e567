"""Tuning in order: cases, study, finalists, decision. Everything is resumable; nothing that was evaluated is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from redecode.optimizer import cases as selecting
from redecode.optimizer.cases import STUDY
from redecode.optimizer.errors import OptimizerError
from redecode.optimizer.evaluation.ladder import BudgetSpent, Ladder, Simulates, lanes
from redecode.optimizer.evaluation.placing import without_placement
from redecode.optimizer.evaluation.session import Evaluates
from redecode.optimizer.finalists import finalists
from redecode.optimizer.knobs import Config
from redecode.optimizer.objectives import Measured, Outcome, measured, together
from redecode.optimizer.observed import observed, worse_again
from redecode.optimizer.preparing import Prepared
from redecode.optimizer.promotion.decide import Decision, Margins, decide
from redecode.optimizer.promotion.pairs import block_size, blocks_of
from redecode.optimizer.spec import Case, Spec
from redecode.optimizer.study.search import Asked, Done, Evaluated, Search, warm_starts
from redecode.optimizer.study.stopping import PATIENCE, Budget, stagnant

INCUMBENT = "incumbent"
SEARCH_SHARE = 0.7
"""Of each budget; the rest is for the decision."""
_REPEATS = 40
"""Candidates known already, one after the other, after which a search has seen its space."""

_LISTED = 10_000
"""A space no larger than this is listed when the sampler repeats itself."""
_SILENT = (
    "trial {number} made no FM call, where the incumbent makes some: if the agent keeps answers itself (a dict, an "
    "lru_cache), these are other candidates' and no number here holds; leave that out where it is tuned, or make it a "
    "CachedStep and name it in the spec's `caches`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What came of it.

    Attributes:
        done: trials, in order; `incumbent` is the first.
        observed: the held-out runs themselves; `None`: they do not tell.
        finalists: name → candidate; `lanes` outcomes of each on the held-out cases, the incumbent's among them.
        stopped: why the search ended; `cut` why the decision ended early, if it did.
        calls_live, calls_memo: FM calls of the search (since it was last begun) that an engine made, and that the memo
            saved; `calls_again` those of candidates that were proposed again and are known; `calls_deciding` those of
            the decision, all made. `calls_judging` those of the scorer itself, in both.
    """

    prepared: Prepared
    study: str
    done: Sequence[Done]
    failures: Sequence[tuple[Config, str]]
    importances: Mapping[str, Mapping[str, float]]
    finalists: Mapping[str, Config]
    lanes: Mapping[str, Sequence[Outcome]]
    observed: Measured | None
    decision: Decision
    stopped: str
    cut: str | None
    trials: int
    calls_live: int
    calls_memo: int
    calls_again: int
    calls_deciding: int
    calls_judging: int
    seconds: float
    resumed: int = 0

    @property
    def chosen(self) -> Config:
        """The configuration to use: the promoted one, else the incumbent."""
        name = self.decision.chosen
        return self.prepared.incumbent if name is None else dict(self.finalists[name])


@dataclass(slots=True, kw_only=True)
class Tuner:
    """Searches and decides.

    Args:
        labels: of every run that is recorded, besides study and trial.
        tell: told in words what goes on, after each candidate.
    """

    prepared: Prepared
    storage: Any
    evaluates: Evaluates
    budget: Budget
    trials: int | None = None
    finalists: int = 3
    memo: bool = True
    margins: Margins = field(default_factory=Margins)
    simulates: Simulates | None = None
    labels: Mapping[str, object] = field(default_factory=dict)
    tell: Callable[[str], None] = lambda _: None
    _told: list[str] = field(default_factory=list)
    _live: int = 0
    _memo: int = 0
    _again: int = 0
    _judging: int = 0
    _unpriced: set[str] = field(default_factory=set)

    def run(self) -> Tuned:
        """All of it.

        Raises:
            Stopped: something outside must be mended; the study can be gone on with.
            OptimizerError: the incumbent itself cannot be evaluated.
        """
        p = self.prepared
        search = Search(self.storage, p.about, p.space, p.goals)
        ladder = Ladder(
            evaluates=self.evaluates,
            space=p.space,
            goals=p.goals,
            cases=p.cases.search,
            labels={**self.labels, STUDY: search.name},
            memo=self.memo,
            simulates=self.simulates,
            withheld=[c.id for c in p.cases.decide] if p.spec.caches else (),
            spent=self._spent,
        )
        self._queue(search)
        stopped = self._search(search, ladder)
        searched = self._live, self._memo
        done = search.done()
        chosen = finalists(done, p.incumbent, self.margins, self.finalists, percentile=p.goals.percentile)
        named = {f"trial-{d.number}": d.config for d in chosen}
        ran: dict[str, list[Outcome]] = {INCUMBENT: []}
        cut: str | None = None
        gone: Mapping[str, str] = {}
        held = p.cases.decide
        if named and held:
            ran |= {name: [] for name in named}
            cut = self.budget.over()
        if named and held and cut is None:
            self.tell(f"deciding on {len(held)} held-out runs: the incumbent against {', '.join(named)}")
            block, labels = block_size(p.about.settings), {**ladder.labels, "held_out": True}
            deciding = replace(ladder, cases=held, block=block, labels=labels, withheld=())
            found = lanes(deciding, {INCUMBENT: p.incumbent, **named}, over=self.budget.over)
            ran, cut, gone = dict(found.ran), found.cut, found.gone
            named = {name: config for name, config in named.items() if name not in gone}
            for name, why in gone.items():
                self._warn(f"{name} is out, since it cannot be evaluated on held-out runs: {why}")
        in_use = without_placement(p.space.decoded(p.incumbent))
        over = self.budget.over() if self._judging and held else None
        seen, note = observed(held[: len(ran[INCUMBENT])] or held, self.evaluates, in_use, ladder.labels, over)
        self._spent(seen)
        for odd in (note, worse_again(seen, ran[INCUMBENT])):
            self._warn(odd)
        return Tuned(
            prepared=replace(p, notes=(*p.notes, *self._told)),
            study=search.name,
            done=done,
            failures=search.failures(),
            importances=search.importances(),
            finalists=named,
            lanes=ran,
            observed=measured(seen, replace(p.goals, prices={})) if seen else None,
            decision=self._decide(named, ran, held, cut, done, gone),
            stopped=stopped,
            cut=cut,
            trials=search.trials,
            calls_live=searched[0],
            calls_memo=searched[1],
            calls_again=self._again,
            calls_deciding=self._live - searched[0],
            calls_judging=self._judging,
            seconds=self.budget.elapsed,
            resumed=search.resumed,
        )

    def _decide(
        self,
        named: Mapping[str, Config],
        ran: Mapping[str, Sequence[Outcome]],
        held: Sequence[Case],
        cut: str | None,
        done: Sequence[Done],
        gone: Mapping[str, str],
    ) -> Decision:
        if named and not ran[INCUMBENT]:
            ran = {name: [] for name in (INCUMBENT, *named)}
        used = held[: len(ran[INCUMBENT])]
        clusters = [c.conversation or selecting.same_input(c) for c in used]
        p = self.prepared
        together = blocks_of(len(used), p.about.settings)
        kept = not done or any(d.feasible for d in done)
        found = decide(ran, clusters, p.goals, margins=self.margins, seed=p.about.seed, kept=kept, together=together)
        if gone and not named:
            why = "; ".join(f"{name} cannot be evaluated on held-out runs: {why}" for name, why in gone.items())
            return replace(found, why=why)
        if not named and (over := self.budget.over(self._share)) is not None:
            return found.unsearched(over, len(done))
        return found if cut is None else found.ended_by(cut, len(held))

    def _spent(self, outcomes: Sequence[Outcome]) -> str | None:
        live = sum(o.live for o in outcomes)
        memo = sum(o.memo for o in outcomes)
        self._live += live
        self._memo += memo
        paid, _ = self.prepared.goals.spent(together(*(o.paid for o in outcomes)))
        for model in sorted({*self.prepared.goals.unpriced(outcomes)} - self._unpriced):
            self._unpriced.add(model)
            self._warn(f"embeddings of {model} cost nothing here: they have no price (--price {model}=INPUT,0)")
        judging, cost = self._judges(outcomes)
        self.budget.spend(live + judging, paid + cost)
        return self.budget.over(self._share)

    def _judges(self, outcomes: Sequence[Outcome]) -> tuple[int, float]:
        """FM calls of the scorer itself, and what they cost."""
        cost = 0.0
        for used in (o.judging for o in outcomes):
            self._judging += sum(u.calls for u in used.values())
            paid, unknown = self.prepared.goals.spent(used)
            cost += paid
            for model in sorted(set(unknown) - self._unpriced):
                self._unpriced.add(model)
                self._warn(
                    f"what the scorer's own calls of {model} cost is not known, and in no budget of cost: they have no "
                    f"price (--price {model}=INPUT,OUTPUT), or nobody tells how many tokens they had"
                )
        return sum(u.calls for o in outcomes for u in o.judging.values()), cost

    @property
    def _share(self) -> float:
        """Of each budget, for the search."""
        return SEARCH_SHARE if self.prepared.cases.decide else 1.0

    def _queue(self, search: Search) -> None:
        """The incumbent first, then what did well in earlier studies."""
        p = self.prepared
        search.enqueue(p.incumbent)
        if not search.resumed:
            warm = warm_starts(self.storage, p.about, p.space)
            new = sum(search.enqueue(config) for config in warm)
            if new:
                self.tell(f"{new} candidates of an earlier study come first")

    def _search(self, search: Search, ladder: Ladder) -> str:
        """Until something says stop; returns what."""
        p = self.prepared
        seen = 0
        while True:
            done = search.done()
            if (why := self.budget.over(self._share)) is not None:
                return why
            if self.trials is not None and len(done) >= self.trials:
                return f"{len(done)} candidates were evaluated"
            if (why := stagnant(done, PATIENCE)) is not None:
                return why
            if seen and p.space.size() <= _LISTED and not search.enqueue_unseen():
                return "every candidate was evaluated"
            if seen >= _REPEATS:
                return "only known candidates are proposed"
            first = not any(d.config == p.incumbent for d in done)
            room = 10**9 if self.trials is None else self.trials - len(done)
            most = max(1, min(self.evaluates.workers, room))
            asked = [search.ask_for(p.incumbent)] if first else search.ask(most)
            new, old = self._sorted(search, asked)
            seen = 0 if new else seen + len(old)
            kept = [(d.number, d.measured) for d in done if d.feasible and d.why is None]
            try:
                found = replace(ladder, race=not first).batch(new, kept) if new else []
            except BudgetSpent as over:
                return str(over)  # what was asked stays running; it is asked again when the study goes on
            if first and found and asked[0].config == p.incumbent:
                _check_first(found[0], p.notes)  # not told: it is asked again once it is mended
                self._warn(_odd(found[0], p.spec))
            for candidate, result in zip(new, found, strict=True):
                search.tell(candidate, result)
                self.tell(_line(candidate, result.measured, result.out or result.failed))
                if _asks_nobody(result) and _asked(done) and not any("made no FM call" in told for told in self._told):
                    self._warn(_SILENT.format(number=candidate.number))

    def _warn(self, what: str | None) -> None:
        """Say it now, and in the report."""
        if what is not None:
            self._told.append(what)
            self.tell(what)

    def _sorted(self, search: Search, asked: Sequence[Asked]) -> tuple[list[Asked], list[Asked]]:
        """Candidates to evaluate, and those known already, which are told at once; in a batch each once."""
        new: list[Asked] = []
        old: list[Asked] = []
        for candidate in asked:
            known = search.known(candidate.config)
            failed = None if known is not None else search.failed_before(candidate.config)
            if known is not None:
                search.tell_again(candidate, known)
                self._again += known.measured.live + known.measured.memo
                old.append(candidate)
            elif failed is not None or any(candidate.config == other.config for other in new):
                search.give_up(candidate)
                old.append(candidate)
            else:
                new.append(candidate)
        return new, old


def _asks_nobody(found: Evaluated) -> bool:
    """Whether no run made an FM call or failed: a candidate that needs none, or a cache that we know nothing of."""
    return bool(found.outcomes) and not any(o.error or o.live or o.memo or o.cached for o in found.outcomes)


def _asked(done: Sequence[Done]) -> bool:
    """Whether the incumbent made calls."""
    return bool(done) and done[0].measured.live + done[0].measured.memo > 0


def _odd(found: Evaluated, spec: Spec) -> str | None:
    """What is odd about the qualities of the incumbent."""
    failed = [o for o in found.outcomes if o.error is not None]
    if failed:
        why, _ = Counter(str(o.error) for o in failed).most_common(1)[0]
        cases = ", ".join(sorted(o.case[:12] for o in failed)[:3])
        return (
            f"{len(failed)} of {len(found.outcomes)} runs of the incumbent failed, mostly with {why} (inputs of "
            f"{cases}): these count as errors and as late"
        )
    losses = [o.loss for o in found.outcomes if o.error is None]
    if losses and all(loss is None for loss in losses):
        return "the scorer can tell of no run of the incumbent: without qualities nothing can be promoted"
    if losses and spec.score is None and all(loss == 1.0 for loss in losses):
        return (
            "nothing that was recorded came out again when the incumbent ran on its own inputs: every error is 1, and "
            "says nothing; give the spec a `score`"
        )
    return None


def _check_first(found: Evaluated, notes: Sequence[str] = ()) -> None:
    """The incumbent must work: nothing can be compared with one that does not."""
    others = "".join(f"; {note}" for note in notes if "is taken to be in use" in note)
    if found.failed is not None:
        raise OptimizerError(f"the incumbent cannot be evaluated: {found.failed}{others}")
    if found.outcomes and all(o.error is not None for o in found.outcomes):
        why, _ = Counter(o.error for o in found.outcomes).most_common(1)[0]
        run = next((o.run_id for o in found.outcomes if o.run_id and o.error == why), None)
        shown = "" if run is None else f"; `redecode show {run[:12]}` has more"
        if "'dict' object has no attribute" in str(why):
            shown += "; inputs are recorded as plain data, and are objects where the hints of the graph's schema say so"
        raise OptimizerError(f"every run of the incumbent failed ({len(found.outcomes)}): {why}{shown}{others}")


def _line(asked: Asked, found: Measured | None, why: str | None) -> str:
    knobs = ", ".join(f"{k}={v}" for k, v in asked.config.items())
    if found is None:
        return f"trial {asked.number}: {knobs}: {why}"
    text = f"error {found.error:.3f}, cost {found.cost:.4g}, latency {found.latency_s:.3f} s over {found.runs} runs"
    text += f", {found.failed} of them failed" if found.failed else ""
    calls = f"{found.live} FM calls, {found.memo} from the memo"
    return f"trial {asked.number}: {knobs}: {text} ({calls}){'; out: ' + why if why else ''}"
