"""What a study is asked for, and what it begins with: its cases, knobs and goals; or those of one gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from redecode.optimizer import cases as selecting
from redecode.optimizer.besides import same
from redecode.optimizer.cases import Cases
from redecode.optimizer.errors import BadSpec, BadStudy
from redecode.optimizer.evaluation.placing import is_placement, with_placement
from redecode.optimizer.evaluation.warming import Past
from redecode.optimizer.knobs import Choice, Config, Knob, Range, Space, as_json, label
from redecode.optimizer.objectives import Goals
from redecode.optimizer.promotion.decide import Margins
from redecode.optimizer.scoring import scoring_of
from redecode.optimizer.spec import Spec, memory_of, space_of
from redecode.optimizer.study.storage import About, find, studies
from redecode.replay.prices import Price
from redecode.tracer import Run

NAMED = "named"
"""In a study's settings: the knobs that were asked for; none: all that the context has."""
_BROUGHT = "brought"
"""Likewise: fields of the context that each case brings itself."""
_MEMORY = (
    "the graph has a store (long-term memory): each run reads it as it is now, not as it was when its input was "
    "recorded, and keeps what it writes to itself"
)
_UNNAMED = "LangGraph"
"""What a graph is called that was compiled without a name."""
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
        resume: the name of a study to go on with ("last"), as it was begun; what is asked for otherwise is refused.
        said: names of options that were said, so that what the others are by default is no wish.
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
    said: Sequence[str] = ()


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
    gone = _gone(spec, request.incumbent)
    in_use = {name: value for name, value in request.incumbent.items() if name not in gone}
    space, incumbent = space_of(spec, knobs=knobs, fixed=request.fixed, incumbent=in_use)
    chosen = selecting.select(
        runs,
        spec,
        request.which,
        now_ns=now_ns,
        seed=request.seed,
        held_out=request.held_out,
        most=request.cases,
        expected=expected,
        values={**space.base, **incumbent},
        searched=space.knobs,
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
        settings={
            **request.settings,
            NAMED: _named(request.knobs),
            **({_BROUGHT: list(chosen.brought)} if chosen.brought else {}),
        },
        made_ns=now_ns,
        scoring=scoring_of(spec.score, [*chosen.search, *chosen.decide]),
    )
    now = {**space.base, **incumbent}
    left_out = (f"left out: {count} {why}" for why, count in chosen.left_out.items())
    notes = [*left_out, *chosen.notes, *_memory(spec, now), *_names(spec)]
    if gone:
        notes.append(f"{', '.join(gone)}: in the configuration in use, and no field of {spec.name} any more; left out")
    return Prepared(
        spec=spec,
        space=space,
        incumbent=incumbent,
        goals=goals,
        cases=chosen,
        about=about,
        notes=(*notes, *_changed(storage, about, space), *_not_asked(spec, runs, now)),
    )


def _memory(spec: Spec, values: Config) -> list[str]:
    """What runs of the graph in use know of each other, if it has a store."""
    try:
        graph = spec.built(spec.own(values))
    except BadSpec:  # said once it is evaluated
        return []
    return [] if memory_of(graph) is None else [_MEMORY]


def _names(spec: Spec) -> list[str]:
    """What is to be known of a graph that has no name of its own."""
    if spec.agents or spec.name != _UNNAMED:
        return []
    return [
        f"the graph has no name, so it is called {_UNNAMED}: the runs of all graphs without a name are taken as its "
        "own; compile(name=...) tells them apart, or the spec's `agents`"
    ]


def _not_asked(spec: Spec, runs: Sequence[Run], values: Config) -> list[str]:
    """What the caches of the graph will not know of its recorded runs."""
    if not spec.caches:
        return []
    return Past(selecting.past_of(runs, spec, values), spec.caches, spec.built(spec.own(values))).unknown()


