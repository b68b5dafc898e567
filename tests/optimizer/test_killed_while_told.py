"""A study that is killed at any moment, also while a trial is told, comes out as one that was not."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from redecode.optimizer.cases import Cases
from redecode.optimizer.errors import BadSpec, BadStudy
from redecode.optimizer.evaluation.session import Block
from redecode.optimizer.knobs import Choice, Config, Space
from redecode.optimizer.objectives import Goals, Outcome, Usage
from redecode.optimizer.preparing import Prepared, goals_json
from redecode.optimizer.spec import Case, Spec
from redecode.optimizer.study.search import Evaluated, Search
from redecode.optimizer.study.stopping import Budget
from redecode.optimizer.study.storage import About
from redecode.optimizer.tuning import Tuned, Tuner

WRITES = [
    name
    for name, _ in inspect.getmembers(InMemoryStorage, inspect.isfunction)
    if name.startswith(("set_", "create_new_"))
]
INCUMBENT: Config = {"a": "x", "b": 0}
NARROW, WIDE = (
    Space({"a": Choice("x", "y", "z"), "b": Choice(*range(count))}, {"a": "x", "b": 0}) for count in (3, 40)
)
GOALS = Goals(slo_s=2.0, most_error=0.6)


class Killed(BaseException):
    """Nothing that comes after it in this process is done."""


class Mortal(InMemoryStorage):
    """A storage whose process is killed before its nth deed: a write here, or a block that is evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.deeds, self.last = 0, 10**9

    def deed(self) -> None:
        if self.deeds >= self.last:
            raise Killed
        self.deeds += 1


def _counted(name: str) -> Callable[..., Any]:
    def write(self: Mortal, *args: Any, **options: Any) -> Any:
        self.deed()
        return getattr(super(Mortal, self), name)(*args, **options)

    return write


for _name in WRITES:
    setattr(Mortal, _name, _counted(_name))


class Fixed:
    """Evaluates a block: the same every time. One candidate is refused, others miss the SLO or are worse in all."""

    workers = 1

    def __init__(self, storage: Mortal) -> None:
        self._storage = storage

    def evaluate(self, block: Block) -> list[Outcome]:
        self._storage.deed()
        a, b = block.values["a"], block.values["b"]
        if b % 5 == 2:
            raise BadSpec(f"it takes no {b}")
        return [self._one(case.id, {"x": 1.0, "y": 5.0, "z": 0.5}[a] * (1 + b / 40), b) for case in block.cases]

    def _one(self, case: str, usual_s: float, b: int) -> Outcome:
        luck = hashlib.blake2b(case.encode(), digest_size=1).digest()[0] / 255
        wrong = luck < (0.95 if b % 5 == 3 else 0.2)
        seconds = usual_s * (0.8 + 0.3 * luck)
        return Outcome(
            case=case, run_id=None, quality=float(not wrong), latency_s=seconds, usage={"m": Usage(engine_s=seconds)}
        )

    def close(self) -> None:
        pass


def tuner(storage: Mortal, space: Space = WIDE) -> Tuner:
    cases = [Case(id=f"case-{n}", input={"n": n}) for n in range(104)]
    about = About(
        spec="s", agent="agent", fidelity="engine", space={n: k.described() for n, k in space.knobs.items()},
        space_digest=space.digest, base={}, incumbent=INCUMBENT, search=(), decide=(), goals=goals_json(GOALS),
        sampler="tpe", seed=0, versions={}, settings={}, made_ns=1,
    )  # fmt: skip
    spec = Spec(name="agent", build=lambda values: None, knobs={"a": ["x", "y", "z"], "b": [0, 1]})
    prepared = Prepared(
        spec=spec,
        space=space,
        incumbent=INCUMBENT,
        goals=GOALS,
        cases=Cases(search=tuple(cases[:24]), decide=tuple(cases[24:])),
        about=about,
    )
    budget = Budget(now=lambda: 0.0)
    return Tuner(prepared=prepared, storage=storage, evaluates=Fixed(storage), budget=budget, trials=7)


def said(tuned: Tuned) -> Any:
    """All that a report says of a study, but for the numbers of trials: one that was killed has another then."""
    return (
        [replace(d, number=0, why=d.why and d.why.partition(" is better")[2]) for d in tuned.done],
        tuned.failures,
        [tuned.finalists[name] for name in tuned.finalists],
        *found(tuned),
    )


def found(tuned: Tuned) -> Any:
    """What came of it, and what was evaluated, in whatever order."""
    ran = [[o.case for o in outcomes] for outcomes in tuned.lanes.values()]
    return ran, tuned.decision.verdict, tuned.chosen, sorted(str(d.config) for d in tuned.done)


def killed(moment: int, space: Space = WIDE) -> Mortal:
    """What a study leaves that is killed there; it may be gone on with."""
    storage = Mortal()
    storage.last = moment
    with pytest.raises(Killed):
        tuner(storage, space).run()
    storage.last = 10**9
    return storage


def test_killed_at_any_moment_it_comes_out_as_if_it_had_not_been() -> None:
    whole = Mortal()
    expected = tuner(whole).run()
    assert expected.decision.chosen is not None and expected.failures and expected.trials == len(expected.done)
    assert any(d.pruned for d in expected.done) and any(d.why and not d.pruned for d in expected.done)
    told: set[str] = set()
    third = whole.deeds // 3  # a later trial is as one before
    for moment in [*range(third), *range(third, whole.deeds, 3)]:
        storage = killed(moment)
        for study in storage.get_all_studies():
            running = storage.get_all_trials(study._study_id, states=(TrialState.RUNNING,))
            told |= {name for trial in running for name in trial.user_attrs}
        assert said(tuner(storage).run()) == said(expected), moment
    assert told >= {"candidate", "measured", "outcomes", "why"}  # a kill has come after each of these


def test_killed_where_candidates_are_proposed_again_each_is_evaluated_once() -> None:
    whole = Mortal()
    expected = tuner(whole, NARROW).run()
    assert expected.stopped == "every candidate was evaluated" and expected.trials > len(expected.done)
    for moment in range(0, whole.deeds, 2):
        assert found(tuner(killed(moment, NARROW), NARROW).run()) == found(expected), moment


def test_killed_twice_while_the_incumbent_is_asked_it_is_still_the_first() -> None:
    expected = said(tuner(Mortal()).run())
    for first in range(2, 14):
        storage = Mortal()
        for deeds in (first, 5):
            storage.last = storage.deeds + deeds
            with pytest.raises(Killed):
                tuner(storage).run()
        storage.last = 10**9
        assert said(tuner(storage).run()) == expected, first


@pytest.mark.parametrize("told", ["measured", "failed", "again", "given up"])
def test_a_trial_that_another_process_has_ended_is_one_clear_line(told: str) -> None:
    """Two at one study, in a database that no lock of ours is for."""
    storage = Mortal()
    about = tuner(storage).prepared.about
    one = Search(storage, about, WIDE, GOALS)
    one.enqueue(INCUMBENT)
    (asked,) = one.ask(1)
    one.tell(asked, Evaluated(measured=tuner(Mortal()).run().done[0].measured))
    (known,) = one.done()
    (asked,) = one.ask(1)
    Search(storage, about, WIDE, GOALS)  # takes it for one that a kill has left
    with pytest.raises(BadStudy, match=r"another process is at study agent-engine.*--resume"):
        if told == "again":
            one.tell_again(asked, known)
        elif told == "given up":
            one.give_up(asked)
        else:
            one.tell(asked, Evaluated(measured=known.measured if told == "measured" else None))
