"""Asking Optuna for candidates and telling it what came of them, so that the same seed gives the same study.

One process asks and tells, in batches, in one order. The sampler is made anew for each batch from the seed and the
number of trials there are: a sampler that went on drawing where it began would, after a kill, propose again what it had
proposed first.
"""

from __future__ import annotations

import json
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from redecode.optimizer.errors import BadStudy
from redecode.optimizer.evaluation.placing import is_placement, without_placement
from redecode.optimizer.knobs import Choice, Config, Knob, Range, Space
from redecode.optimizer.objectives import NAMES, Goals, Measured, Outcome
from redecode.optimizer.study.gaussian import smoothed
from redecode.optimizer.study.hypervolume import scaled, subset
from redecode.optimizer.study.proposing import drawn, propose
from redecode.optimizer.study.storage import ABOUT, About, studies

STARTUP = 24
"""Random trials before the model: on the problem of benchmarks/optimizer.py 10 are better after 25, 24 from 50 on."""
PROPOSING = 10
"""Candidates that must be known before "gp" proposes some."""
SAMPLERS = ("gp", "tpe", "tpe-default", "tpe-multivariate", "nsga2", "random")
_PLACEMENTS, _EACH = 40, 6
"""Placements that are drawn for each proposal, and those of them that each graph that ran is looked at with."""
CONFIG, MEASURED, OUTCOMES, WHY = "candidate", "measured", "outcomes", "why"
_ENQUEUED, _GIVEN_UP = "enqueued", "given_up"


def sampler_of(name: str, seed: int, startup: int = STARTUP) -> BaseSampler:
    """A sampler of Optuna's by name; of "gp" the one that it begins with (what it proposes then: `Search.ask`).

    "tpe" is univariate: with categorical knobs and several objectives multivariate is worse.

    Raises:
        BadStudy: there is none of that name.
    """
    seed %= 2**32  # numpy takes no other
    if name in ("gp", "tpe"):
        return TPESampler(seed=seed, n_startup_trials=startup, multivariate=False)
    if name == "tpe-default":
        return TPESampler(seed=seed)
    if name == "tpe-multivariate":
        return TPESampler(seed=seed, multivariate=True)
    if name == "nsga2":
        return NSGAIISampler(seed=seed, population_size=20)
    if name == "random":
        return RandomSampler(seed=seed)
    raise BadStudy(f"no sampler is called {name}; there are: {', '.join(SAMPLERS)}")


@dataclass(frozen=True, slots=True)
class Asked:
    """A candidate to evaluate, as trial `number`."""

    number: int
    config: Config
    trial: Trial = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What came of a candidate.

    Attributes:
        out: why it left the race early; `None`: it ran on all cases.
        infeasible: it left because it breaks the SLO.
        failed: why it could not be evaluated at all.
    """

    outcomes: Sequence[Outcome] = ()
    measured: Measured | None = None
    out: str | None = None
    infeasible: bool = False
    failed: str | None = None


class Ran(NamedTuple):
    """A run of a trial that is over."""

    run_id: str | None
    loss: float | None
    seconds: float
    cost: float
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A trial that is over, as the study has it.

    Attributes:
        outcomes: case → its run.
        violation: by how much constraints are exceeded, scaled; at or below 0 it is feasible.
    """

    number: int
    config: Config
    measured: Measured
    outcomes: Mapping[str, Ran]
    violation: float
    pruned: bool
    why: str | None = None

    @property
    def feasible(self) -> bool:
        """Whether it keeps what it must."""
        return self.violation <= 0 and not self.pruned


