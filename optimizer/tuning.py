"""Tuning in order: cases, study, finalists, decision. Everything is resumable; nothing that was evaluated is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import Any

from redecode.optimizer import cases as selecting
from redecode.optimizer.cases import Cases
from redecode.optimizer.errors import BadSpec, BadStudy, OptimizerError
from redecode.optimizer.evaluation.ladder import BudgetSpent, Ladder, Simulates, lanes
from redecode.optimizer.evaluation.placing import is_placement, with_placement
from redecode.optimizer.evaluation.session import Evaluates
from redecode.optimizer.knobs import Config, Knob, Space, as_json
from redecode.optimizer.objectives import Goals, Measured, Outcome, measured
from redecode.optimizer.promotion.decide import Decision, Margins, decide
from redecode.optimizer.spec import Case, Spec, space_of
from redecode.optimizer.study.hypervolume import dominates, subset
from redecode.optimizer.study.search import Asked, Done, Evaluated, Search, warm_starts
from redecode.optimizer.study.stopping import PATIENCE, Budget, stagnant
from redecode.optimizer.study.storage import About, find, studies
from redecode.replay.prices import Price
from redecode.tracer import Run

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
_OTHER_SCORES = "the scorer or the right answers were changed since it began: what was scored before stays as it was"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for.

    Attributes:
        reference: of the spec, as `spec.load` takes it.
        which: runs, as `cases.select` takes them.
        knobs, fixed, incumbent: from the command line, as `spec.space_of` takes them.
        goals: those not None replace the spec's.
        trials: at most so many candidates.
        resume: the name of a study to go on with ("last"); what is asked besides is then taken from it.
    """

    reference: str
    which: str = "last-24h"
    knobs: Sequence[tuple[str, Knob | None]] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    incumbent: Mapping[str, Any] = field(default_factory=dict)
    slo_s: float | None = None
    percentile: float | None = None
    most_error: float | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    margins: Margins = field(default_factory=Margins)
    sampler: str = "gp"
    seed: int = 0
    trials: int | None = None
    cases: int = 40
    held_out: float = 1 / 3
    finalists: int = 3
    memo: bool = True
    fidelity: str = "engine"
    settings: Mapping[str, Any] = field(default_factory=dict)
    resume: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A study that can begin.

    Attributes:
        notes: what a user should know before it does.
    """

    spec: Spec
    space: Space
    incumbent: Config
    goals: Goals
    cases: Cases
    about: About
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What came of it.

    Attributes:
        done: trials, in order; `incumbent` is the first.
        finalists: name → candidate; `lanes` outcomes of each on the held-out cases, the incumbent's among them.
        stopped: why the search ended; `cut` why the decision ended early, if it did.
        calls_live, calls_memo: FM calls of the search (since it was last begun) that an engine made, and that the memo
            saved; `calls_again` those of candidates that were proposed again and are known; `calls_deciding` those of
            the decision, all made.
    """

    prepared: Prepared
    study: str
    done: Sequence[Done]
    failures: Sequence[tuple[Config, str]]
    importances: Mapping[str, Mapping[str, float]]
    finalists: Mapping[str, Config]
    lanes: Mapping[str, Sequence[Outcome]]
    decision: Decision
    stopped: str
    cut: str | None
    trials: int
    calls_live: int
    calls_memo: int
    calls_again: int
    calls_deciding: int
    seconds: float
    resumed: int = 0

    @property
    def chosen(self) -> Config:
        """The configuration to use: the promoted one, else the incumbent."""
        name = self.decision.chosen
        return self.prepared.incumbent if name is None else dict(self.finalists[name])