def _again(request: Request, spec: Spec, runs: Sequence[Run], storage: Any, expected: Mapping[str, Any]) -> Prepared:
    """The study that is gone on with, as it was begun."""
    assert request.resume is not None
    name, about = find(storage, request.resume)
    if about.agent != spec.name:
        raise BadStudy(f"study {name} is of {about.agent} ({about.spec}), not of {spec.name}")
    rest = {n: v for n, v in about.base.items() if n not in about.space}
    placed = {n: v for n, v in rest.items() if is_placement(n)}  # in use, and not searched
    _not_others(request, name, about)
    named = about.settings.get(NAMED, about.space)  # a study of before it was kept has all of them
    described = [(n, None if d is None else _described(n, d)) for n, d in named.items()]
    spec, knobs = with_placement(spec, described, about.settings.get("at_load"))
    asked = {n: v for n, v in rest.items() if n not in placed}
    try:
        space, _ = space_of(spec, knobs=knobs, fixed=asked, incumbent={**placed, **about.incumbent})
        space.canonical(about.incumbent)
    except BadSpec as error:
        raise BadStudy(
            f"the knobs of {spec.name} are others than those of study {name}: {error}; begin a new one"
        ) from error
    if space.digest != about.space_digest:
        changes = "; ".join(space.changes_from(about.space))
        raise BadStudy(f"the knobs of {spec.name} are others than those of study {name}: {changes}; begin a new one")
    in_use = {**about.base, **about.incumbent}
    asked_for = [r for r in runs if r.run_id in {*about.search, *about.decide}]
    known = same(selecting.of_runs(asked_for, expected, spec, in_use, among=runs), about.settings.get(_BROUGHT, ()))
    cases = selecting.kept(known, about.search, about.decide)
    alike = about.scoring in ("", scoring_of(spec.score, [*cases.search, *cases.decide]))
    return Prepared(
        spec=spec,
        space=space,
        incumbent=dict(about.incumbent),
        goals=goals_of(about.goals),
        cases=cases,
        about=about,
        notes=(f"going on with {name}", *_memory(spec, in_use), *([] if alike else [_OTHER_SCORES])),
    )


def _not_others(request: Request, name: str, about: About) -> None:
    """Refuse what is asked for besides, if it is not what the study was begun with."""
    goals = goals_of(about.goals)
    named, settings = about.settings.get(NAMED, {}), about.settings
    begun = {**about.base, **about.incumbent}
    in_use = {n: v for n, v in as_json(request.incumbent).items() if n in begun}
    load, begun_load = request.settings.get("at_load", {}), settings.get("at_load", {})
    said: dict[str, tuple[Any, Any]] = {
        "--seed": (request.seed, about.seed),
        "--sampler": (request.sampler, about.sampler),
        "--concurrency": (request.settings.get("concurrency"), settings.get("concurrency")),
        "--price": (request.prices, {m: p for m, p in goals.prices.items() if m in request.prices}),
        "--incumbent": (in_use, {n: begun[n] for n in in_use}),
        "--load": (load.get("load"), begun_load.get("load")),
        "--replicas": (load.get("replicas"), begun_load.get("replicas")),
        "--replica-price": (load.get("replica_usd_h"), begun_load.get("replica_usd_h")),
        "--profile": (load.get("profiles"), begun_load.get("profiles")),
    }
    asked: dict[str, tuple[Any, Any]] = {
        **{o: pair for o, pair in said.items() if o.removeprefix("--").replace("-", "_") in request.said},
        "--slo": (request.slo_s, goals.slo_s),
        "--percentile": (request.percentile, goals.percentile),
        "--max-error": (request.most_error, goals.most_error),
        "--knob": (_named(request.knobs) or None, named or None),
        **{f"--fix {n}": (label(v), label(about.base.get(n))) for n, v in request.fixed.items()},
    }
    for option, (now, then) in asked.items():
        if now is not None and now != then:
            raise BadStudy(
                f"study {name} was not begun with this {option}: --resume goes on with a study as it was begun; leave "
                f"{option.split()[0]} out, or begin a new one"
            )


def _named(knobs: Sequence[tuple[str, Knob | None]]) -> dict[str, Any]:
    """Knobs that were asked for, as they are kept."""
    return {name: None if knob is None else as_json(knob.described()) for name, knob in knobs}


def _gone(spec: Spec, incumbent: Mapping[str, Any]) -> list[str]:
    """Names in the configuration in use that the context had once; a factory may take any."""
    if spec.build is not None:
        return []
    known = {*spec.fields(), *spec.knobs, *spec.fixed, *spec.incumbent}
    return [name for name in incumbent if name not in known and not is_placement(name)]


def _described(name: str, data: Mapping[str, Any]) -> Knob:
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


def decided_before(prepared: Prepared, report: Path) -> Prepared:
    """With a note, if this report (`report.json`) is of the same study, which was decided on the same held-out runs."""
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
        decision = found["decision"]
        decided = found["study"] == prepared.about.name and found["cut"] is None and decision["finalists"]
        if not decided or not decision["pairs"]:
            return prepared
        note = (
            f"this study was decided before, on these {decision['pairs']} held-out runs ({decision['verdict']}): "
            "deciding again until it says yes says nothing; newer runs do, in a study of their own"
        )
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or of another version
        return prepared
    return replace(prepared, notes=(*prepared.notes, note))


def _changed(storage: Any, about: About, space: Space) -> list[str]:
    """What is otherwise than in the newest study of this agent."""
    earlier = studies(storage, about.agent)
    begun = any(name == about.name for name, _ in earlier)  # and is gone on with
    if begun or not earlier or earlier[0][1].space_digest == space.digest:
        return []
    changes = space.changes_from(earlier[0][1].space)
    return [f"the knobs have changed since study {earlier[0][0]}: {'; '.join(changes)}: this is a study of its own"]