class Search:
    """A study that is asked and told.

    Args:
        about: what is said of it; a study of that name that exists is gone on with.
    """

    def __init__(self, storage: BaseStorage, about: About, space: Space, goals: Goals) -> None:
        self.about, self.space, self.goals = about, space, goals
        self.name = about.name
        self._study = optuna.create_study(
            storage=storage,
            study_name=self.name,
            directions=["minimize"] * len(NAMES),
            sampler=sampler_of(about.sampler, about.seed),
            load_if_exists=True,
        )
        if ABOUT not in self._study.user_attrs:
            with warnings.catch_warnings():  # experimental since 3.2; only dashboards read it
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._study.set_metric_names(list(NAMES))
            self._study.set_user_attr(ABOUT, about.to_json())
        elif self._study.user_attrs[ABOUT]["space_digest"] != space.digest:
            raise BadStudy(f"study {self.name} was made with other knobs; begin a new one")
        self.resumed = self._pick_up()

    def _pick_up(self) -> int:
        """What a kill had left running is asked again; returns how many trials there were."""
        trials = self._study.get_trials(deepcopy=False)
        waiting = [self._config(t) for t in trials if t.state == TrialState.WAITING]
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                config = self._config(trial)
                if config is not None and config not in waiting and not _not_evaluated(trial):
                    self._enqueue(config)  # first, so that a kill between loses none
                with self._alone():
                    self._study.tell(trial.number, state=TrialState.FAIL)
        return sum(t.state.is_finished() and CONFIG in t.user_attrs for t in trials)

    def enqueue(self, config: Config) -> bool:
        """Have a candidate evaluated before others are asked for; says whether it is new."""
        if any(self._config(t) == config for t in self._study.get_trials(deepcopy=False)):
            return False
        self._enqueue(config)
        return True

    def _enqueue(self, config: Config) -> None:
        self._study.enqueue_trial(dict(config), user_attrs={_ENQUEUED: json.dumps(config, sort_keys=True)})

    def _made(self) -> int:
        """Trials that count: those that a kill had left running do not, so that what follows is as without it."""
        return sum(not _picked_up(t) for t in self._study.get_trials(deepcopy=False))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """A trial of ours is told by nobody else.

        Raises:
            BadStudy: another process has.
        """
        try:
            yield
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError) as error:
            if isinstance(error, ValueError) and not str(error).startswith("Cannot tell a "):
                raise
            raise BadStudy(
                f"another process is at study {self.name}: it has ended a trial of this one ({error}); what both have "
                "told is kept: let one of them end, then go on with --resume"
            ) from error

    def enqueue_unseen(self) -> bool:
        """Have a candidate of a finite space evaluated that never was, drawn by the seed; false if there is none."""
        trials = self._study.get_trials(deepcopy=False)
        seen = [config for t in trials if (config := self._config(t)) is not None]
        left = [config for config in self.space.candidates() if config not in seen]
        if not left:
            return False
        rng = random.Random(f"unseen/{self.about.seed}/{self._made()}")
        return self.enqueue(rng.choice(left))

    @staticmethod
    def _config(trial: FrozenTrial) -> Config | None:
        text = trial.user_attrs.get(CONFIG) or trial.user_attrs.get(_ENQUEUED)
        return None if text is None else json.loads(text)

    def ask(self, count: int) -> list[Asked]:
        """The next candidates; each may be one that was evaluated before (`known`)."""
        made = self._made()
        # Any two (seed, number) give unlike streams: numpy's SeedSequence mixes them.
        self._study.sampler = sampler_of(self.about.sampler, (self.about.seed * 1_000_003 + made) % 2**32)
        out: list[Asked] = []
        for _ in range(count):
            if self.about.sampler == "gp":
                self._propose([a.config for a in out])
            trial = self._study.ask()
            with self._alone():
                config = suggested(trial, self.space)
                trial.set_user_attr(CONFIG, json.dumps(config, sort_keys=True))
            out.append(Asked(trial.number, config, trial))
        return out

    def ask_for(self, config: Config) -> Asked:
        """A candidate that waits, before those that wait for longer; these are asked for after it."""
        while True:
            [asked] = self.ask(1)
            waiting = [t for t in self._study.get_trials(deepcopy=False) if t.state == TrialState.WAITING]
            if asked.config == config or all(self._config(t) != config for t in waiting):
                return asked
            self._enqueue(asked.config)
            with self._alone():
                self._study.tell(asked.trial, state=TrialState.FAIL)

    def _propose(self, pending: Sequence[Config]) -> None:
        """Have the candidate asked for next that the models hope most of, if no other waits and enough is known."""
        trials = self._study.get_trials(deepcopy=False)
        done = done_of(self._study, self.goals)
        if any(t.state == TrialState.WAITING for t in trials) or len(done) < PROPOSING:
            return
        running = [c for t in trials if t.state == TrialState.RUNNING and (c := self._config(t)) is not None]
        made = self._made()
        config = propose(
            self.space,
            [d.config for d in done],
            [*zip(*compared([d.measured.values for d in done]), strict=True)],
            [list(self.goals.constraints(d.measured).values()) for d in done],
            [*pending, *running],
            random.Random(f"propose/{self.about.seed}/{made}"),
            self._placed_otherwise(done, made),
        )
        if config is not None:
            self._enqueue(config)

    def _placed_otherwise(self, done: Sequence[Done], number: int) -> list[Config]:
        """Candidates that differ from one that ran on all cases in their placement alone: these run no more."""
        if not any(map(is_placement, self.space.knobs)):
            return []
        rng = random.Random(f"placed/{self.about.seed}/{number}")
        ran = [without_placement(d.config) for d in done if d.why is None]
        graphs = {json.dumps(graph, sort_keys=True): graph for graph in ran}
        placed = [{k: v for k, v in drawn(self.space, rng).items() if is_placement(k)} for _ in range(_PLACEMENTS)]
        return [{**graph, **placement} for graph in graphs.values() for placement in rng.sample(placed, _EACH)]

    def known(self, config: Config) -> Done | None:
        """The trial that has evaluated this candidate, if one did."""
        return next((d for d in self.done() if d.config == config), None)

    def failed_before(self, config: Config) -> str | None:
        """Why this candidate could not be evaluated, if that was tried."""
        for trial in self._study.get_trials(deepcopy=False):
            if _failed(trial) and self._config(trial) == config:
                return str(trial.user_attrs[WHY])
        return None

    def tell(self, asked: Asked, found: Evaluated) -> None:
        """What came of a candidate: its state last, so that one of which a kill has left a part is none that is over.

        Raises:
            BadStudy: another process has told it.
        """
        trial = asked.trial
        with self._alone():
            if found.failed is not None or found.measured is None:
                trial.set_user_attr(WHY, found.failed or "nothing was measured")
                self._study.tell(trial, state=TrialState.FAIL)
                return
            rows = [
                [o.case, o.run_id, o.loss, o.seconds, self.goals.cost(o), o.live, o.memo, o.error is not None]
                for o in found.outcomes
            ]
            trial.set_user_attr(MEASURED, asdict(found.measured))
            trial.set_user_attr(OUTCOMES, rows)
            if found.out is not None:
                trial.set_user_attr(WHY, found.out)
            self._end(trial, found.measured, pruned=found.infeasible)

    def tell_again(self, asked: Asked, known: Done) -> None:
        """The same candidate again: it is what it was, and costs nothing.

        Raises:
            BadStudy: as `tell`.
        """
        with self._alone():
            asked.trial.set_user_attr("same_as", known.number)
            self._end(asked.trial, known.measured, pruned=known.pruned)

    def _end(self, trial: Trial, found: Measured, *, pruned: bool) -> None:
        """Constraints first, all of them, then values or that it was pruned."""
        for key, value in self.goals.constraints(found).items():
            trial.set_constraint(key, value)
        if pruned:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, list(found.values))

    def give_up(self, asked: Asked) -> None:
        """Not evaluated: it is evaluated beside in the same batch, or it cannot be.

        Raises:
            BadStudy: as `tell`.
        """
        with self._alone():
            asked.trial.set_user_attr(_GIVEN_UP, value=True)
            self._study.tell(asked.trial, state=TrialState.FAIL)

    def done(self) -> list[Done]:
        """Trials that were evaluated, each candidate once, in order; the incumbent first, whenever it was."""
        return sorted(done_of(self._study, self.goals), key=lambda d: d.config != self.about.incumbent)

    def failures(self) -> list[tuple[Config, str]]:
        """Candidates that could not be evaluated, and why."""
        return failures_of(self._study)

    @property
    def trials(self) -> int:
        """How many were told, those asked twice included."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        return len(self._study.get_trials(deepcopy=False, states=states))

    def importances(self) -> dict[str, dict[str, float]]:
        """Objective → knob → share of its variance (PED-ANOVA); empty while there are too few trials."""
        return importances_of(self._study)


def done_of(study: Study, goals: Goals) -> list[Done]:
    """Trials of a study that were evaluated, each candidate once, in order.

    One that a kill has left in the midst of being told has failed, whatever it has already: it is asked again.
    """
    out = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        if MEASURED not in trial.user_attrs:
            continue
        measured = Measured(**trial.user_attrs[MEASURED])
        # Of a study of before it was kept nobody knows which runs failed.
        outcomes = {r[0]: Ran(r[1], r[2], r[3], r[4], any(r[7:])) for r in trial.user_attrs[OUTCOMES]}
        violation = sum(max(0.0, v) for v in goals.constraints(measured).values())
        out.append(
            Done(
                number=trial.number,
                config=json.loads(trial.user_attrs[CONFIG]),
                measured=measured,
                outcomes=outcomes,
                violation=violation,
                pruned=trial.state == TrialState.PRUNED,
                why=trial.user_attrs.get(WHY),
            )
        )
    return out


def failures_of(study: Study) -> list[tuple[Config, str]]:
    """Candidates of a study that could not be evaluated, and why."""
    return [
        (json.loads(t.user_attrs[CONFIG]), t.user_attrs[WHY]) for t in study.get_trials(deepcopy=False) if _failed(t)
    ]


def _not_evaluated(trial: FrozenTrial) -> bool:
    """Whether it was told, or about to be, that it was given up or could not be evaluated."""
    told = trial.user_attrs
    # One that was measured may have a reason as well: why it was out.
    return _GIVEN_UP in told or (WHY in told and MEASURED not in told)


def _failed(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and _not_evaluated(trial) and WHY in trial.user_attrs


def _picked_up(trial: FrozenTrial) -> bool:
    """Whether a kill had left it running."""
    return trial.state == TrialState.FAIL and not _not_evaluated(trial)


def importances_of(study: Study) -> dict[str, dict[str, float]]:
    """Objective → knob → share of its variance (PED-ANOVA); empty while there are too few trials."""
    out: dict[str, dict[str, float]] = {}
    for place, name in enumerate(NAMES):
        # It warns that low values are what is explained (they are what is wanted), and divides 0 by 0 where there
        # is nothing to explain.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = optuna.importance.get_param_importances(study, target=_value_at(place))
            except (ValueError, RuntimeError):
                continue
        if all(math.isfinite(v) for v in found.values()):
            out[name] = dict(found)
    return out


def _value_at(place: int) -> Callable[[FrozenTrial], float]:
    return lambda trial: trial.values[place]


def suggested(trial: Trial, space: Space) -> Config:
    """A candidate of a space: a value for each knob that matters, given those before it."""
    config: Config = {}
    for name, knob in space.knobs.items():
        if not space.active(name, config):
            continue
        if isinstance(knob, Choice):
            config[name] = trial.suggest_categorical(name, list(knob.labels))
        else:
            config[name] = _number(trial, name, knob)
    return config


def _number(trial: Trial, name: str, knob: Range) -> float:
    if knob.integer:
        low, high = round(knob.low), round(knob.high)
        return trial.suggest_int(name, low, high, step=round(knob.step or 1), log=knob.log)
    value = trial.suggest_float(name, knob.low, knob.high, step=knob.step, log=knob.log)
    return value if knob.step is None else round(value, 12)


def compared(values: Sequence[Sequence[float]]) -> list[list[float]]:
    """Objectives by column, in the order of `NAMES`: cost and latency as logarithms, to compare ratios."""
    columns = zip(*values, strict=True)
    return [[math.log(v) for v in c] if place and min(c) > 0 else list(c) for place, c in enumerate(columns)]


def begins_with(
    space: Space, configs: Sequence[Config], values: Sequence[Sequence[float]], kept: Sequence[int], count: int
) -> list[int]:
    """Places, among those kept, of the candidates of a study that together cover most, its noise taken out.

    Args:
        values: of every candidate, in the order of `NAMES`; cost and latency are compared as ratios.
        kept: places of the candidates to choose from.
    """
    if not kept:
        return []
    columns = [smoothed(space, configs, column) for column in compared(values)]
    points = [tuple(column[i] for column in columns) for i in kept]
    low, high = ([pick(v) for v in zip(*points, strict=True)] for pick in (min, max))
    return [kept[i] for i in subset(scaled(points, low, high), (1.1,) * len(low), count)]


def warm_starts(storage: BaseStorage, about: About, space: Space, most: int = 10) -> list[Config]:
    """Candidates that did well in earlier studies of the agent, newest first, and fit this space; never their values.

    What was measured on other runs, or by other means, says where to look, not what will be found.
    """
    chosen: list[Config] = []
    for name, other in studies(storage, about.agent):
        if name == about.name or len(chosen) >= most:
            continue
        study = optuna.load_study(storage=storage, study_name=name)
        trials = [
            t
            for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if CONFIG in t.user_attrs and t.values is not None
        ]
        configs = [json.loads(t.user_attrs[CONFIG]) for t in trials]
        kept = [n for n, t in enumerate(trials) if all(v <= 0 for v in (t.constraints or {}).values())]
        theirs = Space({name: _knob(data) for name, data in other.space.items()})
        for place in begins_with(theirs, configs, [t.values for t in trials], kept, most):
            filled = {**about.incumbent, **other.incumbent, **configs[place]}
            if space.fits(filled) and (config := space.canonical(filled)) not in chosen:
                chosen.append(config)
    return chosen[:most]


def _knob(described: Mapping[str, Any]) -> Knob:
    """The knob that a study wrote down."""
    rest = dict(described)
    return Choice(*rest["choices"], when=rest.get("when")) if "choices" in rest else Range(**rest)