def prepare(
    request: Request, spec: Spec, runs: Sequence[Run], storage: Any, *, now_ns: int, expected: Mapping[str, Any]
) -> Prepared:
    """Everything that can be refused is refused here, before anything is evaluated.

    Args:
        runs: of the store, newest first.

    Raises:
        NoRuns, BadSpec, BadStudy: as they say.
    """
    if request.resume is not None:
        return _again(request, spec, runs, storage, expected)
    at_load = request.settings.get("at_load")
    spec, knobs = with_placement(spec, request.knobs, at_load)
    space, incumbent = space_of(spec, knobs=knobs, fixed=request.fixed, incumbent=request.incumbent)
    chosen = selecting.select(
        runs,
        spec,
        request.which,
        now_ns=now_ns,
        seed=request.seed,
        held_out=request.held_out,
        most=request.cases,
        expected=expected,
    )
    goals = Goals(
        slo_s=request.slo_s if request.slo_s is not None else spec.slo_s,
        percentile=request.percentile or spec.slo_percentile,
        most_error=request.most_error,
        prices={**spec.prices, **request.prices},
        provisioned=any(is_placement(name) for name in space.knobs),
        replica_usd_h=None if at_load is None else at_load.get("replica_usd_h"),
    )
    about = About(
        spec=request.reference,
        agent=spec.name,
        fidelity=request.fidelity,
        space={name: knob.described() for name, knob in space.knobs.items()},
        space_digest=space.digest,
        base=as_json(space.base),
        incumbent=incumbent,
        search=tuple(c.id for c in chosen.search),
        decide=tuple(c.id for c in chosen.decide),
        goals=goals_json(goals),
        sampler=request.sampler,
        seed=request.seed,
        versions={name: version(name) for name in ("redecode", "optuna")},
        settings=dict(request.settings),
        made_ns=now_ns,
        scoring=selecting.scoring_of(spec.score, [*chosen.search, *chosen.decide]),
    )
    notes = tuple(f"left out: {count} {why}" for why, count in chosen.left_out.items())
    return Prepared(
        spec=spec,
        space=space,
        incumbent=incumbent,
        goals=goals,
        cases=chosen,
        about=about,
        notes=(*notes, *_changed(storage, about, space)),
    )


def _again(request: Request, spec: Spec, runs: Sequence[Run], storage: Any, expected: Mapping[str, Any]) -> Prepared:
    """The study that is gone on with, as it was begun."""
    assert request.resume is not None
    name, about = find(storage, request.resume)
    if about.agent != spec.name:
        raise BadStudy(f"study {name} is of {about.agent} ({about.spec}), not of {spec.name}")
    rest = {n: v for n, v in about.base.items() if n not in about.space}
    placed = {n: v for n, v in rest.items() if is_placement(n)}  # in use, and not searched
    described = [(n, _described(n, d)) for n, d in about.space.items()]
    spec, knobs = with_placement(spec, described, about.settings.get("at_load"))
    asked = {n: v for n, v in rest.items() if n not in placed}
    space, _ = space_of(spec, knobs=knobs, fixed=asked, incumbent={**placed, **about.incumbent})
    if space.digest != about.space_digest:
        changes = "; ".join(space.changes_from(about.space))
        raise BadStudy(f"the knobs of {spec.name} are others than those of study {name}: {changes}; begin a new one")
    known = selecting.of_runs([r for r in runs if r.run_id in {*about.search, *about.decide}], expected)
    cases = selecting.kept(known, about.search, about.decide)
    alike = about.scoring in ("", selecting.scoring_of(spec.score, [*cases.search, *cases.decide]))
    return Prepared(
        spec=spec,
        space=space,
        incumbent=dict(about.incumbent),
        goals=goals_of(about.goals),
        cases=cases,
        about=about,
        notes=(f"going on with {name}", *([] if alike else [_OTHER_SCORES])),
    )


def _described(name: str, data: Mapping[str, Any]) -> Knob:
    from redecode.optimizer.knobs import Choice, Range

    rest = dict(data)
    if "choices" in rest:
        return Choice(*rest["choices"], when=rest.get("when"))
    if "low" not in rest:
        raise BadSpec(f"knob {name} of the study is not understood")
    return Range(**rest)


def goals_json(goals: Goals) -> dict[str, Any]:
    """Its inverse is `goals_of`."""
    return {**asdict(replace(goals, prices={})), "prices": {m: p.model_dump() for m, p in goals.prices.items()}}


def goals_of(data: Mapping[str, Any]) -> Goals:
    """Its inverse is `goals_json`."""
    return Goals(**{**data, "prices": {m: Price(**p) for m, p in data["prices"].items()}})


def _changed(storage: Any, about: About, space: Space) -> list[str]:
    """What is otherwise than in the newest study of this agent."""
    earlier = [(name, a) for name, a in studies(storage, about.agent) if name != about.name]
    if not earlier or earlier[0][1].space_digest == space.digest:
        return []
    changes = space.changes_from(earlier[0][1].space)
    return [f"the knobs have changed since study {earlier[0][0]}: {'; '.join(changes)}: this is a study of its own"]


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
    silent: str | None = None
    _live: int = 0
    _memo: int = 0
    _again: int = 0

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
            labels={**self.labels, "study": search.name},
            memo=self.memo,
            simulates=self.simulates,
            withheld=[c.id for c in p.cases.decide] if p.spec.caches else (),
            spent=self._spent,
        )
        self._queue(search)
        stopped = self._search(search, ladder)
        searched = self._live, self._memo
        done = search.done()
        chosen = finalists(done, p.incumbent, self.margins, self.finalists)
        named = {f"trial-{d.number}": d.config for d in chosen}
        ran: dict[str, list[Outcome]] = {INCUMBENT: []}
        cut: str | None = None
        held = p.cases.decide
        if named and held:
            self.tell(f"deciding on {len(held)} held-out runs: the incumbent against {', '.join(named)}")
            deciding = replace(ladder, cases=held, labels={**ladder.labels, "held_out": True}, withheld=())
            ran, cut = lanes(deciding, {INCUMBENT: p.incumbent, **named}, over=self.budget.over)
        return Tuned(
            prepared=p if self.silent is None else replace(p, notes=(*p.notes, self.silent)),
            study=search.name,
            done=done,
            failures=search.failures(),
            importances=search.importances(),
            finalists=named,
            lanes=ran,
            decision=self._decide(named, ran, held),
            stopped=stopped,
            cut=cut,
            trials=search.trials,
            calls_live=searched[0],
            calls_memo=searched[1],
            calls_again=self._again,
            calls_deciding=self._live - searched[0],
            seconds=self.budget.elapsed,
            resumed=search.resumed,
        )

    def _decide(
        self, named: Mapping[str, Config], ran: Mapping[str, Sequence[Outcome]], held: Sequence[Case]
    ) -> Decision:
        if named and not ran[INCUMBENT]:
            ran = {name: [] for name in (INCUMBENT, *named)}
        used = held[: len(ran[INCUMBENT])]
        clusters = [c.conversation or selecting.same_input(c) for c in used]
        return decide(ran, clusters, self.prepared.goals, margins=self.margins, seed=self.prepared.about.seed)

    def _spent(self, outcomes: Sequence[Outcome]) -> str | None:
        live = sum(o.live for o in outcomes)
        memo = sum(o.memo for o in outcomes)
        self._live += live
        self._memo += memo
        cost = sum(self.prepared.goals.spending.cost(o) * o.live / max(1, o.live + o.memo) for o in outcomes)
        self.budget.spend(live, cost)
        return self.budget.over(self._share)

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
            asked = search.ask(1 if first else max(1, min(self.evaluates.workers, room)))
            new, old = self._sorted(search, asked)
            seen = 0 if new else seen + len(old)
            kept = [(d.number, d.measured) for d in done if d.feasible and d.why is None]
            try:
                found = replace(ladder, race=not first).batch(new, kept) if new else []
            except BudgetSpent as over:
                return str(over)  # what was asked stays running; it is asked again when the study goes on
            if first and found and asked[0].config == p.incumbent:
                _check_first(found[0])  # not told: it is asked again once it is mended
            for candidate, result in zip(new, found, strict=True):
                search.tell(candidate, result)
                self.tell(_line(candidate, result.measured, result.out or result.failed))
                if self.silent is None and _asks_nobody(result) and _asked(done):
                    self.silent = _SILENT.format(number=candidate.number)
                    self.tell(self.silent)

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


def _check_first(found: Evaluated) -> None:
    """The incumbent must work: nothing can be compared with one that does not."""
    if found.failed is not None:
        raise OptimizerError(f"the incumbent cannot be evaluated: {found.failed}")
    if found.outcomes and all(o.error is not None for o in found.outcomes):
        why, _ = Counter(o.error for o in found.outcomes).most_common(1)[0]
        run = next((o.run_id for o in found.outcomes if o.run_id and o.error == why), None)
        shown = "" if run is None else f"; `redecode show {run[:12]}` has more"
        raise OptimizerError(f"every run of the incumbent failed ({len(found.outcomes)}): {why}{shown}")


def finalists(done: Sequence[Done], incumbent: Config, margins: Margins, most: int = 3) -> list[Done]:
    """Feasible candidates within the margins of the incumbent that cover most of what is better than it.

    Where there is none, that may be noise in the incumbent's own numbers; those within it are for the decision to tell.
    """
    if not done or done[0].config != incumbent:  # nothing to compare with
        return []
    now = done[0].measured
    limit: tuple[float, ...] = (now.error + margins.error, now.cost * margins.cost, now.latency_s * margins.latency)
    if not done[0].feasible:  # what it costs to keep the SLO at all is for the user to see
        kept: list[tuple[float, ...]] = [d.measured.values for d in done if d.feasible]
        limit = tuple(1.1 * max(v) for v in zip(limit, *kept, strict=True))
    noise = (2 * now.error_se, 2 * now.cost_se, now.latency_s - now.median_s)
    wide = tuple(a + b for a, b in zip(limit, noise, strict=True))
    whole = [
        d
        for d in done[1:]
        if d.feasible and d.why is None and not dominates(now.values, d.measured.values)
        and any(a < b for a, b in zip(d.measured.values, now.values, strict=True))
    ]  # fmt: skip
    for far in (limit, wide):
        if chosen := subset([_relative(d.measured, far) for d in whole], (1.0, 1.0, 1.0), most):
            return [whole[i] for i in chosen]
    return []


def _relative(found: Measured, limit: Sequence[float]) -> tuple[float, ...]:
    """Objectives as shares of what they may be."""
    return tuple(v / m if m > 0 else v + 1.0 for v, m in zip(found.values, limit, strict=True))


def _line(asked: Asked, found: Measured | None, why: str | None) -> str:
    knobs = ", ".join(f"{k}={v}" for k, v in asked.config.items())
    if found is None:
        return f"trial {asked.number}: {knobs}: {why}"
    text = f"error {found.error:.3f}, cost {found.cost:.4g}, latency {found.latency_s:.3f} s over {found.runs} runs"
    calls = f"{found.live} FM calls, {found.memo} from the memo"
    return f"trial {asked.number}: {knobs}: {text} ({calls}){'; out: ' + why if why else ''}"


def observed(cases: Sequence[Case], spec: Spec, goals: Goals) -> Measured | None:
    """The recorded runs themselves, as far as they tell: the first lane. Their cost is not known here (0)."""
    outcomes = []
    for case in cases:
        if case.duration_s is None and case.error is None:
            continue
        try:
            said = None if case.error or spec.score is None else spec.score(case.output, case)
            quality = None if said is None else float(said)
        except Exception:  # a scorer of outputs of graphs that may be others than now
            quality = None
        outcomes.append(
            Outcome(case=case.id, run_id=case.id, quality=quality, latency_s=case.duration_s or 0.0, error=case.error)
        )
    return measured(outcomes, replace(goals, prices={})) if outcomes else None
